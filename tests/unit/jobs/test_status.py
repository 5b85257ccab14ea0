"""The state of jobs, read from their destinations."""

import json
import os
import time
from functools import partial

import dask
import pytest
from click.testing import CliRunner
from helpers_jobs import Fail, blocks_at

from shardedstore import ConfigError, ShardedStore, ShardsFailed, cli, job_status, list_jobs
from shardedstore.abc import Callback, Step
from shardedstore.jobs import lock
from shardedstore.transforms import CopyTo, ToZip

SHARDS = 7


@pytest.fixture
def store(tmp_path):
    return blocks_at(tmp_path / "source.zarr", SHARDS - 1)


@pytest.fixture(autouse=True)
def sync():
    with dask.config.set(scheduler="sync"):
        yield


class Look(Callback):
    """Reads the state after each task, and raises after some of them."""

    def __init__(self, url, error=None, after=3):
        self.url, self.error, self.after, self.found = url, error, after, []

    def on_task_end(self, event):
        self.found.append(job_status(self.url))
        if self.error is not None and event.progress.ended >= self.after:
            raise self.error


def edit_lock(out, **changes):
    """Change the file of the lock, as another process would leave it."""
    (name,) = (out / ".shardedstore").glob("lock-*.json")
    name.write_text(json.dumps({**json.loads(name.read_text()), **changes}))


def test_a_job_that_is_done(store, tmp_path):
    store.map_shards(ToZip(tmp_path / "out"))
    status = job_status(tmp_path / "out")
    assert (status.state, status.total, status.done, status.failed, status.left) == ("done", SHARDS, SHARDS, 0, 0)
    assert (status.chain, status.error, status.is_alarm) == ("ToZip", "", False)
    assert f"process {os.getpid()}" in status.holder
    assert status.last_event <= status.heartbeat


def test_one_ordinary_zarr(store, tmp_path):
    store.map_shards(CopyTo(tmp_path / "out.zarr"))
    status = job_status(tmp_path / "out.zarr")
    assert (status.url, status.state, status.done) == (str(tmp_path / "out.zarr"), "done", SHARDS)


def test_a_job_that_failed(store, tmp_path):
    with pytest.raises(ShardsFailed):
        store.map_shards(Fail("a[2]"), ToZip(tmp_path / "out"), retries=0)
    status = job_status(tmp_path / "out")
    assert (status.state, status.done, status.failed, status.left) == ("failed", SHARDS - 1, 1, 0)
    assert (status.error, status.is_alarm) == ("ShardsFailed", True)
    assert status.message.startswith("1 of 7 shards failed")
    assert [(cause.code, cause.count, cause.shards) for cause in status.causes] == [("failed", 1, ("a[2]",))]
    with open(status.failures_url) as failures, open(status.report_url) as report:
        assert json.loads(failures.read())["shard"] == "a[2]"
        assert "<!DOCTYPE html>" in report.read()
    text = CliRunner().invoke(cli.main, ["status", str(tmp_path / "out")])
    assert text.exit_code == 1
    for part in ("a[2]: ", "[failed]", status.failures_url, status.report_url, "1 of 7 shards failed"):
        assert part in text.stdout


class FailBlocks(Step):
    """Fails for each block, with its name in the message."""

    def __call__(self, entries, shard):
        if shard.block is not None:
            raise ValueError(f"{shard.name} is broken")
        return entries


