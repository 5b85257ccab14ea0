"""The components of a plan's runs, opened: of a view, what it is a view of is opened once."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from zarr.abc.store import Store

from shardedstore.chain import Shard
from shardedstore.grid import block_name
from shardedstore.kinds import Location, Opened, ViewOf
from shardedstore.opening import open_block, open_location
from shardedstore.plan import Run, Segment
from shardedstore.views import Remainder


def opened_runs(segment: Segment) -> Iterator[Run]:
    """Yield a segment's runs with their sources open, so that the directory of a zip is read once for all its shards."""
    sources: dict[Location, Opened] = {}
    for run in segment.runs:
        if not isinstance(run.location, ViewOf):
            yield run
            continue
        source = run.location.source
        if source not in sources:
            sources[source] = Opened(open_location(source))
        yield msgspec.structs.replace(run, location=ViewOf(sources[source], run.location.path))


def open_component(run: Run, shard: Shard) -> Store:
    """Open the component of a shard; of the base, what is not mounted."""
    if run.mounted is not None:
        return Remainder(open_location(run.location), run.mounted)
    if shard.blocks is None or shard.block is None:
        return open_location(run.location)
    exception = run.exceptions.get(block_name(shard.block))
    return open_block(run.location, shard.blocks, shard.block) if exception is None else open_location(exception)
