"""Tasks keep every thread busy: their sizes, their workers, and records of one segment by several tasks."""

import heapq
import math
import threading
from dataclasses import dataclass
from pathlib import Path

import dask
import pytest
from distributed import Client, LocalCluster, get_worker
from helpers_jobs import Slow, blocks_at, ledger_at
from hypothesis import given
from hypothesis import strategies as st

from shardedstore import Step
from shardedstore.jobs.executors.task_sizes import LONGEST, PER_THREAD, SHORTEST, TaskQueue, aim
from shardedstore.jobs.ledger import Ledger, Record
from shardedstore.jobs.make_plan import make_plan
from shardedstore.jobs.shards import Load, Segment
from shardedstore.jobs.summary import Summary
from shardedstore.storage.folders import open_folder
from shardedstore.transforms import ToZip
from tests.unit.jobs.test_plan import plan_of

COUNT = 41


def numbers_of(segment: Segment) -> list[int]:
    return [number for run in segment.runs for number in run.numbers]


def simulated(segments, threads, seconds_of):
    """Simulate tasks on threads with a counted clock; return the tasks and the total time in seconds.

    The number of waiting tasks equals that of running ones, as on a cluster.
    """
    queue, tasks, running, waiting, now = TaskQueue(segments), [], [], [], 0.0
    while queue or running or waiting:
        while queue and len(running) + len(waiting) < 2 * threads:
            waiting.append(queue.take(threads))
        while waiting and len(running) < threads:
            task = waiting.pop(0)
            tried, took = 0, 0.0
            for number in numbers_of(task.segment):
                if took > task.seconds:
                    break
                tried, took = tried + 1, took + seconds_of(number)
            tasks.append((numbers_of(task.segment)[:tried], took))
            heapq.heappush(running, (now + took, len(tasks), task, Summary(done=tried, seconds=took)))
        now, _, task, outcome = heapq.heappop(running)
        queue.learn(task, outcome)
    return tasks, now


def equal_shards(count):
    return plan_of([(count, Load(count, 0))], Load()).segments()


@given(
    st.integers(1, 2000),
    st.integers(1, 64),
    st.sampled_from([1e-6, 1e-3, 0.03, 0.25, 0.5, 7.0]),
    st.sampled_from([1e-6, 1e-3, 0.03, 0.25, 0.5, 7.0]),
)
def test_every_shard_is_in_one_task_and_tasks_are_enough_for_all_threads(count, threads, early, late):
    def seconds_of(number):
        return early if number < count // 2 else late

    tasks, _ = simulated(equal_shards(count), threads, seconds_of)
    assert sorted(number for numbers, _ in tasks for number in numbers) == list(range(count + 1))
    assert len(tasks) >= min(count + 1, PER_THREAD * threads)
    for numbers, seconds in tasks:
        assert len(numbers) == 1 or seconds <= 2 * aim(threads) + max(early, late)


@pytest.mark.parametrize(("count", "threads", "seconds"), [(39, 8, 0.5), (7, 4, 3.0), (159, 4, 0.25), (4000, 8, 0.01), (100_000, 16, 1e-4)])  # fmt: skip
def test_jobs_take_little_more_than_an_ideal_division_would(count, threads, seconds):
    tasks, took = simulated(equal_shards(count), threads, lambda number: seconds)
    ideal = max(math.ceil((count + 1) / threads) * seconds, seconds)
    assert took < 1.3 * ideal
    assert len(tasks) < 5000


@pytest.mark.parametrize(("threads", "seconds"), [(1, SHORTEST), (8, SHORTEST), (40, 0.4)])
def test_tasks_take_longer_on_more_threads(threads, seconds):
    assert aim(threads) == seconds <= aim(10_000) == LONGEST
    tasks, _ = simulated(equal_shards(20_000), threads, lambda number: seconds / 10)
    assert max(took for _, took in tasks) <= seconds * 1.01


@given(st.lists(st.integers(1, 600), min_size=1, max_size=4), st.integers(0, 700))
def test_a_segment_is_cut_in_two(counts, at):
    for segment in plan_of([(count, Load()) for count in counts], Load()).segments():
        first, rest = segment.cut(at)
        assert numbers_of(first) == numbers_of(segment)[:at]
        assert (numbers_of(rest) if rest is not None else []) == numbers_of(segment)[at:]
        assert {first.number, segment.number if rest is None else rest.number} == {segment.number}


@given(st.integers(1, 3000), st.integers(1, 100))
def test_a_lazy_job_has_tasks_for_all_threads(count, threads):
    parts = list(TaskQueue(equal_shards(count)).cut_evenly(threads))
    assert [n for part in parts for n in numbers_of(part.segment)] == list(range(count + 1))
    assert len(parts) >= min(count + 1, PER_THREAD * threads, 128)


def test_a_lazy_job_of_few_shards_has_a_task_for_each(tmp_path):
    job = blocks_at(tmp_path / "source.zarr", 8).map_shards(ToZip(tmp_path / "out"), compute=False)
    assert len([key for key in job.__dask_graph__() if key.startswith("ToZip")]) == 9


# The workers of tasks. Steps find shared state by name, as they are pickled.

MEETINGS: dict[str, threading.Barrier] = {}
SEEN: dict[str, set[object]] = {}


