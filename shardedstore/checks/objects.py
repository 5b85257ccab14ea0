"""Checks of the stored objects of arrays: each is read and decoded, on Dask.

A task checks a range of an array's objects. It holds a few objects in memory, and of a large object of the sharding codec one
inner chunk.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from operator import add, mul
from typing import Any, NamedTuple

import msgspec
import numpy as np
from zarr.abc.store import RangeByteRequest, Store
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from shardedstore.checks.finding import Finding, few
from shardedstore.checks.inflate import decode_bounded
from shardedstore.checks.shard_index import InnerPart, parts_of
from shardedstore.codecs.array_codecs import ChunkCodec
from shardedstore.codecs.array_document import ArrayDoc, parse_array_document
from shardedstore.errors import CorruptError, ShardedStoreError
from shardedstore.storage.errors import explain, is_transient
from shardedstore.storage.folders import STORAGE_ERRORS
from shardedstore.storage.retry import Retries, retry
from shardedstore.stores.locations import Config
from shardedstore.stores.reader import StoreReader, reader_of
from shardedstore.zarr.grid import Coords, index_of
from shardedstore.zarr.metadata import ArrayMeta
from shardedstore.zarr.paths import join

WHOLE = 256 << 20  # bytes; larger objects of the sharding codec are read chunk by chunk
AT_ONCE = 64 << 20  # bytes of objects that are fetched at once
MOST_AT_ONCE = 64  # objects
RETRIES = 2
SLACK = 1 << 16  # bytes; codecs may add checksums and headers
UNREADABLE = (*STORAGE_ERRORS, ShardedStoreError)


class ObjectTask(NamedTuple):
    """A range of the objects of one array.

    Attributes
    ----------
    config : Config
        The store.
    path : str
        The path of the array.
    meta : ArrayMeta
        Its properties.
    document : dict
        The content of its document.
    places : range or ndarray
        The numbers of the objects in C order of the grid.
    max_chunk : int
        The largest decoded size of a chunk in bytes.
    key : str
        The key of the task in a journal.
    run : str
        A name for this check, for stores that tasks of one process share.
    """

    config: Config
    path: str
    meta: ArrayMeta
    document: dict[str, Any]
    places: Any
    max_chunk: int
    key: str
    run: str


class Checked(msgspec.Struct):
    """The findings of a task, and the numbers of objects, of bytes, of decoded chunks and of missing objects."""

    findings: list[Finding] = []
    objects: int = 0
    nbytes: int = 0
    chunks: int = 0
    missing: int = 0

    def is_right(self) -> bool:
        """Whether nothing was found."""
        return not self.findings


_OPEN: dict[str, Store] = {}  # by check
MOST_OPEN = 4


def open_shared(config: Config, run: str) -> Store:
    """Return the open store of a check, which is opened once in a process."""
    if run not in _OPEN:
        while len(_OPEN) >= MOST_OPEN:
            _OPEN.pop(next(iter(_OPEN)), None)
        _OPEN[run] = open_plain(config)
    return _OPEN[run]


def open_plain(config: Config) -> Store:
    """Open a store; a Zarr without shards by its own kind, which reads faster."""
    return config.open() if config.shards or config.consolidated is not None else config.base.open()


class StoredObject(NamedTuple):
    """One stored object: its key, its coordinates, its size, and a function that reads a range."""

    key: str
    coords: Coords
    nbytes: int
    read: Any


class Objects:
    """Reads and checks objects of one array."""

    def __init__(self, task: ObjectTask) -> None:
        self.task = task
        self.store = open_shared(task.config, task.run)
        self.reader: StoreReader[Any] = reader_of(self.store)
        self.meta = task.meta
        self.doc: ArrayDoc = parse_array_document(task.document, task.path)
        self.codec = ChunkCodec(self.doc, arrays=True)
        raw = self.codec.raw_nbytes
        self.limit = task.max_chunk if raw is None else 2 * raw + SLACK
        self.is_large = self.doc.index is not None and self.meta.chunk_nbytes > WHOLE
        self.found = Checked()

    def check(self) -> Checked:
        """Check all objects of the task."""
        findings: list[Finding] = []
        places = [int(place) for place in self.task.places]
        size = 1 if self.is_large else max(1, min(MOST_AT_ONCE, AT_ONCE // max(1, self.meta.chunk_nbytes)))
        for first in range(0, len(places), size):
            coords = [index_of(place, self.meta.chunk_grid) for place in places[first : first + size]]
            findings += few(self._check_some(coords))
        self.found.findings = list(few(findings))
        return self.found

    def _check_some(self, coords: list[Coords]) -> Iterator[Finding]:
        assert self.meta.keys is not None
        keys = [join(self.task.path, self.meta.keys.encode(index)) for index in coords]
        try:
            objects = retry(partial(self._objects, keys, coords), Retries(RETRIES))
        except UNREADABLE as error:
            if len(keys) == 1:
                yield self._unread(keys[0], coords[0], error)
                return
            for index in coords:
                yield from self._check_some([index])
            return
        for stored in objects:
            yield from self._check_object(stored)

    def _unread(self, key: str, coords: Coords, error: BaseException) -> Finding:
        is_damaged = isinstance(error, CorruptError) and not is_transient(error)
        return Finding("zip-member" if is_damaged else "unread", explain(error), self.task.path, key, coords)

    def _objects(self, keys: list[str], coords: list[Coords]) -> list[StoredObject]:
        if self.is_large:
            return [self._large(key, index) for key, index in zip(keys, coords, strict=True) if self._exists(key)]
        found = []
        for key, index, data in zip(keys, coords, self.reader.fetch(keys), strict=True):
            if data is not None:
                found.append(StoredObject(key, index, len(data), partial(_cut, memoryview(data))))
        self.found.missing += len(keys) - len(found)
        return found

    def _exists(self, key: str) -> bool:
        is_there = sync(self.store.exists(key))
        self.found.missing += not is_there
        return is_there

    def _large(self, key: str, coords: Coords) -> StoredObject:
        def read(start: int, stop: int) -> bytes:
            data = sync(self.store.get(key, default_buffer_prototype(), RangeByteRequest(start, stop)))
            return b"" if data is None else data.to_bytes()

        return StoredObject(key, coords, sync(self.store.getsize(key)), read)

    def _check_object(self, stored: StoredObject) -> Iterator[Finding]:
        self.found.objects += 1
        self.found.nbytes += stored.nbytes
        where = self.task.path, stored.key
        if not stored.nbytes:
            yield Finding("empty-chunk", f"{stored.key!r} has no bytes", *where, stored.coords)
            return
        for part in self._parts(stored):
            chunk = tuple(map(add, map(mul, stored.coords, self.doc.inner_grid), part.place))
            inner = "" if self.doc.index is None else f": inner chunk {chunk}"
            if part.error:
                yield Finding("shard-index", f"{stored.key!r}: {part.error}", *where, chunk)
            elif not part.nbytes:
                yield Finding("empty-chunk", f"{stored.key!r}{inner} has no bytes", *where, chunk)
            elif error := self._decoding_error(stored, part):
                yield Finding("undecodable-chunk", f"{stored.key!r}{inner} can't be decoded: {error}", *where, chunk)

    def _parts(self, stored: StoredObject) -> Iterator[InnerPart]:
        if self.doc.index is None:
            return iter([InnerPart((0,) * len(stored.coords), 0, stored.nbytes)])
        return parts_of(self.doc.index, self.doc.inner_grid, stored.nbytes, stored.read)

    def _decoding_error(self, stored: StoredObject, part: InnerPart) -> str:
        self.found.chunks += 1
        data = stored.read(part.start, part.start + part.nbytes)
        try:
            raw = decode_bounded(self.codec.compression, data, self.limit)
            nbytes = memoryview(raw).nbytes
            if self.codec.raw_nbytes not in (None, nbytes):
                return f"it holds {nbytes:,} bytes, but a chunk has {self.codec.raw_nbytes:,}"
            array = self.codec.part.unpack(raw)
        except Exception as error:  # noqa: BLE001 (codecs raise errors of any type)
            return f"{type(error).__name__}: {error}"
        shape = np.shape(array)
        return "" if shape == self.doc.chunks else f"it has the shape {shape}, but a chunk has {self.doc.chunks}"


def _cut(data: memoryview, start: int, stop: int) -> memoryview:
    return data[start:stop]


def check_objects(task: ObjectTask) -> Checked:
    """Check the objects of a task. Errors are returned as findings, never raised."""
    try:
        return Objects(task).check()
    except UNREADABLE as error:
        return Checked([Finding("unread", f"{task.path!r} can't be read: {explain(error)}", task.path)])


def per_task(meta: ArrayMeta, most: int = 1024, nbytes: int = 128 << 20) -> int:
    """Return the number of objects of an array in one task.

    >>> from shardedstore.zarr.grid import ChunkKeys
    >>> per_task(ArrayMeta(3, (8, 8), (2, 2), ChunkKeys("default", "/"), None, 4))
    1024
    """
    return max(1, min(most, nbytes // max(1, meta.chunk_nbytes)))
