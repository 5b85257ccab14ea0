"""Stores of references: metadata documents by value, and chunks as byte ranges of other files and objects.

Each form of reference set has a file of its own, with a class of the protocol `ReferenceSet`.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from functools import cached_property
from threading import Lock
from typing import Any, Protocol
from urllib.parse import unquote

import obstore
from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype

from shardedstore.errors import UsageError
from shardedstore.storage.blobs import object_store
from shardedstore.storage.options import Options
from shardedstore.storage.requests import in_flight
from shardedstore.storage.urls import is_remote
from shardedstore.stores.locate import locate_store
from shardedstore.stores.location import Location, Place
from shardedstore.stores.ranges import Range, ranges_of
from shardedstore.stores.reader import KeyFilter, StoreReader, Tag, reader_of
from shardedstore.stores.targets import Reference, Targets
from shardedstore.zarr.readonly import PROTOTYPE, ReadOnlyStore, bounds


class ReferenceSet(Protocol):
    """References by key."""

    def names(self, prefix: str) -> Sequence[str]:
        """Return the sorted keys that begin with a prefix."""

    def find(self, key: str) -> Reference | bytes | None:
        """Return the reference or the value of a key; None for a missing key."""


class ReferencePlace(Place, frozen=True):
    """A location of references; each kind has one form of reference set."""

    def load(self) -> ReferenceSet:
        """Read the reference set, or take it from the cache of this process if it has not changed."""
        raise NotImplementedError

    def open(self, *, read_only: bool = True) -> ReferenceStore:
        # docstring inherited
        return ReferenceStore(self)

    @property
    def undeletable(self) -> str | None:
        # docstring inherited
        return f"{self.show()} holds references to chunks in other files"


class ReferenceStore(ReadOnlyStore):
    """A Zarr whose chunks are byte ranges of other files and objects; the references are read at the first request.

    Parameters
    ----------
    location : ReferencePlace
        The location of the references.
    """

    def __init__(self, location: ReferencePlace) -> None:
        super().__init__()
        self.location = location
        self.targets = Targets(location.url, location.options)
        self._lock = Lock()
        self._loaded: ReferenceSet | None = None

    @property
    def references(self) -> ReferenceSet:
        """The reference set."""
        with self._lock:
            if self._loaded is None:
                self._loaded = self.location.load()
            return self._loaded

    def read(self, key: str, byte_range: ByteRequest | None = None) -> bytes | None:
        """Return a value or a part of it; None for a missing key."""
        found = self.references.find(key)
        if found is None:
            return None
        if isinstance(found, bytes):
            start, stop = bounds(byte_range, len(found))
            return found[start:stop]
        if byte_range is None:
            return self.targets.read(key, found)
        start, stop = bounds(byte_range, self.targets.nbytes(found))
        return self.targets.read(key, found, start, stop)

    async def get(
        self, key: str, prototype: BufferPrototype = PROTOTYPE, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        # docstring inherited
        data = await asyncio.to_thread(self.read, key, byte_range)
        return None if data is None else prototype.buffer.from_bytes(data)

    @property
    def _supports_sync_io(self) -> bool:
        return True

    def get_sync(
        self, key: str, *, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        # docstring inherited
        data = self.read(key, byte_range)
        return None if data is None else (prototype or PROTOTYPE).buffer.from_bytes(data)

    async def exists(self, key: str) -> bool:
        # docstring inherited
        return await asyncio.to_thread(lambda: self.references.find(key)) is not None

    async def list(self) -> AsyncIterator[str]:
        # docstring inherited
        async for key in self.list_prefix(""):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        # docstring inherited
        for key in await asyncio.to_thread(lambda: self.references.names(prefix)):
            yield key

    def __reduce__(self) -> tuple[type[ReferenceStore], tuple[ReferencePlace]]:
        return ReferenceStore, (self.location,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ReferenceStore) and self.location == other.location

    def __repr__(self) -> str:
        return f"ReferenceStore({self.location.url!r})"


class ReferenceReader(StoreReader[ReferenceStore]):
    """Reads many references; the tag of a key is its reference, so a rewritten target with an equal reference is not seen."""

    has_tags = True

    def keys(self, path: str, kept: KeyFilter | None) -> Iterator[str]:
        """Yield the keys below a path."""
        for key in self.store.references.names(f"{path}/" if path else ""):
            if kept is None or kept.holds(key):
                yield key

    def fetch(self, keys: Iterable[str]) -> Iterator[bytes | None]:
        """Read local targets one by one, and remote ones concurrently."""
        if self._is_local:
            return map(self.store.read, keys)
        return in_flight(self.store.read, keys)

    @cached_property
    def _is_local(self) -> bool:
        location = self.store.location
        return not any(map(is_remote, (location.url, *location.options.allow)))

    def tags(self, keys: Iterable[str]) -> Iterator[Tag]:
        """Yield sizes, with the reference or a digest of the value as the tag."""
        for key in keys:
            found = self.store.references.find(key)
            if isinstance(found, bytes):
                yield key, len(found), hashlib.blake2b(found, digest_size=16).hexdigest()
            elif found is not None:
                yield key, found.nbytes or 0, f"{found.start} {found.target}"

    async def folders(self, path: str) -> AsyncIterator[str]:
        # docstring inherited
        start = f"{path}/" if path else ""
        names = await asyncio.to_thread(lambda: self.store.references.names(start))
        parts = (key[len(start) :].partition("/") for key in names)
        for name in dict.fromkeys(name for name, slash, _ in parts if slash):
            yield name


reader_of.register(ReferenceStore, ReferenceReader)


@locate_store.register
def _(store: ReferenceStore) -> Location:
    return store.location


@ranges_of.register
def _(store: ReferenceStore, keys: Iterable[str]) -> Iterator[Range]:
    return (_range_of(store, key) for key in keys)


def _range_of(store: ReferenceStore, key: str) -> Range:
    found = store.references.find(key)
    if not isinstance(found, Reference):
        raise UsageError(
            f"{key!r} is stored by value in {store.location.show()}, so no reference can lead to it: convert the store with ToZip or CopyTo, "
            "and export the result"
        )
    return Range(store.targets.url(found.target), found.start, store.targets.nbytes(found))


def version_of(url: str, options: Options) -> Any:
    """Return a value that changes when a file or object changes."""
    if not is_remote(url):
        found = os.stat(url)
        return found.st_mtime_ns, found.st_ino, found.st_size
    folder, _, name = url.rpartition("/")
    meta = obstore.head(object_store(folder, options, url), unquote(name))
    return meta["e_tag"] or str(meta["last_modified"]), meta["size"]
