"""The hierarchy of a store: its groups and arrays, read from metadata documents alone.

A walk reads metadata keys. It lists the folders of groups, and also folders without a document, since these may be groups. It
never lists the chunks of an array, since that can take hours.
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
from shardedstore.storage.urls import similar_path
from shardedstore.stores.locations import Config, Location, Mount, member_at, url_of
from shardedstore.stores.members import Members, MountIndex
from shardedstore.stores.no_zarr import instead
from shardedstore.stores.overlay import Overlay
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
MOST_FOLDERS = 4096  # folders without a document that a walk lists
_NO_PATH = re.compile(r"//(?!\Z)|/\.{1,2}/|\0")
_CHUNK = re.compile(r"(c\.)?\d+(\.\d+)+").fullmatch  # a file, even if the store lists it like a folder
NOT_NODES = ("", ".", "..", "zarr.json")  # stores of other packages may list the first three


class Node(NamedTuple):
    """A group or an array.

    A group without documents is implicit: groups or arrays lie below it.

    Attributes
    ----------
    meta : ArrayMeta or GroupMeta
        The parsed metadata.
    documents : dict
        The metadata documents by name, without consolidated metadata.
    inherited : dict
        The consolidated metadata of a group. The keys are paths of nodes in Zarr v3, and keys of documents in Zarr v2.
    blocks : Blocks or None
        The division of an array by the source of a job.
    is_regridded : bool
        Whether a step has changed the part of the array that a block covers.
    is_sample : bool
        Whether the node belongs to the first member of a collection, which represents all members.
    unseen : int
        The number of names below a group that were not examined because there were too many.

    Examples
    --------
    >>> import zarr
    >>> store = zarr.storage.MemoryStore()
    >>> _ = zarr.create_array(store, name="t", shape=(8, 4), chunks=(2, 4), dtype="i4")
    >>> nodes = walk(store)  # as `Step.check` gets them
    >>> nodes["t"].meta.shape, nodes["t"].meta.chunks, list(nodes["t"].documents)
    ((8, 4), (2, 4), ['zarr.json'])
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
        """Whether this is a group without documents."""
        return not self.documents


def walk(
    store: Store, skip: Container[str] = (), known: Iterable[str] = (), *, may_be_implicit: bool = False
) -> dict[str, Node]:
    """Return the groups and arrays of a store by path, parents first.

    The walk finds nodes of both formats by listings of folders and by consolidated metadata. A node needs a document of its
    own; the groups above a node need none. Folders inside arrays are listed only if that does not list chunks.

    Parameters
    ----------
    store : Store
        The store.
    skip : container of str, optional
        Paths that are left out with everything below them.
    known : iterable of str, optional
        Further paths at which the walk looks for a document.
    may_be_implicit : bool, optional
        Whether the root may have no document.

    Raises
    ------
    CorruptError
        If a metadata document can't be parsed.
    """
    return sync(_Walk(store, skip, tuple(known), may_be_implicit).nodes())


Place = tuple[str, int | None]  # a path, and the format of the nearest node above it


class _Walk:
    """One walk, level by level: first by folders, then by the names in consolidated metadata."""

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
        """Return the places to visit below a path; the number of folders without a document is limited."""
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
        """Yield known paths and paths in consolidated metadata that the walk has not visited."""
        places = [(node, sorted(named(node, group))) for group, node in self.found.items() if node.inherited]
        if "" in self.found:
            places.append((self.found[""], [*self.known]))
        for node, paths in places:
            for path in paths:
                if path not in self.seen and not any(at in self.skip for at in (path, *parents(path)) if at):
                    self.seen.add(path)
                    yield path, node.meta.zarr_format

    def _implicit(self) -> dict[str, Node]:
        """Return the groups without a document above the nodes found."""
        return {
            path: Node(GroupMeta(self.found[below].meta.zarr_format), {})
            for below in self.found
            for path in parents(below)
            if path not in self.found
        }


async def _nothing() -> list[Place]:
    return []


async def _inner_folders(reader: StoreReader[Any], path: str, array: ArrayMeta) -> AsyncIterator[str]:
    """Yield the folders in an array that hold no chunks, if the store can list them cheaply."""
    if reader.knows_folders(path, array):
        async for name in reader.folders(path):
            if not _is_of_chunks(name, array):
                yield name


