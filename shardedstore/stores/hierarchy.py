"""The groups and arrays of a store: its one hierarchy, read from their metadata documents alone.

Keys of metadata are read, and the folders of groups are listed, and folders without a document, which may be groups. The
chunks of an array are never listed, as that can take hours.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Awaitable, Container, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple

from obstore.exceptions import BaseError
from toolz import keymap
from zarr.abc.store import Store
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from shardedstore.errors import CorruptError, PartitionError
from shardedstore.notices import Notice
from shardedstore.storage.errors import explain
from shardedstore.storage.retry import patiently
from shardedstore.stores.consolidated import Overlay
from shardedstore.stores.locations import Config, Location, Mount, member_at
from shardedstore.stores.members import Members, MountIndex
from shardedstore.stores.no_zarr import instead
from shardedstore.stores.reader import StoreReader, reader_of
from shardedstore.zarr.grid import Blocks
from shardedstore.zarr.metadata import (
    CONSOLIDATED_V2,
    METADATA_NAMES,
    NAMES_OF,
    ArrayMeta,
    GroupMeta,
    consolidated_nodes,
    drop_consolidated,
    format_above,
    parse_json,
    parse_node,
)
from shardedstore.zarr.paths import join, parents
from shardedstore.zarr.readonly import PROTOTYPE

IN_FLIGHT = 64
MOST_FOLDERS = 4096  # without a document, that a walk looks into
_NO_PATH = re.compile(r"//(?!\Z)|/\.{1,2}/|\0")
_CHUNK = re.compile(r"(c\.)?\d+(\.\d+)+").fullmatch  # a file, also where a store does not tell it from a folder
NOT_NODES = ("", ".", "..", "zarr.json")  # of which a store of another kind may have the first three


class Node(NamedTuple):
    """A group or an array: what is known of it, and its documents by name, without consolidated metadata.

    A group without documents is implicit: groups or arrays lie below it. `inherited` is what a group's consolidated metadata
    had, by the names that it has there: of v3 nodes, of v2 documents. `blocks` is how a job's source divides an array, and
    `is_regridded` tells that a step has changed what is in a block. `is_sample` tells that it is of the first member of a
    collection, which stands for all: it is no part of what is known. `unseen` is the number of names below a group that were
    not looked into, as they were too many.
    """

    meta: ArrayMeta | GroupMeta
    documents: dict[str, bytes]
    inherited: dict[str, Any] = {}  # noqa: RUF012 (a default that nobody changes)
    blocks: Blocks | None = None
    is_regridded: bool = False
    is_sample: bool = False
    unseen: int = 0

    @property
    def is_implicit(self) -> bool:
        """Whether it is a group by what is below it alone."""
        return not self.documents


def walk(
    store: Store, skip: Container[str] = (), known: Iterable[str] = (), *, may_be_implicit: bool = False
) -> dict[str, Node]:
    """Return the groups and arrays of a store by path, parents first; nothing at or below a path in `skip`.

    These are the nodes with a document of their own that listings of folders or consolidated metadata lead to, of both
    formats, and the groups above them, and those of them that are at paths that are `known`. Below an array, it lists only
    where that takes no listing of chunks. With `may_be_implicit`, the root needs no document.

    Raises
    ------
    CorruptError
        For a metadata document that can't be read.
    """
    return sync(_Walk(store, skip, tuple(known), may_be_implicit).nodes())


Place = tuple[str, int | None]  # a path, and the format of the nearest node above it


class _Walk:
    """One walk: level by level, first along the folders, then to what consolidated metadata names besides."""

    def __init__(self, store: Store, skip: Container[str], known: tuple[str, ...], may_be_implicit: bool) -> None:
        self.store, self.reader = store, reader_of(store)
        self.skip, self.known, self.may_be_implicit = skip, known, may_be_implicit
        self.found: dict[str, Node] = {}
        self.unseen: list[str] = []
        self.seen: set[str] = set()
        self.limit = asyncio.Semaphore(IN_FLIGHT)
        self.room = MOST_FOLDERS

    async def nodes(self) -> dict[str, Node]:
        level: list[Place] = [("", None)]
        while level:
            await self._descend(level)
            level = list(self._named_besides())
        for path in self.unseen:
            group = next(parent for parent in parents(path) if parent in self.found)
            self.found[group] = self.found[group]._replace(unseen=self.found[group].unseen + 1)
        return dict(sorted({**self._implicit(), **self.found}.items(), key=lambda node: node[0].split("/")))

    async def _descend(self, level: list[Place]) -> None:
        while level:
            self.seen.update(path for path, _ in level)
            nodes = await asyncio.gather(*(self._visit(*place) for place in level))
            self.found.update((path, node) for (path, _), node in zip(level, nodes, strict=True) if node is not None)
            below = [self._below(*place, node) for place, node in zip(level, nodes, strict=True)]
            level = [place for some in await asyncio.gather(*below) for place in some]

    async def _visit(self, path: str, zarr_format: int | None) -> Node | None:
        async with self.limit:
            return await _read_node(self.store, path, zarr_format)

    def _below(self, path: str, above: int | None, node: Node | None) -> Awaitable[list[Place]]:
        """Return what is to be visited below a path; of folders without a document, no more than there is room for."""
        if node is not None and isinstance(node.meta, ArrayMeta):
            return self._places(path, node.meta.zarr_format, _inner_folders(self.reader, path, node.meta))
        if node is not None:
            return self._places(path, node.meta.zarr_format, self.reader.folders(path))
        if not path and not self.may_be_implicit:
            return _nothing()
        self.room -= 1
        if self.room < 0:
            self.unseen.append(path)
            return _nothing()
        return self._places(path, above, (name async for name in self.reader.folders(path) if not _CHUNK(name)))

    async def _places(self, path: str, zarr_format: int | None, names: AsyncIterator[str]) -> list[Place]:
        async with self.limit:
            below = sorted([join(path, name) async for name in names if _may_be_node(name)])
        return [(child, zarr_format) for child in below if child not in self.skip]

    def _named_besides(self) -> Iterator[Place]:
        """Yield what is known, or named by consolidated metadata, and was not come by."""
        places = [(node, sorted(named(node, group))) for group, node in self.found.items() if node.inherited]
        if "" in self.found:
            places.append((self.found[""], [*self.known]))
        for node, paths in places:
            for path in paths:
                if path not in self.seen and not any(at in self.skip for at in (path, *parents(path)) if at):
                    self.seen.add(path)
                    yield path, node.meta.zarr_format

    def _implicit(self) -> dict[str, Node]:
        """Return the groups above nodes that have no document."""
        return {
            path: Node(GroupMeta(self.found[below].meta.zarr_format), {})
            for below in self.found
            for path in parents(below)
            if path not in self.found
        }


async def _nothing() -> list[Place]:
    return []


async def _inner_folders(reader: StoreReader[Any], path: str, array: ArrayMeta) -> AsyncIterator[str]:
    """Yield the names of the folders in an array's own that hold no chunks of it, where no chunks are listed for that."""
    if reader.knows_folders(path, array):
        async for name in reader.folders(path):
            if not _is_of_chunks(name, array):
                yield name


