"""Slices of a job: equal parts in processes of their own, which may die, overlap and run twice."""

import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import dask
import msgspec
import pytest
import zarr
from helpers_jobs import Fail, cube_at, division, files_of, ledger_at, python, undisturbed

from shardedstore import JobStopped, LockedError, ShardsFailed, UsageError
from shardedstore.abc import Callback
from shardedstore.cli.signals import stop_on_signals
from shardedstore.jobfiles.spec import RunSpec
from shardedstore.jobs import lock
from shardedstore.jobs.ledger import FOLDER
from shardedstore.jobs.lock import held, held_by_slice
from shardedstore.jobs.shards import Run, Segment
from shardedstore.jobs.slices import Slice, parse_slice
from shardedstore.storage.folders import open_folder
from shardedstore.stores.group import Group
from shardedstore.transforms import MapChunks, Recompress, ToZip

KILLED = """
import os, signal, sys
from helpers_jobs import division
from shardedstore.abc import Callback
from shardedstore.transforms import ToZip

class Kill(Callback):
    def on_task_end(self, event):
        if event.progress.done >= 2:
            os.kill(os.getpid(), signal.SIGKILL)

division(sys.argv[1]).plan(ToZip(sys.argv[2])).run_slice(1, 2, callbacks=[Kill()])
"""


@pytest.fixture(autouse=True)
def synchronous():
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.fixture
def store(tmp_path):
    return division(cube_at(tmp_path / "source.zarr"))


@pytest.mark.parametrize("counts", [[1], [5], [3, 1, 4], [7] * 5, []])
@pytest.mark.parametrize("number", [1, 2, 3, 7, 40])
def test_each_shard_is_in_one_slice(counts, number):
    segments = [Segment(i, (Run(100 * i, "t", Group(), stop=count),)) for i, count in enumerate(counts)]
    parts = [Slice(i + 1, number).of(segments) for i in range(number)]
    found = [shard for part in parts for segment in part for run in segment.runs for shard in run.numbers]
    assert found == [shard for segment in segments for run in segment.runs for shard in run.numbers]
    sizes = [sum(segment.count for segment in part) for part in parts]
    assert sum(sizes) == sum(counts)
    if len(set(counts)) == 1:
        assert max(sizes) - min(sizes) <= len(counts) + 1


@pytest.mark.parametrize("text", ["0/4", "5/4", "3", "a/b", "", "-1/4", "1/0"])
def test_what_is_no_slice_is_refused(text):
    with pytest.raises(UsageError, match="is not a slice: write its number and the number of slices"):
        parse_slice(text)


def test_slices_make_the_result_of_a_whole_job(store, tmp_path):
    expected = undisturbed(tmp_path / "whole")
    plan = store.plan(ToZip(tmp_path / "out"))
    done = [plan.run_slice(number, 5).done for number in (4, 2, 5, 1, 3)]
    assert min(done) > 0
    assert plan.run_slice(2, 5).skipped == done[1]  # runs twice
    assert plan.run_slice(1, 2).done == 0  # overlaps
    assert not (tmp_path / "out" / "shardedstore.json").exists()
    summary = plan.run().summary
    assert (summary.done, summary.skipped) == (0, sum(done))
    assert {name: data for name, data in files_of(tmp_path / "out").items() if name in expected} == expected


def test_slices_run_at_the_same_time(store, tmp_path):
    """Ten slices of three begin together: each runs more than once."""
    out, barrier = tmp_path / "out", threading.Barrier(10)

    def run(i):
        plan = store.plan(ToZip(out))
        barrier.wait()
        return plan.run_slice(i % 3 + 1, 3).tried

    with ThreadPoolExecutor(10) as pool:
        tried = list(pool.map(run, range(10)))
    plan = store.plan(ToZip(out))
    assert tried[0] + tried[1] + tried[2] == plan.shard_count
    summary = plan.run().summary
    assert (summary.done, summary.skipped) == (0, plan.shard_count)


def test_a_dead_slice_is_finished_by_the_ordinary_run(store, tmp_path):
    killed = python("-c", KILLED, str(tmp_path / "source.zarr"), str(tmp_path / "out"), log=tmp_path / "log")
    assert killed.wait(60) == -signal.SIGKILL, (tmp_path / "log").read_text()
    plan = store.plan(ToZip(tmp_path / "out"))
    other = plan.run_slice(2, 2).done
    summary = plan.run().summary
    assert summary.skipped >= other + 2
    assert summary.done + summary.skipped == plan.shard_count
    assert not list((tmp_path / "out" / FOLDER).glob("slice-*"))


