"""The ledger: the append-only record of the shards that are done, kept beside them in files of many shards each.

A worker appends to a file of its own for each attempt at a segment, so nothing is ever written by two; a line that a
crash cut short is passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

import msgspec

from shardedstore.folders import ENDED, STARTED, Folder
from shardedstore.locations import Location

FOLDER = ".shardedstore"
PER_FOLDER = 64  # segments
READERS = 16  # threads


class Record(msgspec.Struct, frozen=True, omit_defaults=True):
    """One shard that is done: its number in the job, what was written, and where if that does not follow from the plan.

    For people: the seconds that it took, the attempts, and the worker's host and process.
    """

    shard: int
    entries: int
    nbytes: int
    digest: str
    location: Location | None = None
    names: int = 0
    seconds: float = 0.0
    attempts: int = 1
    worker: str = ""


class Ledger(NamedTuple):
    """The records of one generation at a destination."""

    folder: Folder
    generation: int

    @property
    def _root(self) -> str:
        return f"{FOLDER}/ledger/{self.generation}"

    def read(self) -> dict[int, Record]:
        """Return all records by shard number."""
        return self._records([name for name, nbytes in self.folder.sizes(self._root) if nbytes])

    def read_segment(self, segment: int) -> dict[int, Record]:
        """Return the records of one segment."""
        return self._records(self._files(segment))

    @contextmanager
    def writer(self, segment: int) -> Iterator[Callable[[Record], None]]:
        """Give a function that appends a record; see `Folder.appender` for when it is kept."""
        encode = msgspec.json.Encoder().encode
        with self.folder.appender(f"{self._folder(segment)}/{segment}") as append:
            yield lambda record: append(encode(record) + b"\n")

    def unfinished(self) -> bool:
        """Tell whether a writer died, in an object store: an upload of its shard may be left there, unfinished."""
        names = [name.removesuffix(".jsonl") for name, _ in self.folder.sizes(self._root)]
        started = {stem for stem, _, label in (name.rpartition("-") for name in names) if label == STARTED}
        ended = {stem for stem, _, label in (name.rpartition("-") for name in names) if label == ENDED}
        return bool(started - ended)

    def _folder(self, segment: int) -> str:
        return f"{self._root}/{segment // PER_FOLDER}"

    def _files(self, segment: int) -> list[str]:
        folder = self._folder(segment)
        return [f"{folder}/{name}" for name in self.folder.names(folder) if name.startswith(f"{segment}-")]

    def _records(self, names: list[str]) -> dict[int, Record]:
        if not names:
            return {}
        with ThreadPoolExecutor(READERS) as pool:
            found = list(pool.map(self.folder.read, sorted(names)))
        return {record.shard: record for data in found for record in _parse(data)}


def _parse(data: bytes) -> Iterator[Record]:
    decode = msgspec.json.Decoder(Record).decode
    for line in data.split(b"\n")[:-1]:  # what follows the last is torn
        try:
            yield decode(line)
        except msgspec.DecodeError:
            continue
