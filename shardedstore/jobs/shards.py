"""The shards of a job: numbered, weighed, and cut into segments of about equal weight.

Ranges describe the shards, so there is no object for each shard. A segment is a fixed range of shard numbers on every
cluster, and records are kept by segment. A task is any part of a segment.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from shardedstore.jobs.sparse import Chunks
from shardedstore.notices import Notice
from shardedstore.storage.urls import is_remote
from shardedstore.stores.hierarchy import Node, digest
from shardedstore.stores.locations import Config, Location, at_shard, url_of
from shardedstore.stores.members import Division, Members
from shardedstore.transforms.base.shard import Shard
from shardedstore.transforms.base.sink import Sink
from shardedstore.zarr.grid import Blocks, Coords
from shardedstore.zarr.paths import join

PER_FILE = 1 << 10  # the most bytes of a file's names and headers in a zip
PER_CHUNK = 32 << 10  # bytes; copying them takes as long as opening a chunk
LEAST_WEIGHT = 192 << 20  # bytes of a segment, about 100 ms: scheduling smaller segments costs more than it gains
FAR = 8  # the time of a transfer from or to an object store, relative to a local one
MOST_SEGMENTS = 4096
MOST_SHARDS = 256  # in a segment


class Run(msgspec.Struct, frozen=True):
    """A range of shards of one mount.

    The mount is the base, a whole component, an array in blocks, or members.

    Attributes
    ----------
    number : int
        The number of the first shard in the job.
    path : str
        The path of the mount; empty for the base.
    location : Location
        The location of the component; ``{block}`` stands for the name of each of several shards.
    blocks : Blocks or None
        The division of the array, if the mount is an array in blocks.
    first, stop : int
        The range of shards in the mount, without `stop`.
    exceptions : dict of str to Location
        The shards with a location of their own, by name.
    mounted : dict of str to Division or None
        The paths that the base leaves out, with their divisions; None for all other mounts.
    consolidated : frozenset of str or None
        The groups in the component whose consolidated metadata is dropped because it would be stale; None for all groups.
    nbytes : int
        The most decoded bytes of a shard, with `PER_FILE` bytes for each file.
    members : Members or None
        The members of these shards, if the mount is a collection or has parts.
    zarr_format : int
        The required Zarr format of the members; 0 for other mounts.
    chunks : dict or None
        The listed chunks of a view, by block; None if they were not listed.
    inside : frozenset of str or None
        The nodes in the component that lie inside arrays; None if they are unknown.
    rebuilt : dict of str to dict
        The groups that get consolidated metadata in the component because it holds their whole subtree. The values are the
        entries of that metadata that have no document.
    base : Location or None
        The base, if it has attributes of the array that the objects of the blocks do not carry.
    decoded_nbytes : int
        The decoded bytes of a shard, on average; `nbytes` is an upper bound.
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
    decoded_nbytes: int = 0

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
        """The division of the mount; None for one component."""
        return self.members or self.blocks

    def _indices(self) -> Iterator[Coords | None]:
        if self.blocks is None:
            yield None
            return
        if self.blocks.stored is not None:
            yield from map(self.blocks.index, range(self.first, self.stop))
            return
        i = self.first
        while i < self.stop:  # row by row of the grid, because there may be a million blocks
            *lead, start = self.blocks.index(i)
            end = min(start + self.stop - i, self.blocks.grid[-1])
            for last in range(start, end):
                yield (*lead, last)
            i += end - start

    def number_of(self, index: Coords | None) -> int:
        """Return the number of the shard of a block's index, or of a member's number.

        A block without chunks has no shard, so its number is 0, the number of the base.
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
    """Return the location of a shard; ``{name}`` stands for each of several members.

    Parameters
    ----------
    run : Run
        The shards of one mount.
    shard : Shard
        A shard of the run.
    template : Location, optional
        The location of all shards of the run in another store, with ``{block}``.
    """
    if template is None:
        return at_shard(run.location, run.division, shard.block_name, run.exceptions)
    return at_shard(template, run.division, shard.block_name)


def object_at(run: Run, shard: Shard) -> Location:
    """Return the location of the object that holds a shard."""
    return location_of(run, shard).held


def target_of(sink: Sink, run: Run) -> str:
    """Return the name of a run's objects, relative to the destination.

    If the run's mount is divided, ``{block}`` stands for the name of each shard.
    """
    if run.mounted is not None:
        return sink.base_target(bool(run.mounted))
    return sink.target(run.path, run.division is not None)


class Segment(msgspec.Struct, frozen=True):
    """A fixed range of a job's shards, or a part of one under the same number."""

    number: int
    runs: tuple[Run, ...]

    @property
    def label(self) -> str:
        """The label on the dashboard: the path of the first shard."""
        return self.runs[0].path or "base"

    @property
    def count(self) -> int:
        """The number of shards."""
        return sum(run.stop - run.first for run in self.runs)

    def cut(self, count: int) -> tuple[Segment, Segment | None]:
        """Return the first `count` shards of the segment, and the rest; None if no shards are left."""
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
        """Return the segment without the shards of these numbers; it may be empty."""
        kept: list[Run] = []
        for run in self.runs:
            left = [number for number in run.numbers if number not in done]
            for _, some in itertools.groupby(enumerate(left), lambda counted: counted[1] - counted[0]):
                stretch = [number for _, number in some]
                first = run.first + stretch[0] - run.number
                kept.append(run.cut(first, first + len(stretch)))
        return Segment(self.number, tuple(kept))


