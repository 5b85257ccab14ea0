"""Measure the overhead of the framework: a million empty shards, and the second run of a finished job.

    python -m benchmarks.bench_scale

The first job neither reads nor writes shards, only their records. Scheduler, workers and client are separate processes.
The second job writes zips of one tiny chunk each. All files are on memory file systems.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import zarr
from distributed import Client, SubprocessCluster

from benchmarks.harness import circumstances, parser, table, working_folder
from benchmarks.nothing import Nothing, Same
from benchmarks.ours import WORKERS
from shardedstore import ShardedStore
from shardedstore.jobs.make_plan import make_plan
from shardedstore.transforms import ToZip
from shardedstore.transforms.base.sink import Sink
from shardedstore.transforms.base.step import Step

PLAN_SECONDS, PLAN_BYTES = 10.0, 1 << 30
SHARD_MICROSECONDS = 100.0
AGAIN_SECONDS = 2.0
GROWTH_BYTES = 32 << 20  # memory growth of the scheduler, from the first third of a run to the last
Row = tuple[str, ...]


@dataclass
class Samples:
    """Samples of the scheduler's memory and tasks while a job runs."""

    client: Client
    seconds: float
    at: list[float] = field(default_factory=list)
    nbytes: list[int] = field(default_factory=list)
    tasks: list[int] = field(default_factory=list)

    def look(self, *_: int) -> None:
        """Take a sample if it is due."""
        now = time.monotonic()
        if not self.at or now - self.at[-1] > self.seconds:
            self.at.append(now)
            run: Any = self.client.run_on_scheduler
            nbytes, tasks = run(_scheduler)
            self.nbytes.append(nbytes)
            self.tasks.append(tasks)

    @property
    def growth(self) -> int:
        """The growth of the peak from the first third to the last in bytes."""
        third = max(1, len(self.nbytes) // 3)
        return max(self.nbytes[-third:]) - max(self.nbytes[:third])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark and print the table."""
    options = parser("bench_scale", __doc__, rounds=1)
    options.add_argument("--shards", type=int, default=1_000_000, help="that nothing is done to (%(default)s)")
    options.add_argument("--zips", type=int, default=10_000, help="shards of the job that writes zips (%(default)s)")
    chosen = options.parse_args(arguments)
    with working_folder(chosen, chosen.shards * 300 + chosen.zips * 12_288) as folder:
        print(f"{chosen.shards:,} shards, {WORKERS} workers; {circumstances(chosen)}\n", flush=True)
        _make(folder / "large.zarr", chosen.shards)
        _make(folder / "small.zarr", chosen.zips, written=True)
        rows = _plan(folder / "large.zarr")
        for i in range(chosen.rounds):
            with _cluster(folder / "dask") as client:
                rows += _job(client, folder / "large.zarr", folder / f"large-{i}", chosen.shards)
                rows += _zips(folder / "small.zarr", folder / f"small-{i}", chosen.zips)
    table(("what", "is", "must be", "reached"), rows)


def _make(path: Path, shards: int, *, written: bool = False) -> None:
    """Make a Zarr of one array with a chunk for each shard; write the chunks only on request."""
    array = zarr.create_group(path).create_array("a", shape=(shards,), chunks=(1,), dtype="i4", compressors=None)
    if written:
        array[:] = np.arange(1, shards + 1, dtype="i4")


@contextmanager
def _cluster(folder: Path) -> Iterator[Client]:
    """A scheduler and worker processes of one thread, with an active client."""
    worker = {"nthreads": 1, "dashboard": False, "local_directory": str(folder), "memory_limit": 0}
    scheduler = {"dashboard": False}
    with (
        SubprocessCluster(n_workers=WORKERS, worker_kwargs=worker, scheduler_kwargs=scheduler, silence_logs=50) as made,
        Client(made) as client,
    ):
        client.wait_for_workers(WORKERS)
        yield client


def _plan(source: Path) -> list[Row]:
    store, took = _timed(lambda: ShardedStore.partition(source, {"a": (1,)}))
    before = psutil.Process().memory_info().rss
    plan, planned = _timed(lambda: make_plan(store.config, needs_empty=True))
    segments, cut = _timed(plan.segments)
    added = psutil.Process().memory_info().rss - before
    return [
        _row(f"plan of {len(segments):,} tasks", took + planned + cut, PLAN_SECONDS, "{:.2f} s"),
        _row("memory for it", added / 2**20, PLAN_BYTES / 2**20, "{:.0f} MiB"),
    ]


def _job(client: Client, source: Path, out: Path, shards: int) -> list[Row]:
    samples = Samples(client, seconds=max(0.05, shards / 400_000))
    _, took = _timed(lambda: _convert(source, Same(), Nothing(str(out)), progress=samples.look))
    client_nbytes = psutil.Process().memory_info().rss
    again, found = _timed(lambda: _convert(source, Same(), Nothing(str(out))))
    if again.summary is None or again.summary.skipped != shards + 1:
        raise RuntimeError(f"the job was not found finished: {again.summary}")
    shown = ", ".join(f"{nbytes >> 20}" for nbytes in samples.nbytes[:: max(1, len(samples.nbytes) // 8)])
    print(f"scheduler over the run: {shown} MiB; {max(samples.tasks)} tasks at most", flush=True)
    return [
        _row("a shard that nothing is done to", took / shards * 1e6, SHARD_MICROSECONDS, "{:.1f} us"),
        _row("memory of the client, in all", client_nbytes / 2**20, PLAN_BYTES / 2**20, "{:.0f} MiB"),
        _row("growth of the scheduler", samples.growth / 2**20, GROWTH_BYTES / 2**20, "{:.0f} MiB"),
        _row(f"finding {shards:,} records finished", found, None, "{:.2f} s"),
    ]


def _zips(source: Path, out: Path, shards: int) -> list[Row]:
    _, took = _timed(lambda: _convert(source, ToZip(str(out))))
    again, found = _timed(lambda: _convert(source, ToZip(str(out))))
    if again.summary is None or again.summary.skipped != shards + 1:
        raise RuntimeError(f"the job was not found finished: {again.summary}")
    return [
        _row("a shard of one tiny chunk to a zip", took / shards * 1e6, None, "{:.0f} us"),
        _row(f"finding {shards:,} zips finished", found, AGAIN_SECONDS, "{:.2f} s"),
    ]


def _convert(source: Path, *chain: Step | Sink, progress: Callable[[int, int], None] | None = None) -> ShardedStore:
    made: ShardedStore = ShardedStore.partition(source, {"a": (1,)}).map_shards(*chain, progress=progress)
    return made


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    started = time.perf_counter()
    made = work()
    return made, time.perf_counter() - started


def _row(what: str, found: float, limit: float | None, form: str) -> Row:
    if limit is None:
        return what, form.format(found), "-", "-"
    return what, form.format(found), f"< {form.format(limit)}", "yes" if found < limit else "NO"


def _scheduler(dask_scheduler: Any) -> tuple[int, int]:
    """The resident memory of the scheduler in bytes, and the number of its tasks."""
    import psutil

    return psutil.Process().memory_info().rss, len(dask_scheduler.tasks)


if __name__ == "__main__":
    main()
