"""Stopped jobs: tasks end soon, the next run removes all remains, and resumes the job."""

import os
import signal
import threading
import time
from functools import partial
from unittest.mock import patch

import dask
import pytest
from distributed import Client
from helpers_jobs import (
    CUBE_SHARDS,
    Slow,
    cluster,
    cube_at,
    division,
    files_of,
    kill_session,
    ledger_at,
    python,
    temporaries,
    undisturbed,
    wait_until,
)

from shardedstore import JobStopped, StopSignal
from shardedstore.abc import Callback
from shardedstore.jobs import cancellation
from shardedstore.jobs.cancellation import Stopped, check_cancelled, until_cancelled
from shardedstore.jobs.executors.cancellable import interrupt, run_cancellable
from shardedstore.jobs.job import Job
from shardedstore.jobs.layouts.registry import choose_layout
from shardedstore.jobs.shards import Run, Segment, Task
from shardedstore.jobs.worker import run_task
from shardedstore.stores.locations import Directory
from shardedstore.transforms import ToZip
from shardedstore.transforms.base.chain import parse_chain

SECONDS = 0.3  # for every shard; all shards are one task
PROGRAM = """
import signal, sys, dask
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell in the background has them ignore
from distributed import Client
from helpers_jobs import Slow, division
from shardedstore.transforms import ToZip
source, out, scheduler = sys.argv[1:]

def run():
    division(source).map_shards(Slow({seconds}), ToZip(out))

if scheduler == "threads":
    with dask.config.set(scheduler="threads"):
        run()
else:
    with Client(scheduler_file=scheduler):
        run()
"""