class Task(msgspec.Struct, frozen=True):
    """The shards of a segment that a worker runs in one call.

    Attributes
    ----------
    segment : Segment
        The shards.
    attempt : str
        The name of the file of the task's records. A second run of the same task reads the records of the first run from
        it. A task with an empty name reads the records of all earlier tasks of the segment.
    seconds : float
        The time limit. After it the task ends before the next shard, and leaves the other shards to another task.
    again : dict of int to int
        Generations by shard number. These shards are written under their names of that generation, because the config that
        readers use until the job ends refers to these names.
    """

    segment: Segment
    attempt: str = ""
    seconds: float = math.inf
    again: dict[int, int] = {}


class Load(NamedTuple):
    """The computed numbers of files and decoded bytes in shards; missing chunks are counted."""

    files: int = 0
    nbytes: int = 0

    @property
    def weight(self) -> int:
        """The time of a copy, in bytes that take as long to copy."""
        return self.nbytes + self.files * PER_CHUNK

    def times(self, count: int) -> Load:
        """Return the load of `count` loads like this one."""
        return Load(self.files * count, self.nbytes * count)

    def of_stored(self, blocks: Blocks | None, chunks: Chunks | None) -> Load:
        """Return the part of the load in `chunks`, or in the blocks that have chunks."""
        if blocks is None or blocks.stored is None:
            return self
        part, whole = blocks.count, math.prod(blocks.grid)
        if chunks is not None:
            part, whole = sum(map(len, chunks.values())), math.prod(blocks.chunk_grid)
        return Load(-(-self.files * part // whole), -(-self.nbytes * part // whole))

    def most(self, blocks: Blocks | None) -> int:
        """Return the most decoded bytes of one shard, with `PER_FILE` bytes for each file."""
        total = self.nbytes + self.files * PER_FILE
        if blocks is None:
            return total
        in_block = math.prod(blocks.chunks) * math.prod(blocks.chunk_grid[len(blocks.chunks) :])
        return -(-total * in_block // math.prod(blocks.chunk_grid))


class Plan(NamedTuple):
    """The shards of a store, as known before the job runs.

    Attributes
    ----------
    config : Config
        The config of the source.
    nodes : dict of str to Node
        The metadata of the source, by path.
    runs : tuple of Run
        The shards: first the base, then a run for each mount.
    loads : tuple of Load
        The load of each run, for all its shards.
    consolidated : tuple of str
        The groups that get consolidated metadata at the end of the job.
    notices : tuple of Notice
        The warnings about the job.
    nodes_after : dict of str to Node, or None
        The metadata after the steps of a chain; None before the chain is checked.
    """

    config: Config
    nodes: dict[str, Node]
    runs: tuple[Run, ...]
    loads: tuple[Load, ...]
    consolidated: tuple[str, ...] = ()
    notices: tuple[Notice, ...] = ()
    nodes_after: Mapping[str, Node] | None = None

    def noted(self, notices: Iterable[Notice]) -> Plan:
        """Return the plan with these warnings before its own."""
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
        """Cut the shards into segments of about equal weight.

        Segments are smaller if shards are read from an object store, or written to one (`to_remote`).
        """
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


def decoded_nbytes(runs: Iterable[Run], numbers: frozenset[int]) -> int:
    """Return the decoded bytes of shards, given by their numbers."""
    return sum(run.decoded_nbytes * sum(number in numbers for number in run.numbers) for run in runs)


def shard_runs(config: Config) -> list[Run]:
    """Return the shards of a store, numbered from its config alone."""
    mounted = {path: _all_of(mount.division) for path, mount in config.shards.items()}
    runs = [Run(0, "", config.base, mounted=mounted)]
    for path, mount in config.shards.items():
        number = runs[-1].number + runs[-1].stop
        one = Run(number, path, mount.location, mount.blocks, 0, mount.count, mount.exceptions, members=mount.members)
        runs.append(one)
    return runs


def _all_of(division: Division | None) -> Division | None:
    """Return a division with all blocks of its grid, including blocks without chunks."""
    if not isinstance(division, Blocks) or division.stored is None:
        return division
    return msgspec.structs.replace(division, stored=None)
