"""What a job will do: its shards numbered, weighed by arithmetic, and cut into segments of about equal weight.

Shards are described by ranges, not by an object each. A segment is a fixed range of shard numbers, whatever cluster runs
it, and records are kept by segment. A task is any part of one.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from operator import methodcaller
from typing import Any, NamedTuple

import msgspec
from toolz import groupby

from shardedstore.errors import PartitionError, UsageError
from shardedstore.jobs.sparse import Chunks, find_chunks
from shardedstore.notices import Notice
from shardedstore.storage.urls import is_remote
from shardedstore.stores.consolidate import undocumented
from shardedstore.stores.grown import AGAIN
from shardedstore.stores.hierarchy import Node, digest, hierarchy_notices, nodes_in_arrays, read_nodes
from shardedstore.stores.locations import Config, Location, Mount, at_shard, url_of
from shardedstore.stores.members import Division, Members, MountIndex
from shardedstore.transforms.base.chain import Shard, Sink
from shardedstore.zarr.attributes import left_out
from shardedstore.zarr.grid import Blocks, Coords
from shardedstore.zarr.metadata import ArrayMeta, GroupMeta
from shardedstore.zarr.paths import Mounts, join

PER_FILE = 1 << 10  # bytes that its names and headers take at most, in a zip
PER_CHUNK = 32 << 10  # bytes that take as long to copy as a chunk takes to open
LEAST_WEIGHT = 192 << 20  # of a segment, in bytes, some 100 ms: below, scheduling costs more than it gains
FAR = 8  # how much longer it takes from or to an object store
MOST_SEGMENTS = 4096
MOST_SHARDS = 256  # in a segment


class Run(msgspec.Struct, frozen=True):
    """Some shards of one mount: the base, a whole component, or the shards `first` to `stop` of an array or of members.

    `number` is that of the first shard in the job; `mounted` is for the base alone: what it must leave out. `members` are
    those of its own shards, and `zarr_format` is what they must have. `consolidated` are the groups in the component whose
    consolidated metadata is not carried, as it would be stale, and None all of them; `inside` are the nodes in it that lie
    inside arrays, and None where that is not known; `nbytes` is the most that a shard can take decoded, with something for
    each file. `chunks` are those that the blocks of a view have, where they were listed. `rebuilt` are the groups whose whole
    subtree is in the component and that get consolidated metadata there, each with what that names beside documents. `base`
    is where the array has attributes that the objects of its blocks do not carry.
    """

    number: int
    path: str
    location: Location
    blocks: Blocks | None = None
    first: int = 0
    stop: int = 1
    exceptions: dict[str, Location] = {}
    mounted: dict[str, Division | None] | None = None
    consolidated: frozenset[str] | None = frozenset()
    nbytes: int = 0
    members: Members | None = None
    zarr_format: int = 0
    chunks: Chunks | None = None
    inside: frozenset[str] | None = None
    rebuilt: dict[str, dict[str, Any]] = {}
    base: Location | None = None

    @property
    def numbers(self) -> range:
        """The numbers of the shards."""
        return range(self.number, self.number + self.stop - self.first)

    def shards(self) -> Iterator[Shard]:
        """Yield the shards in the order of their numbers."""
        if self.members is not None:
            yield from self._of_members(self.members)
            return
        divided = frozenset(path for path, blocks in (self.mounted or {}).items() if isinstance(blocks, Blocks))
        is_base = self.mounted is not None
        for number, block in zip(self.numbers, self._indices(), strict=True):
            yield Shard(self.path, self.blocks, block, is_base, self.nbytes, divided, number=number)

    def _of_members(self, members: Members) -> Iterator[Shard]:
        for number, i, names in zip(self.numbers, range(self.first, self.stop), members.shards(), strict=True):
            if members.together == 1:
                yield Shard(join(self.path, names[0]), members=names, number=number)
            else:
                yield Shard(self.path, members=names, bundle=i, number=number)

    @property
    def division(self) -> Division | None:
        """What the mount is divided into, as far as it is known here; None for one component."""
        return self.members or self.blocks

    def _indices(self) -> Iterator[Coords | None]:
        if self.blocks is None:
            yield None
            return
        if self.blocks.stored is not None:
            yield from map(self.blocks.index, range(self.first, self.stop))
            return
        i = self.first
        while i < self.stop:  # a row of the grid at a time, as there may be a million
            *lead, start = self.blocks.index(i)
            end = min(start + self.stop - i, self.blocks.grid[-1])
            for last in range(start, end):
                yield (*lead, last)
            i += end - start

    def number_of(self, index: Coords | None) -> int:
        """Return the number of the shard of a block, or of that of a member, by its number.

        What lies where a block has no chunks is no shard's, and so counts as the base's, 0.
        """
        if index is None:
            return self.number
        if self.members is not None:
            return self.number + self.members.shard_of(index[0])
        assert self.blocks is not None
        return self.number + self.blocks.number(index) if self.blocks.holds(index) else 0

    def cut(self, first: int, stop: int) -> Run:
        """Return a part of the run, with the locations of its own blocks only."""
        start, end = first - self.first, stop - self.first
        members = None if self.members is None else self.members.cut(start, end)
        part = msgspec.structs.replace(self, number=self.number + start, first=first, stop=stop, members=members)
        if self.chunks is not None:
            chunks = {index: self.chunks.get(index, ()) for index in part._indices() if index is not None}
            return msgspec.structs.replace(part, chunks=chunks)
        if not self.exceptions:
            return part
        names = (shard.block_name for shard in part.shards())
        kept = {name: self.exceptions[name] for name in names if name in self.exceptions}
        return msgspec.structs.replace(part, exceptions=kept)


def location_of(run: Run, shard: Shard, template: Location | None = None) -> Location:
    """Return the location of a shard; of several members together, with ``{name}`` for each.

    Parameters
    ----------
    run : Run
        The shards of one mount.
    shard : Shard
        One of them.
    template : Location, optional
        The location of all in another store than the run's own.
    """
    if template is None:
        return at_shard(run.location, run.division, shard.block_name, run.exceptions)
    return at_shard(template, run.division, shard.block_name)


def object_at(run: Run, shard: Shard) -> Location:
    """Return the location of the object that holds a shard."""
    return location_of(run, shard).held


def target_of(sink: Sink, run: Run) -> str:
    """Return the name of a run's objects, relative to the destination; with ``{block}`` for each of several."""
    if run.mounted is not None:
        return sink.base_target(bool(run.mounted))
    return sink.target(run.path, run.division is not None)