@pytest.fixture
def source(tmp_path):
    return cube_at(tmp_path / "source.zarr")


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The files of an undisturbed job."""
    return undisturbed(tmp_path_factory.mktemp("expected"), Slow(0))


def start(source, out, scheduler, log):
    program = PROGRAM.format(seconds=SECONDS)
    return python("-c", program, str(source), str(out), str(scheduler), log=log)


def zips(out):
    return len(list(out.rglob("*.zarr.zip")))


def check_still(out):
    """Check that nothing more is written, after the last running writes."""
    time.sleep(2 * cancellation.LOOK + SECONDS)
    before = zips(out)
    time.sleep(4 * SECONDS)
    assert 0 < zips(out) == before < CUBE_SHARDS
    assert temporaries(out) == []


def check_goes_on(source, out, expected, seconds=SECONDS):
    before = zips(out)
    with patch.object(Slow, "pace", 0), dask.config.set(scheduler="synchronous"):
        result = division(source).map_shards(Slow(seconds), ToZip(out))
    assert before - 1 <= result.summary.skipped <= before  # the last shard may lack a record
    assert result.summary.done + result.summary.skipped == CUBE_SHARDS
    assert {name for name in files_of(out) if name.endswith(".zip")} == {n for n in expected if n.endswith(".zip")}
    assert temporaries(out) == []


@pytest.mark.few(1)
@pytest.mark.cluster
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_client_that_is_told_to_end_leaves_a_cluster_that_does_nothing(how, source, tmp_path, expected):
    out, log = tmp_path / "out", tmp_path / "log"
    with cluster(tmp_path / "cluster") as made:
        process = start(source, out, made.file, log)
        try:
            wait_until(lambda: zips(out) >= 3, what="three zips")
            process.send_signal(how)
            process.wait(10)
        finally:
            kill_session(process)
        check_still(out)
        with Client(scheduler_file=str(made.file)) as client:
            assert len(client.nthreads()) == 2  # they belong to somebody else
            assert client.submit(os.getpid).result(20) > 0
    if how == signal.SIGINT:
        text = log.read_text()
        assert "KeyboardInterrupt" in text
        assert f"the finished shards at {str(out)!r} stay: run the same job again, and it goes" in text
    check_goes_on(source, out, expected)


class StopAtThree(Callback):
    """Requests a stop when three shards have ended, and keeps the number of zips at that time."""

    def __init__(self, out, stop):
        self.out, self.stop, self.zips = out, stop, 0

    def on_task_end(self, event):
        if event.progress.ended >= 3 and not self.stop.is_requested:
            self.zips = zips(self.out)
            self.stop.request("SIGTERM")


@pytest.mark.cluster
def test_workers_finish_their_shards_after_a_stop(source, tmp_path, expected):
    out, stop, seconds = (
        tmp_path / "out",
        StopSignal(grace="30s"),
        3.0,
    )  # a shard takes longer than a request to its worker
    callback = StopAtThree(out, stop)
    with cluster(tmp_path / "cluster") as made, Client(scheduler_file=str(made.file)) as client:
        with pytest.raises(JobStopped) as stopped:
            division(source).plan(Slow(seconds), ToZip(out)).run(stop=stop, callbacks=[callback])
        assert not stop.is_over
        assert stopped.value.summary.done == zips(out) <= callback.zips + sum(client.nthreads().values())
    check_goes_on(source, out, expected, seconds)


@pytest.mark.nightly
@pytest.mark.cluster
def test_a_lazy_job_whose_future_is_cancelled_does_nothing_more(source, tmp_path, expected):
    out = tmp_path / "out"
    with cluster(tmp_path / "cluster") as made, Client(scheduler_file=str(made.file)) as client:
        job = division(source).map_shards(Slow(SECONDS), ToZip(out), compute=False)
        future = client.compute(job)
        wait_until(lambda: zips(out) >= 3, what="three zips")
        future.cancel()
        check_still(out)
        assert client.submit(os.getpid).result(20) > 0
    check_goes_on(source, out, expected)


@pytest.mark.cluster
def test_threads_stop_with_the_process_that_they_are_in(source, tmp_path, expected):
    out, log = tmp_path / "out", tmp_path / "log"
    process = start(source, out, "threads", log)
    try:
        wait_until(lambda: zips(out) >= 3, what="three zips")
        process.send_signal(signal.SIGINT)
        process.wait(5)  # the threads would need some seconds more
    finally:
        kill_session(process)
    assert "run the same job again" in log.read_text()
    assert 0 < zips(out) < CUBE_SHARDS
    check_goes_on(source, out, expected)


@pytest.mark.cluster
def test_a_worker_that_is_told_to_end_is_not_missed(source, tmp_path, expected):
    """As a batch system ends a worker at its time limit; nothing restarts it."""
    out, log = tmp_path / "out", tmp_path / "log"
    with cluster(tmp_path / "cluster") as made:
        process = start(source, out, made.file, log)
        try:
            wait_until(lambda: zips(out) >= 3, what="three zips")
            for worker in made.workers[:1]:
                worker.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0, log.read_text()
            assert made.workers[0].wait(20) is not None
        finally:
            kill_session(process)
    assert zips(out) == CUBE_SHARDS
    assert (out / "shardedstore.json").exists()
    assert temporaries(out) == []
    assert len(ledger_at(out).read()) == CUBE_SHARDS


# The parts


def test_an_interrupt_keeps_its_kind_and_tells_how_to_go_on(source, tmp_path):
    def stop(ended, total):
        raise KeyboardInterrupt

    with dask.config.set(scheduler="threads"), pytest.raises(KeyboardInterrupt) as caught:
        division(source).map_shards(ToZip(tmp_path / "out"), progress=stop)
    (note,) = caught.value.__notes__
    assert note.endswith("run the same job again, and it goes on from there")


def test_what_a_thread_does_is_stopped_and_not_what_others_do():
    unwanted = threading.Event()
    with cancellation.cancellable(unwanted.is_set):
        items = until_cancelled(range(5))
        assert next(items) == 0
        unwanted.set()
        assert next(items) == 1  # it polls
        other = threading.Thread(target=check_cancelled)
        other.start()
        other.join()
        with pytest.raises(Stopped):
            check_cancelled()
    check_cancelled()
    assert list(items) == [2, 3, 4]


def test_an_interrupted_job_has_a_token_of_its_own(source):
    chain = parse_chain([lambda *_: None])
    work = partial(run_task, Job(chain, choose_layout(chain.sink)))
    task = Task(Segment(0, (Run(0, "", Directory(str(source))),)))
    assert run_cancellable(work, "one", task).tried == 1
    interrupt("one")
    assert run_cancellable(work, "one", task) is None
    assert run_cancellable(work, "another", task).tried == 1
