"""The report of `verify`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import msgspec

from shardedstore.display.verify import verify_lines, verify_to_html
from shardedstore.jobs.differences import Difference, damaged_shards

Level = Literal["exists", "stored", "decoded"]
LEVELS: tuple[Level, ...] = ("exists", "stored", "decoded")
BY = {
    "exists": "by names and sizes",
    "stored": "by the stored bytes and the ledger's record of them",
    "decoded": "by their decoded data",
}
RECORDED = "by their decoded data and the ledger's record of them"


class VerifyReport(msgspec.Struct, frozen=True):
    """Result of `verify`.

    Attributes
    ----------
    ok : bool
        Whether there is no difference.
    level : str
        The level of comparison.
    arrays, shards : int
        The numbers of compared arrays and of shards in the result.
    differences : tuple of Difference
        All differences.
    notes : tuple of str
        Other facts that do not count as differences.
    digests : dict of str to str
        Digests of the result's arrays by path, if data were decoded.
    is_recorded : bool
        Whether decoded data were compared with the digests in the ledger.
    marked : tuple of str
        The shards that the next run of the job will make again.
    compared_by : dict of str to str
        The level of comparison of each array by path: ``decoded`` data by digests, ``values`` block by block, or
        ``decompressed`` or ``stored`` bytes if most
        of its chunks can't be decoded. `notes` name the other chunks.
    """

    ok: bool
    level: Level
    arrays: int
    shards: int
    differences: tuple[Difference, ...] = ()
    notes: tuple[str, ...] = ()
    digests: dict[str, str] = {}
    is_recorded: bool = False
    marked: tuple[str, ...] = ()
    compared_by: dict[str, str] = {}

    @classmethod
    def of(cls, level: Level, shards: int, differences: Iterable[Difference], **others: Any) -> VerifyReport:
        """Return a report with these differences."""
        found = tuple(differences)
        return cls(not found, level, others.pop("arrays", 0), shards, found, **others)

    @property
    def has_holes_only(self) -> bool:
        """Whether the only differences are accepted holes."""
        return not self.ok and all(difference.kind == "hole" for difference in self.differences)

    @property
    def damaged_shards(self) -> tuple[str, ...]:
        """The names of the result's shards with differences, except holes and unread shards."""
        return damaged_shards(self.differences)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as a JSON document."""
        made: dict[str, Any] = msgspec.to_builtins(self)
        return made

    @property
    def scope(self) -> str:
        """The numbers of compared arrays and shards, and the way of comparison."""
        arrays = f"{_count(self.arrays, 'array')} in " if self.level == "decoded" else ""
        return f"{arrays}{_count(self.shards, 'shard')}, {RECORDED if self.is_recorded else BY[self.level]}"

    def _repr_html_(self) -> str:
        return verify_to_html(self)

    def __repr__(self) -> str:
        return "\n".join(verify_lines(self))

    def __str__(self) -> str:
        number = _count(len(self.differences), "difference")
        lines = [f"ok: {self.scope}" if self.ok else f"{number} in {self.scope}:"]
        lines += [f"  {difference.what}" for difference in self.differences]
        left = (difference for difference in self.differences if difference.shard not in self.marked)
        advice = dict.fromkeys(difference.advice for difference in left if difference.advice)
        lines += [f"next step: {text}" for text in advice]
        if self.marked:
            marked = _count(len(self.marked), "shard")
            lines.append(f"marked: {marked}: run the job again with the same arguments to make only these again")
        lines += [f"note: {text}" for text in self.notes]
        return "\n".join(lines)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