class Segment(msgspec.Struct, frozen=True):
    """A fixed range of a job's shards, or a part of one under the same number."""

    number: int
    runs: tuple[Run, ...]

    @property
    def label(self) -> str:
        """What the dashboard shows: the path of the first shard."""
        return self.runs[0].path or "base"

    @property
    def count(self) -> int:
        """The number of shards."""
        return sum(run.stop - run.first for run in self.runs)

    def cut(self, count: int) -> tuple[Segment, Segment | None]:
        """Return the first shards of the segment, and the rest; None where there is no rest."""
        left = count
        for i, run in enumerate(self.runs):
            if run.stop - run.first > left:
                head = (run.cut(run.first, run.first + left),) if left else ()
                rest = run.cut(run.first + left, run.stop)
                return Segment(self.number, self.runs[:i] + head), Segment(self.number, (rest, *self.runs[i + 1 :]))
            left -= run.stop - run.first
        return self, None

    def split(self) -> list[Segment]:
        """Return a segment of the same number for each shard."""
        return [Segment(self.number, (run.cut(i, i + 1),)) for run in self.runs for i in range(run.first, run.stop)]

    def without(self, done: frozenset[int]) -> Segment:
        """Return the segment without some shards; it may be empty."""
        kept: list[Run] = []
        for run in self.runs:
            left = [number for number in run.numbers if number not in done]
            for _, some in itertools.groupby(enumerate(left), lambda counted: counted[1] - counted[0]):
                stretch = [number for _, number in some]
                first = run.first + stretch[0] - run.number
                kept.append(run.cut(first, first + len(stretch)))
        return Segment(self.number, tuple(kept))


class Task(msgspec.Struct, frozen=True):
    """Some shards of a segment that a worker does in one go.

    `attempt` names the file of the task's records, so that a second run of the same task looks for the records of the
    first. A task without one looks for records of any earlier task. After `seconds` the task ends between two shards, and
    leaves the rest to another. Shards in `again` get the name that they had, of the generation that is given there: the
    config that is served until the job ends names it.
    """

    segment: Segment
    attempt: str = ""
    seconds: float = math.inf
    again: dict[int, int] = {}


