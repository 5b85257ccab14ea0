"""One zarr store made of components: a pure function of the config tells which of them holds a key."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import AsyncIterator, Iterator
from copy import copy
from typing import Self

from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype

from shardedstore.config import Config, Mount
from shardedstore.grid import Blocks, Coords, block_name
from shardedstore.locations import BlockOf, Location, Opened, PartOf, ViewOf, open_block, open_location, show
from shardedstore.mounts import Mounts
from shardedstore.parts import Part
from shardedstore.readonly import ReadOnlyStore
from shardedstore.views import Block, View

MOST_OPEN = 512  # components; the least recently used is dropped, and closed when nothing reads from it any more


class RoutedStore(ReadOnlyStore):
    """A read-only zarr store that routes zarr's calls to the components of a config, opened when first asked for."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self._read_only = False  # it refuses to write, but any mode opens it, also zarr's default "a"
        self.config = config
        self._mounts = Mounts(config.shards)
        self._opened: OrderedDict[tuple[str | None, Coords | None], Store] = OrderedDict()
        self._sources: dict[Location, Store] = {}
        self._overlay = None if config.consolidated is None else open_location(config.consolidated)
        self._overlaid: set[str] | None = None

    def _component(self, path: str | None, block: Coords | None = None) -> Store:
        """Return a component, opened when it is first asked for; the base for None."""
        place = path, block
        store = self._opened.get(place)
        if store is None:
            store = self._open_component(path, block)
            if len(self._opened) >= MOST_OPEN:
                self._opened.popitem(last=False)
        self._opened[place] = store
        self._opened.move_to_end(place)
        return store

    def _open_component(self, path: str | None, block: Coords | None) -> Store:
        if path is None:
            return open_location(self.config.base)
        mount = self.config.shards[path]
        exception: Location | None = mount.exceptions.get(block_name(block))
        if isinstance(exception, BlockOf):
            return Block(self._source(exception.source), exception.path, exception.blocks, exception.block)
        if exception is not None:
            return open_location(exception)
        if isinstance(mount.location, ViewOf):
            source, blocks, inside = self._source(mount.location.source), mount.blocks, mount.location.path
            return View(source, inside) if blocks is None or block is None else Block(source, inside, blocks, block)
        if mount.blocks is None or block is None:
            return open_location(mount.location)
        return open_block(mount.location, mount.blocks, block)

    def _source(self, source: Location) -> Store:
        """Return the source of a view, opened once for all, so that a zip's directory is read once."""
        if isinstance(source, Opened):
            return source.store
        if (store := self._shared(source)) is not None:
            return store
        if source not in self._sources:
            self._sources[source] = open_location(source)
        return self._sources[source]

    def _shared(self, source: Location) -> Store | None:
        """Return the source of a view where the base is of it too."""
        base, store = self.config.base, self._component(None)
        if isinstance(base, PartOf) and isinstance(store, Part):
            base, store = base.source, store.store
        if isinstance(source, PartOf) and source.source == base:
            return Part(store, source.only, source.without)
        return store if source == base else None

    def _route(self, key: str) -> tuple[Store, str]:
        """Return the component that holds a key, and the key inside it."""
        found = self._mounts.resolve(key)
        if found is None:
            return self._component(None), key
        path, rest = found
        blocks = self.config.shards[path].blocks
        if blocks is None:
            return self._component(path), rest
        coords = blocks.keys.decode(rest, blocks.chunk_grid)
        if coords is None:
            return self._component(None), key
        block, local = blocks.split(coords)
        return self._component(path, block), blocks.keys.encode(local)

    async def _holder(self, key: str) -> tuple[Store, str]:
        """Return the component that answers for a key: `_route`, but for rebuilt consolidated metadata."""
        if self._overlay is not None and key in await self._consolidated():
            return self._overlay, key
        return self._route(key)

    async def _consolidated(self) -> set[str]:
        """Return the keys of rebuilt consolidated metadata."""
        if self._overlay is not None and self._overlaid is None:
            self._overlaid = {key async for key in self._overlay.list()}
        return self._overlaid or set()

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        # docstring inherited
        store, rest = self._route(key) if self._overlay is None else await self._holder(key)
        return await store.get(rest, prototype, byte_range)

    async def exists(self, key: str) -> bool:
        # docstring inherited
        store, rest = await self._holder(key)
        return await store.exists(rest)

    async def getsize(self, key: str) -> int:
        # docstring inherited
        store, rest = await self._holder(key)
        return await store.getsize(rest)

    async def list(self) -> AsyncIterator[str]:
        # docstring inherited
        async for key in self.list_prefix(""):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        # docstring inherited
        overlay = await self._consolidated()
        async for key in self._list_components(prefix):
            if key not in overlay:
                yield key
        for key in overlay:
            if key.startswith(prefix):
                yield key

    async def _list_components(self, prefix: str) -> AsyncIterator[str]:
        async for key in self._component(None).list_prefix(prefix):
            if self._route(key)[0] is self._component(None):
                yield key
        for path, mount in self.config.shards.items():
            start = f"{path}/" if path else ""
            if not (start.startswith(prefix) or prefix.startswith(start)):
                continue
            if mount.blocks is None:
                async for key in self._component(path).list_prefix(prefix[len(start) :]):
                    yield start + key
                continue
            async for key in self._list_blocks(path, mount, mount.blocks, prefix[len(start) :]):
                yield start + key

    async def _list_blocks(self, path: str, mount: Mount, blocks: Blocks, prefix: str) -> AsyncIterator[str]:
        listed: set[str] = set()
        for view, names in _views(mount, blocks):  # one listing of a source for all blocks that are there
            listed |= names
            async for key in View(self._source(view.source), view.path).list_prefix(prefix):
                coords = blocks.keys.decode(key, blocks.chunk_grid)
                if coords is not None and block_name(blocks.split(coords)[0]) in names:
                    yield key
        for block in map(blocks.index, range(blocks.count)):
            if block_name(block) in listed:
                continue
            async for key in self._component(path, block).list():
                local = blocks.keys.decode(key, blocks.local_grid(block))
                if local is not None and (whole := blocks.keys.encode(blocks.join(block, local))).startswith(prefix):
                    yield whole

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        # docstring inherited
        path = prefix.strip("/")
        found = self._mounts.resolve(path)
        if found is not None and self.config.shards[found[0]].blocks is not None:
            async for name in super().list_dir(path):
                yield name
            return
        names: dict[str, None] = {}
        store, rest = (self._component(None), path) if found is None else (self._component(found[0]), found[1])
        async for name in store.list_dir(rest):
            names[name] = None
        if found is None:
            names |= dict.fromkeys(self._mounts.children(path))
        for key in await self._consolidated():
            folder, _, name = key.rpartition("/")
            if folder == path:
                names[name] = None
        for name in names:
            yield name

    def with_read_only(self, read_only: bool = False) -> Self:
        # docstring inherited
        store = copy(self)
        store._read_only, store._opened = read_only, self._opened
        return store

    def _check_writable(self) -> None:
        super()._check_writable()
        raise ValueError(f"{type(self).__name__} can't be written to: map it with map_shards to change it")

    async def delete_dir(self, prefix: str) -> None:
        # docstring inherited
        self._check_writable()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and self.config == other.config

    def __repr__(self) -> str:
        mounts = self.config.shards.values()
        count = sum(1 if mount.blocks is None else mount.blocks.count for mount in mounts)
        return f"<{type(self).__name__} of {show(self.config.base)} and {count} shards at {len(mounts)} paths>"


def _views(mount: Mount, blocks: Blocks) -> Iterator[tuple[ViewOf, set[str]]]:
    """Yield what the blocks of a mount are views of, each with the names of its blocks."""
    if isinstance(mount.location, ViewOf):
        names = set(map(block_name, map(blocks.index, range(blocks.count))))
        yield mount.location, names - mount.exceptions.keys()
    views: defaultdict[ViewOf, set[str]] = defaultdict(set)
    for name, location in mount.exceptions.items():
        if isinstance(location, BlockOf):
            views[ViewOf(location.source, location.path)].add(name)
    yield from views.items()
