"""One file of the JSON lines of many segments, each compressed alone, so that one of them is read without the others.

It is a sequence of Zstandard frames, which ``zstdcat`` shows as lines; the last is one that decompressors skip, and holds
the index: where the frame of each segment is.
"""

from __future__ import annotations

import logging
import re
import secrets
import struct
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, Self

import msgspec
from numcodecs.zstd import Zstd

from shardedstore.codecs.digest import DataSum
from shardedstore.errors import CorruptError
from shardedstore.storage.blobs import ByteSource
from shardedstore.storage.folders import ENDED, STARTED, STORAGE_ERRORS, Folder
from shardedstore.transforms.base.chain import Written

LEVEL = 1  # a million records: 141 MB become 29 in 0.4 s, and are back in 0.13 s; higher levels gain nothing

SKIPPED = 0x184D2A50  # begins a frame that holds no data, by Zstandard's format

MAGIC = b"shardidx"

TAIL = 1 << 16  # bytes that are read first: the index of some 6,000 segments

_FRAME = struct.Struct("<II")  # what a skipped frame begins with: its magic number, and the bytes that follow

_END = struct.Struct("<I8s")  # what it ends with: the bytes of the index, and ours

Index = dict[int, tuple[int, int]]


def pack(segments: Mapping[int, bytes]) -> bytes:
    r"""Return the file that holds the lines of some segments, of which those without any are left out.

    >>> data = pack({7: b"a\nb\n", 0: b"c\n"})
    >>> dict(unpack(data))
    {0: b'c\n', 7: b'a\nb\n'}
    """
    codec, frames, index, start = Zstd(LEVEL), [], Index(), 0
    for number, lines in sorted(item for item in segments.items() if item[1]):
        frames.append(bytes(codec.encode(lines)))
        index[number] = start, len(frames[-1])
        start += len(frames[-1])
    table = msgspec.msgpack.encode(index)
    return b"".join([*frames, _FRAME.pack(SKIPPED, len(table) + _END.size), table, _END.pack(len(table), MAGIC)])


def unpack(data: bytes, name: str = "") -> Iterator[tuple[int, bytes]]:
    """Yield the segments of a file with their lines.

    Raises
    ------
    CorruptError
        For a file that is damaged.
    """
    whole = memoryview(data)
    for number, (start, nbytes) in _index(data, _table_nbytes(data, name), name).items():
        yield number, _lines(whole[start : start + nbytes], name)


def read_one(blob: ByteSource, segment: int, name: str = "") -> bytes:
    """Return the lines of one segment, by reading the index and its frame; none where the file has none of it."""
    end, size = blob.tail(TAIL)
    tail = bytes(end)
    needed = _table_nbytes(tail, name)
    if needed > len(tail):
        tail = bytes(blob.read(size - needed, size))
    found = _index(tail, needed, name).get(segment)
    return b"" if found is None else _lines(blob.read(found[0], found[0] + found[1]), name)


def _table_nbytes(tail: bytes, name: str) -> int:
    """Return the size of the index with what stands around it, from the last bytes of a file."""
    if len(tail) >= _END.size:
        nbytes, magic = _END.unpack_from(tail, len(tail) - _END.size)
        if magic == MAGIC:
            return int(nbytes) + _END.size
    raise _damaged(name)


def _index(tail: bytes, nbytes: int, name: str) -> Index:
    try:
        return msgspec.msgpack.decode(tail[len(tail) - nbytes : len(tail) - _END.size], type=Index)
    except msgspec.DecodeError:
        raise _damaged(name) from None


def _lines(frame: object, name: str) -> bytes:
    try:
        return bytes(Zstd().decode(frame))
    except (RuntimeError, ValueError):
        raise _damaged(name) from None


def _damaged(name: str) -> CorruptError:
    return CorruptError(
        f"{name!r}, which holds records of shards that are done, is damaged: remove it and run the job again with the same "
        "arguments, and it makes those shards again"
    )


FOLDER = ".shardedstore"

PER_FOLDER = 64  # segments

READERS = 16  # threads

INHERITED = "inherited"

LOOKS = 10  # how often compacted files are looked for that are compacted again meanwhile