@pytest.mark.parametrize("case", ["run", "no report", "slice", "moved to another folder", "without the file"])
def test_equal_causes_are_one_line_of_the_status(store, tmp_path, case):
    plan, out = store.plan(FailBlocks(), ToZip(tmp_path / "out"), retries=0), tmp_path / "out"
    run = partial(plan.run_slice, 1, 1) if case == "slice" else partial(plan.run, report=case != "no report")
    with pytest.raises(ShardsFailed):
        run()
    if case == "without the file":
        (out / ".shardedstore/failures.jsonl").unlink()
    if case == "moved to another folder":  # as another machine may mount it elsewhere
        out = out.rename(tmp_path / "elsewhere")
    status = job_status(out)
    (cause,) = status.causes
    assert (cause.code, cause.count, cause.shards[0]) == ("failed", SHARDS - 1, "a[0]")
    assert "is broken" in cause.cause
    assert not cause.traceback
    assert (status.failures_url is None) == (case in ("slice", "without the file"))
    assert (status.report_url is None) == (case in ("slice", "no report"))
    assert status.failures_url is None or status.failures_url.startswith(str(out))
    lines = CliRunner().invoke(cli.main, ["status", str(out)]).stdout.splitlines()
    assert [line.split()[:5] for line in lines if line.startswith("failed")] == [
        ["failed", "a[0]", "and", "5", "more:"]
    ]


def test_the_causes_of_an_earlier_run_are_not_shown(store, tmp_path):
    with pytest.raises(ShardsFailed):
        store.map_shards(Fail("a[2]"), ToZip(tmp_path / "out"), retries=0)
    time.sleep(1.1)  # times of reports and locks are in whole seconds
    with pytest.raises(OSError, match="no route"):
        store.map_shards(
            Fail("a[2]"), ToZip(tmp_path / "out"), retries=0, callbacks=[Look(tmp_path / "out", OSError("no route"), 0)]
        )
    status = job_status(tmp_path / "out")
    assert (status.state, status.failed, status.causes, status.failures_url) == ("failed", 0, (), None)
    assert (status.error, status.message) == ("OSError", "")
    assert status.report_url is None


@pytest.mark.parametrize(
    ("error", "state"),
    [(KeyboardInterrupt(), "stopped"), (OSError("no route"), "failed")],
    ids=["a signal", "an error"],
)
def test_a_job_that_was_ended(error, state, store, tmp_path):
    with pytest.raises(type(error)):
        store.map_shards(ToZip(tmp_path / "out"), callbacks=[Look(tmp_path / "out", error)])
    status = job_status(tmp_path / "out")
    assert (status.state, status.done, status.left) == (state, 3, SHARDS - 3)
    store.map_shards(ToZip(tmp_path / "out"))
    assert job_status(tmp_path / "out").state == "done"


def test_a_running_job_before_its_first_heartbeat(store, tmp_path):
    look = Look(tmp_path / "out")
    store.map_shards(ToZip(tmp_path / "out"), callbacks=[look])
    assert {status.state for status in look.found} == {"running"}
    done = [status.done for status in look.found]
    assert done == sorted(done)
    assert {status.total for status in look.found} == {SHARDS}


NUMBERS = {"total": 90, "done": 30, "skipped": 15, "failed": 1, "decoded_nbytes": 46, "total_decoded_nbytes": 90}


@pytest.mark.parametrize(
    ("age", "stalled", "state"),
    [
        (3, False, "running"),
        (3, True, "stalled"),
        (-3, False, "running"),
        (3600, False, "died"),
        (-3600, False, "died"),
    ],
)
def test_a_job_on_another_machine(age, stalled, state, store, tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "RENEWAL", 0.1)
    monkeypatch.setattr(lock, "LOOK", 0.05)
    with pytest.raises(KeyboardInterrupt):
        store.map_shards(ToZip(tmp_path / "out"), callbacks=[Look(tmp_path / "out", KeyboardInterrupt())])
    numbers = {
        **NUMBERS,
        "stalled": stalled,
        "oldest": {"shard": "a[4]", "seconds": 8.0},
        "idle_seconds": 2.0,
        "rate": 2.0,
    }
    other = {"machine": "elsewhere", "host": "node7", "free": False, "ended": "", "at": time.time() - age}
    edit_lock(tmp_path / "out", **other, progress=numbers)
    status = job_status(tmp_path / "out")
    assert (status.state, "node7" in status.holder) == (state, True)
    if state == "died":
        assert (status.done, status.left, status.oldest, status.rate) == (3, SHARDS - 3, None, None)
    else:
        assert (status.done, status.failed, status.left, status.total) == (45, 1, 44, 90)
        assert (status.oldest.shard, status.rate) == ("a[4]", 2.0)
        assert status.idle_seconds == pytest.approx(2 + max(0, age), abs=1)