def test_the_next_night_in_slices(store, tmp_path):
    chain = Recompress("zstd"), ToZip(tmp_path / "out")
    store.map_shards(*chain, changed="content")
    array = zarr.open_array(tmp_path / "source.zarr", path="temperature")
    array[:1] = 7
    plan = store.plan(*chain, changed="content")
    done = [plan.run_slice(number, 4).done for number in (1, 2, 3, 4)]
    assert 0 < sum(done) < 6
    new = plan.run()
    assert new.summary.done == 0
    assert (zarr.open_array(new, path="temperature", mode="r")[:1] == 7).all()


def test_failures_of_a_slice_are_recorded_and_tried_again(store, tmp_path):
    chain = Fail("wind_v[2/0/1]", str(tmp_path / "mended")), ToZip(tmp_path / "out")
    plan = store.plan(*chain)
    assert plan.run_slice(1, 2).failures == ()
    with pytest.raises(ShardsFailed, match=r"1 of 1[12] shards failed") as failed:
        plan.run_slice(2, 2)
    assert [error.shard for error in failed.value.exceptions] == ["wind_v[2/0/1]"]
    assert [record.code for record in ledger_at(tmp_path / "out").read().values() if record.failed] == ["failed"]
    (tmp_path / "mended").touch()
    assert plan.run().summary.done == 1


def test_a_slice_stops_on_time(store, tmp_path):
    class Stop(Callback):
        def on_task_end(self, event):
            if event.progress.done >= 2:
                signal.raise_signal(signal.SIGTERM)

    with stop_on_signals(RunSpec()) as stop, pytest.raises(JobStopped, match="stopped by SIGTERM; 2 of 12 shards"):
        store.plan(ToZip(tmp_path / "out")).run_slice(1, 2, callbacks=[Stop()], stop=stop)


@pytest.mark.parametrize(
    ("chain", "options", "message"),
    [
        ([MapChunks(lambda chunk, place: chunk)], {}, "has no stable fingerprint"),
        ([], {"overwrite": True}, "overwrite=True would start anew in each slice"),
    ],
    ids=["lambda", "overwrite"],
)
def test_jobs_that_can_not_run_in_slices(chain, options, message, store, tmp_path):
    with pytest.raises(UsageError, match=message):
        store.plan(*chain, ToZip(tmp_path / "out"), **options).run_slice(1, 2)
    assert not (tmp_path / "out").exists()


def test_a_job_without_a_destination_can_not_run_in_slices(store):
    with pytest.raises(UsageError, match="a job without a destination can't run in slices"):
        store.plan(lambda store: store).run_slice(1, 2)


def test_slices_and_whole_jobs_exclude_each_other(tmp_path):
    place = open_folder(str(tmp_path))
    with held_by_slice(place, "job", "1/2"), held_by_slice(place, "job", "2/2"), held_by_slice(place, "job", "2/2"):
        with pytest.raises(LockedError, match=r"is being written to by slice ./2 of "), held(place):
            pass
        with pytest.raises(LockedError, match="is being written to by slice"), held_by_slice(place, "other", "1/2"):
            pass
    with held(place), pytest.raises(LockedError), held_by_slice(place, "job", "1/2"):
        pass
    with held(place):  # nothing is left of the slices
        assert not list((tmp_path / FOLDER).glob("slice-*"))


def test_a_slice_of_another_machine_is_watched(tmp_path, monkeypatch):
    """One that counts lives; dead ones hold nothing up for longer than one of them would."""
    place = open_folder(str(tmp_path))
    monkeypatch.setattr(lock, "LOOK", 0.05)
    monkeypatch.setattr(lock, "LIFE", 0.5)
    for i in range(5):
        write_holder(tmp_path, i)
    begun = time.monotonic()
    with held(place):
        assert time.monotonic() - begun < 5 * lock.LIFE  # one after the other would take as long
    assert not list((tmp_path / FOLDER).glob("slice-*"))
    write_holder(tmp_path, 1)
    counting = threading.Thread(target=lambda: [write_holder(tmp_path, 1, time.sleep(0.1) or i) for i in range(9)])
    counting.start()
    with pytest.raises(LockedError, match="slice 1/40 of them on elsewhere"), held(place):
        pass
    counting.join()


def write_holder(folder, number, count=0):
    holder = lock.Holder(
        "them", "elsewhere", "elsewhere", 1, 0, "2026-01-01", f"a{number}", count, job="j", part="1/40"
    )
    path = folder / FOLDER / f"slice-a{number}.json"
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_suffix(".tmp")  # a reader never sees half a file
    temporary.write_bytes(msgspec.json.encode(holder))
    temporary.replace(path)
