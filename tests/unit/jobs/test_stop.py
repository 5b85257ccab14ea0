"""Jobs that stop before their end: no new shard starts, finished shards stay, and the next run continues."""

import signal
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import dask
import numpy as np
import pytest
import zarr
from helpers_jobs import Fail, ledger_at, temporaries

from shardedstore import JobStopped, ShardedStore, Step, StopSignal, UsageError
from shardedstore.abc import Callback
from shardedstore.cli import signals
from shardedstore.cli.exit_codes import ExitCode, exit_code_of
from shardedstore.cli.signals import Interrupted, stop_on_signals
from shardedstore.jobfiles.spec import RunSpec
from shardedstore.transforms import ToZip

COUNT = 11  # shards
LOCAL = ["synchronous", "threads"]


@pytest.fixture
def store(tmp_path):
    group = zarr.create_group(tmp_path / "source.zarr")
    group.create_array("t", data=np.arange(80), chunks=(2,))
    return ShardedStore.partition(tmp_path / "source.zarr", {"t": (8,)})


@dataclass(frozen=True)
class StopAfter(Callback):
    """Requests a stop when some shards have ended."""

    stop: StopSignal
    shards: int

    def on_task_end(self, event):
        if event.progress.ended >= self.shards:
            self.stop.request("SIGTERM")


@dataclass(frozen=True)
class Wait(Step):
    """Waits at each entry of block 3 until a file exists, some seconds in all."""

    file: str

    def __call__(self, entries, shard):
        for entry in entries:
            end = time.monotonic() + 1
            while shard.block == (3,) and not Path(self.file).exists() and time.monotonic() < end:
                time.sleep(0.01)
            yield entry


@pytest.mark.parametrize("scheduler", LOCAL)
def test_a_job_stops_and_continues(scheduler, store, tmp_path):
    stop = StopSignal()
    plan = store.plan(ToZip(tmp_path / "out"))
    with dask.config.set(scheduler=scheduler, num_workers=2):
        with pytest.raises(JobStopped, match=r"stopped by SIGTERM; \d of 11 .* are left: run the same job") as stopped:
            plan.run(stop=stop, callbacks=[StopAfter(stop, 3)])
        summary = stopped.value.summary
        assert stopped.value.reason == "SIGTERM"
        assert 3 <= summary.done < COUNT
        assert not (tmp_path / "out" / "shardedstore.json").exists()
        again = plan.run().summary
    assert (again.skipped, again.done) == (summary.done, COUNT - summary.done)


@pytest.mark.parametrize("scheduler", LOCAL)
def test_a_running_shard_is_abandoned_after_the_grace(scheduler, store, tmp_path):
    chain = Wait(str(tmp_path / "go")), ToZip(tmp_path / "out")
    begun = time.monotonic()
    with dask.config.set(scheduler=scheduler, num_workers=1):
        with pytest.raises(JobStopped, match="the time is up") as stopped:
            store.plan(*chain).run(max_duration=1, grace=timedelta(seconds=0.1))
        assert time.monotonic() - begun < 20
        assert temporaries(tmp_path / "out") == []
        (tmp_path / "go").touch()
        again = store.plan(*chain).run().summary
    assert (again.skipped, again.done) == (stopped.value.summary.done, COUNT - again.skipped)


def test_failures_until_the_stop_are_reported_and_recorded(store, tmp_path):
    stop = StopSignal()
    with (
        dask.config.set(scheduler="synchronous"),
        pytest.raises(JobStopped, match=r"of 11 .* done, 1 failed and \d are left"),
    ):
        store.plan(Fail("t[0]"), ToZip(tmp_path / "out")).run(stop=stop, callbacks=[StopAfter(stop, 3)])
    records = ledger_at(tmp_path / "out").read().values()
    assert [record.code for record in records if record.failed] == ["failed"]


def test_a_job_whose_shards_have_all_ended_is_finished(store, tmp_path):
    stop = StopSignal()
    with dask.config.set(scheduler="synchronous"):
        done = store.plan(ToZip(tmp_path / "out")).run(stop=stop, callbacks=[StopAfter(stop, COUNT)])
    assert done.summary.done == COUNT


def test_no_job_begins_after_the_stop(store, tmp_path):
    with pytest.raises(JobStopped, match="the time is up before the job began"):
        store.plan(ToZip(tmp_path / "out")).run(max_duration=0)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("duration", ["5 apples", "", "10", -1, float("nan")])
def test_bad_durations_are_refused(duration, store, tmp_path):
    plan = store.plan(ToZip(tmp_path / "out"))
    for options in ({"max_duration": duration}, {"grace": duration}):
        with pytest.raises(UsageError, match="is not a duration"):
            plan.run(**options)
    with pytest.raises(UsageError, match="exclude each other"):
        plan.run(max_duration=1, stop=StopSignal())


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGINT, ExitCode.INTERRUPTED),
        (signal.SIGTERM, ExitCode.TERMINATED),
        (signal.SIGUSR1, ExitCode.TIME_IS_UP),
    ],
)
def test_signals(number, code, capfd, monkeypatch):
    before = signal.getsignal(number)
    with stop_on_signals(RunSpec(grace="7s")) as stop, stop.deferred():
        signal.raise_signal(number)
        assert (stop.is_requested, stop.is_over, stop.reason) == (True, False, number.name)
        assert "running shards have 7.00 s to finish" in capfd.readouterr().err
        signal.raise_signal(number)  # the scheduler and its parent process both send it
        assert capfd.readouterr().err == ""
        monkeypatch.setattr(signals, "DOUBLE_SECONDS", 0)
        with pytest.raises(Interrupted) as second:
            signal.raise_signal(signal.SIGINT)
        assert exit_code_of(second.value) == ExitCode.INTERRUPTED
    assert exit_code_of(JobStopped("", stop.reason)) == code
    with stop_on_signals(RunSpec()) as stop, pytest.raises(Interrupted) as at_once:
        signal.raise_signal(number)  # no shard runs
    assert exit_code_of(at_once.value) == code
    assert signal.getsignal(number) is before