def _is_of_chunks(name: str, array: ArrayMeta) -> bool:
    """Tell whether a folder may hold chunks; metadata of v2 may have no separator."""
    if array.keys is not None and array.keys.name == "default":
        return name == "c"
    return name == "c" or (name.isdecimal() and len(array.shape) > 1)


def _may_be_node(name: str) -> bool:
    return name not in NOT_NODES and not name.startswith(".z")


def named(node: Node, group: str) -> set[str]:
    """Return the valid paths in a group's consolidated metadata."""
    names = (name.rpartition("/") for name in node.inherited if not _NO_PATH.search(f"/{name}/"))
    return {join(group, folder if name in METADATA_NAMES else join(folder, name)) for folder, _, name in names}


def only_named(nodes: Mapping[str, Node]) -> dict[str, str]:
    """Return the paths in consolidated metadata that have no document, each with its group."""
    return {
        path: group
        for group, node in nodes.items()
        if node.inherited
        for path in named(node, group)
        if path not in nodes
    }


def hierarchy_notices(nodes: Mapping[str, Node]) -> Iterator[Notice]:
    """Yield warnings about names that a walk did not count as groups or arrays."""
    if found := only_named(nodes):
        yield Notice(
            "consolidated metadata names nodes that have no document of their own: they are not groups or arrays here, and "
            "their files are carried as they are",
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
    """Return the node at a path; the format of the node above is tried first."""
    for names in _names(above):
        values = await asyncio.gather(*(_get(store, join(path, name)) for name in names))
        documents = {name: value for name, value in zip(names, values, strict=True) if value is not None}
        try:
            meta = parse_node(documents, path)
        except CorruptError:
            if names == _names(above)[0] or above is None:
                raise
            return None  # an ordinary file with that name
        if meta is not None:
            return await _with_inherited(store, path, Node(meta, documents))
    return None


async def _with_inherited(store: Store, path: str, node: Node) -> Node:
    """Return a node with the content of its consolidated metadata in `inherited`."""
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
        If a component holds no Zarr or can't be read.
    """
    index = MountIndex({path: mount.division for path, mount in config.shards.items()})
    known = [path for path, mount in config.shards.items() if mount.blocks is not None]
    nodes = _walk_location(config.base, index, known)
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
    """Yield the nodes of all members if they are parts of one Zarr, otherwise of the first member."""
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
    """Mark the groups whose consolidated metadata an earlier job rebuilt in a component of its own."""
    groups = {path: node.meta.zarr_format for path, node in nodes.items() if isinstance(node.meta, GroupMeta)}
    for path, inherited in sync(_rebuilt(Overlay(overlay), groups)).items():
        nodes[path] = Node(GroupMeta(groups[path], True), nodes[path].documents, inherited)


async def _rebuilt(overlay: Overlay, groups: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    """Return the content of rebuilt consolidated metadata, by the path of the group."""
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
    except CorruptError as error:
        url = url_of(location)
        if type(error) is not CorruptError or url is None or url in str(error):
            raise
        raise CorruptError(f"{location.show()}: {error}") from error
    except (OSError, BaseError) as error:
        near = similar_path(url_of(location) or "") if isinstance(error, FileNotFoundError) else ""
        raise PartitionError(f"{location.show()} can't be read: {explain(error)}{near}") from error
    return nodes


def _check_text(paths: Iterable[str]) -> None:
    for path in paths:
        try:
            path.encode()
        except UnicodeEncodeError:
            raise PartitionError(
                f"{path!r} has a name that is not valid UTF-8, so it can't be a path in a Zarr: rename it"
            ) from None


def digest(nodes: Mapping[str, Node]) -> str:
    """Return a digest of all known metadata documents."""
    state = hashlib.sha256()
    for path in sorted(path for path, node in nodes.items() if not node.is_sample):
        for name, data in sorted(nodes[path].documents.items()):
            state.update(f"{join(path, name)}\0{len(data)}\0".encode())
            state.update(data)
    return state.hexdigest()


def nodes_of(documents: Mapping[str, bytes]) -> dict[str, Node]:
    """Return the groups and arrays that documents describe, parents first.

    Each node keeps the documents of the format in which it is read.
    """
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
            continue  # ordinary files with such names
        if meta is not None:
            formats[path] = meta.zarr_format
            nodes[path] = Node(
                meta, {name: found[path][name] for name in NAMES_OF[meta.zarr_format] if name in found[path]}
            )
    return nodes