def _is_of_chunks(name: str, array: ArrayMeta) -> bool:
    """Tell whether a folder may hold chunks: also by the separator that metadata of v2 need not say."""
    if array.keys is not None and array.keys.name == "default":
        return name == "c"
    return name == "c" or (name.isdecimal() and len(array.shape) > 1)


def _may_be_node(name: str) -> bool:
    return name not in NOT_NODES and not name.startswith(".z")


def named(node: Node, group: str) -> set[str]:
    """Return the paths that a group's consolidated metadata names, as far as they are such."""
    names = (name.rpartition("/") for name in node.inherited if not _NO_PATH.search(f"/{name}/"))
    return {join(group, folder if name in METADATA_NAMES else join(folder, name)) for folder, _, name in names}


def only_named(nodes: Mapping[str, Node]) -> dict[str, str]:
    """Return the paths that consolidated metadata names and that have no document of their own, each with its group."""
    return {
        path: group
        for group, node in nodes.items()
        if node.inherited
        for path in named(node, group)
        if path not in nodes
    }


def hierarchy_notices(nodes: Mapping[str, Node]) -> Iterator[Notice]:
    """Yield warnings about what a walk came by and does not count as a group or an array."""
    if found := only_named(nodes):
        yield Notice(
            "consolidated metadata names what has no document of its own: it is no group or array here, and the files that it "
            "may have are carried as they are",
            tuple(sorted(found)),
        )
    for path, node in nodes.items():
        if node.unseen:
            yield Notice(
                f"more than {MOST_FOLDERS:,} names have no metadata, and {node.unseen:,} of them were not looked into for groups "
                "and arrays: give the groups among them a document, or leave them out with exclude",
                (path,),
            )


