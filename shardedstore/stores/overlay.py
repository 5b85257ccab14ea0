"""Rebuilt consolidated metadata of a whole sharded store.

It is a component of a few documents, and a sharded store reads it before the other components.
"""

from __future__ import annotations

import asyncio

from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype

from shardedstore.stores.http import HTTPReadStore
from shardedstore.stores.http_index import Named, named_by
from shardedstore.stores.reader import reader_of
from shardedstore.stores.veiled import Veiled
from shardedstore.zarr.metadata import CONSOLIDATED_V2
from shardedstore.zarr.readonly import PROTOTYPE, cut

CONSOLIDATED = ("zarr.json", CONSOLIDATED_V2)  # the documents that may hold consolidated metadata


class Overlay:
    """The component of consolidated metadata, and its keys.

    The component is listed once. A web server can't be listed, so only the keys that can hold consolidated metadata are
    requested from it.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._keys: frozenset[str] | None = None
        self._veiled = store.veil.paths if isinstance(store, Veiled) else None  # the only groups with documents here
        self._is_listed = not reader_of(store).guesses
        self._named_now: Named | None = None

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Return the value of a key; None if the component does not have it."""
        if not await self._may_hold(key):
            return None
        if not self._is_listed and "/" not in key:  # read once, also for the names in it
            data = (await self._named()).documents.get(key)
            return None if data is None else cut(prototype.buffer.from_bytes(data), byte_range)
        return await self.store.get(key, prototype, byte_range)

    async def holds(self, key: str) -> bool:
        """Tell whether the component has a key."""
        return await self._may_hold(key) and (self._is_listed or await self.store.exists(key))

    async def _may_hold(self, key: str) -> bool:
        if self._is_listed:
            return key in await self.keys()
        folder, _, name = key.rpartition("/")
        return name in CONSOLIDATED and (self._veiled is None or folder in self._veiled)

    async def keys(self) -> frozenset[str]:
        """Return the known keys; on a web server, the keys that the root's document names."""
        if self._keys is None:
            if self._is_listed:
                self._keys = frozenset([key async for key in self.store.list()])
            else:
                documents = (await self._named()).documents
                self._keys = frozenset(key for key in documents if key.rpartition("/")[2] in CONSOLIDATED)
        return self._keys

    async def names(self, folder: str) -> list[str]:
        """Return the names in a folder of a web server, from the root's document.

        The list is empty if that document does not name everything.
        """
        named = await self._named()
        return list(named.names(folder)) if named.is_whole else []

    async def _named(self) -> Named:
        """Return the documents that a web server's root names; none for another store."""
        store = self.store
        if isinstance(store, HTTPReadStore):
            return await asyncio.to_thread(lambda: store.known)
        if self._named_now is None:
            self._named_now = Named() if self._is_listed else await self._named_by_root()
        return self._named_now

    async def _named_by_root(self) -> Named:
        """Return the documents that the veiled document at the root names."""
        for name in CONSOLIDATED if await self._may_hold("zarr.json") else ():
            data = await self.store.get(name, PROTOTYPE)
            if data is not None:
                return named_by(name, data.to_bytes())
        return Named()