@dataclass(frozen=True)
class Together(Step):
    """The first shards wait for each other, and fail unless all of them run at the same time."""

    name: str
    count: int

    def __call__(self, entries, shard):
        index = -1 if shard.block is None else shard.block[0]
        if index < self.count - 1:
            MEETINGS[self.name].wait(60)
        return entries


@dataclass(frozen=True)
class Present(Step):
    """Notes the worker of each shard, and takes some time."""

    name: str
    seconds: float

    def __call__(self, entries, shard):
        SEEN[self.name].add(get_worker().address)
        yield from Slow(self.seconds)(entries, shard)


@pytest.fixture
def meeting(tmp_path):
    name = str(tmp_path)
    MEETINGS[name], SEEN[name] = threading.Barrier(8), set()
    yield name
    del MEETINGS[name], SEEN[name]


def local(workers: int, tmp_path: Path) -> LocalCluster:
    """Workers of one thread each, in this process."""
    return LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        processes=False,
        dashboard_address=None,
        memory_limit=0,
        local_directory=str(tmp_path / "dask"),
    )


def test_small_shards_run_in_all_threads(meeting, tmp_path):
    calls = []
    with dask.config.set(scheduler="threads", num_workers=8):
        blocks_at(tmp_path / "source.zarr", COUNT - 1).map_shards(
            Together(meeting, 8), ToZip(tmp_path / "out"), progress=lambda *counts: calls.append(counts)
        )
    assert [total for _, total in calls] == [COUNT] * len(calls)
    ended = [ended for ended, _ in calls]
    assert ended == sorted(ended)
    assert len(ended) > PER_THREAD * 8  # it counts shards, not segments


@pytest.mark.cluster
def test_small_shards_run_on_all_workers(meeting, tmp_path):
    with local(8, tmp_path) as made, Client(made):
        result = blocks_at(tmp_path / "source.zarr", COUNT - 1).map_shards(
            Together(meeting, 8), ToZip(tmp_path / "out")
        )
        again = blocks_at(tmp_path / "source.zarr", COUNT - 1).map_shards(Together(meeting, 8), ToZip(tmp_path / "out"))
    assert (result.summary.done, again.summary.skipped) == (COUNT, COUNT)


@pytest.mark.cluster
def test_workers_that_come_late_take_part(meeting, tmp_path):
    with local(1, tmp_path) as made, Client(made):
        blocks_at(tmp_path / "source.zarr", 160).map_shards(
            Present(meeting, 0.03),
            ToZip(tmp_path / "out"),
            progress=lambda ended, total: made.scale(3) if ended == 10 else None,
        )
    assert len(SEEN[meeting]) == 3


@pytest.mark.cluster
def test_an_adaptive_cluster_grows_with_the_job(meeting, tmp_path):
    with (
        dask.config.set({"distributed.adaptive.target-duration": "100ms", "distributed.adaptive.interval": "50ms"}),
        local(0, tmp_path) as made,
        Client(made),
    ):
        made.adapt(minimum=0, maximum=3)
        blocks_at(tmp_path / "source.zarr", 160).map_shards(Present(meeting, 0.03), ToZip(tmp_path / "out"))
    assert len(SEEN[meeting]) > 1


# Records of several tasks of one segment


def attempt(ledger: Ledger, name: str, *shards: int) -> bool:
    is_first = ledger.claim(0, name)
    with ledger.writer(0, name if is_first else "") as append:
        for shard in shards:
            append(Record(1, 1, name, shard=shard))
    return is_first


def check_attempts(url: str) -> None:
    ledger = Ledger(open_folder(url), 1)
    assert attempt(ledger, "aa", 1, 2)
    assert attempt(ledger, "bb", 3)
    assert not attempt(ledger, "aa", 2, 4)
    assert set(ledger.read()) == set(ledger.read_segment(0)) == {1, 2, 3, 4}
    assert not ledger.unfinished()
    assert ledger.claim(0, "cc")  # its worker dies
    assert set(ledger.read()) == {1, 2, 3, 4}
    ledger.compact()
    assert set(ledger.read()) == set(ledger.read_segment(0)) == {1, 2, 3, 4}


def test_attempts_of_tasks_keep_records_side_by_side(tmp_path):
    check_attempts(str(tmp_path))


def test_attempts_of_tasks_keep_records_side_by_side_in_a_bucket(bucket):
    check_attempts(bucket.url)


@pytest.mark.parametrize("scheduler", ["threads", "synchronous"])
def test_what_several_tasks_of_a_segment_did_is_continued(scheduler, tmp_path):
    store = blocks_at(tmp_path / "source.zarr", COUNT - 1)
    assert len(make_plan(store.config).segments()) == 1

    def stop(ended, total):
        if ended > 5:
            raise KeyboardInterrupt

    with dask.config.set(scheduler=scheduler, num_workers=2):
        with pytest.raises(KeyboardInterrupt):
            store.map_shards(Slow(0.01), ToZip(tmp_path / "out"), progress=stop)
        done = len(ledger_at(tmp_path / "out").read())
        assert 5 < done < COUNT
        again = store.map_shards(Slow(0.01), ToZip(tmp_path / "out"))
    assert again.summary.skipped + again.summary.done == COUNT
    assert again.summary.skipped >= done
