"""What `verify` finds: differences, each with what to do about it, and the report that holds them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import msgspec

from shardedstore.grid import Coords

Level = Literal["exists", "stored", "decoded"]
LEVELS: tuple[Level, ...] = ("exists", "stored", "decoded")
BY = {
    "exists": "by names and sizes",
    "stored": "by the bytes that are stored and the ledger's record of them",
    "decoded": "by their decoded data",
}


class Difference(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that is not as it should be.

    Parameters
    ----------
    kind : str
        ``missing`` or ``extra`` (an object, a node, a chunk or a file), ``size`` (of an object), ``record`` (what is
        stored is not what the ledger says), ``damaged`` (it can't be read), ``data`` (a chunk's), ``layout`` (shape, chunk
        grid, data type or fill value: not comparable), ``attributes``.
    what : str
        What differs, as a sentence.
    advice : str
        What to do.
    shard, array, key : str, optional
        Where.
    chunk : tuple of int, optional
        Its place in the array's finest chunk grid.
    """

    kind: str
    what: str
    advice: str = ""
    shard: str | None = None
    array: str | None = None
    key: str | None = None
    chunk: Coords | None = None


class Report(msgspec.Struct, frozen=True):
    """What `verify` found.

    `arrays` and `shards` are those of the result; arrays are only counted where they were compared. `notes` say what is
    worth to know and is no difference, and `digests` are those of the result's arrays by path, where data were decoded.
    """

    ok: bool
    level: Level
    arrays: int
    shards: int
    differences: tuple[Difference, ...] = ()
    notes: tuple[str, ...] = ()
    digests: dict[str, str] = {}

    @classmethod
    def of(cls, level: Level, shards: int, differences: Iterable[Difference], **others: Any) -> Report:
        """Return the report of some differences."""
        found = tuple(differences)
        return cls(not found, level, others.pop("arrays", 0), shards, found, **others)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as it stands in JSON."""
        made: dict[str, Any] = msgspec.to_builtins(self)
        return made

    def __str__(self) -> str:
        arrays = f"{_count(self.arrays, 'array')} in " if self.level == "decoded" else ""
        where = f"{arrays}{_count(self.shards, 'shard')}, {BY[self.level]}"
        lines = [f"ok: {where}" if self.ok else f"{_count(len(self.differences), 'difference')} in {where}:"]
        lines += [f"  {difference.what}" for difference in self.differences]
        advice = dict.fromkeys(difference.advice for difference in self.differences if difference.advice)
        lines += [f"what to do: {text}" for text in advice]
        lines += [f"note: {text}" for text in self.notes]
        return "\n".join(lines)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