def nodes_in_arrays(nodes: Mapping[str, Node]) -> Iterator[str]:
    """Yield the paths of the nodes that lie inside arrays."""
    arrays = {path for path, node in nodes.items() if isinstance(node.meta, ArrayMeta)}
    return (path for path in nodes if not arrays.isdisjoint(parents(path)))


async def _get(store: Store, key: str) -> bytes | None:
    value = await store.get(key, default_buffer_prototype())
    return None if value is None else value.to_bytes()


async def _read_node(store: Store, path: str, above: int | None) -> Node | None:
    """Return the node at a path, of the format of what is above it, or else of the other."""
    for names in _names(above):
        values = await asyncio.gather(*(_get(store, join(path, name)) for name in names))
        documents = {name: value for name, value in zip(names, values, strict=True) if value is not None}
        try:
            meta = parse_node(documents, path)
        except CorruptError:
            if names == _names(above)[0] or above is None:
                raise
            return None  # a file of that name, as others are
        if meta is not None:
            return await _with_inherited(store, path, Node(meta, documents))
    return None


async def _with_inherited(store: Store, path: str, node: Node) -> Node:
    """Return a node with what its consolidated metadata has, which is no part of its documents."""
    if not isinstance(node.meta, GroupMeta):
        return node
    if node.meta.zarr_format == 2:
        data = await _get(store, join(path, CONSOLIDATED_V2))
        return (
            node if data is None else Node(GroupMeta(2, True), node.documents, _inherited(data, path, CONSOLIDATED_V2))
        )
    if not node.meta.consolidated:
        return node
    data = node.documents["zarr.json"]
    return Node(node.meta, {"zarr.json": drop_consolidated(data, path) or data}, _inherited(data, path, "zarr.json"))


def _inherited(data: bytes, path: str, name: str) -> dict[str, Any]:
    return consolidated_nodes(parse_json(data, path, name), path, name)


def _names(above: int | None) -> list[tuple[str, ...]]:
    v3, v2 = METADATA_NAMES[:1], METADATA_NAMES[1:]
    return [v2, v3] if above == 2 else [v3, v2]


def read_nodes(config: Config) -> dict[str, Node]:
    """Return the groups and arrays of a whole sharded store by path.

    Raises
    ------
    PartitionError
        Where there is no Zarr.
    """
    homes = MountIndex({path: mount.division for path, mount in config.shards.items()})
    known = [path for path, mount in config.shards.items() if mount.blocks is not None]
    nodes = _walk_location(config.base, homes, known)
    if not nodes:
        raise PartitionError(f"{config.base.show()} {instead(config.base)}")
    for path, mount in config.shards.items():
        if mount.members is not None:
            nodes.update(_of_members(path, mount, mount.members))
        elif mount.blocks is None and mount.location.hole is None:
            nodes.update(_below(path, mount.location))
    if config.consolidated is not None:
        _mark_rebuilt(config.consolidated.open(), nodes)
    return dict(sorted(nodes.items(), key=lambda node: node[0].split("/")))


def _of_members(path: str, mount: Mount, members: Members) -> Iterator[tuple[str, Node]]:
    """Yield the nodes of members: of all that are parts of one Zarr, else of the first."""
    places = ((name, member_at(mount, number)) for number, name in enumerate(members.names))
    there = ((name, place) for name, place in places if place.hole is None)
    for name, place in there if members.parts else islice(there, 1):
        nodes = _below(join(path, name), place)
        yield from ((at, node._replace(is_sample=not members.parts)) for at, node in nodes.items())


