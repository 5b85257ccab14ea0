"""Find the shards whose source has changed, by one of three levels of comparison."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

import msgspec
from zarr.abc.store import Store

from shardedstore.errors import CorruptError, UsageError
from shardedstore.jobs.open_shard import open_shard, opened_runs
from shardedstore.jobs.shards import Run, Segment
from shardedstore.storage.crc import crc32
from shardedstore.stores.entries import read_entries
from shardedstore.stores.locations import (
    Config,
    Location,
)
from shardedstore.stores.reader import listing
from shardedstore.transforms.base.shard import Entries, Shard
from shardedstore.transforms.base.sink import Tally

Changed = Literal["metadata", "listing", "content"]

LEVELS: tuple[Changed, ...] = get_args(Changed)


def check_level(level: Changed, config: Config) -> None:
    """Refuse a level that a component of the source does not support.

    Raises
    ------
    UsageError
    """
    for what, location in _components(config) if level == "listing" else ():
        place = location.origin
        if not place.has_tags:
            raise UsageError(
                f"changed={level!r} compares keys with their sizes and tags, and {what}, {place.show()}, lists none: say "
                "changed='metadata', which looks at documents alone, or changed='content', which reads all"
            )


def _components(config: Config) -> Iterator[tuple[str, Location]]:
    if not config.base.is_in_config:  # whose documents are in the config
        yield "the base", config.base
    for path, mount in config.shards.items():
        yield f"shard {path!r}", mount.location
        yield from ((f"shard '{path}[{name}]'", location) for name, location in mount.exceptions.items())


class ChangeDetector:
    """Records the state of a shard's source while its entries are read.

    Parameters
    ----------
    level
        The level of comparison; ``"metadata"`` records nothing.
    component : Store
        The source of the shard.
    """

    def __init__(self, level: Changed, component: Store) -> None:
        self._level, self._component = level, component
        self._before = listing(component) if level == "listing" else ""
        self._tally = Tally()

    def watch(self, entries: Entries, shard: Shard) -> Entries:
        """Pass entries on, and call `check` after the last one."""
        return entries if self._level == "metadata" else self._watched(entries, shard)

    def _watched(self, entries: Entries, shard: Shard) -> Entries:
        for entry in entries:
            if self._level == "content":
                self._tally.add(entry.key, memoryview(entry.data).nbytes, crc32(entry.data))
            yield entry
        self.check(shard)

    def check(self, shard: Shard) -> None:
        """Raise CorruptError if the listing of the source has changed since the start."""
        if self._level == "listing" and listing(self._component) != self._before:
            raise CorruptError(
                f"the source of shard {shard.name!r} changed while it was read: stop all writers to the source, and run the job again"
            )

    @property
    def source(self) -> str:
        """The state of the source, for the record of the shard."""
        if self._level == "metadata":
            return ""
        return f"{self._level} {self._before or self._tally.written(0).digest}"


class Recorded(msgspec.Struct, frozen=True):
    """Some shards, and the recorded states of their sources by number."""

    segment: Segment
    sources: dict[int, str]


def find_changed(level: Changed, recorded: Recorded) -> frozenset[int]:
    """Return the numbers of the shards whose source differs from its recorded state. Nothing is written."""
    changed: set[int] = set()
    for run in opened_runs(recorded.segment):
        for shard in run.shards():
            recorded_source = recorded.sources.get(shard.number)
            if recorded_source is not None and recorded_source != look(level, run, shard):
                changed.add(shard.number)
    return frozenset(changed)


def look_at_all(level: Changed, segment: Segment) -> dict[int, str]:
    """Return the current states of the sources of some shards, by number. Nothing is written."""
    return {shard.number: look(level, run, shard) for run in opened_runs(segment) for shard in run.shards()}


def look(level: Changed, run: Run, shard: Shard) -> str:
    """Return the current state of a shard's source, as for a record."""
    component = open_shard(run, shard)
    detector = ChangeDetector(level, component)
    if level == "content":
        _exhaust(detector.watch(read_entries(component, shard.blocks, shard.block, run.consolidated), shard))
    return detector.source


def _exhaust(entries: Iterator[object]) -> None:
    for _ in entries:
        pass
