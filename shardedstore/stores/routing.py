"""One zarr store made of components.

The component that holds a key is a pure function of the config.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Container, Iterable, Iterator, Mapping
from contextlib import aclosing
from functools import cached_property
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Self

from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.core.sync import sync

from shardedstore.errors import PartitionError, ShardedStoreError
from shardedstore.storage.errors import lacks_credentials
from shardedstore.storage.urls import is_remote
from shardedstore.stores.components import Components
from shardedstore.stores.grown import check_known
from shardedstore.stores.location import Location, url_of
from shardedstore.stores.members import Members
from shardedstore.stores.mount import Mount
from shardedstore.stores.overlay import Overlay
from shardedstore.stores.ranges import Range, ranges_of
from shardedstore.stores.routes import BASE, Address, Routes, WholeKeys
from shardedstore.stores.view import View
from shardedstore.text import count
from shardedstore.zarr.grid import BELOW_C, Blocks, Coords, KeyParser, block_name, parse_block
from shardedstore.zarr.metadata import METADATA_NAMES
from shardedstore.zarr.paths import check_prefix, join
from shardedstore.zarr.readonly import PROTOTYPE, ReadOnlyStore, read_sync

if TYPE_CHECKING:
    from shardedstore.stores.sharded import Config


class RoutedStore(ReadOnlyStore):
    """A read-only zarr store that routes calls to the components of a config.

    Each component is opened at its first use.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self._read_only = False  # writes are refused, but every mode can open it, also zarr's default "a"
        self._config = config
        self._shards: Mapping[str, Mount] = config.shards
        self._routes = Routes(self._shards)
        self._components = Components(config.base, self._shards)
        self._overlay = None if config.consolidated is None else Overlay(config.consolidated.open())

    @property
    def config(self) -> Config:
        """The config of the store."""
        return self._config

    def component(self, path: str | None, block: Coords | None = None) -> Store:
        """Return the component at a path, or one block of a divided array.

        Parameters
        ----------
        path : str or None
            The path of the mount; None for the base.
        block : tuple of int or None
            The index of a block, if the array at the path is divided.

        Returns
        -------
        Store
            The opened component.
        """
        return self._components.at((path, block))

    def component_of(self, key: str) -> tuple[Store, str]:
        """Return the component that holds a key, and the key inside it.

        Parameters
        ----------
        key : str
            A key of the store; it need not exist.

        Returns
        -------
        tuple of Store and str
            The opened component, and the key in it.

        Raises
        ------
        UsageError
            If the key is not valid, such as a path with a segment ``..``.
        """
        place, rest = self._routes.route(key)
        return self._components.at(place), rest

    async def _holder(self, key: str) -> tuple[Store, str]:
        """Return the component that holds a key, also for rebuilt consolidated metadata, and the key inside it."""
        if self._overlay is not None and await self._overlay.holds(key):
            return self._overlay.store, key
        return self.component_of(key)

    async def _consolidated(self) -> frozenset[str]:
        """Return the keys of rebuilt consolidated metadata."""
        return frozenset() if self._overlay is None else await self._overlay.keys()

    async def get(
        self, key: str, prototype: BufferPrototype = PROTOTYPE, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        # docstring inherited
        place, rest = self._routes.route(key)
        try:
            if self._overlay is not None and (found := await self._overlay.get(key, prototype, byte_range)) is not None:
                return found
            data = await self._components.at(place).get(rest, prototype, byte_range)
        except Exception as error:
            if (told := self._told(error, place)) is not None:
                raise told from None
            raise
        if data is None:
            await self._check_missing(key)
        return data

    def get_sync(
        self, key: str, *, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        # docstring inherited
        if not self._supports_sync_io or key.rpartition("/")[2] in METADATA_NAMES:
            return super().get_sync(key, prototype=prototype, byte_range=byte_range)
        component, rest = self.component_of(key)
        data = read_sync(component, rest, prototype, byte_range)
        if data is None:
            sync(self._check_missing(key))
        return data

    @cached_property
    def _is_local(self) -> bool:
        """Whether all components are files of this machine."""
        mounts = self._config.shards.values()
        locations = [
            self._config.base,
            *(found for mount in mounts for found in (mount.location, *mount.exceptions.values())),
        ]
        return all((url := url_of(location)) is not None and not is_remote(url) for location in locations)

    @property
    def _supports_sync_io(self) -> bool:
        # docstring inherited
        return self._is_local

    def _told(self, error: Exception, place: Address) -> ShardedStoreError | None:
        """Return a clear error if this process, such as a worker, has no credentials; otherwise None."""
        if not lacks_credentials(error):
            return None
        mount = self._shards.get(place[0] or "") if place != BASE else None
        location = self._config.base if mount is None else mount.location
        return ShardedStoreError(
            f"this process has no credentials for {location.show()}: storage_options stay in the process that they were given "
            "to. To read on a cluster, read inside of `with store.credentials_on(client):`; or give the credentials to the "
            "environment of this process. Public data need storage_options='anonymous'"
        )

    async def exists(self, key: str) -> bool:
        # docstring inherited
        store, rest = await self._holder(key)
        if await store.exists(rest):
            return True
        await self._check_missing(key)
        return False

    async def getsize(self, key: str) -> int:
        # docstring inherited
        store, rest = await self._holder(key)
        return await store.getsize(rest)

    async def _check_missing(self, key: str) -> None:
        """Raise ConfigError if a missing key may be a chunk that was added after the config was saved."""
        if self._routes.find(key)[0] != BASE:
            return
        path, rest = self._routes.mounts.resolve(key) or ("", "")
        if rest and rest not in METADATA_NAMES:
            await self._check_known(path)

    async def _check_known(self, path: str) -> None:
        """Raise ConfigError if an array has chunks outside the shards of the config."""
        mount = self._shards.get(path)
        if mount is not None and mount.blocks is not None and not mount.is_view:
            await check_known(path, mount.blocks, self._components.at(BASE))

    async def list(self) -> AsyncIterator[str]:
        # docstring inherited
        async for key in self.list_prefix(""):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        # docstring inherited
        check_prefix(prefix)
        overlay = await self._consolidated()
        async for key in self._list_components(prefix):
            if key not in overlay:
                yield key
        for key in overlay:
            if key.startswith(prefix):
                yield key

    async def _list_components(self, prefix: str) -> AsyncIterator[str]:
        async for key in self._list_base(prefix):
            yield key
        for path, mount in list(self._shards.items()):  # a copy: the mounts may change meanwhile
            start = f"{path}/" if path else ""
            if not (start.startswith(prefix) or prefix.startswith(start)):
                continue
            if mount.members is not None:
                async for key in self._list_members(path, mount.members, prefix[len(start) :]):
                    yield start + key
                continue
            if mount.blocks is None:
                async for key in self._components.at((path, None)).list_prefix(prefix[len(start) :]):
                    yield start + key
                continue
            await self._check_known(path)
            async for key in self._list_blocks(path, mount, mount.blocks, prefix[len(start) :]):
                yield start + key

    async def _list_base(self, prefix: str) -> AsyncGenerator[str]:
        async for key in self._components.at(BASE).list_prefix(prefix):
            if self._routes.find(key)[0] == BASE:
                yield key

    async def _list_members(self, path: str, members: Members, prefix: str) -> AsyncIterator[str]:
        numbers, rest = members.below(prefix), ""
        found = members.find(prefix)
        if found is not None and members.names[found[0]] != prefix:  # a whole name may also begin other names
            numbers, rest = iter(found[:1]), found[1]
        for number in numbers:
            async for key in self._components.at((path, (number,))).list_prefix(rest):
                yield f"{members.names[number]}/{key}"

    async def _list_blocks(self, path: str, mount: Mount, blocks: Blocks, prefix: str) -> AsyncGenerator[str]:
        parse, keys = KeyParser(blocks.keys, blocks.chunk_grid), WholeKeys(blocks)
        for source, folder, names in _views(mount, blocks):  # one listing of a source finds all its blocks
            async for key in View(self._components.source(source), folder).list_prefix(prefix):
                coords = parse(key)
                if coords is not None and block_name(blocks.split(coords)[0]) in names:
                    yield key
        for block in _apart(mount, blocks):
            whole_key = keys.of(block)
            async for key in self._components.at((path, block)).list():
                whole = whole_key(key)
                if whole is not None and whole.startswith(prefix):
                    yield whole

    async def _list_array(self, path: str, mount: Mount) -> AsyncIterator[str]:
        """Yield the names in the folder of a divided array.

        If all chunks lie in the folder ``c``, the search for chunks ends at the first one.
        """
        assert mount.blocks is not None
        if mount.blocks.keys != BELOW_C:
            async for name in super().list_dir(path):
                yield name
            return
        await self._check_known(path)
        for name in await self._names(path, BASE, path):
            if name != "c":
                yield name
        blocks, base = self._list_blocks(path, mount, mount.blocks, ""), self._list_base(join(path, "c/"))
        async with aclosing(blocks), aclosing(base):
            if await anext(blocks, None) is not None or await anext(base, None) is not None:
                yield "c"

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        # docstring inherited
        path = prefix.strip("/")
        check_prefix(path)
        found = self._routes.mounts.resolve(path)
        if found is not None and self._shards[found[0]].blocks is not None:
            async for name in super().list_dir(path) if found[1] else self._list_array(path, self._shards[path]):
                yield name
            return
        place, rest, children = self._folder(path, found)
        names = dict.fromkeys([*await self._names(path, place, rest), *children])
        if found is None:
            names |= dict.fromkeys(await self._children(path))
        for key in await self._consolidated():
            folder, _, name = key.rpartition("/")
            if folder == path:
                names[name] = None
        for name in names:
            if join(path, name) not in self._hidden:
                yield name

    @cached_property
    def _hidden(self) -> frozenset[str]:
        """The groups and arrays that are holes; listings leave them out, so that all other nodes open."""
        found: set[str] = set()
        for path, mount in self._shards.items():
            if mount.division is None and mount.location.hole is not None:
                found.add(path)
            elif (members := mount.members) is not None:
                gone = [name for name, location in mount.exceptions.items() if location.hole is not None]
                found.update(join(path, member) for name in gone for member in members.in_shard(name))
        return frozenset(found)

    async def _names(self, path: str, place: Address, rest: str) -> Iterable[str]:
        """Return the names in a folder of a component.

        If the component can't be listed, rebuilt consolidated metadata gives the names.
        """
        try:
            return [name async for name in self._components.at(place).list_dir(rest)]
        except PartitionError:
            names = [] if self._overlay is None else await self._overlay.names(path)
            if not names:
                raise
            return names

    def _folder(self, path: str, found: tuple[str, str] | None) -> tuple[Address, str, Iterable[str]]:
        """Return the component that holds a folder, the folder's path there, and the names of members in the folder."""
        if found is None:
            return BASE, path, ()
        at, rest = found
        members = self._shards[at].members
        if members is None:
            return (at, None), rest, ()
        inside = members.find(rest)
        return (BASE, path, members.children(rest)) if inside is None else ((at, (inside[0],)), inside[1], ())

    async def _children(self, path: str) -> Iterable[str]:
        """Return the names directly below a path of the base that are mounts or contain mounts."""
        return self._routes.mounts.children(path)

    def with_read_only(self, read_only: bool = False) -> Self:
        # docstring inherited
        store = object.__new__(type(self))
        store.__dict__.update(self.__dict__, _read_only=read_only, _is_open=False)
        return store

    def __getstate__(self) -> dict[str, Any]:
        return {"config": self.config, "read_only": self.read_only}

    def __setstate__(self, state: dict[str, Any]) -> None:
        RoutedStore.__init__(self, state["config"])
        self._read_only = state["read_only"]

    def _check_writable(self) -> None:
        super()._check_writable()
        raise ValueError(f"{type(self).__name__} can't be written to: map it with map_shards to change it")

    async def delete_dir(self, prefix: str) -> None:
        # docstring inherited
        self._check_writable()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and self.config == other.config

    def __repr__(self) -> str:
        return in_a_line(type(self).__name__, self.config.base, self._shards)


class _Others(Container[str]):
    """All names except some; the names themselves may not fit in memory."""

    def __init__(self, names: Container[str]) -> None:
        self._names = names

    def __contains__(self, name: object) -> bool:
        return name not in self._names


def _apart(mount: Mount, blocks: Blocks) -> Iterator[Coords]:
    """Yield the blocks that are listed one by one because they share no source."""
    names = set(mount.exceptions)
    if not mount.location.divides_source:
        names |= set(map(block_name, map(blocks.index, range(blocks.count))))
    names -= {name for name, found in mount.exceptions.items() if found.is_in_place(blocks, parse_block(name))}
    yield from sorted(map(parse_block, names))


def _views(mount: Mount, blocks: Blocks) -> Iterator[tuple[Location, str, Container[str]]]:
    """Yield the sources and paths of the views of a mount, each with the names of its blocks."""
    if mount.location.divides_source:
        yield *mount.location.view, _Others(mount.exceptions)
    views: defaultdict[tuple[Location, str], set[str]] = defaultdict(set)
    for name, location in mount.exceptions.items():
        if location.is_in_place(blocks, parse_block(name)):
            views[location.view].add(name)
    yield from ((*view, names) for view, names in views.items())


def in_a_line(kind: str, base: Location, mounts: Mapping[str, Mount]) -> str:
    """Describe the parts of a sharded store in one line.

    >>> from shardedstore.stores.directory import Directory
    >>> in_a_line("ShardedStore", Directory("/base"), {"a": Mount(Directory("/a"))})
    "<ShardedStore of '/base' and 1 shard at 1 path>"
    """
    shards, paths = sum(mount.count for mount in mounts.values()), len(mounts)
    mounted = f" and {count(shards, 'shard')} at {count(paths, 'path')}" if mounts else ""
    return f"<{kind} of {base.show()}{mounted}>"


@ranges_of.register
def _(store: RoutedStore, keys: Iterable[str]) -> Iterator[Range]:
    for component, found in groupby(map(store.component_of, keys), key=itemgetter(0)):
        yield from ranges_of(component, map(itemgetter(1), found))
