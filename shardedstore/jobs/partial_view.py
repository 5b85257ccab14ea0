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

from shardedstore.chain import Shard
from shardedstore.components.kinds import BlockOf, Config, Location, Mount, Place, ViewOf, at_shard, map_places
from shardedstore.components.opening import open_location
from shardedstore.jobs.result import as_now
from shardedstore.reading.hierarchy import read_nodes
from shardedstore.tasks.generations import versioned
from shardedstore.tasks.ledger import Record
from shardedstore.tasks.outcome import Partial
from shardedstore.tasks.plan import Run, shard_runs
from shardedstore.tasks.result_preview import Mixes, held, veiled_base

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
        yield from ((number, self.location(run, number, shard)) for number, shard in run.shards())

    def location(self, run: Run, number: int, shard: Shard) -> Location:
        """Return where a shard is now; of several members, with ``{name}`` for each."""
        record, generation, name = self.records.get(number), self.generation_of(number), shard.block_name
        if record is not None and record.location is not None:
            return held(record.location, run.members)
        if generation != SOURCE:
            return veiled_base(at_shard(self.template(run, generation), run.division, name), run, self.records)
        if isinstance(run.location, ViewOf) and shard.block is not None and name not in run.exceptions:
            assert shard.blocks is not None
            return BlockOf(run.location.source, run.location.path, shard.blocks, shard.block)
        return at_shard(run.location, run.division, name, run.exceptions)

    def base(self) -> Location:
        """Return where the base is now."""
        (_, location), *_ = self.shards(shard_runs(self.source)[0])
        return location


def mixed(half: Half) -> tuple[Config, Partial]:
    """Return the config that shows what is there of a job, and for the rest its source."""
    base, *runs = shard_runs(half.source)
    total = base.stop + sum(run.stop for run in runs)
    reason = _to_wait_for(half, runs)
    if reason:
        return half.source, Partial(0, len(half.records), total, reason)
    if half.mixes == "blocks":
        shown = {run.path: mount(half, run) for run in runs}
        config = Config(half.base(), shown, half.source.consolidated)
        count = len(half.records)
    else:
        config = Config(half.base(), dict(_each_whole(half, runs)))
        count = sum(_count_shown(half, run) for run in (base, *runs))
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
    if _is_v3(half.base()) != _is_v3(half.source.base):
        return "another Zarr format is shown when all of it is there"
    return ""


def _count_shown(half: Half, run: Run) -> int:
    """Return how many shards of a run are shown from the result: of members those that are done, else all or none."""
    if run.members is not None:
        return sum(number in half.records for number in run.numbers)
    return run.stop if half.is_done(run) else 0


def _is_view(run: Run) -> bool:
    """Tell whether a divided array of the source can be mounted whole."""
    return bool(run.path) and isinstance(run.location, ViewOf) and not run.exceptions


def _is_v3(base: Location) -> bool:
    return sync(open_location(base).exists("zarr.json"))


def _waiting(half: Half, runs: list[Run]) -> str:
    called = ("the base" if run.mounted is not None else repr(run.path or "/") for run in runs if not half.is_done(run))
    names = list(called)
    if len(names) > 1:
        return f"{names[0]} and {len(names) - 1} more are not done"
    return f"{names[0]} is not done" if names else ""


def _each_whole(half: Half, runs: list[Run]) -> Iterator[tuple[str, Mount]]:
    """Yield mounts on the new base: those that are done as they are now, and of the others what the source has there.

    Members are Zarrs of their own, so that those that are done stand beside others.
    """
    nodes = read_nodes(Config(half.base()))
    for run in runs:
        if run.members is not None:
            yield run.path, mount(half, run)
        elif half.is_done(run):
            made = mount(half, run)
            if half.result is not None:
                made = msgspec.structs.replace(made, blocks=half.result.shards[run.path].blocks)
            yield run.path, as_now(run.path, made, nodes.get(run.path), None)
        else:
            yield run.path, Mount(run.location)


def mount(half: Half, run: Run) -> Mount:
    """Return where the shards of a run are: where the most of them are, and the others by name."""
    if run.division is None:
        ((_, location),) = half.shards(run)
        return Mount(location)
    ((most, _),) = Counter(map(half.generation_of, run.numbers)).most_common(1)
    exceptions = {
        shard.block_name: half.location(run, number, shard)
        for number, shard in run.shards()
        if half.generation_of(number) != most or most == ELSEWHERE
    }
    if most == SOURCE:
        blocks = run.blocks and msgspec.structs.replace(run.blocks, stored=None)  # as the source has them now
        return Mount(run.location, blocks, {**run.exceptions, **exceptions}, run.members)
    if most == ELSEWHERE:
        return Mount(next(iter(exceptions.values())), run.blocks, exceptions, run.members)
    return Mount(half.template(run, most), run.blocks, exceptions, run.members)
