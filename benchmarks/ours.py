"""shardedstore as two subjects: its bare tasks in a pool of processes, and complete jobs on a Dask cluster.

It is imported in its turn. If the import fails, the table says so, and the other programs are still measured.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any, Generic

from distributed import Client, LocalCluster

from benchmarks.harness import Out
from benchmarks.layouts import PARTITION

WORKERS = 2


@contextmanager
def workers(count: int = WORKERS) -> Iterator[Pool]:
    """Worker processes of one thread each: a pool, and a Dask cluster with an active client."""
    with (
        multiprocessing.get_context("spawn").Pool(count) as pool,
        LocalCluster(n_workers=count, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster,
        Client(cluster),
    ):
        yield pool


@dataclass(frozen=True)
class BareTasks(Generic[Out]):
    """The function that a worker runs for some shards, including records, but without Dask and planning."""

    sink: Callable[[Out], Any]
    pool: Pool
    name: str = "shardedstore, bare tasks, 2 processes"

    def prepare(self) -> str | None:
        return None

    def run(self, source: Path, out: Out) -> float:
        from shardedstore.jobs.executors.local import SerialExecutor
        from shardedstore.jobs.layouts.registry import choose_layout
        from shardedstore.jobs.make_plan import make_plan
        from shardedstore.jobs.prepare import manifest_of, prepare
        from shardedstore.jobs.result import finish
        from shardedstore.jobs.start import start
        from shardedstore.jobs.summary import Summary
        from shardedstore.jobs.worker import run_segment
        from shardedstore.partition.partition import divide
        from shardedstore.stores.locations import Directory
        from shardedstore.transforms.base.chain import parse_chain

        chain = parse_chain([self.sink(out)])
        plan = make_plan(divide(Directory(str(source)), PARTITION))
        plan, job = prepare(plan, chain, choose_layout(chain.sink), overwrite=False, retries=0)
        job = start(job, plan, manifest_of(plan, job), overwrite=False, executor=SerialExecutor())
        segments = plan.segments()
        started = time.perf_counter()
        outcome = Summary.total(self.pool.imap_unordered(partial(run_segment, job), segments))
        took = time.perf_counter() - started
        finish(job, plan, outcome)
        return took


@dataclass(frozen=True)
class OnDask(Generic[Out]):
    """`partition` and `map_shards(...)` as in a user's program, on the active Dask client."""

    sink: Callable[[Out], Any]
    name: str = "shardedstore on Dask, 2 workers"

    def prepare(self) -> str | None:
        return None

    def run(self, source: Path, out: Out) -> float:
        from shardedstore import ShardedStore

        started = time.perf_counter()
        ShardedStore.partition(str(source), shards=PARTITION).map_shards(self.sink(out))
        return time.perf_counter() - started


def to_zip(out: Path) -> Any:
    """Return the sink that zips each shard into a folder."""
    from shardedstore.transforms import ToZip

    return ToZip(str(out))
