"""Reading many keys of a component: each kind of component in the way that is fast for it.

One key at a time through a store's async `get` costs hundreds of microseconds; here a local file costs six to eight,
and an object store has many requests in flight.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Protocol

import obstore
from toolz import partition_all
from zarr.abc.store import Store
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import LocalStore, ObjectStore

from shardedstore.storage.markers import MARKERS, unmarked
from shardedstore.storage.requests import IN_FLIGHT, in_flight
from shardedstore.stores.http import HTTPReadStore
from shardedstore.stores.http_index import chunk_keys
from shardedstore.stores.local import LocalBulk
from shardedstore.stores.part import Part, Rest
from shardedstore.stores.veiled import Veiled
from shardedstore.stores.views import Left
from shardedstore.zarr.paths import is_below
from shardedstore.zips import ZipReadStore

if TYPE_CHECKING:
    from obstore import ObjectMeta

MOST_LISTINGS = 100  # of the folders in one folder; one listing of all, a request for a thousand keys, takes less then


class BatchReader(Protocol):
    """Reads many keys of one store.

    `guesses` tells that `keys` gives the chunks that there may be, of which some can be missing.
    """

    guesses: bool

    def keys(self, path: str, remainder: Left | None) -> Iterator[str]:
        """Yield all keys below a path, in any order; of a base, those that are left for it."""

    def fetch(self, keys: Iterable[str]) -> Iterator[bytes | None]:
        """Yield the values of keys, in their order; None where there is none."""


def batch_reader(store: Store) -> BatchReader:
    """Return the reader for a kind of store."""
    match store:
        case LocalStore():
            return LocalBulk(os.fspath(store.root))
        case ZipReadStore():
            return ZipBulk(store)
        case ObjectStore():
            return ObjectBulk(store)
        case HTTPReadStore():
            return UnlistedBulk(store)
        case Part():
            return PartBulk(store)
        case Veiled():
            return VeiledBulk(store)
    return StoreBatchReader(store)


class ZipBulk:
    """A zip: its names are known, and members are read in the order asked for."""

    guesses = False

    def __init__(self, store: ZipReadStore) -> None:
        self.store = store

    def keys(self, path: str, remainder: Left | None) -> Iterator[str]:
        """Yield the names below the path."""
        for key in self.store.names(f"{path}/" if path else ""):
            if remainder is None or remainder.holds(key):
                yield key

    def fetch(self, keys: Iterable[str]) -> Iterator[bytes | None]:
        """Read member by member, with the CRC checked."""
        store = self.store
        if not store.is_remote:
            return (store.read_sync(key) if store.holds(key) else None for key in keys)
        return in_flight(lambda key: store.read_sync(key) if store.holds(key) else None, keys)


class ObjectBulk:
    """An object store: the sync calls of obstore, from threads."""

    guesses = False

    def __init__(self, store: ObjectStore) -> None:  # type: ignore[type-arg]
        self.store = store.store

    def keys(self, path: str, remainder: Left | None) -> Iterator[str]:
        """List everything below the path, a request for a thousand keys, but no folders that are cut out."""
        return (found["path"] for found in self.objects(path, remainder))

    def objects(self, path: str, remainder: Left | None) -> Iterator[ObjectMeta]:
        """List what `keys` gives, with sizes and tags."""
        folders = [path]
        while folders:
            folder = folders.pop()
            listed: Iterable[Sequence[ObjectMeta]] = obstore.list(self.store, prefix=folder or None)
            if remainder is not None and remainder.is_cut(folder):
                names = obstore.list_with_delimiter(self.store, prefix=folder or None)
                left = [below for below in names["common_prefixes"] if not remainder.is_mounted(below)]
                if len(left) <= MOST_LISTINGS:
                    folders += left
                    listed = [names["objects"]]
            for batch in listed:
                for found in unmarked(self.store, batch, MARKERS.add):
                    key = found["path"]
                    if is_below(key, path) and (remainder is None or remainder.holds(key)):
                        yield found

    def fetch(self, keys: Iterable[str]) -> Iterator[bytes | None]:
        """Get many objects at once."""

        def get(key: str) -> bytes | None:
            try:
                return bytes(obstore.get(self.store, key).bytes())
            except FileNotFoundError:
                return None

        return in_flight(get, keys)


class UnlistedBulk:
    """A web server: what its metadata names, and the chunks that there may be."""

    guesses = True

    def __init__(self, store: HTTPReadStore) -> None:
        self.store = store

    def keys(self, path: str, remainder: Left | None) -> Iterator[str]:
        """Yield what can be below the path; an array's chunks are all left, or none of them is."""
        named = self.store.named
        documents = {
            key for key in named.documents if is_below(key, path) and (remainder is None or remainder.holds(key))
        }
        yield from sorted(documents)
        arrays = [key for key in named.arrays.values() if key in documents]
        if remainder is not None:
            first = {key: next(chunk_keys(key, named.documents[key]), None) for key in arrays}
            arrays = [key for key, chunk in first.items() if chunk is None or remainder.holds(chunk)]
        for key, data in zip(arrays, self.fetch(arrays), strict=True):
            if data is not None:  # it is told when it is read
                yield from chunk_keys(key, data)

    def fetch(self, keys: Iterable[str]) -> Iterator[bytes | None]:
        """Get many at once; what the server does not have itself is looked up once."""
        look = cache(self.store.look)
        return in_flight(lambda key: self.store.read(key, look), keys)