def test_a_job_whose_clock_differs_is_watched(store, tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "RENEWAL", 0.1)
    look = Look(tmp_path / "out", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        store.map_shards(ToZip(tmp_path / "out"), callbacks=[look])
    other = {"machine": "elsewhere", "free": False, "ended": "", "at": time.time() + 1e6, "progress": NUMBERS}
    edit_lock(tmp_path / "out", **other)

    def beat(seconds):
        edit_lock(tmp_path / "out", count=99)

    monkeypatch.setattr(time, "sleep", beat)
    assert job_status(tmp_path / "out").state == "running"


def test_a_lazy_job_holds_no_lock(store, tmp_path):
    lazy = store.map_shards(Fail("a[2]"), ToZip(tmp_path / "out"), compute=False, retries=0)
    with pytest.raises(ShardsFailed):
        lazy.compute()
    status = job_status(tmp_path / "out")
    assert (status.state, status.done, status.failed, status.holder) == ("failed", SHARDS - 1, 1, "")
    assert status.last_event


def test_where_no_job_wrote(tmp_path):
    with pytest.raises(ConfigError, match=r"no job has written to .*: name the destination of a job"):
        job_status(tmp_path)


def test_all_results_below_a_prefix(store, tmp_path):
    top = tmp_path / "results"
    for sink in (ToZip(top / "a/zips"), CopyTo(top / "b.zarr"), ToZip(top / "1/2/3/4/too-deep")):
        store.map_shards(sink)
    with pytest.raises(ShardsFailed):
        store.map_shards(Fail("a[2]"), ToZip(top / "failed"), retries=0)
    found = {status.url.removeprefix(f"{top}/"): status.state for status in list_jobs(top)}
    assert found == {"a/zips": "done", "b.zarr": "done", "failed": "failed"}
    assert len(list_jobs(top, depth=5)) == 4
    assert list_jobs(tmp_path / "nothing") == []


def run(*arguments):
    return CliRunner().invoke(cli.main, list(map(str, arguments)), catch_exceptions=False)


def test_the_commands(store, tmp_path):
    store.map_shards(ToZip(tmp_path / "results/good"))
    with pytest.raises(ShardsFailed):
        store.map_shards(Fail("a[2]"), ToZip(tmp_path / "results/bad"), retries=0)
    good, bad = run("status", tmp_path / "results/good", "--watch"), run("status", tmp_path / "results/bad", "--json")
    assert (good.exit_code, bad.exit_code) == (0, 1)
    assert "7 of 7 shards" in good.stdout
    assert json.loads(bad.stdout)["failed"] == 1
    both = run("jobs", tmp_path / "results")
    assert [line.split()[1] for line in both.stdout.splitlines()] == ["state", "failed", "done"]
    assert [json.loads(line)["state"] for line in run("jobs", tmp_path, "--json").stdout.splitlines()] == [
        "failed",
        "done",
    ]
    missing = run("jobs", tmp_path / "nothing")
    assert (missing.exit_code, "there is no folder" in missing.stderr) == (2, True)
    none = run("status", tmp_path)
    assert (none.exit_code, "no job has written to" in none.stderr) == (2, True)


def test_a_status_is_data(store, tmp_path):
    store.map_shards(ToZip(tmp_path / "out"))
    status = job_status(tmp_path / "out")
    assert json.loads(json.dumps(status.to_dict()))["state"] == status.state
    assert ShardedStore.load(tmp_path / "out") is not None
