"""The report of `verify`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import msgspec

from shardedstore.jobs.differences import Difference, damaged_shards

Level = Literal["exists", "stored", "decoded"]
LEVELS: tuple[Level, ...] = ("exists", "stored", "decoded")
BY = {
    "exists": "by names and sizes",
    "stored": "by the bytes that are stored and the ledger's record of them",
    "decoded": "by their decoded data",
}
RECORDED = "by their decoded data and the ledger's record of them"


class Report(msgspec.Struct, frozen=True):
    """What `verify` found.

    `arrays` and `shards` are those of the result; arrays are only counted where they were compared. `notes` say what is
    worth to know and is no difference, and `digests` are those of the result's arrays by path, where data were decoded.
    `compared_by` says by path what of the arrays of both sides was compared: ``decoded`` data, or ``decompressed`` or
    ``stored`` bytes where most chunks allow no more; `notes` say the same of single chunks.
    `is_recorded` tells that they were compared with the ledger, and `marked` are the shards that the job will make again.
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
    def of(cls, level: Level, shards: int, differences: Iterable[Difference], **others: Any) -> Report:
        """Return the report of some differences."""
        found = tuple(differences)
        return cls(not found, level, others.pop("arrays", 0), shards, found, **others)

    @property
    def has_holes_only(self) -> bool:
        """Whether nothing is wrong but holes, which were accepted."""
        return not self.ok and all(difference.kind == "hole" for difference in self.differences)

    @property
    def damaged_shards(self) -> tuple[str, ...]:
        """The names of the result's shards that are missing, damaged, or other than they should be."""
        return damaged_shards(self.differences)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as it stands in JSON."""
        made: dict[str, Any] = msgspec.to_builtins(self)
        return made

    def __str__(self) -> str:
        arrays = f"{_count(self.arrays, 'array')} in " if self.level == "decoded" else ""
        where = f"{arrays}{_count(self.shards, 'shard')}, {RECORDED if self.is_recorded else BY[self.level]}"
        lines = [f"ok: {where}" if self.ok else f"{_count(len(self.differences), 'difference')} in {where}:"]
        lines += [f"  {difference.what}" for difference in self.differences]
        left = (difference for difference in self.differences if difference.shard not in self.marked)
        advice = dict.fromkeys(difference.advice for difference in left if difference.advice)
        lines += [f"what to do: {text}" for text in advice]
        if self.marked:
            marked = _count(len(self.marked), "shard")
            lines.append(f"marked: {marked}: run the job again with the same arguments, and it makes no others")
        lines += [f"note: {text}" for text in self.notes]
        return "\n".join(lines)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
