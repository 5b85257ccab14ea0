"""Zip archives as read-only zarr stores: on a local disk or in an object store, one range request a chunk.

The directory at the end of the zip is read once, with one request or two, and checked. It tells where each entry's local
header begins and the next one's, so that one request gets header and data whatever extra fields the header has. In a
zip without extra fields (those of `ZipWriter`) the place of the data itself is known, and a byte range is read alone.
"""

from __future__ import annotations

import asyncio
import json
import os
import struct
import zlib
from bisect import bisect_left
from collections.abc import AsyncIterator, Iterator, Mapping
from functools import lru_cache
from itertools import islice, pairwise, takewhile
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol
from urllib.parse import unquote, urlsplit
from weakref import finalize

from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype

from shardedstore.crc import crc32
from shardedstore.errors import CorruptError, UsageError
from shardedstore.readonly import ReadOnlyStore
from shardedstore.zipwriter import CENTRAL, END, END64, LOCAL, LOCATOR64, MAX16, MAX32

if TYPE_CHECKING:
    from obstore.store import ObjectStore
    from typing_extensions import Buffer as Bytes

_TAIL = MAX16 + END.size + LOCATOR64.size + END64.size
_STORED, _DEFLATED = 0, 8
_ENCRYPTED, _UTF8 = 0x2041, 0x800

_INLINE = 1 << 20  # bytes; what is larger is worth the 100 microseconds that a hop to another thread costs


class ByteSource(Protocol):
    """Random access to the bytes of one file or object, for any number of threads at once."""

    def tail(self, n: int) -> tuple[Bytes, int]:
        """Return the last `n` bytes, or all if there are fewer, and the size of the whole."""

    def read(self, start: int, stop: int) -> Bytes:
        """Return the bytes from `start` to `stop`; fewer only where the file ends before."""

    async def aread(self, start: int, stop: int) -> Bytes:
        """Return what `read` does."""


