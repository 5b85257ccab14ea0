"""A sharded store that goes by what its arrays are now, as another process may have written them a moment ago.

The array's document in the base is the truth: who reads it through the store routes by it from then on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import Any

from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.core.sync import SyncError, sync

from shardedstore.components.kinds import Config, Location, Mount
from shardedstore.components.locations import locate
from shardedstore.components.opened import Components, Opener
from shardedstore.components.overlay import CONSOLIDATED
from shardedstore.components.routes import BASE, Place
from shardedstore.components.routing import RoutedStore, in_a_line
from shardedstore.readonly import PROTOTYPE
from shardedstore.writing.arrayshards import Rule, check_apart
from shardedstore.writing.divided import DividedArrays
from shardedstore.writing.metadata_sync import SpreadDocuments


class FollowingStore(RoutedStore):
    """A sharded store some of whose arrays are divided by rules, when there are such arrays.

    Parameters
    ----------
    given : mapping of Place to Store, optional
        Components that the user opened; the others are opened when they are asked for.
    rules : mapping of str to Rule, optional
        How the arrays at some paths are divided.
    is_writable : bool
        Whether it can be written to at all.
    """

    def __init__(
        self,
        config: Config,
        opener: Opener,
        given: Mapping[Place, Store] | None = None,
        rules: Mapping[str, Rule] | None = None,
        *,
        is_writable: bool = False,
    ) -> None:
        super().__init__(config, opener)
        self.supports_writes = self.supports_deletes = is_writable
        self._given, self._mounted = given or {}, dict(config.shards)
        self._shards = self._mounted
        self._components = Components(config.base, self._mounted, opener, self._given, read_only=not is_writable)
        self._divided = DividedArrays(rules or {}, self._mounted, self._mount)
        self._spread = SpreadDocuments(self._divided, self._components, opener)
        if is_writable:
            check_apart(self._mounted, config.base)

    def _mount(self, path: str, mount: Mount | None) -> None:
        self._routes.change(path, mount)
        self._components.forget(path)

    @property
    def config(self) -> Config:
        """What the store is made of now."""
        with suppress(SyncError):  # in zarr's own thread, where nothing can be waited for
            self.look()
        return self.known_config

    @property
    def known_config(self) -> Config:
        """What the store was made of when it was last looked at."""
        if not self.supports_writes:
            return self._config
        base = _located(self._given[BASE]) if BASE in self._given else self._config.base
        given = {path: Mount(_located(store)) for (path, _), store in self._given.items() if path is not None}
        return Config(base, {**self._mounted, **given})  # what is sharded itself may have more shards by now

    def look(self) -> None:
        """Read the documents of the arrays that are to be divided: other processes may have written them.

        Raises
        ------
        UsageError, PartitionError
            For an array that can't be divided so, or is there and not in such shards.
        """
        if self._divided.rules or any(isinstance(store, FollowingStore) for store in self._given.values()):
            sync(self._look())

    async def _open(self) -> None:
        # docstring inherited
        await asyncio.gather(*(store._ensure_open() for store in self._given.values()))
        await super()._open()

    async def _look(self) -> None:
        if self._divided.rules and BASE in self._given:
            await self._given[BASE]._ensure_open()
        await asyncio.gather(*(store._look() for store in self._given.values() if isinstance(store, FollowingStore)))
        await asyncio.gather(*map(self._spread.refresh, self._divided.rules))

    async def _find(self, key: str) -> tuple[Place, str]:
        """Return the place of a key; where a chunk is outside of what is known of its array, another process may have resized it."""
        place, rest = self._routes.route(key)
        if place == BASE and (path := self._divided.holder(key)) is not None:
            await self._spread.refresh(path)
            place, rest = self._routes.route(key)
        return place, rest

    async def _holder(self, key: str) -> tuple[Store, str]:
        # docstring inherited
        if not self._divided.keys:
            return await super()._holder(key)
        place, rest = await self._find(key)
        return self._components.at(place), rest

    async def _check_known(self, path: str) -> None:
        # docstring inherited
        if path not in self._divided.rules:
            await super()._check_known(path)

    async def get(
        self, key: str, prototype: BufferPrototype = PROTOTYPE, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        # docstring inherited
        if self._overlay is not None:  # as no store that is written to has
            return await super().get(key, prototype, byte_range)
        place, rest = self._routes.route(key)
        if place != BASE or not self._divided.keys:
            try:
                data = await self._components.at(place).get(rest, prototype, byte_range)
            except Exception as error:
                if (told := self._told(error, place)) is not None:
                    raise told from None
                raise
            if data is None and place == BASE:
                await self._check_missing(key)
            return data
        store, rest = await self._holder(key)
        data = await store.get(rest, prototype, byte_range)
        if byte_range is None:
            await self._saw(key, None if data is None else data.to_bytes())
        return data

    async def _saw(self, key: str, data: bytes | None) -> None:
        """Go by a document that was read."""
        if key in self._divided.keys:
            path, name = self._divided.keys[key]
            if self._divided.known[path].documents.get(name) != data:
                await self._spread.refresh(path)
        elif data is not None and key.rpartition("/")[2] in CONSOLIDATED:
            await asyncio.gather(*map(self._spread.refresh, self._divided.differing(key, data)))

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        # docstring inherited
        await asyncio.gather(*map(self._spread.refresh, self._divided.near(prefix)))
        async for key in super().list_prefix(prefix):
            yield key

    def close(self) -> None:
        """Close the store, and its components."""
        super().close()
        self._components.close()
        for store in self._given.values():
            if store._is_open:  # it was not in use of late
                store.close()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and self.known_config == other.known_config

    def __repr__(self) -> str:
        return in_a_line(type(self).__name__, self._config.base, self._mounted)

    def __getstate__(self) -> dict[str, Any]:
        return {
            "config": self.known_config,
            "opener": self._opener,
            "given": dict(self._given),
            "rules": self._divided.rules,
            "known": self._divided.known,
            "is_writable": self.supports_writes,
            "read_only": self.read_only,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        made_of = (state[name] for name in ("config", "opener", "given", "rules"))
        FollowingStore.__init__(self, *made_of, is_writable=state["is_writable"])
        self._divided.known.update(state["known"])
        self._read_only = state["read_only"]


def _located(store: Store) -> Location:
    return store.known_config if isinstance(store, FollowingStore) else locate(store)
