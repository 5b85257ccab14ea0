"""The components of a plan's runs, opened: of a view, what it is a view of is opened once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

import msgspec
from zarr.abc.store import Store
from zarr.core.sync import sync

from shardedstore.errors import CorruptError, UsageError
from shardedstore.jobs.shards import Run, Segment
from shardedstore.storage.crc import crc32
from shardedstore.stores.bundle import Bundle
from shardedstore.stores.entries import read_entries
from shardedstore.stores.listing import can_list, listing
from shardedstore.stores.locations import (
    Config,
    Group,
    Location,
    Opened,
    Own,
    ViewOf,
    at_member,
    at_shard,
    beside_others,
    is_template,
    origin,
    show,
)
from shardedstore.stores.registry import open_block, open_location
from shardedstore.stores.views import Remainder, View
from shardedstore.transforms.base.chain import Entries, Shard, Tally


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
    template = at_shard(run.location, run.members, shard.block_name, run.exceptions)

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


def located(run: Run, shard: Shard) -> Shard:
    """Return a shard that says what its component is, for messages, where that is a store by itself."""
    if run.mounted is not None or shard.bundle is not None:
        return shard
    if isinstance(run.location, ViewOf) and run.location.path == run.path and not run.exceptions:
        return shard
    location = at_shard(run.location, run.division, shard.block_name, run.exceptions)
    if isinstance(location, Opened) or (isinstance(location, ViewOf) and location.path == shard.path):
        return shard
    return msgspec.structs.replace(shard, component=show(location))


def open_component(run: Run, shard: Shard) -> Store:
    """Open the component of a shard; of the base, what is not mounted."""
    if run.mounted is not None:
        return Remainder(open_location(run.location), run.mounted)
    if shard.bundle is not None:
        return _bundle(run, shard)
    if shard.members:
        return open_location(beside_others(at_shard(run.location, run.members, shard.block_name, run.exceptions)))
    if shard.blocks is None or shard.block is None:
        return open_location(run.location)
    exception = run.exceptions.get(shard.block_name)
    chunks = None if run.chunks is None else run.chunks.get(shard.block, ())
    return (
        open_block(run.location, shard.blocks, shard.block, chunks) if exception is None else open_location(exception)
    )


Changed = Literal["metadata", "listing", "content"]

LEVELS: tuple[Changed, ...] = get_args(Changed)


def check_level(level: Changed, config: Config) -> None:
    """Refuse a level that some component of a source does not allow.

    Raises
    ------
    UsageError
    """
    for what, location in _components(config) if level == "listing" else ():
        place = origin(location)
        if isinstance(place, Own) and is_template(place):
            continue  # each is looked at when it is opened
        if isinstance(place, Config) or not can_list(open_location(place)):
            shown = "a store of stores" if isinstance(place, Config) else show(place)
            raise UsageError(
                f"changed={level!r} compares keys with their sizes and tags, and {what}, {shown}, lists none: say "
                "changed='metadata', which looks at documents alone, or changed='content', which reads all"
            )


def _components(config: Config) -> Iterator[tuple[str, Location]]:
    if not isinstance(config.base, Group):  # whose documents are in the config
        yield "the base", config.base
    for path, mount in config.shards.items():
        yield f"shard {path!r}", mount.location
        yield from ((f"shard '{path}[{name}]'", location) for name, location in mount.exceptions.items())


class ChangeDetector:
    """Sees a shard's entries as they are read, and tells afterwards what the source was; "" for its metadata alone.

    Parameters
    ----------
    level
        How closely to look.
    component : Store
        The source of the shard.
    """

    def __init__(self, level: Changed, component: Store) -> None:
        self._level, self._component = level, component
        self._before = listing(component) if level == "listing" else ""
        self._tally = Tally()

    def watch(self, entries: Entries, shard: Shard) -> Entries:
        """Pass entries on, and `check` after the last."""
        return entries if self._level == "metadata" else self._watched(entries, shard)

    def _watched(self, entries: Entries, shard: Shard) -> Entries:
        for entry in entries:
            if self._level == "content":
                self._tally.add(entry.key, memoryview(entry.data).nbytes, crc32(entry.data))
            yield entry
        self.check(shard)

    def check(self, shard: Shard) -> None:
        """Raise CorruptError when the source's listing is not what it was at first."""
        if self._level == "listing" and listing(self._component) != self._before:
            raise CorruptError(
                f"the source of shard {shard.name!r} changed while it was read: let no one write to it, and run the job again"
            )

    @property
    def source(self) -> str:
        """What the record says of the source."""
        if self._level == "metadata":
            return ""
        return f"{self._level} {self._before or self._tally.written(0).digest}"


class Recorded(msgspec.Struct, frozen=True):
    """Some shards, and what their records say of their sources, by number."""

    segment: Segment
    sources: dict[int, str]


def find_changed(level: Changed, recorded: Recorded) -> frozenset[int]:
    """Return the numbers of the shards whose source is not what its record says. Nothing is written."""
    changed: set[int] = set()
    for run in opened_runs(recorded.segment):
        for number, shard in run.shards():
            if number in recorded.sources and recorded.sources[number] != look(level, run, shard):
                changed.add(number)
    return frozenset(changed)


def look(level: Changed, run: Run, shard: Shard) -> str:
    """Return what a record would say of a shard's source now."""
    component = open_component(run, shard)
    detector = ChangeDetector(level, component)
    if level == "content":
        _exhaust(detector.watch(read_entries(component, shard.blocks, shard.block, run.consolidated), shard))
    return detector.source


def _exhaust(entries: Iterator[object]) -> None:
    for _ in entries:
        pass