class LocalFile:
    """A file on a local disk. The descriptor is closed with the last reference, so never under a thread that reads."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        finalize(self, os.close, self._fd)

    def tail(self, n: int) -> tuple[bytes, int]:
        """Return the last bytes and the size."""
        size = os.fstat(self._fd).st_size
        return self.read(max(0, size - n), size), size

    def read(self, start: int, stop: int) -> bytes:
        """Read with pread, which has no position that threads could fight for."""
        data = os.pread(self._fd, stop - start, start)  # on Linux at most 2 GiB
        while len(data) < stop - start and (more := os.pread(self._fd, stop - start - len(data), start + len(data))):
            data += more
        return data

    async def aread(self, start: int, stop: int) -> bytes:
        """Read at once what is small, and in a thread what is large."""
        return self.read(start, stop) if stop - start <= _INLINE else await asyncio.to_thread(self.read, start, stop)


class RemoteObject:
    """An object in an object store."""

    def __init__(self, store: ObjectStore, path: str) -> None:
        self._store = store
        self._path = path

    def tail(self, n: int) -> tuple[Bytes, int]:
        """Return the last bytes and the size: one request, or two where there are no suffix ranges (Azure)."""
        import obstore
        from obstore.exceptions import GenericError, NotSupportedError

        try:
            found = obstore.get(self._store, self._path, options={"range": {"suffix": n}})
            return found.bytes(), found.meta["size"]
        except (NotSupportedError, GenericError):
            size = obstore.head(self._store, self._path)["size"]
            return self.read(max(0, size - n), size), size

    def read(self, start: int, stop: int) -> Bytes:
        """Make one range request."""
        import obstore

        return obstore.get_range(self._store, self._path, start=start, end=stop) if stop > start else b""

    async def aread(self, start: int, stop: int) -> Bytes:
        """Make one range request."""
        import obstore

        return await obstore.get_range_async(self._store, self._path, start=start, end=stop) if stop > start else b""


class ZipReadStore(ReadOnlyStore):
    """A zip as a read-only zarr store.

    Opened by the first use, without a lock: threads that open it at once do the same thing twice. A value that is read
    whole is checked against its CRC-32; a byte range of a stored entry can't be.

    Parameters
    ----------
    url : str or path
        A local path, or a URL that obstore knows: ``s3://``, ``gs://``, ``az://``, ``https://`` ...
    options : mapping, optional
        Options of the object store, as `obstore.store.from_url` takes them. They are pickled with the store, but are
        not in its repr; those of the environment are used without being in either.
    source : ByteSource, optional
        Where to read the bytes instead of at `url`. It is not pickled.

    Raises
    ------
    CorruptError
        When it is opened, for a zip that is damaged or has what can't be read: several disks, encrypted entries,
        another compression than deflate. When a key is read, for an entry that is damaged.
    """

    def __init__(
        self,
        url: str | os.PathLike[str],
        *,
        options: Mapping[str, Any] | None = None,
        source: ByteSource | None = None,
    ) -> None:
        super().__init__()
        self._url = _normalized(os.fspath(url))
        self._options = dict(options or {})
        self._source = source
        self._archive: _Archive | None = None
        self._opening: asyncio.Future[_Archive] | None = None

    @property
    def url(self) -> str:
        """The URL, or the absolute path of a local zip."""
        return self._url

    @property
    def is_remote(self) -> bool:
        """Whether reading is a matter of requests."""
        return "://" in self._url

    def names(self) -> list[str]:
        """Return all keys, sorted."""
        return list(self._opened().names)

    def read_sync(self, key: str) -> bytes:
        """Return a value, checked against its CRC-32."""
        archive = self._opened()
        entry = archive.entry(key)
        return bytes(archive.content(key, entry, archive.source.read(entry.start, entry.stop)))

    def entry_crc(self, key: str) -> int:
        """Return the CRC-32 that the directory has for a value."""
        return self._opened().entry(key).crc

    def entry_size(self, key: str) -> int:
        """Return the size of a value in bytes."""
        return self._opened().entry(key).size

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        # docstring inherited
        archive = self._archive or await self._ready()
        entry = archive.entries.get(key)
        if entry is None:
            return None
        start, stop = _bounds(byte_range, entry.size)
        if byte_range is None or entry.method != _STORED:
            raw = await archive.source.aread(entry.start, entry.stop)
            check = archive.content
            whole = check(key, entry, raw) if entry.size <= _INLINE else await asyncio.to_thread(check, key, entry, raw)
            return prototype.buffer.from_bytes(whole[start:stop])
        first = entry.data
        if not entry.is_exact:
            first = entry.start + archive.data_at(key, entry, await archive.source.aread(entry.start, entry.data))
        if start >= stop:
            return prototype.buffer.from_bytes(b"")
        part = memoryview(await archive.source.aread(first + start, first + stop))
        if len(part) != stop - start:
            raise archive.damaged(key, "the file ends inside its data")
        return prototype.buffer.from_bytes(part)

    async def exists(self, key: str) -> bool:
        # docstring inherited
        return key in (await self._ready()).entries

    async def getsize(self, key: str) -> int:
        # docstring inherited
        return (await self._ready()).entry(key).size

    async def list(self) -> AsyncIterator[str]:
        # docstring inherited
        for name in (await self._ready()).names:
            yield name

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        # docstring inherited
        for name in (await self._ready()).below(prefix):
            yield name

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        # docstring inherited
        folder = prefix.rstrip("/") + "/" if prefix.rstrip("/") else ""
        below = (await self._ready()).below(folder)
        for name in dict.fromkeys(name[len(folder) :].partition("/")[0] for name in below):
            yield name

    def close(self) -> None:
        # docstring inherited
        self._archive = self._opening = None
        super().close()

    async def _open(self) -> None:
        if self._is_open:
            raise ValueError("store is already open")
        await self._ready()
        self._is_open = True

    async def _ready(self) -> _Archive:
        """Return the opened archive; many coroutines that come first share one opening."""
        if self._archive is not None:
            return self._archive
        loop = asyncio.get_running_loop()
        opening = self._opening
        if opening is None or opening.done() or opening.get_loop() is not loop:
            opening = self._opening = loop.run_in_executor(None, self._opened)
        return await asyncio.shield(opening)

    def _opened(self) -> _Archive:
        archive = self._archive
        if archive is None:
            archive = self._archive = _Archive.open(self._url, self._source or _source(self._url, self._options))
        return archive

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self._url, "options": self._options}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and (self._url, self._options) == (other._url, other._options)

    def __str__(self) -> str:
        return f"zip::{self._url}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._url!r})"


class _Entry(NamedTuple):
    start: int  # of the local header
    stop: int  # the next local header or the directory, unless this entry must end before
    data: int  # where the data begins, if the local header has no extra field
    is_exact: bool  # whether it has none: local header, name and data fill the space up to `stop`
    stored: int  # bytes in the zip
    size: int
    crc: int
    method: int


class _Archive(NamedTuple):
    """An opened zip: where its bytes come from, and what is where in them."""

    url: str
    source: ByteSource
    entries: dict[str, _Entry]
    names: list[str]

    @classmethod
    def open(cls, url: str, source: ByteSource) -> _Archive:
        last, size = source.tail(_TAIL)
        tail = bytes(last)
        end = _find_end(url, tail, size)
        first = size - len(tail)
        if end.start < first:
            directory = bytes(source.read(end.start, end.stop))
        else:
            directory = tail[end.start - first : end.stop - first]
        if len(directory) != end.stop - end.start:
            raise CorruptError(f"{url}: the file ends inside its directory")
        try:
            entries = _read_directory(url, directory, end)
        except (struct.error, UnicodeDecodeError) as error:
            raise CorruptError(f"{url}: its directory is damaged: {error}") from None
        return cls(url, source, entries, sorted(entries))

    def entry(self, key: str) -> _Entry:
        try:
            return self.entries[key]
        except KeyError:
            raise FileNotFoundError(key) from None

    def below(self, prefix: str) -> Iterator[str]:
        first = bisect_left(self.names, prefix)
        return takewhile(lambda name: name.startswith(prefix), islice(self.names, first, None))

    def data_at(self, key: str, entry: _Entry, raw: Bytes) -> int:
        """Check a local header and return where in `raw`, which begins with it, the data begins."""
        view = memoryview(raw)
        if len(view) < LOCAL.size:
            raise self.damaged(key, "the file ends inside its local header")
        signature, _, _, method, _, _, _, _, _, name_length, extra_length = LOCAL.unpack_from(view)
        if signature != b"PK\3\4" or method != entry.method:
            raise self.damaged(key, "its local header is not what the directory says")
        at: int = LOCAL.size + name_length
        name = bytes(view[LOCAL.size : at])
        if name != key.encode() and name != key.encode("cp437", "replace"):
            raise self.damaged(key, "its local header has another name")
        at += extra_length
        if entry.start + at + entry.stored > entry.stop:
            raise self.damaged(key, "it runs into the next entry")
        return at

    def content(self, key: str, entry: _Entry, raw: Bytes) -> memoryview:
        """Return the value inside the bytes of a whole entry, checked."""
        at = self.data_at(key, entry, raw)
        data = memoryview(raw)[at : at + entry.stored]
        if len(data) != entry.stored:
            raise self.damaged(key, "the file ends inside its data")
        if entry.method == _DEFLATED:
            inflate = zlib.decompressobj(-zlib.MAX_WBITS)
            try:
                data = memoryview(inflate.decompress(data, entry.size + 1))
            except zlib.error as error:
                raise self.damaged(key, str(error)) from None
            if not inflate.eof or len(data) != entry.size:
                raise self.damaged(key, f"inflated it is not the {entry.size} bytes that it should be")
        if crc32(data) != entry.crc:
            raise self.damaged(key, "its CRC-32 is wrong")
        return data

    def damaged(self, key: str, why: str) -> CorruptError:
        return CorruptError(f"{self.url}: {key!r} is damaged: {why}")


class _End(NamedTuple):
    start: int  # of the directory in the file
    stop: int
    entries: int
    prepended: int  # bytes before the zip, by which all offsets in it are too small


def _find_end(url: str, tail: bytes, size: int) -> _End:
    """Return where the directory is, from the end of a zip."""
    at = len(tail)
    while (at := tail.rfind(b"PK\5\6", 0, at + 3)) >= 0:
        if int.from_bytes(tail[at + END.size - 2 : at + END.size], "little") == len(tail) - at - END.size:
            break
    if at < 0:
        raise CorruptError(f"{url}: not a zip, or cut off: it has no end record")
    _, disk, directory_disk, here, count, length, start, _ = plain = END.unpack_from(tail, at)
    is_one_disk = disk == directory_disk == 0 and here == count
    before = at - LOCATOR64.size
    if before >= 0 and tail.startswith(b"PK\6\7", before):
        record = before - END64.size
        if record < 0 or not tail.startswith(b"PK\6\6" + (END64.size - 12).to_bytes(8, "little"), record):
            raise CorruptError(f"{url}: its zip64 end record is damaged, or of a kind that is not supported")
        *_, disk, directory_disk, here, count, length, start = wide = END64.unpack_from(tail, record)
        is_one_disk = disk == directory_disk == 0 and here == count
        limits = (MAX16,) * 4 + (MAX32,) * 2
        if any(small not in (large, limit) for small, large, limit in zip(plain[1:7], wide[4:], limits, strict=True)):
            raise CorruptError(f"{url}: its end records contradict each other")
        at = record
    if not is_one_disk:
        raise CorruptError(f"{url}: it is one of several disks, which is not supported")
    stop = size - len(tail) + at
    prepended = stop - length - start
    if prepended < 0:
        raise CorruptError(f"{url}: cut off or damaged: its directory does not lie inside the file")
    return _End(stop - length, stop, count, prepended)


def _read_directory(url: str, directory: bytes, end: _End) -> dict[str, _Entry]:
    found = []
    at = 0
    while at < len(directory):
        (
            signature, _, _, flags, method, _, _, crc, stored, size, name_length, extra_length, comment_length, disk,
            _, _, start,
        ) = CENTRAL.unpack_from(directory, at)  # fmt: skip
        if signature != b"PK\1\2":
            raise CorruptError(f"{url}: its directory is damaged: no entry at byte {at}")
        at += CENTRAL.size
        name = _text(directory[at : at + name_length], flags)
        at += name_length + extra_length
        if MAX32 in (stored, size, start):
            size, stored, start = _wide(directory[at - extra_length : at], size, stored, start)
        at += comment_length
        if name.startswith("/") or (".." in name and ".." in name.split("/")):
            raise CorruptError(f"{url}: {name!r} is a name that leads out of the zip")
        if flags & _ENCRYPTED:
            raise CorruptError(f"{url}: {name!r} is encrypted, which is not supported")
        if method not in (_STORED, _DEFLATED):
            raise CorruptError(f"{url}: {name!r} has compression {method}; only 0 (none) and 8 (deflate) are supported")
        if disk not in (0, MAX16) or (method == _STORED and stored != size):
            raise CorruptError(f"{url}: {name!r} is damaged, or on another disk")
        start += end.prepended
        found.append((start, start + LOCAL.size + name_length, stored, size, crc, method, name))
    if at != len(directory) or len(found) != end.entries:
        raise CorruptError(
            f"{url}: its directory is damaged: it has {len(found)} entries and should have {end.entries}"
        )
    entries = {}
    starts = [*sorted(entry[0] for entry in found), end.start]
    following = dict(reversed(list(pairwise(starts))))  # of two entries at one place, the first runs into the second
    for start, data, stored, size, crc, method, name in found:
        limit = following[start]
        if data + stored > limit:
            raise CorruptError(f"{url}: {name!r} runs into another entry or the directory")
        is_exact = data + stored == limit and not end.prepended and name not in entries
        entries[name] = _Entry(start, min(limit, data + MAX16 + stored), data, is_exact, stored, size, crc, method)
    return {name: entry for name, entry in entries.items() if not name.endswith("/")}


def _wide(extra: bytes, *narrow: int) -> Iterator[int]:
    """Yield numbers, each that did not fit into 32 bits replaced by the next of the zip64 extra field."""
    at = 0
    wide: Iterator[int] = iter(())
    while at < len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            wide = iter(struct.unpack_from(f"<{length // 8}Q", extra, at + 4))
            break
        at += 4 + length
    for number in narrow:
        yield next(wide, number) if number == MAX32 else number


def _text(raw: bytes, flags: int) -> str:
    """Decode a name: Info-ZIP writes UTF-8 without saying so."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        if flags & _UTF8:
            raise
        return raw.decode("cp437")