_APPENDED = re.compile(rf"\d+/(\d+)-(?:{INHERITED}|[0-9a-f]+(?:-(\w+))?)\.jsonl")  # below the ledger's folder

_COMPACTED = re.compile(r"compacted-[0-9a-f]+\.jsonl\.zst")

logger = logging.getLogger("shardedstore")


class Record(Written, frozen=True, omit_defaults=True, kw_only=True):
    """One shard that is done: what a sink has written of it, and its number in the job.

    For people: the seconds that it took, the attempts, and the worker's host and process. `source` is what the source was,
    where that was looked at closer than its metadata; `generation` that of the object, where an earlier job made it.
    `digests` are of the decoded data that was written, by array, where that was asked for. `marked` tells that what was
    written is damaged or lost, and is to be made again under its own name; `failed` is why the last attempt
    at the shard failed, where it is not there. `veiled` tells that the documents of divided arrays are veiled in a base,
    which they were not in those of version 0.4.0; `consolidated` are the groups whose consolidated metadata it holds.
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
    veiled: bool = False
    consolidated: tuple[str, ...] = ()

    @classmethod
    def of(cls, written: Written, shard: int, **others: Any) -> Self:
        """Return the record of a shard that was written."""
        return cls(*msgspec.structs.astuple(written), shard=shard, **others)

    @property
    def is_done(self) -> bool:
        """Whether the shard is not to be made, if what was written still stands."""
        return not self.marked and not self.failed


class Ledger(NamedTuple):
    """The records of one generation at a destination; `nonce` tells it from one of the same number that was removed."""

    folder: Folder
    generation: int
    nonce: str = ""

    @property
    def _root(self) -> str:
        return f"{FOLDER}/ledger/{self.generation}" + (f"-{self.nonce}" if self.nonce else "")

    def read(self) -> dict[int, Record]:
        """Return all records by shard number."""
        sizes = self.folder.sizes(self._root)
        found = self._there(_in_order(n for n, nbytes in sizes if nbytes and not _COMPACTED.fullmatch(self._below(n))))

        def lines(name: str) -> Iterator[bytes]:
            return (lines for _, lines in unpack(self.folder.read(name), name))

        return _by_shard([*self._from_compacted(lines), *found])

    def read_segment(self, segment: int) -> dict[int, Record]:
        """Return the records of one segment."""
        found = self._there(_in_order(self._files(segment)))

        def lines(name: str) -> Iterator[bytes]:
            yield read_one(self.folder.blob(name), segment, name)

        return _by_shard([*self._from_compacted(lines), *found])

    def owns(self, name: str) -> bool:
        """Tell whether a file at the destination is one of the ledger's."""
        if not name.startswith(f"{self._root}/"):
            return False
        below = self._below(name)
        return below == INHERITED or bool(_APPENDED.fullmatch(below) or _COMPACTED.fullmatch(below))

    def is_compacted(self) -> bool:
        """Tell whether the job has ended, and its config was written."""
        return bool(self.compacted())

    def mark(self, numbers: frozenset[int]) -> None:
        """Mark the records of some shards, so that the job makes these again.

        No job may be at work. A ledger that is not compacted stays so, as that tells whether its job has ended.
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
        """Gather all that was written until now in one file, and remove what it was gathered from.

        It can be done by several at once, and be interrupted: then some records are there twice. The records of shards in
        `marked` are marked.
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
        """Begin the file of an attempt at some shards of a segment; return False where it was begun before.

        So that a task which runs once need not list and read the files of all other tasks of its segment.
        """
        return self.folder.claim(f"{self._folder(segment)}/{segment}-{attempt}")

    @contextmanager
    def writer(self, segment: int, claimed: str = "") -> Iterator[Callable[[Record], None]]:
        """Give a function that appends a record; see `Folder.appender` for when it is kept."""
        encode = msgspec.json.Encoder().encode
        with self.folder.appender(f"{self._folder(segment)}/{segment}", claimed) as append:
            yield lambda record: append(encode(record) + b"\n")

    def inherit(self, segments: Iterable[tuple[int, list[Record]]]) -> None:
        """Keep the records that are taken over from an earlier generation, by segment."""
        encode = msgspec.json.Encoder().encode
        for segment, records in segments:
            data = b"".join(encode(record) + b"\n" for record in records)
            self.folder.write(f"{self._folder(segment)}/{segment}-{INHERITED}.jsonl", data)
        self.folder.write(f"{self._root}/{INHERITED}", b"")

    def has_inherited(self) -> bool:
        """Tell whether all that is taken over is kept."""
        return self.folder.nbytes(f"{self._root}/{INHERITED}") is not None

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

    def compacted(self) -> list[str]:
        """Return the names of the files that were gathered when the job had ended, after its config was written."""
        with suppress(NotADirectoryError):  # what stands in the way is told when something is written
            return sorted(
                f"{self._root}/{name}" for name in self.folder.names(self._root) if _COMPACTED.fullmatch(name)
            )
        return []

    def _appended(self, names: Iterable[str]) -> dict[str, int]:
        """Return the segments of the files that were appended to, without what tells of a writer that died."""
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
            return list(pool.map(self.folder.read, names))

    def _there(self, names: list[str]) -> list[bytes]:
        """Read files but those that were compacted since they were listed; what is compacted must be read after them."""

        def read(name: str) -> bytes:
            try:
                return self.folder.read(name)
            except FileNotFoundError:
                return b""

        with ThreadPoolExecutor(READERS) as pool:
            return list(pool.map(read, names))

    def _from_compacted(self, lines: Callable[[str], Iterator[bytes]]) -> list[bytes]:
        """Return what is read of the files that were compacted, and of their successors where they are gone."""
        for _ in range(LOOKS):
            with suppress(FileNotFoundError):
                return [some for name in self.compacted() for some in lines(name)]
        raise FileNotFoundError(f"the files at {self._root!r} of {self.folder.url!r} are compacted all the time")


