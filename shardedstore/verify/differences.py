"""What `verify` finds: differences, each with what to do about it, and the report that holds them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import msgspec

from shardedstore.zarr.grid import Coords

Level = Literal["exists", "stored", "decoded"]
LEVELS: tuple[Level, ...] = ("exists", "stored", "decoded")
BY = {
    "exists": "by names and sizes",
    "stored": "by the bytes that are stored and the ledger's record of them",
    "decoded": "by their decoded data",
}
RECORDED = "by their decoded data and the ledger's record of them"


class Difference(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that is not as it should be.

    Parameters
    ----------
    kind : str
        ``missing`` or ``extra`` (an object, a node, a chunk or a file), ``size`` (of an object), ``record`` (what is
        stored is not what the ledger says), ``damaged`` (it can't be read), ``unread`` (it could not be looked at, by an
        error that may pass), ``data`` (a chunk's), ``layout`` (shape, chunk grid, data type or fill value: not
        comparable), ``attributes``, ``hole`` (a shard that failed and was accepted to be missing).
    what : str
        What differs, as a sentence.
    advice : str
        What to do.
    shard, array, key : str, optional
        Where.
    chunk : tuple of int, optional
        Its place in the array's finest chunk grid.
    is_of_source : bool
        Whether it is in the source, so that the result is not to blame.
    """

    kind: str
    what: str
    advice: str = ""
    shard: str | None = None
    array: str | None = None
    key: str | None = None
    chunk: Coords | None = None
    is_of_source: bool = False


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
        return damaged(self.differences)

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


def damaged(differences: Iterable[Difference]) -> tuple[str, ...]:
    """Return the names of the result's shards that some differences are of."""
    shards = (d.shard for d in differences if not d.is_of_source and d.kind not in ("unread", "hole"))
    return tuple(dict.fromkeys(shard for shard in shards if shard is not None))


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