def _below(path: str, location: Location) -> dict[str, Node]:
    try:
        below = _walk_location(location, (), may_be_implicit=True)
    except PartitionError as error:
        advice = ": write it, or leave it out" if isinstance(error.__cause__, FileNotFoundError) else ""
        raise PartitionError(f"shard {path!r}: {error}{advice}") from error
    if not below:
        raise PartitionError(f"shard {path!r} is {location.show()}, which holds no Zarr: write it, or leave it out")
    found: dict[str, Node] = keymap(lambda rest: join(path, rest), below)
    return found


def _mark_rebuilt(overlay: Store, nodes: dict[str, Node]) -> None:
    """Mark the groups that an earlier job rebuilt consolidated metadata for, which stands in a component of its own."""
    groups = {path: node.meta.zarr_format for path, node in nodes.items() if isinstance(node.meta, GroupMeta)}
    for path, inherited in sync(_rebuilt(Overlay(overlay), groups)).items():
        nodes[path] = Node(GroupMeta(groups[path], True), nodes[path].documents, inherited)


async def _rebuilt(overlay: Overlay, groups: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    """Return the metadata in the consolidated metadata of the groups that have some, by path."""
    limit = asyncio.Semaphore(IN_FLIGHT)

    async def look(path: str, zarr_format: int) -> dict[str, Any] | None:
        name = CONSOLIDATED_V2 if zarr_format == 2 else "zarr.json"
        async with limit:
            data = await overlay.get(join(path, name), PROTOTYPE)
        document = {} if data is None else parse_json(data.to_bytes(), path, name)
        is_there = document.get("metadata" if zarr_format == 2 else "consolidated_metadata") is not None
        return consolidated_nodes(document, path, name) if is_there else None

    found = await asyncio.gather(*(look(path, zarr_format) for path, zarr_format in groups.items()))
    return {path: inherited for path, inherited in zip(groups, found, strict=True) if inherited is not None}


def _walk_location(
    location: Location, skip: Container[str], known: Iterable[str] = (), *, may_be_implicit: bool = False
) -> dict[str, Node]:
    try:
        nodes = patiently(lambda: walk(location.open(), skip, known, may_be_implicit=may_be_implicit))
        if not nodes:
            location.check_there()
        _check_text(nodes)
    except (OSError, BaseError) as error:
        raise PartitionError(f"{location.show()} can't be read: {explain(error)}") from error
    return nodes


def _check_text(paths: Iterable[str]) -> None:
    for path in paths:
        try:
            path.encode()
        except UnicodeEncodeError:
            raise PartitionError(f"{path!r} has a name that is no UTF-8, and no path in a Zarr: rename it") from None


def digest(nodes: Mapping[str, Node]) -> str:
    """Return a digest of all metadata documents that are known."""
    state = hashlib.sha256()
    for path in sorted(path for path, node in nodes.items() if not node.is_sample):
        for name, data in sorted(nodes[path].documents.items()):
            state.update(f"{join(path, name)}\0{len(data)}\0".encode())
            state.update(data)
    return state.hexdigest()


def nodes_of(documents: Mapping[str, bytes]) -> dict[str, Node]:
    """Return the groups and arrays that documents make, parents first; each with the documents of the format that it is read by."""
    found: dict[str, dict[str, bytes]] = {}
    for key, data in documents.items():
        path, _, name = key.rpartition("/")
        found.setdefault(path, {})[name] = data
    nodes: dict[str, Node] = {}
    formats: dict[str, int] = {}
    for path in sorted(found, key=lambda path: path.split("/") if path else []):
        try:
            meta = parse_node(found[path], path, format_above(formats, path))
        except CorruptError:
            continue  # files of such names, as others are
        if meta is not None:
            formats[path] = meta.zarr_format
            nodes[path] = Node(
                meta, {name: found[path][name] for name in NAMES_OF[meta.zarr_format] if name in found[path]}
            )
    return nodes