class Load(NamedTuple):
    """What a mount's shards hold together, by arithmetic: chunks that are missing are counted."""

    files: int = 0
    nbytes: int = 0

    @property
    def weight(self) -> int:
        """How long it takes, in bytes."""
        return self.nbytes + self.files * PER_CHUNK

    def times(self, count: int) -> Load:
        """Return what so many of the kind hold."""
        return Load(self.files * count, self.nbytes * count)

    def of_stored(self, blocks: Blocks | None, chunks: Chunks | None) -> Load:
        """Return what the blocks hold that have chunks, or these chunks."""
        if blocks is None or blocks.stored is None:
            return self
        part, whole = blocks.count, math.prod(blocks.grid)
        if chunks is not None:
            part, whole = sum(map(len, chunks.values())), math.prod(blocks.chunk_grid)
        return Load(-(-self.files * part // whole), -(-self.nbytes * part // whole))

    def most(self, blocks: Blocks | None) -> int:
        """Return the most bytes that one shard takes decoded, with something for each file."""
        total = self.nbytes + self.files * PER_FILE
        if blocks is None:
            return total
        in_block = math.prod(blocks.chunks) * math.prod(blocks.chunk_grid[len(blocks.chunks) :])
        return -(-total * in_block // math.prod(blocks.chunk_grid))


class Plan(NamedTuple):
    """The shards of a store, and what is known of them before anything runs.

    `consolidated` are the groups that get consolidated metadata at the end, and `notices` the warnings about the job.
    """

    config: Config
    nodes: dict[str, Node]
    runs: tuple[Run, ...]
    loads: tuple[Load, ...]
    consolidated: tuple[str, ...] = ()
    notices: tuple[Notice, ...] = ()

    def noted(self, notices: Iterable[Notice]) -> Plan:
        """Return the plan with more warnings before its own."""
        return self._replace(notices=(*notices, *self.notices))

    @property
    def shard_count(self) -> int:
        """The number of shards, the base among them."""
        return self.runs[-1].number + self.runs[-1].stop

    @property
    def files(self) -> int:
        """The most files that the source can have."""
        return sum(load.files for load in self.loads)

    @property
    def nbytes(self) -> int:
        """The size of the decoded data, in bytes."""
        return sum(load.nbytes for load in self.loads)

    @property
    def source(self) -> str:
        """A digest of the source's metadata."""
        return digest(self.nodes)

    def segments(self, *, to_remote: bool = False) -> list[Segment]:
        """Cut the shards into segments of about equal weight; `to_remote` tells that they go to an object store."""
        total = sum(load.weight for load in self.loads)
        source = self.runs[-1].location if self.config.base.is_in_config else self.config.base
        is_far = to_remote or is_remote(url_of(source) or "")
        most = max(LEAST_WEIGHT // (FAR if is_far else 1), total // MOST_SEGMENTS)
        segments: list[Segment] = []
        open_runs: list[Run] = []
        room, places = most, MOST_SHARDS

        def close() -> None:
            nonlocal room, places
            if open_runs:
                segments.append(Segment(len(segments), tuple(open_runs)))
            open_runs.clear()
            room, places = most, MOST_SHARDS

        for run, load in zip(self.runs, self.loads, strict=True):
            weight = max(load.weight // (run.stop - run.first), 1)
            first = run.first
            while first < run.stop:
                take = min(run.stop - first, max(room // weight, 0 if open_runs else 1), places)
                if not take:
                    close()
                    continue
                open_runs.append(run.cut(first, first + take))
                first, room, places = first + take, room - take * weight, places - take
        close()
        return segments


def make_plan(config: Config, consolidated: bool | None = None, *, needs_empty: bool = False) -> Plan:
    """Number and weigh the shards of a store, from its metadata, and for sparse arrays from what is listed.

    With `needs_empty`, blocks without chunks are shards too.

    Raises
    ------
    PartitionError
        Where an array is not there, or no longer as it was when it was divided.
    UsageError
        Where consolidated metadata is asked for, and the root is no group.
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
    homes = MountIndex(mounted)
    loads: dict[str | None, list[int]] = {None: [0, 0], **{path: [0, 0] for path in mounted}}
    for path, node in nodes.items():
        home = homes.find(path)
        loads[home][0] += len(node.documents)
        if isinstance(node.meta, ArrayMeta):
            load = loads[path if isinstance(mounted.get(path), Blocks) else home]
            load[0] += node.meta.chunk_count
            load[1] += node.meta.nbytes
    groups = _groups(nodes, consolidated)
    whole = _by_home(homes, _whole(groups, mounted))
    stale, inside = _by_home(homes, _groups(nodes, None)), _by_home(homes, nodes_in_arrays(nodes))
    runs, found = list[Run](), list[Load]()
    for run, (home, counts) in zip(shard_runs(config), loads.items(), strict=True):
        own, members = Load(*counts), run.members
        if members is None:
            found_chunks = None if home is None else chunks.get(home)
            known = msgspec.structs.replace(
                run,
                consolidated=stale[home],
                inside=inside[home],
                nbytes=own.most(run.blocks),
                chunks=found_chunks,
                rebuilt={path: undocumented(nodes, join(run.path, path)) for path in sorted(whole[home])},
                base=_base(config, nodes, home),
            )
            own = own.of_stored(run.blocks, found_chunks)
        else:
            known = _of_members(run, members, nodes, consolidated)
        runs.append(known)
        found.append(own if members is None or members.parts else own.times(len(members.names)))
    notices = tuple(hierarchy_notices(nodes))
    return Plan(config, nodes, tuple(runs), tuple(found), groups, notices)


def _base(config: Config, nodes: Mapping[str, Node], path: str | None) -> Location | None:
    """Return the base, where it has attributes of an array that the objects of the array's blocks do not carry."""
    mount = config.shards.get(path or "")
    if path is None or mount is None or mount.blocks is None or (mount.is_view and not mount.exceptions):
        return None
    documents = nodes[path].documents if path in nodes else {}
    return config.base if any(left_out(name, data, path) for name, data in documents.items()) else None


def _whole(groups: Iterable[str], mounted: Mapping[str, Division | None]) -> Iterator[str]:
    """Yield the groups below which nothing is mounted, nor members of a collection."""
    mounts = Mounts(mounted)
    return (group for group in groups if not mounts.any_below(group) and mounted.get(group) is None)


def _by_home(homes: MountIndex, paths: Iterable[str]) -> defaultdict[str | None, frozenset[str]]:
    """Return paths by the mount that holds them, each as it is there."""
    found: defaultdict[str | None, frozenset[str]] = defaultdict(frozenset)
    for home, some in groupby(homes.find, paths).items():
        found[home] = frozenset(some if home is None else [path[len(home) :].lstrip("/") for path in some])
    return found


def _listed(config: Config) -> dict[str, Chunks]:
    """Return the chunks of the sparse arrays among the views of a store, by path."""
    opened = cache(methodcaller("open"))  # the directory of a zip is read once for all its arrays
    found = ((path, find_chunks(mount, opened)) for path, mount in config.shards.items())
    return {path: chunks for path, chunks in found if chunks is not None}


def _without_empty(config: Config, chunks: Mapping[str, Chunks]) -> Config:
    """Return a store whose blocks are those that have chunks, where that is known and not said yet."""

    def said(path: str, mount: Mount) -> Mount:
        if mount.blocks is None or mount.blocks.stored is not None or path not in chunks:
            return mount
        return msgspec.structs.replace(mount, blocks=mount.blocks.only(chunks[path]))

    shards = {path: said(path, mount) for path, mount in config.shards.items()}
    return msgspec.structs.replace(config, shards=shards) if chunks else config


def listed_runs(config: Config) -> list[Run]:
    """Return the shards of a store as `shard_runs` does, with the chunks of sparse arrays."""
    chunks = _listed(config)
    return [
        run if run.mounted is not None else msgspec.structs.replace(run, chunks=chunks.get(run.path))
        for run in shard_runs(config)
    ]


def changed_chunks(plan: Plan) -> dict[str, frozenset[int]]:
    """Return the sparse arrays that have other chunks than when they were listed, each with the numbers of the shards that these are of.

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


def _all_of(division: Division | None) -> Division | None:
    """Return a division with all of its blocks, also those without chunks."""
    if not isinstance(division, Blocks) or division.stored is None:
        return division
    return msgspec.structs.replace(division, stored=None)


def _of_members(run: Run, members: Members, nodes: Mapping[str, Node], consolidated: bool | None) -> Run:
    """Return a run of members with their format, and whether they lose their consolidated metadata."""
    if consolidated and not members.parts:
        raise UsageError(
            f"consolidated=True would need the metadata of all {len(members.names):,} members of a collection, which only the "
            "workers read: leave it out"
        )
    zarr_format = nodes[join(run.path, members.names[0])].meta.zarr_format
    stale = None if members.parts or consolidated is False else frozenset[str]()
    return msgspec.structs.replace(run, zarr_format=zarr_format, consolidated=stale)


def shard_runs(config: Config) -> list[Run]:
    """Return the shards of a store, numbered as in a job, from its config alone."""
    mounted = {path: _all_of(mount.division) for path, mount in config.shards.items()}
    runs = [Run(0, "", config.base, mounted=mounted)]
    for path, mount in config.shards.items():
        number = runs[-1].number + runs[-1].stop
        one = Run(number, path, mount.location, mount.blocks, 0, mount.count, mount.exceptions, members=mount.members)
        runs.append(one)
    return runs


def _groups(nodes: Mapping[str, Node], consolidated: bool | None) -> tuple[str, ...]:
    """Return the groups that get consolidated metadata: those of the source, with True also the root, with False none."""
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
