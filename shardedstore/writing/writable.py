"""Sharded stores that are read and written while their arrays change, also by other processes.

The array's document in the base is authoritative. Each read of it through the store updates the routing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import suppress
from typing import Any

from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.core.sync import SyncError, sync

from shardedstore.errors import UsageError
from shardedstore.stores.components import Components
from shardedstore.stores.locations import Config, Location, Mount
from shardedstore.stores.overlay import CONSOLIDATED
from shardedstore.stores.recognise import locate
from shardedstore.stores.routes import BASE, Address
from shardedstore.stores.routing import RoutedStore, in_a_line
from shardedstore.writing.arrayshards import Rule, check_separate
from shardedstore.writing.divided import NAMES, DividedArrays, Placed
from shardedstore.writing.metadata_sync import SpreadDocuments, for_each
from shardedstore.zarr.grid import Blocks
from shardedstore.zarr.paths import check_prefix, is_below, join
from shardedstore.zarr.readonly import PROTOTYPE


class FollowingStore(RoutedStore):
    """A sharded store with arrays that are divided by rules, as soon as they exist.

    Parameters
    ----------
    given : mapping of Address to Store, optional
        Components that the user has opened; all others are opened when they are first needed.
    rules : mapping of str to Rule, optional
        Rules that divide arrays, by path.
    is_writable : bool
        Whether the store supports writes.
    """

    def __init__(
        self,
        config: Config,
        given: Mapping[Address, Store] | None = None,
        rules: Mapping[str, Rule] | None = None,
        *,
        is_writable: bool = False,
    ) -> None:
        super().__init__(config)
        self.supports_writes = self.supports_deletes = is_writable
        self._given, self._mounted = given or {}, dict(config.shards)
        self._shards = self._mounted
        self._components = Components(config.base, self._mounted, self._given, read_only=not is_writable)
        self._divided = DividedArrays(rules or {}, self._mounted, self._mount)
        self._spread = SpreadDocuments(self._divided, self._components)
        if is_writable:
            check_separate(self._mounted, config.base)

    def _mount(self, path: str, mount: Mount | None) -> None:
        self._routes.change(path, mount)
        self._components.forget(path)

    @property
    def config(self) -> Config:
        """The config of the store, after a look at its arrays."""
        with suppress(SyncError):  # zarr's own thread can't wait for other calls
            self.look()
        return self.known_config

    @property
    def known_config(self) -> Config:
        """The config of the store as of the last look."""
        if not self.supports_writes:
            return self._config
        base = _located(self._given[BASE]) if BASE in self._given else self._config.base
        given = {path: Mount(_located(store)) for (path, _), store in self._given.items() if path is not None}
        return Config(base, {**self._mounted, **given})  # sharded components may have got more shards

    def look(self) -> None:
        """Read the documents of arrays with rules again, as other processes may have written them.

        Raises
        ------
        UsageError, PartitionError
            If an array can't be divided by its rule, or already exists and is divided in another way.
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

    async def _find(self, key: str) -> tuple[Address, str]:
        """Return the place of a key; read the array's document again for a chunk outside its known grid."""
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
        if self._overlay is not None:  # never in a writable store
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

    @property
    def _supports_sync_io(self) -> bool:
        # docstring inherited
        return not self.supports_writes and not self._given and not self._divided.rules and super()._supports_sync_io

    async def _saw(self, key: str, data: bytes | None) -> None:
        """Update the known arrays after a document was read."""
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
        """Close the store and its components."""
        super().close()
        self._components.close()
        for store in self._given.values():
            if store._is_open:  # open, but not among the recently used components
                store.close()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and self.known_config == other.known_config

    def __repr__(self) -> str:
        return in_a_line(type(self).__name__, self._config.base, self._mounted)

    def __getstate__(self) -> dict[str, Any]:
        return {
            "config": self.known_config,
            "given": dict(self._given),
            "rules": self._divided.rules,
            "known": self._divided.known,
            "is_writable": self.supports_writes,
            "read_only": self.read_only,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        made_of = (state[name] for name in ("config", "given", "rules"))
        FollowingStore.__init__(self, *made_of, is_writable=state["is_writable"])
        self._divided.known.update(state["known"])
        self._read_only = state["read_only"]


def _located(store: Store) -> Location:
    return store.known_config if isinstance(store, FollowingStore) else locate(store)


class WritableStore(FollowingStore):
    """A sharded store whose components may be written to."""

    async def _children(self, path: str) -> Iterable[str]:
        # docstring inherited
        names = await super()._children(path)
        return [name for name in names if not await self.is_empty(join(path, name))] if self.supports_writes else names

    def _check_writable(self) -> None:
        if self.supports_writes:
            Store._check_writable(self)
        else:
            super()._check_writable()

    def _writable(self, place: Address, key: str) -> Store:
        """Return a component to write a key or path; raise ValueError if the component is read-only."""
        store = self._components.at(place)
        if store.read_only:
            what = "the base" if place[0] is None else f"shard {place[0]!r}"
            raise ValueError(f"{key!r} can't be written: {what} is {store!r}, which is read-only")
        return store

    async def _target(self, key: str) -> tuple[Store, str]:
        """Return the writable component of a key, and the key inside it."""
        self._check_writable()
        place, rest = await self._find(key)
        return self._writable(place, key), rest

    async def _new(self, key: str) -> tuple[Store, str]:
        """Return the same as `_target`; raise UsageError for a chunk that would not be found again."""
        store, rest = await self._target(key)
        holder = self._divided.holder(key)
        if holder is not None and self._routes.find(key)[0] == BASE:
            _check_found(self._divided.known[holder], key)
        return store, rest

    async def set(self, key: str, value: Buffer) -> None:
        # docstring inherited
        store, rest = await self._new(key)
        if key in self._divided.keys:
            await self._spread.set(*self._divided.keys[key], value)
        else:
            await store.set(rest, value)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        # docstring inherited
        if key not in self._divided.keys:
            store, rest = await self._new(key)
            await store.set_if_not_exists(rest, value)
        elif not await self.exists(key):
            await self.set(key, value)

    async def delete(self, key: str) -> None:
        # docstring inherited
        store, rest = await self._target(key)
        if key in self._divided.keys:
            await self._spread.delete(*self._divided.keys[key])
        else:
            await store.delete(rest)

    async def delete_dir(self, prefix: str) -> None:
        """Delete everything below a path, in all components.

        The shards of a divided array are emptied first, and the array exists until all of them are empty. After an
        interruption, repeat the call.

        Parameters
        ----------
        prefix : str
            The path; empty for the whole store.
        """
        self._check_writable()
        path = prefix.strip("/")
        check_prefix(path)
        if (holder := self._divided.holder(path)) is not None:
            await self._spread.refresh(holder)
        found = self._routes.mounts.resolve(path)
        if found is not None and found[0] != path:
            await self._delete_inside(*found)
            return
        divided = list(self._divided.below(path))
        async with self._spread.locked(divided):
            for own in divided:
                await self._spread.read(own)
            mounted = [own for own in self._mounted if own == path or is_below(own, path)]
            wholes = [self._writable((own, None), own) for own in mounted if self._mounted[own].blocks is None]
            base = self._writable(BASE, path)
            firsts = [
                await self._empty(own, blocks) for own in mounted if (blocks := self._mounted[own].blocks) is not None
            ]
            for store in wholes:
                await store.delete_dir("")
            await base.delete_dir(path)
            for own in divided:
                self._divided.forget(own)
            for store in firsts:
                await store.delete_dir("")

    async def _empty(self, path: str, blocks: Blocks) -> Store:
        """Empty an array's shards except the documents in the first shard, and return the first shard.

        These documents prove how the array is divided.
        """
        first = self._components.at((path, blocks.index(0)))
        others = (self._components.at((path, blocks.index(number))) for number in range(1, blocks.count))
        await for_each(lambda store: store.delete_dir(""), others)
        await for_each(first.delete, [key async for key in first.list() if key not in NAMES])
        return first

    async def _delete_inside(self, path: str, rest: str) -> None:
        """Delete everything below a path inside a shard or a divided array."""
        if self._mounted[path].blocks is None:
            await self._writable((path, None), join(path, rest)).delete_dir(rest)
        else:
            await for_each(self.delete, [key async for key in self.list_prefix(f"{join(path, rest)}/")])


def _check_found(known: Placed, key: str) -> None:
    """Refuse a chunk of a divided array that would be written to the base, as it would not be found there."""
    array = known.array
    if array is None:
        return
    if known.is_unnamed:
        raise UsageError(
            f"array_shard_funcs divides {known.path!r} by the names of its dimensions, but it has none: write them first, or "
            "give the shards' shape"
        )
    is_divided = known.mount is not None or not all(array.shape)
    if is_divided and known.is_chunk(key[len(known.path) :].lstrip("/")):
        raise UsageError(
            f"{key!r} is outside {known.path!r}, which has {array.chunk_grid} chunks: resize the array first"
        )