def _bounds(byte_range: ByteRequest | None, size: int) -> tuple[int, int]:
    """Return what a byte range means for a value of some size.

    >>> _bounds(RangeByteRequest(2, 50), 10), _bounds(OffsetByteRequest(2), 10), _bounds(SuffixByteRequest(2), 10)
    ((2, 10), (2, 10), (8, 10))
    """
    match byte_range:
        case None:
            return 0, size
        case RangeByteRequest(start, end):
            return start, min(end, size)
        case OffsetByteRequest(start):
            return start, size
        case SuffixByteRequest(length):
            return max(0, size - length), size
    raise ValueError(f"Unexpected byte_range, got {byte_range}.")


def _normalized(url: str) -> str:
    """Return a local path absolute, and a URL as it is.

    >>> _normalized("file:///data/my%20cube.zip"), _normalized("s3://bucket/cube.zip")
    ('/data/my cube.zip', 's3://bucket/cube.zip')
    """
    if url.startswith("memory:"):
        raise UsageError(f"{url}: a zip in memory has no URL that could be opened")
    if url.startswith("file://"):
        url = unquote(urlsplit(url).path)
    return url if "://" in url else os.path.abspath(url)


def _source(url: str, options: Mapping[str, Any]) -> ByteSource:
    if "://" not in url:
        return LocalFile(url)
    folder, _, name = url.rpartition("/")
    environment = tuple(item for item in os.environ.items() if item[0].startswith(("AWS_", "AZURE_", "GOOGLE_")))
    return RemoteObject(_object_store(folder, json.dumps(options), environment), unquote(name))


@lru_cache(maxsize=64)
def _object_store(folder: str, options: str, _environment: object) -> ObjectStore:
    """Return one client for all zips of a folder: each would take 13 milliseconds, and connections of its own."""
    from obstore.store import from_url

    return from_url(folder, **json.loads(options))
