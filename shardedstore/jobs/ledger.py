"""The ledger of a job: append-only records of the shards that are done.

Each attempt at a segment appends JSON lines to a file of its own. At the end of the job, all records are compacted into
one file. This file is a sequence of Zstandard frames, one for each segment, so one segment can be read alone. ``zstdcat``
shows the lines. The last frame is skipped by decompressors and holds an index: the position of each segment's frame.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any, Literal, NamedTuple, Self

import msgspec

from shardedstore.codecs.digest import DataSum
from shardedstore.jobs.compacted_ledger import pack, read_one, unpack
from shardedstore.storage.folders import ENDED, STARTED, STORAGE_ERRORS, Append, Folder
from shardedstore.storage.request_metrics import in_context
from shardedstore.transforms.base.sink import Written

FOLDER = ".shardedstore"

PER_FOLDER = 64  # segments

READERS = 16  # threads

INHERITED = "inherited"

LOOKS = 10  # attempts to read compacted files while other processes compact them again

_APPENDED = re.compile(rf"\d+/(\d+)-(?:{INHERITED}|[0-9a-f]+(?:-(\w+))?)\.jsonl")  # relative to the ledger's folder

_COMPACTED = re.compile(r"compacted-[0-9a-f]+\.jsonl\.zst")

MOVED = ("", "verified", "deleted")  # states of a shard in a move, in their order

logger = logging.getLogger("shardedstore")


class Record(Written, frozen=True, omit_defaults=True, kw_only=True):
    """One shard of a job: the output of the sink, or the cause of its failure.

    Attributes
    ----------
    shard : int
        The number of the shard in the job.
    seconds : float
        The time that the shard took, in seconds. It is shown to users only, as are `attempts`, `worker` and `begun`.
    attempts : int
        The number of attempts.
    worker : str
        The host and the process of the worker.
    source : str
        The state of the source; empty if the job compares only its metadata.
    generation : int
        The generation of the object if an earlier job made it; otherwise 0.
    digests : dict of str to DataSum, or None
        The digest of the written decoded data of each array; None if no digests were requested.
    marked : bool
        Whether the output is damaged or lost. The next run makes it again under its own name.
    failed : str
        The cause of the last failed attempt; empty if the shard is done.
    code : str
        The code of this cause, as in `ShardError`; empty if the shard is done.
    veiled : bool
        Whether the documents of divided arrays are veiled in this base. Version 0.4.0 did not veil them.
    consolidated : tuple of str
        The groups whose consolidated metadata the shard holds.
    begun : float
        The time of the start, in seconds since 1970 by the worker's clock; 0 in ledgers of version 0.4.
    moved : "", "verified" or "deleted"
        The state of the shard in a move: verified against its source, whose chunks may be deleted from then on, or with all
        chunks deleted.
    chunks : int or None
        The number of chunks in the source; None if they were not counted.
    source_entries, source_nbytes : int
        The number of entries and of stored bytes that were read; 0 in ledgers of version 0.4.
    """

    shard: int
    seconds: float = 0.0
    attempts: int = 1
    worker: str = ""
    source: str = ""
    generation: int = 0
    digests: dict[str, DataSum] | None = None
    marked: bool = False
    failed: str = ""
    code: str = ""
    veiled: bool = False
    consolidated: tuple[str, ...] = ()
    begun: float = 0.0
    moved: Literal["", "verified", "deleted"] = ""
    chunks: int | None = None
    source_entries: int = 0
    source_nbytes: int = 0

    @classmethod
    def of(cls, written: Written, shard: int, **others: Any) -> Self:
        """Make the record of a written shard."""
        return cls(*msgspec.structs.astuple(written), shard=shard, **others)

    @property
    def is_done(self) -> bool:
        """Whether the shard is done, provided that its output still exists."""
        return not self.marked and not self.failed


_DECODER = msgspec.json.Decoder(Record)  # made at import: msgspec crashes if two threads are the first to use a type


class RecordWriter:
    """Appends records to a segment; without a file, it keeps nothing."""

    def __init__(self, append: Append | None) -> None:
        self._append, self._encode = append, msgspec.json.Encoder().encode

    def __call__(self, record: Record) -> None:
        """Append a record."""
        if self._append is not None:
            self._append(self._encode(record) + b"\n")

    def flush(self) -> None:
        """Make all appended records durable."""
        if self._append is not None:
            self._append.flush()


class Ledger(NamedTuple):
    """The records of one generation at a destination.

    Attributes
    ----------
    folder : Folder
        The destination.
    generation : int
        The number of the job at the destination.
    nonce : str
        A random token of the job. It differs from the token of a removed job of the same generation.
    """

    folder: Folder
    generation: int
    nonce: str = ""

    @property
    def _root(self) -> str:
        return f"{FOLDER}/ledger/{self.generation}" + (f"-{self.nonce}" if self.nonce else "")

    def read(self) -> dict[int, Record]:
        """Read all records, by shard number."""
        sizes = self.folder.sizes(self._root)
        found = self._there(_in_order(n for n, nbytes in sizes if nbytes and not _COMPACTED.fullmatch(self._below(n))))

        def lines(name: str) -> Iterator[bytes]:
            return (lines for _, lines in unpack(self.folder.read(name), name))

        return _by_shard([*self._from_compacted(lines), *found])

    def read_segment(self, segment: int) -> dict[int, Record]:
        """Read the records of one segment, by shard number."""
        found = self._there(_in_order(self._files(segment)))

        def lines(name: str) -> Iterator[bytes]:
            yield read_one(self.folder.blob(name), segment, name)

        return _by_shard([*self._from_compacted(lines), *found])

    def owns(self, name: str) -> bool:
        """Tell whether a file at the destination belongs to the ledger."""
        if not name.startswith(f"{self._root}/"):
            return False
        below = self._below(name)
        return below == INHERITED or bool(_APPENDED.fullmatch(below) or _COMPACTED.fullmatch(below))

    def is_compacted(self) -> bool:
        """Tell whether the ledger was compacted: the job has ended and its config is written."""
        return bool(self.compacted())

    def mark(self, numbers: frozenset[int]) -> None:
        """Mark the records of shards, so that the next run makes these shards again.

        No job may be running. A ledger that is not compacted stays uncompacted, because a compacted ledger means that its
        job has ended.
        """
        if self.is_compacted():
            self.compact(numbers)
            return
        encode = msgspec.json.Encoder().encode_lines
        files = list(self._appended(dict(self.folder.sizes(self._root))))
        for name, data in zip(files, self._read(files), strict=True):
            records = list(_parse(data))
            if any(record.shard in numbers for record in records):
                self.folder.write(name, encode(_marked(records, numbers)))

    def compact(self, marked: frozenset[int] = frozenset()) -> None:
        """Compact all records into one file, and remove the files that they came from.

        Several processes may compact at the same time, and any of them may be interrupted. Some records are then stored
        twice, and none is lost.

        Parameters
        ----------
        marked : frozenset of int
            The numbers of the shards whose records are marked on the way.
        """
        sizes = dict(self.folder.sizes(self._root))
        files, packed = self._appended(sizes), sorted(name for name in sizes if _COMPACTED.fullmatch(self._below(name)))
        if packed and not files and len(packed) == 1 and not marked:
            return
        segments: defaultdict[int, list[bytes]] = defaultdict(list)
        for data in self._read(packed):
            for segment, lines in unpack(data, self._root):
                segments[segment].append(lines)
        filled = [name for name in _in_order(files) if sizes[name]]
        for name, data in zip(filled, self._read(filled), strict=True):
            segments[files[name]].append(data)
            sizes[name] = len(data)
        encode = msgspec.json.Encoder().encode_lines
        merged = {segment: encode(_marked(_by_shard(some).values(), marked)) for segment, some in segments.items()}
        self.folder.write(f"{self._root}/{_compacted_name()}", pack(merged))
        now = dict(self.folder.sizes(self._root))
        self.folder.remove_all([name for name in (*files, *packed) if now.get(name) == sizes[name]])

    def claim(self, segment: int, attempt: str) -> bool:
        """Create the file of an attempt at shards of a segment, or return False if it exists.

        A task that creates it has not run before, and need not read the files of the other tasks of its segment.
        """
        return self.folder.claim(f"{self._folder(segment)}/{segment}-{attempt}")

    @contextmanager
    def writer(self, segment: int, claimed: str = "") -> Iterator[RecordWriter]:
        """Give an object that appends records to a segment.

        `Folder.appender` says when a record is durable.

        Parameters
        ----------
        segment : int
            The number of the segment.
        claimed : str
            The attempt whose file `claim` created; empty for a new file.
        """
        with self.folder.appender(f"{self._folder(segment)}/{segment}", claimed) as append:
            yield RecordWriter(append)

    def inherit(self, segments: Iterable[tuple[int, list[Record]]]) -> None:
        """Write the records that are taken over from an earlier generation, by segment.

        A marker file is written last. After a failure, the call can be repeated.
        """
        encode = msgspec.json.Encoder().encode
        for segment, records in segments:
            data = b"".join(encode(record) + b"\n" for record in records)
            self.folder.write(f"{self._folder(segment)}/{segment}-{INHERITED}.jsonl", data)
        self.folder.write(f"{self._root}/{INHERITED}", b"")

    def has_inherited(self) -> bool:
        """Tell whether all records that are taken over are written."""
        return self.folder.nbytes(f"{self._root}/{INHERITED}") is not None

    def unfinished(self) -> bool:
        """Tell whether a writer died in an object store.

        A start marker without an end marker means that the writer died. An unfinished upload of its shard may remain.
        """
        names = [name.removesuffix(".jsonl") for name, _ in self.folder.sizes(self._root)]
        started = {stem for stem, _, label in (name.rpartition("-") for name in names) if label == STARTED}
        ended = {stem for stem, _, label in (name.rpartition("-") for name in names) if label == ENDED}
        return bool(started - ended)

    def _folder(self, segment: int) -> str:
        return f"{self._root}/{segment // PER_FOLDER}"

    def _files(self, segment: int) -> list[str]:
        folder = self._folder(segment)
        return [f"{folder}/{name}" for name in self.folder.names(folder) if name.startswith(f"{segment}-")]

    def compacted(self) -> list[str]:
        """Return the sorted names of the compacted files.

        They exist only after the job ended and its config was written.
        """
        with suppress(NotADirectoryError):  # the next write reports the file that is in the way
            return sorted(
                f"{self._root}/{name}" for name in self.folder.names(self._root) if _COMPACTED.fullmatch(name)
            )
        return []

    def _appended(self, names: Iterable[str]) -> dict[str, int]:
        """Return the segment of each appended file.

        A start marker without an end marker is left out: it means that its writer died.
        """
        found = {name: match for name in names if (match := _APPENDED.fullmatch(self._below(name)))}
        ended = {name.rpartition("-")[0] for name, match in found.items() if match[2] == ENDED}
        return {
            name: int(match[1])
            for name, match in found.items()
            if match[2] != STARTED or name.rpartition("-")[0] in ended
        }

    def _below(self, name: str) -> str:
        return name.removeprefix(f"{self._root}/")

    def _read(self, names: list[str]) -> list[bytes]:
        if not names:
            return []
        with ThreadPoolExecutor(READERS) as pool:
            return list(pool.map(in_context(self.folder.read), names))

    def _there(self, names: list[str]) -> list[bytes]:
        """Read files; those that were compacted since they were listed count as empty.

        Read the compacted files after this, so that no record is missed.
        """

        def read(name: str) -> bytes:
            try:
                return self.folder.read(name)
            except FileNotFoundError:
                return b""

        with ThreadPoolExecutor(READERS) as pool:
            return list(pool.map(in_context(read), names))

    def _from_compacted(self, lines: Callable[[str], Iterator[bytes]]) -> list[bytes]:
        """Read the compacted files; list them again if another process compacted them meanwhile."""
        for _ in range(LOOKS):
            with suppress(FileNotFoundError):
                return [some for name in self.compacted() for some in lines(name)]
        raise FileNotFoundError(f"the files at {self._root!r} of {self.folder.url!r} are compacted all the time")


class NoLedger(Ledger):
    """The ledger of a job without a destination. It stores nothing."""

    __slots__ = ()

    def read(self) -> dict[int, Record]:
        # docstring inherited
        return {}

    def read_segment(self, segment: int) -> dict[int, Record]:
        # docstring inherited
        return {}

    def is_compacted(self) -> bool:
        # docstring inherited
        return False

    def mark(self, numbers: frozenset[int]) -> None:
        # docstring inherited
        return

    def compact(self, marked: frozenset[int] = frozenset()) -> None:
        # docstring inherited
        return

    def claim(self, segment: int, attempt: str) -> bool:
        # docstring inherited
        return True

    @contextmanager
    def writer(self, segment: int, claimed: str = "") -> Iterator[RecordWriter]:
        # docstring inherited
        yield RecordWriter(None)


def _marked(records: Iterable[Record], numbers: frozenset[int]) -> Iterator[Record]:
    """Yield all records, and mark those of the given shards."""
    for record in records:
        yield msgspec.structs.replace(record, marked=True) if record.shard in numbers else record


def try_compact(ledger: Ledger) -> None:
    """Compact a ledger, and log a storage error as a warning.

    Nothing depends on the compaction.
    """
    try:
        ledger.compact()
    except STORAGE_ERRORS as error:
        logger.warning("the ledger at %s stays as it is: %s", ledger.folder.url, error)


def _compacted_name() -> str:
    """Return a file name that sorts after the earlier ones."""
    return f"compacted-{time.time_ns():016x}{secrets.token_hex(4)}.jsonl.zst"


def _in_order(names: Iterable[str]) -> list[str]:
    """Sort file names, with the inherited records first."""
    return sorted(names, key=lambda name: (not name.endswith(f"-{INHERITED}.jsonl"), name))


def _by_shard(files: Iterable[bytes]) -> dict[int, Record]:
    """Merge the records of files, by shard number.

    A later record replaces an earlier one, unless it is a failure, or of a lower state of a move.
    """
    found: dict[int, Record] = {}
    for data in files:
        for record in _parse(data):
            before = found.get(record.shard)
            if before is None or not (record.failed or _is_below(record, before)):  # clocks may differ
                found[record.shard] = record
    return found


def _is_below(record: Record, before: Record) -> bool:
    return bool(before.moved) and MOVED.index(record.moved) < MOVED.index(before.moved)


def _parse(data: bytes) -> Iterable[Record]:
    whole = data[: data.rfind(b"\n") + 1]  # an incomplete last line is dropped
    try:
        return _DECODER.decode_lines(whole)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _parse_each(whole)


def _parse_each(lines: bytes) -> Iterator[Record]:
    decode = _DECODER.decode
    for line in lines.split(b"\n"):
        try:
            yield decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
