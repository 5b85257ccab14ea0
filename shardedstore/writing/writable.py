"""A sharded store that can be written to: keys go to their components, and arrays become shards as they are made.

The shards of an array appear when its metadata is written, and each holds the metadata of its own block, so that it is a
Zarr alone.
"""

from __future__ import annotations

from collections.abc import Iterable

from zarr.abc.store import Store
from zarr.core.buffer import Buffer

from shardedstore.components.routes import BASE, Place
from shardedstore.errors import UsageError
from shardedstore.grid import Blocks
from shardedstore.mounts import check_prefix, is_below, join
from shardedstore.writing.blockdocuments import Placed
from shardedstore.writing.divided import NAMES
from shardedstore.writing.metadata_sync import each
from shardedstore.writing.refresh import FollowingStore


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

    def _writable(self, place: Place, key: str) -> Store:
        """Return a component, or raise ValueError where what is at a key or path can't be written there."""
        store = self._components.at(place)
        if store.read_only:
            what = "the base" if place[0] is None else f"shard {place[0]!r}"
            raise ValueError(f"{key!r} can't be written: {what} is {store!r}, which is read-only")
        return store

    async def _target(self, key: str) -> tuple[Store, str]:
        """Return the component that holds a key, to write to, and the key inside it."""
        self._check_writable()
        place, rest = await self._find(key)
        return self._writable(place, key), rest

    async def _new(self, key: str) -> tuple[Store, str]:
        """Return what `_target` does, or raise UsageError for a chunk that would not be found again."""
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
        """Delete everything below a path, in all components: of an array that is divided first what is in its shards.

        Who is interrupted does the same again: an array is there until all that is in its shards is gone.
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
        """Delete all that is in an array's shards, but the documents in the first: by it an array is known to be in such.

        Returns the first.
        """
        first = self._components.at((path, blocks.index(0)))
        others = (self._components.at((path, blocks.index(number))) for number in range(1, blocks.count))
        await each(lambda store: store.delete_dir(""), others)
        await each(first.delete, [key async for key in first.list() if key not in NAMES])
        return first

    async def _delete_inside(self, path: str, rest: str) -> None:
        """Delete everything below a path inside of a shard, or of an array that is divided."""
        if self._mounted[path].blocks is None:
            await self._writable((path, None), join(path, rest)).delete_dir(rest)
        else:
            await each(self.delete, [key async for key in self.list_prefix(f"{join(path, rest)}/")])


def _check_found(known: Placed, key: str) -> None:
    """Refuse a chunk of an array that is divided where it would go to the base: it would not be found there."""
    array = known.array
    if array is None:
        return
    if known.is_unnamed:
        raise UsageError(
            f"{known.path!r} is to be divided by the names of its dimensions, and has none: write them first, or give the "
            "shards' shape in array_shard_funcs"
        )
    is_divided = known.mount is not None or not all(array.shape)
    if is_divided and known.is_chunk(key[len(known.path) :].lstrip("/")):
        raise UsageError(
            f"{key!r} is outside of {known.path!r}, which has {array.chunk_grid} chunks now: resize it first"
        )
