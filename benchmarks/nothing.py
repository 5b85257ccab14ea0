"""A sink and a step that do nothing, to measure the framework alone; workers import this module by name."""

from __future__ import annotations

from dataclasses import dataclass

from shardedstore.stores.locations import Location, Zip
from shardedstore.transforms.base.shard import Entries, Shard
from shardedstore.transforms.base.sink import Present, Sink, Written
from shardedstore.transforms.base.step import Step
from shardedstore.transforms.base.zip_shard import write_zip


@dataclass(frozen=True)
class Nothing(Sink):
    """Writes only the base, which holds the metadata."""

    url: str

    def target(self, path: str | None, blocked: bool) -> str:
        # docstring inherited
        return f"{path or 'base'}/{{block}}.zip" if blocked else f"{path or 'base'}.zip"

    def location(self, url: str) -> Location:
        # docstring inherited
        return Zip(url)

    def write(self, entries: Entries, shard: Shard, url: str) -> Written:
        # docstring inherited
        return write_zip(entries, url) if shard.is_base else Written(0, 0, "")

    def is_there(self, url: str, written: Written, present: Present) -> bool:
        # docstring inherited
        return True


@dataclass(frozen=True)
class Same(Step):
    """Changes nothing, but also runs for blocks without chunks, which are otherwise not shards."""

    def __call__(self, entries: Entries, shard: Shard) -> Entries:
        # docstring inherited
        return entries