class NoLedger(Ledger):
    """The ledger of a job without a destination: it keeps nothing."""

    __slots__ = ()

    def read(self) -> dict[int, Record]:
        # docstring inherited
        return {}

    def read_segment(self, segment: int) -> dict[int, Record]:
        # docstring inherited
        return {}

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
    def writer(self, segment: int, claimed: str = "") -> Iterator[Callable[[Record], None]]:
        # docstring inherited
        yield lambda _: None


def _marked(records: Iterable[Record], numbers: frozenset[int]) -> Iterator[Record]:
    """Yield records, with those of some shards marked."""
    for record in records:
        yield msgspec.structs.replace(record, marked=True) if record.shard in numbers else record


def try_compact(ledger: Ledger) -> None:
    """Compact a ledger, if that can be done: nothing depends on it."""
    try:
        ledger.compact()
    except STORAGE_ERRORS as error:
        logger.warning("the ledger at %s stays as it is: %s", ledger.folder.url, error)


def _compacted_name() -> str:
    """Return a name that sorts after those of before, should two stand side by side."""
    return f"compacted-{time.time_ns():016x}{secrets.token_hex(4)}.jsonl.zst"


def _in_order(names: Iterable[str]) -> list[str]:
    """Sort the names of files so that what was taken over comes before what was made since."""
    return sorted(names, key=lambda name: (not name.endswith(f"-{INHERITED}.jsonl"), name))


def _by_shard(files: Iterable[bytes]) -> dict[int, Record]:
    """Return the records of some files by shard number: of two for one shard, that of the later file, if it did not fail."""
    found: dict[int, Record] = {}
    for data in files:
        for record in _parse(data):
            if not record.failed or record.shard not in found:  # clocks may say that it failed after it was done
                found[record.shard] = record
    return found


def _parse(data: bytes) -> Iterable[Record]:
    whole = data[: data.rfind(b"\n") + 1]  # what follows is torn
    decoder = msgspec.json.Decoder(Record)
    try:
        return decoder.decode_lines(whole)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _parse_each(whole)


def _parse_each(lines: bytes) -> Iterator[Record]:
    decode = msgspec.json.Decoder(Record).decode
    for line in lines.split(b"\n"):
        try:
            yield decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