class PartBulk:
    """A part of a store, by the reader of the whole."""

    def __init__(self, part: Part) -> None:
        whole = batch_reader(part.store)
        self.part, self.fetch, self.guesses = part, whole.fetch, whole.guesses

    def keys(self, path: str, remainder: Left | None) -> Iterator[str]:
        """Let the reader of the whole leave out what is no part."""
        return batch_reader(self.part.store).keys(path, Rest(self.part, remainder))


class VeiledBulk:
    """A component with documents under names of their own, by the reader of the component."""

    def __init__(self, store: Veiled) -> None:
        self.veil, self.whole = store.veil, batch_reader(store.store)
        self.guesses = self.whole.guesses

    def keys(self, path: str, remainder: Left | None) -> Iterator[str]:
        """Yield the keys that the component's names stand for; where it can't be listed, veiled documents are asked for."""
        yield from map(self.veil.shown, self.whole.keys(path, remainder))
        if self.guesses:
            wanted = [key for key in self.veil.documents() if is_below(key, path)]
            found = zip(wanted, self.fetch(wanted), strict=True)
            yield from (key for key, data in found if data is not None and (remainder is None or remainder.holds(key)))

    def fetch(self, keys: Iterable[str]) -> Iterator[bytes | None]:
        """Read what stands under the component's names."""
        return self.whole.fetch(map(self.veil.stored, keys))


class StoreBatchReader:
    """Any zarr store, by its own methods."""

    guesses = False

    def __init__(self, store: Store) -> None:
        self.store = store

    def keys(self, path: str, remainder: Left | None) -> Iterator[str]:
        """List by the store."""

        async def listed() -> list[str]:
            return [key async for key in self.store.list_prefix(f"{path}/" if path else "")]

        for key in sync(listed()):
            if key.endswith("/"):
                MARKERS.add(key.rstrip("/"))
            elif remainder is None or remainder.holds(key):
                yield key

    def fetch(self, keys: Iterable[str]) -> Iterator[bytes | None]:
        """Get some keys at a time."""
        prototype = default_buffer_prototype()

        async def get(keys: Iterable[str]) -> list[bytes | None]:
            found = await asyncio.gather(*(self.store.get(key, prototype) for key in keys))
            return [None if value is None else value.to_bytes() for value in found]

        for some in partition_all(IN_FLIGHT, keys):
            yield from sync(get(some))
