"""The work of a client: one job, described by names and numbers, and a step that leaves a trace of each shard."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sources import SOURCES

from shardedstore import JobPlan, ShardedStore, Step
from shardedstore.jobs import shards
from shardedstore.transforms import CopyTo, Recompress, ToShardingCodec, ToZip
from shardedstore.transforms.base.shard import Entries, Shard
from shardedstore.transforms.base.sink import Sink

SOURCE = SOURCES["cube-v3/"]
ONE_ZIP = "one zip"
SHARDS = sum(SOURCE.mounts.values()) + 1  # the base too

SINKS: dict[str, Callable[[str], Sink]] = {
    "zips": ToZip,
    "copy": CopyTo,
    "sharding": ToShardingCodec,
    ONE_ZIP: ToZip,
}
BEGUN, READ = "begun", "read"


@dataclass(frozen=True)
class Trace(Step):
    """Writes a line to a file at the start and at the end of reading a shard, and takes time.

    Half of the time is between the entries, and half after the last one. A JSON file beside it has a command to run after the
    first chunk of a shard was read: ``{"shard": ..., "remove": path}`` or ``{..., "path": path, "data": hex}``.
    """

    log: str
    seconds: float = 0.0

    def __call__(self, entries: Entries, shard: Shard) -> Entries:
        _append(self.log, f"{BEGUN} {os.getpid()} {shard.name}")
        first = True
        for entry in entries:
            yield entry
            if entry.coords is not None and first:
                first = False
                _harm(f"{self.log}.json", shard.name)
                time.sleep(self.seconds / 2)
        time.sleep(self.seconds / 2)
        _append(self.log, f"{READ} {os.getpid()} {shard.name}")


@dataclass(frozen=True)
class Work:
    """A job: source, destination and speed. `weight` is that of a task; 1 gives one shard for each task."""

    source: str
    target: str
    sink: str
    log: str
    seconds: float = 0.03
    weight: int = 1
    recompress: bool = False
    overwrite: bool = False
    changed: Any = "metadata"

    def run(self) -> Any:
        """Run the job on the active scheduler."""
        before, shards.LEAST_WEIGHT = shards.LEAST_WEIGHT, self.weight
        try:
            return self._run()
        finally:
            shards.LEAST_WEIGHT = before

    def _run(self) -> Any:
        return self.plan().run()

    def plan(self) -> JobPlan:
        """Return the plan of the job."""
        store = ShardedStore.partition(self.source, SOURCE.shards)
        steps = [Trace(self.log, self.seconds), *([Recompress("gzip", level=1)] if self.recompress else [])]
        return store.plan(*steps, SINKS[self.sink](self.target), overwrite=self.overwrite, changed=self.changed)


def _append(path: str, line: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.write(descriptor, f"{line}\n".encode())
    os.close(descriptor)


def _harm(order: str, shard: str) -> None:
    try:
        what = json.loads(Path(order).read_text())
    except FileNotFoundError:
        return
    if what["shard"] != shard:
        return
    if "remove" in what:
        Path(what["remove"]).unlink(missing_ok=True)
    else:
        Path(what["path"]).write_bytes(bytes.fromhex(what["data"]))
