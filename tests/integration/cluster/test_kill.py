"""Jobs that are resumed after their processes were killed, with the bytes of an undisturbed job."""

import os
import re
import signal
import socket
from unittest.mock import patch

import dask
import pytest
from conformance import check_same_contents
from distributed import Client
from helpers_jobs import (
    CUBE,
    CUBE_SHARDS,
    Slow,
    cluster,
    cube_at,
    division,
    files_of,
    kill_session,
    ledger_at,
    start_slow_job,
    temporaries,
    undisturbed,
    wait_until,
)

from shardedstore import ShardedStore
from shardedstore.fields import FILE_NAME
from shardedstore.jobs import open_destination as versions
from shardedstore.jobs import shards
from shardedstore.jobs.make_plan import make_plan
from shardedstore.storage.folders import open_folder
from shardedstore.transforms import ToZip

pytestmark = pytest.mark.cluster
SECONDS = 0.04  # for every shard


@pytest.fixture(autouse=True)
def small_tasks(monkeypatch):
    monkeypatch.setattr(shards, "LEAST_WEIGHT", 1)


@pytest.fixture
def source(tmp_path):
    return cube_at(tmp_path / "source.zarr")


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The files of an undisturbed job."""
    return undisturbed(tmp_path_factory.mktemp("expected"), Slow(SECONDS))


def zips(out):
    return {name for name in files_of(out) if name.endswith(".zip") and "/.tmp" not in f"/{name}"}


def recorded(out):
    return len(ledger_at(out).read())


def go_on(source, out):
    with patch.object(Slow, "pace", 0), dask.config.set(scheduler="synchronous"):
        return division(source).map_shards(Slow(SECONDS), ToZip(out))


def check_half(out, expected):
    """Files under final names are complete, whatever else is missing."""
    done = {name: data for name, data in files_of(out).items() if name in zips(out)}
    assert 0 < len(done) < CUBE_SHARDS
    assert done.items() <= expected.items()
    assert not (out / FILE_NAME).exists()


def test_all_processes_are_killed_twice_and_the_same_call_goes_on(source, tmp_path, expected):
    out = tmp_path / "out"
    for share in 1 / 3, 2 / 3:
        process = start_slow_job(source, out, tmp_path / "log", seconds=SECONDS)
        try:
            wait_until(lambda share=share: recorded(out) >= CUBE_SHARDS * share, what=f"{share} of the records")
        finally:
            kill_session(process)
        check_half(out, expected)
    before, stats = recorded(out), {name: (out / name).stat().st_ino for name in zips(out)}
    left = len(temporaries(out))
    result = go_on(source, out)
    assert CUBE_SHARDS * 2 / 3 <= before == result.summary.skipped
    assert result.summary.done == CUBE_SHARDS - before
    assert left <= 2 * 2  # the current shard of each killed worker
    assert temporaries(out) == []
    assert files_of(out) == expected
    kept = [name for name, inode in stats.items() if (out / name).stat().st_ino == inode]
    assert len(kept) >= before
    check_same_contents(ShardedStore.load(out), CUBE.contents())


def test_what_killed_processes_left_is_removed_and_nothing_else(source, tmp_path, expected):
    out = tmp_path / "out"
    versions.open_destination(open_folder(str(out)), manifest_of_source(source), False)
    (out / "temperature" / "0").mkdir(parents=True)
    theirs = f".shardedstore-{socket.gethostname()}-99999999-0123abcd.tmp"
    for folder in out, out / "temperature" / "0":
        (folder / theirs).write_bytes(b"half a zip")
    (out / ".shardedstore-not-ours").write_bytes(b"mine")
    go_on(source, out)
    assert [path.name for path in temporaries(out)] == [".shardedstore-not-ours"]
    assert files_of(out) == {**expected, ".shardedstore-not-ours": b"mine"}


def manifest_of_source(source):
    from shardedstore.jobs.job import Job
    from shardedstore.jobs.layouts.registry import choose_layout
    from shardedstore.jobs.prepare import manifest_of
    from shardedstore.transforms.base.chain import parse_chain

    store = division(source)
    chain = parse_chain([Slow(SECONDS), ToZip("out")])
    return manifest_of(make_plan(store.config), Job(chain, choose_layout(chain.sink)))


@pytest.mark.nightly
def test_only_the_client_is_killed(source, tmp_path, expected):
    """The scheduler drops the tasks of the client; the cluster serves the next client."""
    out = tmp_path / "out"
    with cluster(tmp_path / "cluster") as made:
        process = start_slow_job(source, out, tmp_path / "log", str(made.file), SECONDS)
        wait_until(lambda: recorded(out) >= CUBE_SHARDS // 3, what="a third of the records")
        os.kill(process.pid, signal.SIGKILL)
        process.wait(10)
        with Client(scheduler_file=str(made.file)) as client:
            wait_until(lambda: not client.processing() or not any(client.processing().values()), what="an idle cluster")
            before = recorded(out)
            check_half(out, expected)
            result = division(source).map_shards(Slow(SECONDS), ToZip(out))
    assert result.summary.skipped >= before >= CUBE_SHARDS // 3
    assert files_of(out) == expected
    assert temporaries(out) == []


@pytest.mark.nightly
def test_only_the_scheduler_is_killed(source, tmp_path, expected):
    """The job ends with an error, and the next run uses the finished shards."""
    out = tmp_path / "out"
    with cluster(tmp_path / "cluster") as made:
        process = start_slow_job(source, out, tmp_path / "log", str(made.file), SECONDS)
        wait_until(lambda: recorded(out) >= CUBE_SHARDS // 3, what="a third of the records")
        os.kill(made.scheduler.pid, signal.SIGKILL)
        code = process.wait(60)
    log = (tmp_path / "log").read_text()
    assert code == 1
    assert "ClusterError: the connection to the Dask scheduler is lost: run the same job" in log
    check_half(out, expected)
    before = recorded(out)
    result = go_on(source, out)
    assert result.summary.skipped == before
    assert files_of(out) == expected


def test_a_worker_is_killed_for_good(source, tmp_path, expected):
    """It is not restarted: the other worker does its shard.

    Shards longer than `SHORTEST` of the task sizes have a task each. With short shards, the current task of the worker has
    several, and all that it recorded are skipped.
    """
    out = tmp_path / "out"
    with cluster(tmp_path / "cluster") as made:
        process = start_slow_job(source, out, tmp_path / "log", str(made.file), seconds=0.3)
        wait_until(lambda: recorded(out) >= CUBE_SHARDS // 3, what="a third of the records")
        kill_session(made.workers[0])
        assert process.wait(60) == 0
    told = re.search(r"done (\d+) skipped (\d+)", (tmp_path / "log").read_text())
    assert told is not None
    done, skipped = map(int, told.groups())
    assert done + skipped == CUBE_SHARDS
    assert skipped <= 1  # a recorded shard is done, even if its worker died before its task ended
    assert files_of(out) == expected
    assert temporaries(out) == []
