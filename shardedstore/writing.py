"""A sharded store that can be written to: keys go to their components, and arrays become shards as they are made.

The shards of an array appear when its metadata is written, and each holds the metadata of its own block, so that it is a
Zarr alone. The array's document in the base is the truth: who reads it through the store routes by it from then on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.core.sync import sync

from shardedstore.arrayshards import Rule
from shardedstore.blockdocuments import changes
from shardedstore.components import Components, Opener
from shardedstore.divided import NAMES, DividedArrays
from shardedstore.errors import UsageError
from shardedstore.grid import Coords
from shardedstore.kinds import Config, Mount
from shardedstore.locations import locate
from shardedstore.metadata import CONSOLIDATED_V2, ArrayMeta, parse_node
from shardedstore.mounts import check_prefix, is_below, join
from shardedstore.routes import BASE, Place
from shardedstore.routing import RoutedStore

IN_FLIGHT = 64
CONSOLIDATED = ("zarr.json", CONSOLIDATED_V2)  # a group's document that may describe what is below
PROTOTYPE = default_buffer_prototype()


class WritableStore(RoutedStore):
    """A sharded store whose components may be written to.

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

    def _mount(self, path: str, mount: Mount | None) -> None:
        self._routes.change(path, mount)
        self._components.forget(path)

    @property
    def config(self) -> Config:
        """What the store is made of by now."""
        if not self.supports_writes:
            return self._config
        base = locate(self._given[BASE]) if BASE in self._given else self._config.base
        given = {path: Mount(locate(store)) for (path, _), store in self._given.items() if path is not None}
        return Config(base, {**self._mounted, **given})  # what is sharded itself may have more shards by now

    def look(self) -> None:
        """Read the documents of the arrays that are to be divided, which may be there already.

        Raises
        ------
        UsageError, PartitionError
            For an array that can't be divided so, or was written in shards of another shape.
        """
        if self._divided.keys:
            sync(self._look())

    async def _look(self) -> None:
        await asyncio.gather(*map(self._refresh, self._divided.rules))
        await asyncio.gather(*map(self._check_shards, self._divided.rules))

    async def _refresh(self, path: str) -> None:
        """Go by what an array's documents are now."""
        base, keys = self._components.at(BASE), [join(path, name) for name in NAMES]
        values = await asyncio.gather(*(base.get(key, PROTOTYPE) for key in keys))
        for name, value in zip(NAMES, values, strict=True):
            self._divided.saw(path, name, None if value is None else value.to_bytes())

    async def _check_shards(self, path: str) -> None:
        """Refuse shards of another shape than the first should have: what they hold would seem to be missing."""
        block, documents = next(self._divided.now(path).cropped(), ((), {}))
        name = "zarr.json" if "zarr.json" in documents else ".zarray"
        value = await self._components.at((path, block)).get(name, PROTOTYPE) if documents else None
        if value is None:
            return
        wanted, found = (parse_node({name: data}, path) for data in (documents[name], value.to_bytes()))
        if isinstance(wanted, ArrayMeta) and isinstance(found, ArrayMeta) and wanted.shape != found.shape:
            raise UsageError(
                f"{path!r} is there already, in shards of {found.shape}, and array_shard_funcs asks for {wanted.shape}: ask "
                "for those that are there, or write to another place"
            )

    async def _find(self, key: str) -> tuple[Place, str]:
        """Return the place of a key; where a chunk is outside of what is known of its array, another process may have resized it."""
        place, rest = self._routes.route(key)
        if place == BASE and (path := self._divided.holder(key)) is not None:
            await self._refresh(path)
            place, rest = self._routes.route(key)
        return place, rest

    async def _holder(self, key: str) -> tuple[Store, str]:
        # docstring inherited
        if self._overlay is not None or not self._divided.keys:
            return await super()._holder(key)
        place, rest = await self._find(key)
        return self._components.at(place), rest

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        # docstring inherited
        place, rest = self._routes.route(key)
        if self._overlay is None and (place != BASE or not self._divided.keys):
            return await self._components.at(place).get(rest, prototype, byte_range)
        store, rest = await self._holder(key)
        data = await store.get(rest, prototype, byte_range)
        if self._divided.keys and byte_range is None:
            await self._saw(key, None if data is None else data.to_bytes())
        return data

    async def _saw(self, key: str, data: bytes | None) -> None:
        """Go by a document that was read: another process may have written it."""
        if key in self._divided.keys:
            self._divided.saw(*self._divided.keys[key], data)
        elif data is not None and key.rpartition("/")[2] in CONSOLIDATED:
            await asyncio.gather(*map(self._refresh, self._divided.differing(key, data)))

    async def _children(self, path: str) -> Iterable[str]:
        # docstring inherited
        names = await super()._children(path)
        return [name for name in names if not await self.is_empty(join(path, name))] if self.supports_writes else names

    def _check_writable(self) -> None:
        if self.supports_writes:
            Store._check_writable(self)
        else:
            super()._check_writable()

    async def _target(self, key: str) -> tuple[Store, str]:
        """Return the component that a key is to be written to, and the key inside it."""
        self._check_writable()
        place, rest = await self._find(key)
        store = self._components.at(place)
        if store.read_only:
            what = "the base" if place[0] is None else f"shard {place[0]!r}"
            raise ValueError(f"{key!r} can't be written: {what} is {store!r}, which is read-only")
        if key not in self._divided.keys and (path := self._divided.unnamed(key)) is not None:
            raise UsageError(
                f"{path!r} is to be divided by the names of its dimensions, and has none: write them first, or give the "
                "shards' shape in array_shard_funcs"
            )
        return store, rest

    async def set(self, key: str, value: Buffer) -> None:
        # docstring inherited
        store, rest = await self._target(key)
        if key not in self._divided.keys:
            await store.set(rest, value)
            return
        path, name = self._divided.keys[key]
        self._divided.placed(path, name, value.to_bytes())  # what can't be divided is refused before it is written
        await store.set(rest, value)
        await self._spread(path, name, value.to_bytes())

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        # docstring inherited
        if key not in self._divided.keys:
            store, rest = await self._target(key)
            await store.set_if_not_exists(rest, value)
        elif not await self.exists(key):
            await self.set(key, value)

    async def delete(self, key: str) -> None:
        # docstring inherited
        store, rest = await self._target(key)
        await store.delete(rest)
        if key in self._divided.keys:
            await self._spread(*self._divided.keys[key], None)

    async def _spread(self, path: str, name: str, data: bytes | None) -> None:
        """Go by what was written of an array's documents, and write to its shards what of it is theirs."""
        edits = list(changes(self._divided.now(path), self._divided.placed(path, name, data)))
        gone = [(self._components.at((path, block)), own) for block, own, document in edits if document is None]
        self._divided.take(path, name, data)
        limit = asyncio.Semaphore(IN_FLIGHT)

        async def write(block: Coords, name: str, document: bytes) -> None:
            async with limit:
                await self._components.at((path, block)).set(name, PROTOTYPE.buffer.from_bytes(document))

        await asyncio.gather(*(store.delete(own) for store, own in gone))
        await asyncio.gather(*(write(block, own, document) for block, own, document in edits if document is not None))

    async def delete_dir(self, prefix: str) -> None:
        """Delete everything below a path, in all components; of an array that is divided, what is in its shards as well."""
        self._check_writable()
        path = prefix.strip("/")
        check_prefix(path)
        found = self._routes.mounts.resolve(path)
        if found is not None and found[0] != path:
            await self._delete_inside(*found)
            return
        for own in [own for own in self._mounted if own == path or is_below(own, path)]:
            blocks = self._mounted[own].blocks
            indices = [None] if blocks is None else map(blocks.index, range(blocks.count))
            for block in indices:
                await self._components.at((own, block)).delete_dir("")
        for own in self._divided.below(path):
            self._divided.forget(own)
        await self._components.at(BASE).delete_dir(path)

    async def _delete_inside(self, path: str, rest: str) -> None:
        """Delete everything below a path inside of a shard, or of an array that is divided."""
        if self._mounted[path].blocks is None:
            await self._components.at((path, None)).delete_dir(rest)
            return
        for key in [key async for key in self.list_prefix(f"{path}/{rest}/" if path else f"{rest}/")]:
            await self.delete(key)

    def close(self) -> None:
        """Close the store, and its components."""
        super().close()
        self._components.close()

    def __getstate__(self) -> dict[str, Any]:
        return {
            **super().__getstate__(),
            "given": dict(self._given),
            "is_writable": self.supports_writes,
            "divided": self._divided.known,
            "rules": self._divided.rules,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        config, opener, given, rules = (state[name] for name in ("config", "opener", "given", "rules"))
        WritableStore.__init__(self, config, opener, given, rules, is_writable=state["is_writable"])
        self._read_only = state["read_only"]
        self._divided.known.update(state["divided"])
