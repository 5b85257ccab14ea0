"""The sources of shards, opened; the source of several views is opened once."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from zarr.abc.store import Store
from zarr.core.sync import sync

from shardedstore.jobs.shards import Run, Segment, location_of
from shardedstore.stores.bundle import Bundle
from shardedstore.stores.locations import Location, Opened, ViewOf, at_member, beside_others, is_template, show
from shardedstore.stores.registry import open_block, open_location
from shardedstore.stores.views import Remainder, View
from shardedstore.transforms.base.chain import Shard


def opened_runs(segment: Segment) -> Iterator[Run]:
    """Yield a segment's runs with their sources open, so that the directory of a zip is read once for all its shards."""
    sources: dict[Location, Opened] = {}
    for run in segment.runs:
        if run.base is not None:
            if run.base not in sources:
                sources[run.base] = Opened(open_location(run.base))
            run = msgspec.structs.replace(run, base=sources[run.base])  # noqa: PLW2901
        if not isinstance(run.location, ViewOf) or is_template(run.location):
            yield run
            continue
        source = run.location.source
        if source not in sources:
            sources[source] = Opened(open_location(source))
        yield msgspec.structs.replace(run, location=ViewOf(sources[source], run.location.path))


def _bundle(run: Run, shard: Shard) -> Bundle:
    """Return several members as one store; what they are views of is opened once."""
    sources: dict[Location, Store] = {}
    template = location_of(run, shard)

    def open_member(name: str) -> Store:
        location = beside_others(at_member(template, shard.block_name, name))
        if not isinstance(location, ViewOf):
            return open_location(location)
        if isinstance(location.source, Opened):
            return View(location.source.store, location.path)
        if location.source not in sources:
            sources[location.source] = open_location(location.source)
        return View(sources[location.source], location.path)

    zarr_format = run.zarr_format or (3 if sync(open_member(shard.members[0]).exists("zarr.json")) else 2)
    return Bundle(shard.members, open_member, zarr_format)


def with_component(run: Run, shard: Shard) -> Shard:
    """Return a shard with the name of its component for messages, if that is a store by itself."""
    if run.mounted is not None or shard.bundle is not None:
        return shard
    if isinstance(run.location, ViewOf) and run.location.path == run.path and not run.exceptions:
        return shard
    location = location_of(run, shard)
    if isinstance(location, Opened) or (isinstance(location, ViewOf) and location.path == shard.path):
        return shard
    return msgspec.structs.replace(shard, component=show(location))


def open_shard(run: Run, shard: Shard) -> Store:
    """Open the source of a shard; the base is opened without the mounted groups and arrays."""
    if run.mounted is not None:
        return Remainder(open_location(run.location), run.mounted)
    if shard.bundle is not None:
        return _bundle(run, shard)
    if shard.members:
        return open_location(beside_others(location_of(run, shard)))
    if shard.blocks is None or shard.block is None:
        return open_location(run.location)
    exception = run.exceptions.get(shard.block_name)
    chunks = None if run.chunks is None else run.chunks.get(shard.block, ())
    return (
        open_block(run.location, shard.blocks, shard.block, chunks) if exception is None else open_location(exception)
    )
