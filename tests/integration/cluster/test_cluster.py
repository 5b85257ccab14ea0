"""Jobs on a distributed client: a bounded window, workers that die, and clusters of separate processes."""

import os
import signal
import threading
import time
from contextlib import suppress
from typing import NamedTuple

import dask
import psutil
import pytest
from conformance import check_same_contents
from dask.utils import key_split
from distributed import Client, LocalCluster, span
from helpers_jobs import (
    CUBE,
    CUBE_SHARDS,
    Fail,
    FailFirst,
    Poison,
    Seen,
    Slow,
    blocks_at,
    cluster,
    cube_at,
    division,
    files_of,
    temporaries,
    undisturbed,
    wait_until,
)
from servers import forked_workers

from shardedstore import Limits, ShardedStore, ShardsFailed
from shardedstore.fields import FILE_NAME
from shardedstore.jobs import shards
from shardedstore.jobs.executors import distributed, worker_monitor
from shardedstore.jobs.executors.active import active_client
from shardedstore.jobs.executors.distributed import MOST_PER_THREAD
from shardedstore.jobs.executors.scheduler_bucket import scheduler_bucket
from shardedstore.jobs.limits import throttle_of
from shardedstore.jobs.token_bucket import Rates
from shardedstore.transforms import Recompress, ToZip

pytestmark = pytest.mark.cluster
WORKERS = 2


@pytest.fixture(autouse=True)
def small_tasks(monkeypatch):
    """Make tasks small, as the small sources of tests would otherwise be one task."""
    monkeypatch.setattr(shards, "LEAST_WEIGHT", 1)


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """A cluster of two worker processes that fails a task after it has killed two workers."""
    settings = {
        "distributed.scheduler.allowed-failures": 1,
        "distributed.deploy.lost-worker-timeout": "1 hour",  # or Dask may not restart a worker that dies twice in 15 seconds
    }
    with (
        forked_workers(),
        dask.config.set(settings),
        LocalCluster(
            n_workers=WORKERS,
            threads_per_worker=1,
            dashboard_address="127.0.0.1:0",
            silence_logs=50,
            local_directory=str(tmp_path_factory.mktemp("dask")),
        ) as local,
        Client(local) as made,
    ):
        yield made


