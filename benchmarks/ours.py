"""shardedstore itself, as two subjects: its bare tasks in a pool of processes, and the whole on a Dask cluster.

It is imported when its turn comes: where that fails, the table says so, and the peers are measured all the same.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from multiprocessing.pool import Pool
from pathlib import Path

from benchmarks.layouts import PARTITION


@dataclass(frozen=True)
class BareTasks:
    """The function that a worker runs for some shards, records and all, with neither Dask nor planning in the time."""

    pool: Pool
    name: str = "shardedstore, bare tasks, 2 processes"

    def prepare(self) -> str | None:
        return None

    def run(self, source: Path, out: Path) -> float:
        return bare_tasks(source, out, self.pool)


@dataclass(frozen=True)
class OnDask:
    """`partition` and `map_shards(ToZip(...))` as a user writes them, on the Dask client that is active."""

    name: str = "shardedstore on Dask, 2 workers"

    def prepare(self) -> str | None:
        return None

    def run(self, source: Path, out: Path) -> float:
        from shardedstore import ShardedStore
        from shardedstore.transforms import ToZip

        started = time.perf_counter()
        ShardedStore.partition(str(source), shards=PARTITION).map_shards(ToZip(str(out)))
        return time.perf_counter() - started


def bare_tasks(source: Path, out: Path, workers: Pool) -> float:
    """Zip each shard of the Zarr at `source` into `out`; return the seconds from submit to the last result."""
    from shardedstore.chain import parse_chain
    from shardedstore.job import identity, prepare, start
    from shardedstore.locations import Directory
    from shardedstore.partition import divide
    from shardedstore.plan import make_plan
    from shardedstore.task import Outcome, run_segment
    from shardedstore.transforms.to_zip import ToZip

    chain = parse_chain([ToZip(str(out))])
    plan = make_plan(divide(Directory(str(source)), PARTITION))
    job = start(prepare(plan, chain, to=None, overwrite=False, retries=0), identity(plan, chain), overwrite=False)
    segments = plan.segments()
    started = time.perf_counter()
    outcome = Outcome.total(workers.imap_unordered(partial(run_segment, job), segments))
    took = time.perf_counter() - started
    if outcome.failures:
        raise ExceptionGroup("the bare tasks failed", outcome.failures)
    return took
