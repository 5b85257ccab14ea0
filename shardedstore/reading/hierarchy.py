"""The groups and arrays of a store, read from their metadata documents alone.

Only `get` on metadata keys and `list_dir` on group paths are called, never anything on an array's path: listing the
chunks of a large array can take hours.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from typing import Any, NamedTuple

import obstore
from obstore.exceptions import BaseError
from toolz import keymap
from zarr.abc.store import Store
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from shardedstore.components.kinds import Config, Directory, Hole, Location, Mount, member_at, show
from shardedstore.components.members import Homes, Members
from shardedstore.components.named import ROOTS
from shardedstore.components.opening import open_location
from shardedstore.components.overlay import Overlay
from shardedstore.config.document import FILE_NAME, FORMAT
from shardedstore.config.otherjson import describe_json
from shardedstore.errors import PartitionError
from shardedstore.grid import Blocks
from shardedstore.metadata import (
    CONSOLIDATED_V2,
    METADATA_NAMES,
    ArrayMeta,
    GroupMeta,
    consolidated_nodes,
    drop_consolidated,
    dump_json,
    parse_json,
    parse_node,
)
from shardedstore.mounts import is_below, join
from shardedstore.readonly import PROTOTYPE
from shardedstore.storage.access import Options
from shardedstore.storage.blobs import nbytes_of, object_store, open_blob
from shardedstore.storage.remote_errors import explain
from shardedstore.storage.transient import patiently
from shardedstore.storage.urls import is_remote, object_url

IN_FLIGHT = 64
NOT_NODES = ("", ".", "..", "zarr.json")  # of which a store of another kind may have the first three


class Node(NamedTuple):
    """A group or an array: what is known of it, and its documents by name, without consolidated metadata.

    `inherited` is what a group's consolidated metadata had, by the names that it has there: of v3 nodes, of v2 documents.
    `blocks` is how a job's source divides an array, and `is_regridded` tells that a step has changed what is in a block.
    `is_sample` tells that it is of the first member of a collection, which stands for all: it is no part of what is known.
    """

    meta: ArrayMeta | GroupMeta
    documents: dict[str, bytes]
    inherited: dict[str, Any] = {}  # noqa: RUF012 (a default that nobody changes)
    blocks: Blocks | None = None
    is_regridded: bool = False
    is_sample: bool = False


def walk(store: Store, skip: Container[str] = ()) -> dict[str, Node]:
    """Return the groups and arrays of a store by path, parents first; nothing at or below a path in `skip`.

    Raises
    ------
    CorruptError
        For a metadata document that can't be read.
    """
    return sync(_walk(store, skip))


async def _walk(store: Store, skip: Container[str]) -> dict[str, Node]:
    found: dict[str, Node] = {}
    limit = asyncio.Semaphore(IN_FLIGHT)
    names: dict[str, set[str]] = {}

    async def visit(path: str, zarr_format: int | None) -> Node | None:
        async with limit:
            node = await _read_node(store, path, zarr_format)
            if node is None or isinstance(node.meta, ArrayMeta):
                return node
            names[path] = {name async for name in store.list_dir(path)}
            if node.meta.zarr_format == 2 and CONSOLIDATED_V2 in names[path]:
                data = await _get(store, join(path, CONSOLIDATED_V2))
                inherited = {} if data is None else _inherited(data, path, CONSOLIDATED_V2)
                return Node(GroupMeta(2, True), node.documents, inherited)
            return node

    level: list[tuple[str, int | None]] = [("", None)]
    while level:
        nodes = await asyncio.gather(*(visit(path, zarr_format) for path, zarr_format in level))
        groups: list[tuple[str, int]] = []
        for (path, _), node in zip(level, nodes, strict=True):
            if node is not None:
                found[path] = node
                if isinstance(node.meta, GroupMeta):
                    groups.append((path, node.meta.zarr_format))
        level = [
            (join(path, name), zarr_format)
            for path, zarr_format in groups
            for name in sorted(names[path])
            if name not in NOT_NODES and not name.startswith(".z") and join(path, name) not in skip
        ]
    return found


async def _get(store: Store, key: str) -> bytes | None:
    value = await store.get(key, default_buffer_prototype())
    return None if value is None else value.to_bytes()


async def _read_node(store: Store, path: str, zarr_format: int | None) -> Node | None:
    for names in _names(zarr_format):
        values = await asyncio.gather(*(_get(store, join(path, name)) for name in names))
        documents = {name: value for name, value in zip(names, values, strict=True) if value is not None}
        meta = parse_node(documents, path)
        if isinstance(meta, GroupMeta) and meta.consolidated:
            data = documents["zarr.json"]
            inherited = _inherited(data, path, "zarr.json")
            return Node(meta, {"zarr.json": drop_consolidated(data, path) or data}, inherited)
        if meta is not None:
            return Node(meta, documents)
    return None


def _inherited(data: bytes, path: str, name: str) -> dict[str, Any]:
    return consolidated_nodes(parse_json(data, path, name), path, name)


def _names(zarr_format: int | None) -> list[tuple[str, ...]]:
    v3, v2 = METADATA_NAMES[:1], METADATA_NAMES[1:]
    return [v3, v2] if zarr_format is None else [v3] if zarr_format == 3 else [v2]


def read_nodes(config: Config) -> dict[str, Node]:
    """Return the groups and arrays of a whole sharded store by path.

    Raises
    ------
    PartitionError
        Where there is no Zarr.
    """
    homes = Homes({path: mount.division for path, mount in config.shards.items()})
    nodes = _walk_location(config.base, homes)
    if not nodes:
        raise PartitionError(f"{show(config.base)} {_instead(config.base)}")
    for path, mount in config.shards.items():
        if mount.members is not None:
            nodes.update(_of_members(path, mount, mount.members))
        elif mount.blocks is None and not isinstance(mount.location, Hole):
            nodes.update(_below(path, mount.location))
    if config.consolidated is not None:
        _mark_rebuilt(open_location(config.consolidated), nodes)
    return dict(sorted(nodes.items(), key=lambda node: node[0].split("/")))


def _of_members(path: str, mount: Mount, members: Members) -> Iterator[tuple[str, Node]]:
    """Yield the nodes of members: of all that are parts of one Zarr, else of the first."""
    places = ((name, member_at(mount, number)) for number, name in enumerate(members.names))
    there = ((name, place) for name, place in places if not isinstance(place, Hole))
    for name, place in there if members.parts else islice(there, 1):
        nodes = _below(join(path, name), place)
        yield from ((at, node._replace(is_sample=not members.parts)) for at, node in nodes.items())


def _below(path: str, location: Location) -> dict[str, Node]:
    try:
        below = _walk_location(location, ())
    except PartitionError as error:
        advice = ": write it, or leave it out" if isinstance(error.__cause__, FileNotFoundError) else ""
        raise PartitionError(f"shard {path!r}: {error}{advice}") from error
    if not below:
        raise PartitionError(f"shard {path!r} is {show(location)}, which holds no Zarr: write it, or leave it out")
    found: dict[str, Node] = keymap(lambda rest: join(path, rest), below)
    return found


def is_zarr(url: str, options: Options) -> bool:
    """Tell whether a folder is a Zarr, as far as it can be seen."""
    return any(_is_there(object_url(url, name), options) for name in ROOTS)


RESULT = "is the result of a job: open it with ShardedStore.load"
NO_ZARR = "holds no Zarr: there is no zarr.json, .zgroup or .zarray at its root; name the folder that has one"
MOST_JSON = 64 << 20  # bytes of a file that is looked at


def _instead(location: Location) -> str:
    """Return what a location is that holds no Zarr, and the next step."""
    if not isinstance(location, Directory):
        return NO_ZARR
    if not location.url.endswith(".json"):
        return RESULT if _is_there(object_url(location.url, FILE_NAME), location.options) else NO_ZARR
    with suppress(OSError, BaseError):
        nbytes = nbytes_of(location.url, location.options)
        if nbytes is not None and nbytes > MOST_JSON:
            return f"is a file of {nbytes:,} bytes, which is no Zarr: name the folder of one"
        if nbytes is not None:
            return _of_json(bytes(open_blob(location.url, location.options).read(0, nbytes)))
    return NO_ZARR


def _of_json(data: bytes) -> str:
    """Return what a JSON file is that was named as a Zarr.

    >>> _of_json(b'{"format": "shardedstore"}'), _of_json(b"")
    ('is the result of a job: open it with ShardedStore.load', 'is an empty file, which is no Zarr: name the folder of one')
    """
    if not data.strip():
        return "is an empty file, which is no Zarr: name the folder of one"
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        return f"is no JSON ({error}), and no Zarr: name the folder of one"
    if isinstance(document, dict) and (document.get("format") == FORMAT or {"base", "shards"} <= document.keys()):
        return RESULT
    return f"is a JSON file, which is no Zarr: {describe_json(document)}"


def _is_there(url: str, options: Options) -> bool:
    with suppress(OSError, BaseError):
        return nbytes_of(url, options) is not None
    return False


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


def _walk_location(location: Location, skip: Container[str]) -> dict[str, Node]:
    try:
        nodes = patiently(lambda: walk(open_location(location), skip))
        if not nodes:
            _check_bucket(location)
        _check_text(nodes)
    except (OSError, BaseError) as error:
        raise PartitionError(f"{show(location)} can't be read: {explain(error)}") from error
    return nodes


def _check_text(paths: Iterable[str]) -> None:
    for path in paths:
        try:
            path.encode()
        except UnicodeEncodeError:
            raise PartitionError(f"{path!r} has a name that is no UTF-8, and no path in a Zarr: rename it") from None


def _check_bucket(location: Location) -> None:
    """Raise for a bucket that is not there: to those who ask for a key it is as if the key were missing."""
    if isinstance(location, Directory) and is_remote(location.url) and not location.url.startswith("http"):
        next(iter(obstore.list(object_store(location.url, location.options), chunk_size=1)), None)


def digest(nodes: Mapping[str, Node]) -> str:
    """Return a digest of all metadata documents that are known."""
    state = hashlib.sha256()
    for path in sorted(path for path, node in nodes.items() if not node.is_sample):
        for name, data in sorted(nodes[path].documents.items()):
            state.update(f"{join(path, name)}\0{len(data)}\0".encode())
            state.update(data)
    return state.hexdigest()


def consolidate(nodes: Mapping[str, Node], group: str, inherited: Mapping[str, Any]) -> tuple[str, bytes]:
    """Return the key and the document that hold the metadata of everything below a group, as zarr lays them out.

    What the source's consolidated metadata had and no document of its own has is kept, where it is of the same format.
    """
    start = len(group) + 1 if group else 0
    below = {path[start:]: node for path, node in nodes.items() if is_below(path, group)}
    if nodes[group].meta.zarr_format == 2:
        documents = {
            join(path, name): parse_json(data, path, name)
            for path, node in {"": nodes[group], **below}.items()
            for name, data in sorted(node.documents.items())
        }
        metadata = {**inherited, **documents}
        return join(group, CONSOLIDATED_V2), dump_json({"metadata": metadata, "zarr_consolidated_format": 1})
    root: dict[str, Any] = parse_json(nodes[group].documents["zarr.json"], group, "zarr.json")
    documents = {path: parse_json(node.documents["zarr.json"], path, "zarr.json") for path, node in below.items()}
    kept = {path: node for path, node in inherited.items() if path.rpartition("/")[2] not in METADATA_NAMES}
    metadata = {**kept, **documents}
    root["consolidated_metadata"] = {"kind": "inline", "must_understand": False, "metadata": metadata}
    return join(group, "zarr.json"), dump_json(root)