@pytest.fixture
def source(tmp_path):
    return cube_at(tmp_path / "source.zarr")


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The files of an undisturbed job."""
    return undisturbed(tmp_path_factory.mktemp("expected"))


def tasks_known(client):
    return client.run_on_scheduler(lambda dask_scheduler: [str(key) for key in dask_scheduler.tasks])


# One cluster without faults


def test_the_bytes_are_the_same_on_a_cluster(client, source, tmp_path, expected):
    result = division(source).map_shards(ToZip(tmp_path / "out"))
    assert files_of(tmp_path / "out") == expected
    assert result.summary.done == CUBE_SHARDS
    check_same_contents(result, CUBE.contents())


def test_the_bytes_are_the_same_when_it_is_computed_later(client, source, tmp_path, expected):
    job = division(source).map_shards(ToZip(tmp_path / "out"), compute=False)
    assert not (tmp_path / "out").exists()
    result = job.compute()
    assert files_of(tmp_path / "out") == expected
    assert isinstance(result, ShardedStore)


def test_spans_are_by_chain_and_path_with_the_seconds_of_their_stages(client, tmp_path):
    with span("nightly"):
        blocks_at(tmp_path / "source.zarr", 6).map_shards(Recompress("gzip"), ToZip(tmp_path / "zips"))

    def metrics(dask_scheduler):
        found = dask_scheduler.extensions["spans"].spans.values()
        return [(one.name, dict(one.cumulative_worker_metrics)) for one in found if one.name[0] == "nightly"]

    def labels():
        found = dict(client.run_on_scheduler(metrics)).get(("nightly", "ToZip", "a"), {})
        return {label for context, _, label, unit in found if (context, unit) == ("execute", "seconds")}

    wait_until(lambda: labels() >= {"read", "decode", "encode", "write"})  # workers send their metrics once a second
    names = [name for name, _ in client.run_on_scheduler(metrics)]
    expected = [("nightly",), ("nightly", "ToZip"), ("nightly", "ToZip", "a"), ("nightly", "ToZip", "base")]
    assert sorted(names) == expected, "each span is made once"


def test_it_persists_on_the_workers(client, source, tmp_path, expected):
    job = division(source).map_shards(ToZip(tmp_path / "out"), compute=False).persist()
    assert job.compute().summary.done == CUBE_SHARDS
    assert files_of(tmp_path / "out") == expected


def test_the_work_is_done_in_the_workers(client, source, tmp_path):
    before = client.run(os.getpid)
    division(source).map_shards(Slow(0.02), ToZip(tmp_path / "out"))
    runs = client.run(lambda dask_worker: len(dask_worker.state.tasks))
    assert len(set(before.values())) == WORKERS
    assert os.getpid() not in before.values()
    assert set(runs.values()) == {0}  # all futures were released


def test_a_local_scheduler_may_be_asked_for(client, source, tmp_path, expected):
    with dask.config.set(scheduler="synchronous"):
        assert active_client() is None
        division(source).map_shards(ToZip(tmp_path / "out"))
    assert active_client() is client
    assert files_of(tmp_path / "out") == expected


def test_few_tasks_are_known_at_a_time_and_none_at_the_end(client, tmp_path):
    counts = []

    def look(ended, total):
        counts.append(len(tasks_known(client)))

    blocks_at(tmp_path / "source.zarr", 60).map_shards(ToZip(tmp_path / "out"), progress=look)
    assert len(counts) > MOST_PER_THREAD * WORKERS  # it counts finished shards
    assert 1 < max(counts) <= MOST_PER_THREAD * WORKERS < 61
    wait_until(lambda: tasks_known(client) == [])  # the scheduler gets the last release later


def test_the_dashboard_shows_the_chain_and_the_path(client, source, tmp_path):
    seen = set()
    division(source).map_shards(
        Slow(0.01), ToZip(tmp_path / "out"), progress=lambda *counts: seen.update(map(key_split, tasks_known(client)))
    )
    assert "ToZip temperature" in seen
    assert all(name.startswith("ToZip ") for name in seen)


def test_a_job_that_is_done_is_not_sent_to_the_workers(client, source, tmp_path):
    division(source).map_shards(ToZip(tmp_path / "out"))
    calls = []
    again = division(source).map_shards(ToZip(tmp_path / "out"), progress=lambda *counts: calls.append(counts))
    assert (again.summary.done, again.summary.skipped) == (0, CUBE_SHARDS)
    assert calls == [(CUBE_SHARDS, CUBE_SHARDS)]


def test_an_exception_in_the_client_cancels_what_is_under_way(client, tmp_path):
    def stop(ended, total):
        if ended > 3:
            raise KeyboardInterrupt("enough")

    with pytest.raises(KeyboardInterrupt, match="enough"):
        blocks_at(tmp_path / "source.zarr", 30).map_shards(Slow(0.02), ToZip(tmp_path / "out"), progress=stop)
    assert not (tmp_path / "out" / FILE_NAME).exists()
    again = blocks_at(tmp_path / "again.zarr", 3).map_shards(ToZip(tmp_path / "again"))  # the cluster still works
    assert again.summary.done == 4


# Shards that fail


def test_a_shard_that_fails_is_named_and_all_others_are_done(client, source, tmp_path):
    with pytest.raises(ShardsFailed, match=f"1 of {CUBE_SHARDS} shards failed") as caught:
        division(source).map_shards(Fail("wind_u[1/0/1]"), ToZip(tmp_path / "out"))
    (error,) = caught.value.exceptions
    assert str(error) == "shard 'wind_u[1/0/1]' failed: ValueError: zarr.json is not to the step's taste"
    assert len(files_of(tmp_path / "out")) == CUBE_SHARDS - 1
    assert temporaries(tmp_path / "out") == []


def test_a_lazy_job_raises_the_same_group(client, source, tmp_path):
    job = division(source).map_shards(Fail("height[0]"), ToZip(tmp_path / "out"), compute=False)
    with pytest.raises(ShardsFailed, match="run the same job again") as caught:
        job.compute()
    assert [error.shard for error in caught.value.exceptions] == ["height[0]"]
    assert len(files_of(tmp_path / "out")) == CUBE_SHARDS - 1


def test_an_error_that_passes_is_tried_again_in_the_worker(client, source, tmp_path, expected):
    attempts = tmp_path / "attempts"
    division(source).map_shards(FailFirst("height[1]", str(attempts), 1), ToZip(tmp_path / "out"), retries=1)
    assert len(list(attempts.iterdir())) == 2
    assert files_of(tmp_path / "out") == expected


# Workers that die


@pytest.fixture
def no_second_try(client):
    """A task fails after its workers died, even if it only waited on them."""
    client.run_on_scheduler(lambda dask_scheduler: setattr(dask_scheduler, "allowed_failures", 0))
    yield
    client.run_on_scheduler(lambda dask_scheduler: setattr(dask_scheduler, "allowed_failures", 1))


def test_shards_that_wait_on_a_worker_when_it_dies_are_not_blamed(client, tmp_path, no_second_try):
    attempts = tmp_path / "attempts"
    with pytest.raises(ShardsFailed, match="1 of 31 shards failed") as caught:
        blocks_at(tmp_path / "source.zarr", 30).map_shards(
            Slow(0.01), Poison("a[9]", str(attempts)), ToZip(tmp_path / "out")
        )
    assert [error.shard for error in caught.value.exceptions] == ["a[9]"]
    assert len(files_of(tmp_path / "out")) == 30
    assert len(list(attempts.iterdir())) == 2  # with others, and alone


@pytest.fixture(params=[1, 1 << 20], ids=["a task a shard", "many shards a task"])
def task_size(request, monkeypatch):
    monkeypatch.setattr(shards, "LEAST_WEIGHT", request.param)


def test_a_shard_that_kills_its_workers_takes_no_other_with_it(client, source, tmp_path, expected, task_size):
    attempts, poisoned = tmp_path / "attempts", "temperature[1/1]"
    with pytest.raises(ShardsFailed, match=f"1 of {CUBE_SHARDS} shards failed") as caught:
        division(source).map_shards(Poison(poisoned, str(attempts)), ToZip(tmp_path / "out"))
    (error,) = caught.value.exceptions
    assert error.shard == poisoned
    assert error.cause.startswith("KilledWorker: ")
    assert len(list(attempts.iterdir())) <= 6  # a task fails at the second death
    files = files_of(tmp_path / "out")
    lost = {"temperature/1/1.zarr.zip", FILE_NAME}
    assert files == {name: data for name, data in expected.items() if name not in lost}


def test_a_worker_that_is_killed_is_not_missed(client, source, tmp_path, expected):
    killed = []

    def kill(ended, total):
        if ended > 4 and not killed:
            killed.extend(client.run(os.getpid).values())
            os.kill(killed[0], signal.SIGKILL)

    result = division(source).map_shards(Slow(0.04), ToZip(tmp_path / "out"), progress=kill)
    assert not psutil.pid_exists(killed[0])
    assert files_of(tmp_path / "out") == expected
    check_same_contents(result, CUBE.contents())


def test_a_worker_that_is_killed_during_a_lazy_job_is_not_missed(client, source, tmp_path, expected):
    client.wait_for_workers(WORKERS)
    job = division(source).map_shards(Slow(0.1), ToZip(tmp_path / "out"), compute=False)
    future = client.compute(job)
    wait_until((tmp_path / "out" / "__base__.zarr.zip").exists, what="the first zip")
    victim = next(iter(client.run(os.getpid).values()))
    os.kill(victim, signal.SIGKILL)
    result = future.result(timeout=100)
    assert files_of(tmp_path / "out") == expected
    check_same_contents(result, CUBE.contents())


# A separate scheduler and workers


def test_separate_processes_give_the_same_bytes(source, tmp_path, expected):
    with cluster(tmp_path / "cluster") as made, Client(scheduler_file=str(made.file)) as client:
        client.wait_for_workers(2)
        workers = set(client.run(os.getpid).values())
        result = division(source).map_shards(ToZip(tmp_path / "out"))
        later = division(source).map_shards(ToZip(tmp_path / "later"), compute=False).compute()
        assert os.getpid() not in workers
        assert len(workers) == 2
    assert files_of(tmp_path / "out") == files_of(tmp_path / "later") == expected
    check_same_contents(result, CUBE.contents())
    assert later.summary.done == result.summary.done == CUBE_SHARDS


class DiesOnce(NamedTuple):
    """A check that kills the first worker while all workers are checked."""

    mark: str

    def __call__(self):
        with suppress(FileExistsError):
            os.close(os.open(self.mark, os.O_CREAT | os.O_EXCL))
            os._exit(1)


def test_a_worker_that_dies_while_all_are_asked_is_not_missed(client, tmp_path):
    worker_monitor.check_workers(client, DiesOnce(str(tmp_path / "mark")))
    assert (tmp_path / "mark").exists()
    client.wait_for_workers(WORKERS)


def test_a_worker_that_does_not_answer_is_reported_and_left_out(tmp_path, monkeypatch, told):
    monkeypatch.setattr(worker_monitor, "PROOF_SECONDS", 8)
    with (
        cluster(tmp_path / "cluster") as made,
        Client(scheduler_file=str(made.file)) as client,
    ):
        client.wait_for_workers(2)
        stopped, (address, process) = [], next(iter(client.run(os.getpid).items()))
        os.kill(process, signal.SIGSTOP)
        try:
            worker_monitor.check_workers(client, DoesNothing())
            stopped = told()
        finally:
            os.kill(process, signal.SIGCONT)
        (message,) = stopped
        assert message.startswith(f"1 of 2 workers do not answer: {address}; the job begins without them")


class DoesNothing(NamedTuple):
    """A check that every worker passes."""

    def __call__(self):
        return None


def test_that_there_are_no_workers_is_reported_once_each_time(tmp_path, monkeypatch, caplog, told):
    monkeypatch.setattr(worker_monitor, "LOOK", 0.05)
    monkeypatch.setattr(worker_monitor, "ABSENT", 0.3)
    monkeypatch.setattr(distributed, "THREADS_SECONDS", 0.1)
    caplog.set_level("WARNING", "shardedstore")
    with (
        cluster(tmp_path / "cluster", workers=0) as made,
        Client(scheduler_file=str(made.file)) as client,
    ):

        def begin(ended, total):
            if not ended:
                later.start()

        def add():
            wait_until(told, what="a warning")
            time.sleep(1)
            made.add_worker()

        later = threading.Thread(target=add)
        blocks_at(tmp_path / "source.zarr", 3).map_shards(Slow(0.3), ToZip(tmp_path / "out"), progress=begin)
        later.join()
        assert told()[0].startswith(
            f"the cluster at {client.scheduler.address} has had no workers for 0 s, and the job"
        )
        assert told()[1:] == ["the cluster has workers again, and the job goes on"]


def test_a_shard_is_not_made_again_when_a_worker_leaves(client, tmp_path):
    seen, gone = tmp_path / "seen", []

    def leave(ended, total):
        if ended > 20 and not gone:
            gone.append(min(client.run(os.getpid).values()))
            os.kill(gone[0], signal.SIGKILL)

    blocks_at(tmp_path / "source.zarr", 60).map_shards(
        Slow(0.02), Seen(str(seen)), ToZip(tmp_path / "out"), progress=leave
    )
    assert 61 <= len(list(seen.iterdir())) <= 61 + 1  # its current shard is done again, finished shards are not


def test_a_job_waits_for_the_first_worker(source, tmp_path, expected, monkeypatch):
    monkeypatch.setattr(distributed, "THREADS_SECONDS", 0.1)
    with (
        cluster(tmp_path / "cluster", workers=0) as made,
        Client(scheduler_file=str(made.file)) as client,
    ):
        started = []

        def begin(ended, total):
            if not started:
                started.append(made.add_worker())

        division(source).map_shards(ToZip(tmp_path / "out"), progress=begin)
        assert len(client.nthreads()) == 1
    assert files_of(tmp_path / "out") == expected


def spend_tokens(bucket, seconds):
    """The times at which a worker was let go on."""
    throttle, times, begin = throttle_of(bucket), [], time.monotonic()
    while time.monotonic() < begin + seconds:
        throttle.spend(1, 0)
        times.append(time.monotonic())
    return times


def test_workers_share_a_bucket_at_the_scheduler(client):
    workers = list(client.nthreads())
    with scheduler_bucket(client, Rates(50, None)) as bucket:
        client.gather([client.submit(spend_tokens, bucket, 0.1, workers=[one], pure=False) for one in workers])
        each = client.gather([client.submit(spend_tokens, bucket, 4, workers=[one], pure=False) for one in workers])
    begin, end = max(times[0] for times in each), min(times[-1] for times in each)
    together = sorted(moment for times in each for moment in times if begin <= moment <= end)
    assert (len(together) - 1) / (end - begin) == pytest.approx(50, rel=0.1)


def test_a_job_on_a_cluster_is_limited(client, source, tmp_path):
    begun = time.monotonic()
    result = division(source).map_shards(ToZip(tmp_path / "out"), limits=Limits(bytes_per_second=20_000))
    nbytes = sum(path.stat().st_size for path in (tmp_path / "out").rglob("*.zip"))
    assert time.monotonic() - begun >= 0.9 * nbytes / 20_000
    assert result.verify(division(source)).ok
    assert not [
        name
        for name in client.run_on_scheduler(lambda dask_scheduler: list(dask_scheduler.handlers))
        if "bucket" in name
    ]
