"""Open the sources of shards; views share one open source."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from zarr.abc.store import Store
from zarr.core.sync import sync

from shardedstore.jobs.shards import Run, Segment, location_of
from shardedstore.stores.base import Remainder
from shardedstore.stores.bundle import Bundle
from shardedstore.stores.location import OpenSources
from shardedstore.transforms.base.shard import Shard


def opened_runs(segment: Segment) -> Iterator[Run]:
    """Yield a segment's runs with open sources. The directory of a zip is read once for all shards in it."""
    sources = OpenSources()
    for run in segment.runs:
        base = None if run.base is None else sources.opened(run.base)
        yield msgspec.structs.replace(run, base=base, location=sources.shared(run.location))


def _bundle(run: Run, shard: Shard) -> Bundle:
    """Return several members as one store; the source that they are views of is opened once."""
    sources, template = OpenSources(), location_of(run, shard)

    def open_member(name: str) -> Store:
        return sources.shared(template.at_member(shard.block_name, name).beside_others()).open()

    zarr_format = run.zarr_format or (3 if sync(open_member(shard.members[0]).exists("zarr.json")) else 2)
    return Bundle(shard.members, open_member, zarr_format)


def with_component(run: Run, shard: Shard) -> Shard:
    """Return a shard, and the name of its component for messages if the component is a store of its own."""
    if run.mounted is not None or shard.bundle is not None:
        return shard
    if run.location.divides_source and run.location.view[1] == run.path and not run.exceptions:
        return shard
    location = location_of(run, shard)
    if location.is_open or (location.is_view and location.view[1] == shard.path):
        return shard
    return msgspec.structs.replace(shard, component=location.show())


def open_shard(run: Run, shard: Shard) -> Store:
    """Open the source of a shard; the base is opened without the mounted groups and arrays."""
    if run.mounted is not None:
        return Remainder(run.location.open(), run.mounted)
    if shard.bundle is not None:
        return _bundle(run, shard)
    if shard.members:
        return location_of(run, shard).beside_others().open()
    if shard.blocks is None or shard.block is None:
        return run.location.open()
    exception = run.exceptions.get(shard.block_name)
    chunks = None if run.chunks is None else run.chunks.get(shard.block, ())
    return run.location.open_block(shard.blocks, shard.block, chunks) if exception is None else exception.open()
