"""Make the plan of a job: the runs of shards, and their loads, from the config of the source."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from operator import methodcaller

import msgspec
from toolz import groupby

from shardedstore.errors import PartitionError, UsageError
from shardedstore.jobs.shards import Load, Plan, Run, shard_runs
from shardedstore.jobs.sparse import Chunks, find_chunks
from shardedstore.stores.consolidate import undocumented
from shardedstore.stores.grown import AGAIN
from shardedstore.stores.hierarchy import Node, hierarchy_notices, nodes_in_arrays, read_nodes
from shardedstore.stores.locations import Config, Location, Mount
from shardedstore.stores.members import Division, Members, MountIndex
from shardedstore.zarr.attributes import left_out
from shardedstore.zarr.grid import Blocks
from shardedstore.zarr.metadata import ArrayMeta, GroupMeta
from shardedstore.zarr.paths import Mounts, join


def make_plan(config: Config, consolidated: bool | None = None, *, needs_empty: bool = False) -> Plan:
    """Number and weigh the shards of a store.

    The numbers come from the metadata, and for sparse arrays also from a listing of the chunks.

    Parameters
    ----------
    config : Config
        The config of the source.
    consolidated : bool, optional
        Which groups get consolidated metadata at the end: by default the groups that have it in the source, with True also
        the root, with False none.
    needs_empty : bool
        Whether blocks without chunks are shards too.

    Raises
    ------
    PartitionError
        If a divided array is missing, or its chunk grid or keys have changed since it was divided.
    UsageError
        If `consolidated` is true, and the root is an array, or a collection is mounted.
    """
    nodes = read_nodes(config)
    mounted = {path: mount.division for path, mount in config.shards.items()}
    for path, blocks in mounted.items():
        if isinstance(blocks, Blocks):
            _check_array(path, blocks, nodes.get(path), config.shards[path].is_view)
    chunks = {} if needs_empty else _listed(config)
    config = _without_empty(config, chunks)
    for path, mount in config.shards.items():
        if mount.blocks is not None:
            nodes[path] = nodes[path]._replace(blocks=mount.blocks)
    index = MountIndex(mounted)
    loads: dict[str | None, list[int]] = {None: [0, 0], **{path: [0, 0] for path in mounted}}
    for path, node in nodes.items():
        mount_path = index.find(path)
        loads[mount_path][0] += len(node.documents)
        if isinstance(node.meta, ArrayMeta):
            load = loads[path if isinstance(mounted.get(path), Blocks) else mount_path]
            load[0] += node.meta.chunk_count
            load[1] += node.meta.nbytes
    groups = _groups(nodes, consolidated)
    whole = _by_mount(index, _whole(groups, mounted))
    stale, inside = _by_mount(index, _groups(nodes, None)), _by_mount(index, nodes_in_arrays(nodes))
    runs, found = list[Run](), list[Load]()
    for run, (mount_path, counts) in zip(shard_runs(config), loads.items(), strict=True):
        own, members = Load(*counts), run.members
        if members is None:
            found_chunks = None if mount_path is None else chunks.get(mount_path)
            known = msgspec.structs.replace(
                run,
                consolidated=stale[mount_path],
                inside=inside[mount_path],
                nbytes=own.most(run.blocks),
                chunks=found_chunks,
                rebuilt={path: undocumented(nodes, join(run.path, path)) for path in sorted(whole[mount_path])},
                base=_base(config, nodes, mount_path),
            )
            own = own.of_stored(run.blocks, found_chunks)
        else:
            known = _of_members(run, members, nodes, consolidated)
        weighed = own if members is None or members.parts else own.times(len(members.names))
        runs.append(msgspec.structs.replace(known, decoded_nbytes=weighed.nbytes // (run.stop - run.first)))
        found.append(weighed)
    notices = tuple(hierarchy_notices(nodes))
    return Plan(config, nodes, tuple(runs), tuple(found), groups, notices)


def _base(config: Config, nodes: Mapping[str, Node], path: str | None) -> Location | None:
    """Return the base if it has attributes of an array that the blocks do not carry."""
    mount = config.shards.get(path or "")
    if path is None or mount is None or mount.blocks is None or (mount.is_view and not mount.exceptions):
        return None
    documents = nodes[path].documents if path in nodes else {}
    return config.base if any(left_out(name, data, path) for name, data in documents.items()) else None


def _whole(groups: Iterable[str], mounted: Mapping[str, Division | None]) -> Iterator[str]:
    """Yield the groups that are not mounts with members, and have no mounts below."""
    mounts = Mounts(mounted)
    return (group for group in groups if not mounts.any_below(group) and mounted.get(group) is None)


def _by_mount(index: MountIndex, paths: Iterable[str]) -> defaultdict[str | None, frozenset[str]]:
    """Return paths by the mount that holds them, relative to the mount."""
    found: defaultdict[str | None, frozenset[str]] = defaultdict(frozenset)
    for mount_path, some in groupby(index.find, paths).items():
        found[mount_path] = frozenset(
            some if mount_path is None else [path[len(mount_path) :].lstrip("/") for path in some]
        )
    return found


def _listed(config: Config) -> dict[str, Chunks]:
    """Return the chunks of the sparse arrays among the views of a store, by path."""
    opened = cache(methodcaller("open"))  # reads the directory of a zip once for all its arrays
    found = ((path, find_chunks(mount, opened)) for path, mount in config.shards.items())
    return {path: chunks for path, chunks in found if chunks is not None}


def without_empty_blocks(config: Config) -> Config:
    """Return a config without the blocks of sparse arrays that have no chunks, by a listing."""
    return _without_empty(config, _listed(config))


def _without_empty(config: Config, chunks: Mapping[str, Chunks]) -> Config:
    """Return a config without the blocks that have no chunks by `chunks`.

    Arrays whose config already names the stored blocks stay as they are.
    """

    def said(path: str, mount: Mount) -> Mount:
        if mount.blocks is None or mount.blocks.stored is not None or path not in chunks:
            return mount
        return msgspec.structs.replace(mount, blocks=mount.blocks.only(chunks[path]))

    shards = {path: said(path, mount) for path, mount in config.shards.items()}
    return msgspec.structs.replace(config, shards=shards) if chunks else config


def listed_runs(config: Config) -> list[Run]:
    """Return the result of `shard_runs` with the listed chunks of sparse arrays."""
    chunks = _listed(config)
    return [
        run if run.mounted is not None else msgspec.structs.replace(run, chunks=chunks.get(run.path))
        for run in shard_runs(config)
    ]


def changed_chunks(plan: Plan) -> dict[str, frozenset[int]]:
    """Return the sparse arrays whose chunks have changed since they were listed.

    The values are the numbers of the listed shards with changed chunks, or of all shards if the array is not sparse any
    more. New blocks are not shards of the plan, so an array with only new blocks has an empty set.

    >>> from shardedstore.stores.group import Group
    >>> changed_chunks(Plan(Config(Group()), {}, (), ()))
    {}
    """
    found: dict[str, frozenset[int]] = {}
    for run in plan.runs:
        now = run.chunks if run.chunks is None else find_chunks(plan.config.shards[run.path])
        if run.chunks == now:
            continue
        blocks = run.chunks or {}
        changed = (run.number_of(block) for block in blocks if now is not None and now.get(block) != blocks[block])
        found[run.path] = frozenset(run.numbers if now is None else changed)
    return found


def _of_members(run: Run, members: Members, nodes: Mapping[str, Node], consolidated: bool | None) -> Run:
    """Return a run of members with their Zarr format and the rule for their consolidated metadata."""
    if consolidated and not members.parts:
        raise UsageError(
            f"consolidated=True would need the metadata of all {len(members.names):,} members of a collection, which only the "
            "workers read: leave it out"
        )
    zarr_format = nodes[join(run.path, members.names[0])].meta.zarr_format
    stale = None if members.parts or consolidated is False else frozenset[str]()
    return msgspec.structs.replace(run, zarr_format=zarr_format, consolidated=stale)


def _groups(nodes: Mapping[str, Node], consolidated: bool | None) -> tuple[str, ...]:
    """Return the groups that get consolidated metadata.

    These are the groups that have it in the source; with `consolidated` true also the root, with false none.
    """
    if consolidated is False:
        return ()
    if consolidated and not isinstance(nodes[""].meta, GroupMeta):
        raise UsageError(
            "consolidated=True is for a Zarr whose root is a group, and this one's is an array: leave it out"
        )
    groups = (
        (path, node.meta) for path, node in nodes.items() if isinstance(node.meta, GroupMeta) and not node.is_sample
    )
    return tuple(path for path, meta in groups if meta.consolidated or (consolidated and not path))


def _check_array(path: str, blocks: Blocks, node: Node | None, is_of_source: bool) -> None:
    if node is None or not isinstance(node.meta, ArrayMeta):
        raise PartitionError(f"{path!r} is divided into blocks, but the source has no array there: partition it again")
    if node.meta.chunk_grid != blocks.chunk_grid or node.meta.keys != blocks.keys:
        raise PartitionError(
            f"{path!r} was divided as an array of {blocks.chunk_grid} chunks, and now has {node.meta.chunk_grid}: "
            f"{'partition the source again' if is_of_source else AGAIN}"
        )
