"""What is there of a job, shown as one Zarr: shards that are done from their new place, the others from the source.

Where the chain leaves all as it is, blocks of one array mix freely. Where it changes arrays, one is shown from the result
as soon as all its blocks are done, and the base, which holds its metadata. Where it changes the Zarr format, or makes one
ordinary Zarr, the source is shown until the end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import msgspec
from zarr.core.sync import sync

from shardedstore.generations import versioned
from shardedstore.grid import Coords, block_name
from shardedstore.hierarchy import read_nodes
from shardedstore.kinds import BlockOf, Config, Location, Mount, Place, ViewOf, at_block, map_places
from shardedstore.ledger import Record
from shardedstore.opening import open_location
from shardedstore.outcome import Partial
from shardedstore.plan import Run, shard_runs
from shardedstore.planned import Mixes
from shardedstore.result import as_now

SOURCE, ELSEWHERE = 0, -1  # where a shard is, if not in its place of a generation


class Half(NamedTuple):
    """What is known of a job that has not ended: its source, what it makes, and the records of what is there.

    `result` has the names of generation 1; it is None for a function, whose records say where its stores are.
    """

    source: Config
    result: Config | None
    mixes: Mixes
    generation: int
    records: Mapping[int, Record]

    def generation_of(self, number: int) -> int:
        """Return the generation whose object a shard is, or `SOURCE` or `ELSEWHERE`."""
        record = self.records.get(number)
        if record is None:
            return SOURCE
        return ELSEWHERE if record.location is not None else record.generation or self.generation

    def is_done(self, run: Run) -> bool:
        """Tell whether all shards of a run are done."""
        return all(number in self.records for number in run.numbers)

    def template(self, run: Run, generation: int) -> Location:
        """Return where a generation puts the shards of a run."""
        assert self.result is not None
        planned = self.result.base if run.mounted is not None else self.result.shards[run.path].location

        def named(place: Place) -> Place:
            return msgspec.structs.replace(place, url=versioned(place.url, generation))

        return map_places(planned, named)

    def shards(self, run: Run) -> Iterator[tuple[int, Location]]:
        """Yield the numbers of the shards of a run, and where they are."""
        for i in range(run.stop):
            block = None if run.blocks is None else run.blocks.index(i)
            yield run.number + i, self.location(run, run.number + i, block)

    def location(self, run: Run, number: int, block: Coords | None) -> Location:
        """Return where a shard is now."""
        record, generation = self.records.get(number), self.generation_of(number)
        if record is not None and record.location is not None:
            return record.location
        if generation != SOURCE:
            template = self.template(run, generation)
            return template if block is None else at_block(template, block)
        if run.blocks is None or block is None:
            return run.location
        if isinstance(run.location, ViewOf) and block_name(block) not in run.exceptions:
            return BlockOf(run.location.source, run.location.path, run.blocks, block)
        return run.exceptions.get(block_name(block)) or at_block(run.location, block)


def mixed(half: Half) -> tuple[Config, Partial]:
    """Return the config that shows what is there of a job, and for the rest its source."""
    base, *runs = shard_runs(half.source)
    total = base.stop + sum(run.stop for run in runs)
    reason = _to_wait_for(half, runs)
    if reason:
        return half.source, Partial(0, len(half.records), total, reason)
    if half.mixes == "blocks":
        shown = {run.path: mount(half, run) for run in runs}
        config = Config(half.location(base, 0, None), shown, half.source.consolidated)
        count = len(half.records)
    else:
        config = Config(half.location(base, 0, None), dict(_each_whole(half, base, runs)))
        count = sum(run.stop for run in (base, *runs) if half.is_done(run))
    return config, Partial(count, len(half.records), total, _waiting(half, [base, *runs]))


def _to_wait_for(half: Half, runs: list[Run]) -> str:
    """Return why nothing but the source can be shown yet; empty where something can."""
    if half.mixes == "blocks":
        return ""
    if half.mixes == "end":
        return "one ordinary Zarr, or another Zarr format, is shown when all of it is there"
    record = half.records.get(0)
    if record is None:
        return "the base, which holds metadata, is not done"
    apart = (run for run in runs if run.blocks is not None and not _is_view(run) and not half.is_done(run))
    if (run := next(apart, None)) is not None:
        return f"the metadata of {run.path!r}, which is not done, can't be shown apart from that of what is"
    base = shard_runs(half.source)[0]
    if _is_v3(half.location(base, 0, None)) != _is_v3(half.source.base):
        return "another Zarr format is shown when all of it is there"
    return ""


def _is_view(run: Run) -> bool:
    """Tell whether a divided array of the source can be mounted whole."""
    return bool(run.path) and isinstance(run.location, ViewOf) and not run.exceptions


def _is_v3(base: Location) -> bool:
    return sync(open_location(base).exists("zarr.json"))


def _waiting(half: Half, runs: list[Run]) -> str:
    names = ["the base" if run.mounted is not None else repr(run.path) for run in runs if not half.is_done(run)]
    if len(names) > 1:
        return f"{names[0]} and {len(names) - 1} more are not done"
    return f"{names[0]} is not done" if names else ""


def _each_whole(half: Half, base: Run, runs: list[Run]) -> Iterator[tuple[str, Mount]]:
    """Yield mounts on the new base: those that are done as they are now, and of the others what the source has there."""
    nodes = read_nodes(Config(half.location(base, 0, None)))
    for run in runs:
        if half.is_done(run):
            made = mount(half, run)
            if half.result is not None:
                made = msgspec.structs.replace(made, blocks=half.result.shards[run.path].blocks)
            yield run.path, as_now(run.path, made, nodes.get(run.path), None)
        else:
            yield run.path, Mount(run.location)


def mount(half: Half, run: Run) -> Mount:
    """Return where the shards of a run are: where the most of them are, and the others by name."""
    if run.blocks is None:
        return Mount(half.location(run, run.number, None))
    ((most, _),) = Counter(map(half.generation_of, run.numbers)).most_common(1)
    exceptions = {
        block_name(block): half.location(run, number, block)
        for number, block in zip(run.numbers, map(run.blocks.index, range(run.stop)), strict=True)
        if half.generation_of(number) != most or most == ELSEWHERE
    }
    if most == SOURCE:
        return Mount(run.location, run.blocks, {**run.exceptions, **exceptions})
    if most == ELSEWHERE:
        return Mount(next(iter(exceptions.values())), run.blocks, exceptions)
    return Mount(half.template(run, most), run.blocks, exceptions)
