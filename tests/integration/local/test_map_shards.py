"""`map_shards` on the local schedulers: equal results and bytes, lazily or at once, and failures."""

import errno
import os
import pickle
import re
import stat
from dataclasses import dataclass, replace
from pathlib import Path

import dask
import dask.dot
import helpers_jobs
import psutil
import pytest
import xarray as xr
import zarr
from conformance import check_same_contents, contents_of
from dask.delayed import Delayed
from dask.utils import key_split
from helpers_jobs import (
    CUBE,
    CUBE_SHARDS,
    Fail,
    FailFirst,
    Remove,
    Seen,
    blocks_at,
    copied,
    cube_at,
    division,
    files_of,
    forgotten,
    temporaries,
    undisturbed,
)
from sources import SOURCES, to_memory

from shardedstore import (
    ConfigError,
    DestinationError,
    PartitionError,
    ShardedStore,
    ShardedStoreError,
    ShardsFailed,
    Step,
    UsageError,
    step,
)
from shardedstore.fields import FILE_NAME
from shardedstore.jobs import shards
from shardedstore.jobs.make_plan import make_plan
from shardedstore.storage.errors import is_transient
from shardedstore.storage.retry import Backoff
from shardedstore.transforms import ToZip

SCHEDULERS = ["synchronous", "threads", "processes"]
GO_ON = "run the same job again"


@pytest.fixture(autouse=True)
def small_tasks(monkeypatch):
    """Make tasks small, as the small sources of tests would otherwise be one task."""
    monkeypatch.setattr(shards, "LEAST_WEIGHT", 1 << 18)


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr("shardedstore.storage.retry.BACKOFF", Backoff(0.001))


@pytest.fixture
def source(tmp_path):
    return cube_at(tmp_path / "source.zarr")


@pytest.fixture
def synchronous():
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The files of an undisturbed job."""
    return undisturbed(tmp_path_factory.mktemp("expected"))


def refuse(*args, **kwargs):
    raise AssertionError("something was computed")


def failed_shards(failed: ShardsFailed) -> set[str]:
    return {error.shard for error in failed.exceptions}


# The result


@pytest.mark.few(2)
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_the_bytes_are_the_same_on_every_scheduler(source, tmp_path, expected, scheduler):
    with dask.config.set(scheduler=scheduler, num_workers=2):
        division(source).map_shards(ToZip(tmp_path / "out"))
    assert files_of(tmp_path / "out") == expected


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_the_bytes_are_the_same_when_it_is_computed_later(source, tmp_path, expected, scheduler):
    job = division(source).map_shards(ToZip(tmp_path / "out"), compute=False)
    job.compute(scheduler=scheduler, num_workers=2)
    assert files_of(tmp_path / "out") == expected


@pytest.mark.few(7)
@pytest.mark.usefixtures("synchronous")
@pytest.mark.parametrize("name", SOURCES)
def test_the_result_holds_what_the_source_holds(tmp_path, name):
    path = cube_at(tmp_path / "source.zarr", SOURCES[name])
    store = division(path, SOURCES[name])
    result = store.map_shards(ToZip(tmp_path / "out"))
    expected = SOURCES[name].contents()
    check_same_contents(result, {**expected, **rebuilt(result, expected)})
    assert result.summary.done == sum(SOURCES[name].mounts.values()) + 1


def rebuilt(store, expected):
    """The documents with consolidated metadata: their text may differ, and test_publish checks it."""
    contents = contents_of(store)
    return {
        key: contents[key]
        for key, data in expected.items()
        if key in contents and (key.endswith(".zmetadata") or b'"consolidated_metadata"' in data)
    }


@pytest.mark.usefixtures("synchronous")
@pytest.mark.parametrize("name", [name for name, source in SOURCES.items() if source.for_xarray])
@pytest.mark.few(6)
def test_xarray_finds_the_result_identical(tmp_path, name):
    path = cube_at(tmp_path / "source.zarr", SOURCES[name])
    division(path, SOURCES[name]).map_shards(ToZip(tmp_path / "out"))
    result = ShardedStore.load(tmp_path / "out")
    with (
        xr.open_datatree(path, engine="zarr", consolidated=False) as before,
        xr.open_datatree(result, engine="zarr", consolidated=False) as after,
    ):
        assert len(after.leaves) > 0
        xr.testing.assert_identical(after.load(), before.load())


@pytest.mark.usefixtures("synchronous")
def test_a_result_is_mapped_again(source, tmp_path, expected):
    first = division(source).map_shards(ToZip(tmp_path / "first"))
    first.map_shards(ToZip(tmp_path / "out"))
    assert files_of(tmp_path / "out") == expected


@pytest.mark.usefixtures("synchronous")
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_result_with_consolidated_metadata_is_mapped_again(tmp_path, zarr_format):
    source = SOURCES[f"consolidated-v{zarr_format}"]
    store = division(cube_at(tmp_path / "source.zarr", source), source)
    first = store.map_shards(ToZip(tmp_path / "first"))
    second = first.map_shards(ToZip(tmp_path / "second"))
    assert contents_of(second) == contents_of(first)


@pytest.mark.usefixtures("synchronous")
def test_the_source_stays_as_it_is(source, tmp_path):
    def state():
        found = {path: path.stat() for path in [source, *source.rglob("*")]}
        return {path: (stat.st_mtime_ns, stat.st_ino, stat.st_size) for path, stat in found.items()}

    before = state()
    division(source).map_shards(ToZip(tmp_path / "out"))
    assert state() == before


@pytest.mark.usefixtures("synchronous")
def test_the_result_says_what_was_done(source, tmp_path):
    result = division(source).map_shards(ToZip(tmp_path / "out"))
    zips = [data for name, data in files_of(tmp_path / "out").items() if name != FILE_NAME]
    summary = result.summary
    assert (summary.done, summary.skipped) == (CUBE_SHARDS, 0)
    assert summary.nbytes == sum(map(len, zips))
    assert summary.entries == len(CUBE.contents()) + sum(n for n in CUBE.mounts.values() if n > 1)  # cropped metadata


@pytest.mark.usefixtures("synchronous")
def test_progress_counts_to_the_number_of_shards(source, tmp_path):
    calls = []
    division(source).map_shards(ToZip(tmp_path / "out"), progress=lambda *counts: calls.append(counts))
    assert calls[0] == (0, CUBE_SHARDS)
    assert calls[-1] == (CUBE_SHARDS, CUBE_SHARDS)
    assert calls == sorted(calls)
    assert len(calls) > 2


@pytest.mark.usefixtures("synchronous")
def test_a_relative_path_is_where_the_job_was_made(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    job = ShardedStore.partition("source.zarr", CUBE.shards).map_shards(ToZip("out"), compute=False)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    job.compute()
    assert (tmp_path / "out" / FILE_NAME).exists()
    assert list((tmp_path / "elsewhere").iterdir()) == []


# The lazy object


def test_nothing_is_computed_or_written_before_compute(source, tmp_path):
    store = division(source)
    with dask.config.set(scheduler=refuse):
        job = store.map_shards(ToZip(tmp_path / "out"), compute=False)
        assert isinstance(job, Delayed)
        assert not (tmp_path / "out").exists()
        with pytest.raises(AssertionError, match="something was computed"):
            job.compute()


@pytest.mark.usefixtures("synchronous")
def test_computing_twice_is_harmless(source, tmp_path, expected):
    job = division(source).map_shards(ToZip(tmp_path / "out"), compute=False)
    first, second = job.compute(), job.compute()
    assert (first.summary.done, first.summary.skipped) == (CUBE_SHARDS, 0)
    assert (second.summary.done, second.summary.skipped) == (0, CUBE_SHARDS)
    assert files_of(tmp_path / "out") == expected


@pytest.mark.usefixtures("synchronous")
def test_computing_twice_is_harmless_without_a_fingerprint(source, tmp_path, expected):
    """Dask runs the first task again if the worker with its result dies."""
    nameless = step(lambda entries, shard: entries)
    job = division(source).map_shards(nameless, ToZip(tmp_path / "out"), compute=False)
    job.compute()
    job.compute()
    assert files_of(tmp_path / "out") == expected


@pytest.mark.usefixtures("synchronous")
def test_it_persists(source, tmp_path):
    job = division(source).map_shards(ToZip(tmp_path / "out"), compute=False).persist()
    assert (tmp_path / "out" / FILE_NAME).exists()
    assert len(job.__dask_graph__()) == 1
    assert job.compute().summary.done == CUBE_SHARDS


def test_it_visualizes(source, tmp_path):
    pytest.importorskip("graphviz")
    job = division(source).map_shards(ToZip(tmp_path / "out"), compute=False)
    drawn = dask.dot.to_graphviz(job.__dask_graph__())
    assert "ToZip temperature" in drawn.source
    assert not (tmp_path / "out").exists()


def test_task_names_say_the_chain_and_the_path(source, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "LEAST_WEIGHT", 1)
    job = division(source).map_shards(ToZip(tmp_path / "out"), compute=False)
    names = {key_split(key) for key in job.__dask_graph__()}
    assert names == {
        "start",
        "add",
        "finish",
        "ToZip base",
        *(f"ToZip {path}" for path in CUBE.mounts),
    }


def test_a_path_with_a_hyphen_is_seen_whole_in_task_names(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "LEAST_WEIGHT", 1)
    root = zarr.create_group(tmp_path / "source.zarr")
    root.create_group("sea-ice").create_array("t-2m", shape=(4,), chunks=(1,), dtype="i4")
    store = ShardedStore.partition(tmp_path / "source.zarr", {"sea-ice/t-2m": (2,)})
    job = store.map_shards(ToZip(tmp_path / "out"), compute=False)
    assert "ToZip sea_ice/t_2m" in {key_split(key) for key in job.__dask_graph__()}


def open_files(folder):
    return [file.path for file in psutil.Process().open_files() if Path(file.path).is_relative_to(folder)]


@pytest.mark.usefixtures("synchronous")
def test_tasks_are_small_and_hold_no_open_stores(source, tmp_path):
    first = division(source).map_shards(ToZip(tmp_path / "first"))
    graph = dict(first.map_shards(ToZip(tmp_path / "out"), compute=False).__dask_graph__())
    sizes = {key: len(pickle.dumps(value)) for key, value in graph.items() if key.startswith("ToZip")}
    assert len(sizes) > 3
    assert max(sizes.values()) < 2500
    assert open_files(tmp_path) == []


def test_tasks_hold_no_credentials(source, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a secret of the environment")
    job = division(source).map_shards(ToZip(tmp_path / "out"), compute=False)
    assert b"a secret" not in pickle.dumps(dict(job.__dask_graph__()))


def test_the_tasks_of_a_function_s_result_do_not_grow_with_its_shards(tmp_path, monkeypatch):
    """Each block of such a result has its own location, and a task needs only the locations of its shards."""
    monkeypatch.setattr(shards, "MOST_SHARDS", 10)
    monkeypatch.setenv(helpers_jobs.TARGET, str(tmp_path / "copies"))
    with dask.config.set(scheduler="synchronous"):
        copies = blocks_at(tmp_path / "source.zarr", 200).map_shards(copied)
    segments = make_plan(copies.config).segments()
    assert max(len(pickle.dumps(segment)) for segment in segments) < 4000
    assert [shard.block for s in segments for run in s.runs for shard in run.shards()][1:] == [(i,) for i in range(200)]


# Shards that fail


@pytest.fixture(params=SCHEDULERS)
def any_scheduler(request):
    with dask.config.set(scheduler=request.param, num_workers=2):
        yield


@pytest.mark.usefixtures("any_scheduler")
def test_a_shard_that_fails_is_named_and_all_others_are_done(source, tmp_path):
    chain = Fail("wind_u[1/0/1]"), ToZip(tmp_path / "out")
    with pytest.raises(ShardsFailed, match=f"1 of {CUBE_SHARDS} shards failed .* {GO_ON}") as caught:
        division(source).map_shards(*chain)
    (error,) = caught.value.exceptions
    assert error.shard == "wind_u[1/0/1]"
    assert str(error) == "shard 'wind_u[1/0/1]' failed: ValueError: zarr.json is not to the step's taste"
    assert f"\n{error} [" in str(caught.value)
    files = files_of(tmp_path / "out")
    assert len(files) == CUBE_SHARDS - 1
    assert FILE_NAME not in files
    assert "wind_u/1/0/1.zarr.zip" not in files
    assert temporaries(tmp_path / "out") == []


@pytest.mark.usefixtures("synchronous")
def test_a_shard_that_fails_is_named_with_progress_shown(source, tmp_path):
    calls = []
    with pytest.raises(ShardsFailed, match="1 of") as caught:
        division(source).map_shards(
            Fail("(base)"), ToZip(tmp_path / "out"), progress=lambda *counts: calls.append(counts)
        )
    assert failed_shards(caught.value) == {"(base)"}
    assert calls[-1] == (CUBE_SHARDS, CUBE_SHARDS)


@pytest.mark.usefixtures("any_scheduler")
def test_a_lazy_job_raises_at_its_end_only(source, tmp_path):
    job = division(source).map_shards(Fail("(base)"), ToZip(tmp_path / "out"), compute=False)
    with pytest.raises(ShardsFailed, match=GO_ON) as caught:
        job.compute()
    assert failed_shards(caught.value) == {"(base)"}
    assert len(files_of(tmp_path / "out")) == CUBE_SHARDS - 1


@pytest.mark.usefixtures("synchronous")
def test_the_same_call_does_only_what_failed(source, tmp_path, expected):
    chain = Fail("simulation/fine", str(tmp_path / "mended")), ToZip(tmp_path / "out")
    with pytest.raises(ShardsFailed, match="1 of"):
        division(source).map_shards(*chain)
    (tmp_path / "mended").touch()
    result = division(source).map_shards(*chain)
    assert (result.summary.done, result.summary.skipped) == (1, CUBE_SHARDS - 1)
    assert files_of(tmp_path / "out") == expected


def unreadable(path: Path) -> None:
    """Opening it fails, even for root."""
    path.unlink()
    os.mknod(path, stat.S_IFSOCK | 0o600)


@pytest.mark.usefixtures("synchronous")
def test_chunks_that_can_not_be_read_fail_their_shards(source, tmp_path, expected):
    bad = {"temperature[1/0]": "temperature/c/2/0/0", "height[1]": "height/c/7"}
    good = {file: (source / file).read_bytes() for file in bad.values()}
    for file in bad.values():
        unreadable(source / file)
    with pytest.raises(ShardsFailed, match="2 of") as caught:
        division(source).map_shards(ToZip(tmp_path / "out"))
    assert failed_shards(caught.value) == set(bad)
    assert all("No such device or address" in error.cause for error in caught.value.exceptions)
    assert {"temperature/1/0.zarr.zip", "height/1.zarr.zip", FILE_NAME}.isdisjoint(files_of(tmp_path / "out"))
    for file, data in good.items():
        (source / file).unlink()
        (source / file).write_bytes(data)
    result = division(source).map_shards(ToZip(tmp_path / "out"))
    assert (result.summary.done, result.summary.skipped) == (2, CUBE_SHARDS - 2)
    assert files_of(tmp_path / "out") == expected


@pytest.mark.usefixtures("synchronous")
def test_a_chunk_that_vanishes_fails_its_shard(source, tmp_path):
    chunk = source / "simulation/coarse/field/c/1/1"
    with pytest.raises(ShardsFailed, match="1 of") as caught:
        division(source).map_shards(Remove("simulation/coarse", str(chunk)), ToZip(tmp_path / "out"))
    (error,) = caught.value.exceptions
    assert error.shard == "simulation/coarse"
    assert re.search("'simulation/coarse/field/c/1/1' was listed, but is not there now", error.cause)


@pytest.mark.usefixtures("synchronous")
def test_a_truncated_zip_fails_its_shard(source, tmp_path):
    zips = division(source).map_shards(ToZip(tmp_path / "zips"))
    bad = tmp_path / "zips" / "height" / "1.zarr.zip"
    os.truncate(bad, bad.stat().st_size - 5)
    with pytest.raises(ShardsFailed, match="1 of") as caught:
        zips.map_shards(ToZip(tmp_path / "out"))
    (error,) = caught.value.exceptions
    assert error.shard == "height[1]"
    assert str(bad) in error.cause


@pytest.mark.usefixtures("synchronous")
def test_a_corrupt_chunk_in_a_zip_fails_its_shard(source, tmp_path):
    zips = division(source).map_shards(ToZip(tmp_path / "zips"))
    bad = tmp_path / "zips" / "temperature" / "0" / "0.zarr.zip"
    content = bytearray(bad.read_bytes())
    content[content.index(b"c/0/0/0") + 10] ^= 1
    bad.write_bytes(content)
    with pytest.raises(ShardsFailed, match="1 of") as caught:
        zips.map_shards(ToZip(tmp_path / "out"))
    (error,) = caught.value.exceptions
    assert error.shard == "temperature[0/0]"
    assert "CorruptError" in error.cause


@pytest.mark.usefixtures("synchronous")
def test_errors_survive_a_pickle(source, tmp_path):
    with pytest.raises(ShardsFailed, match="1 of") as caught:
        division(source).map_shards(Fail("height[0]"), ToZip(tmp_path / "out"))
    copy = pickle.loads(pickle.dumps(caught.value))
    assert str(copy) == str(caught.value)
    assert [(e.shard, e.cause) for e in copy.exceptions] == [(e.shard, e.cause) for e in caught.value.exceptions]
    assert isinstance(copy, ShardedStoreError)


# Temporary errors


@pytest.mark.usefixtures("synchronous")
@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ECONNRESET])
def test_an_error_that_passes_is_not_seen(source, tmp_path, expected, code):
    attempts = tmp_path / "attempts"
    division(source).map_shards(FailFirst("height[1]", str(attempts), 2, code), ToZip(tmp_path / "out"), retries=2)
    assert len(list(attempts.iterdir())) == 3
    assert files_of(tmp_path / "out") == expected


@pytest.mark.usefixtures("synchronous")
@pytest.mark.parametrize(("retries", "tries"), [(0, 1), (2, 3)])
def test_an_error_that_stays_is_tried_as_often_as_asked(source, tmp_path, retries, tries):
    attempts = tmp_path / "attempts"
    failing = FailFirst("height[1]", str(attempts), 99)
    with pytest.raises(ShardsFailed, match="1 of") as caught:
        division(source).map_shards(failing, ToZip(tmp_path / "out"), retries=retries)
    assert "Input/output error" in caught.value.exceptions[0].cause
    assert len(list(attempts.iterdir())) == tries


@pytest.mark.usefixtures("synchronous")
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.ENOENT, errno.EROFS])
def test_an_error_that_would_stay_is_not_tried_again(source, tmp_path, code):
    attempts = tmp_path / "attempts"
    with pytest.raises(ShardsFailed, match="1 of"):
        division(source).map_shards(FailFirst("height[1]", str(attempts), 1, code), ToZip(tmp_path / "out"))
    assert len(list(attempts.iterdir())) == 1


def test_what_is_transient():
    assert is_transient(ConnectionResetError())
    assert is_transient(TimeoutError())
    assert is_transient(OSError(errno.EIO, ""))
    assert not is_transient(OSError(errno.ENOSPC, ""))
    assert not is_transient(PermissionError(errno.EACCES, ""))
    assert not is_transient(ValueError())


# A function of stores


@pytest.fixture
def copies(tmp_path, monkeypatch):
    monkeypatch.setenv(helpers_jobs.TARGET, str(tmp_path / "copies"))
    return tmp_path / "copies"


@pytest.mark.few(2)
@pytest.mark.usefixtures("any_scheduler", "copies")
def test_a_function_s_stores_are_the_result(source):
    result = division(source).map_shards(copied)
    check_same_contents(result, CUBE.contents())
    assert result.summary.done == CUBE_SHARDS


@pytest.mark.usefixtures("synchronous", "copies")
def test_a_function_gets_the_path_and_the_index_of_each_shard(source):
    seen = []

    def record(store, shard_path, chunk_dims):
        seen.append((shard_path, chunk_dims))
        return copied(store, shard_path, chunk_dims)

    division(source).map_shards(record)
    assert ("", None) in seen
    assert ("simulation/fine", None) in seen
    assert ("temperature", "1/2") in seen
    assert ("height", "0") in seen
    assert len(seen) == CUBE_SHARDS == len(set(seen))


@pytest.mark.usefixtures("synchronous")
def test_a_function_without_to_writes_nothing_of_its_own(source, tmp_path, copies):
    division(source).map_shards(copied)
    assert sorted(tmp_path.iterdir()) == [copies, source]


@pytest.mark.usefixtures("synchronous", "copies")
def test_a_function_with_to_is_continued(source, tmp_path):
    division(source).map_shards(copied, to=tmp_path / "out")
    again = division(source).map_shards(copied, to=tmp_path / "out")
    assert (again.summary.done, again.summary.skipped) == (0, CUBE_SHARDS)
    loaded = ShardedStore.load(tmp_path / "out", allow=[tmp_path / "copies"])
    check_same_contents(loaded, CUBE.contents())


@pytest.mark.usefixtures("synchronous")
def test_a_function_s_output_that_was_removed_is_made_again(source, tmp_path, copies):
    division(source).map_shards(copied, to=tmp_path / "out")
    (copies / "simulation" / "fine").rename(tmp_path / "away")
    again = division(source).map_shards(copied, to=tmp_path / "out")
    assert (again.summary.done, again.summary.skipped) == (1, CUBE_SHARDS - 1)
    check_same_contents(again, CUBE.contents())


@pytest.mark.usefixtures("synchronous", "copies")
def test_a_function_s_result_is_zipped(source, tmp_path, expected):
    division(source).map_shards(copied).map_shards(ToZip(tmp_path / "out"))
    assert files_of(tmp_path / "out") == expected


@pytest.mark.usefixtures("synchronous")
def test_a_store_that_no_one_else_can_open_is_refused(source):
    with pytest.raises(ShardsFailed, match=f"{CUBE_SHARDS} of {CUBE_SHARDS} shards failed") as caught:
        division(source).map_shards(forgotten)
    cause, heads, *rows = str(caught.value).split("\n")[1:]
    assert cause == f"{caught.value.exceptions[0]} [failed] ({CUBE_SHARDS} shards)"
    assert heads.split() == ["array", "shard", "worker", "attempts"]
    assert rows[0].split()[0] == "(base)"
    assert rows[-1].endswith("is the traceback in the worker")
    assert "is a MemoryStore, which has no location" in caught.value.exceptions[0].cause


@pytest.mark.usefixtures("synchronous")
@pytest.mark.parametrize("returned", [None, 3])
def test_what_is_no_store_is_refused(source, returned):
    with pytest.raises(ShardsFailed, match=f"{CUBE_SHARDS} of") as caught:
        division(source).map_shards(lambda store, path, index: returned)
    assert "TypeError" in caught.value.exceptions[0].cause


@pytest.mark.usefixtures("synchronous", "copies")
def test_a_function_without_a_stable_name_can_not_be_continued(source, tmp_path):
    def chain():
        return lambda store, path, index: copied(store, path, index)  # noqa: PLW0108 (its name is the point)

    division(source).map_shards(chain(), to=tmp_path / "out")
    with pytest.raises(DestinationError, match="no stable fingerprint"):
        division(source).map_shards(chain(), to=tmp_path / "out")


@pytest.mark.usefixtures("synchronous", "copies")
def test_a_function_of_the_main_module_can_not_be_continued(source, tmp_path, monkeypatch):
    monkeypatch.setattr(copied, "__module__", "__main__")
    division(source).map_shards(copied, to=tmp_path / "out")
    with pytest.raises(DestinationError, match="no stable fingerprint"):
        division(source).map_shards(copied, to=tmp_path / "out")


# Refusals before anything is written


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"on_error": "ignore"}, UsageError, "on_error='ignore' is not known"),
        ({"retries": -1}, UsageError, "retries=-1 is not a number of retries"),
        ({"retries": 1.5}, UsageError, r"retries=1\.5 is not a number of retries"),
        ({"retries": True}, UsageError, "retries=True is not a number of retries"),
        ({"to": "elsewhere"}, UsageError, "to= is for a function alone"),
    ],
)
@pytest.mark.parametrize("compute", [True, False])
def test_bad_options_are_refused(source, tmp_path, options, error, message, compute):
    with dask.config.set(scheduler=refuse), pytest.raises(error, match=message):
        division(source).map_shards(ToZip(tmp_path / "out"), compute=compute, **options)
    assert list(tmp_path.iterdir()) == [source]


def test_a_source_in_memory_is_refused(tmp_path):
    store = ShardedStore.partition(to_memory(CUBE.contents()), CUBE.shards)
    with pytest.raises(ConfigError, match="is a MemoryStore, which has no location"):
        store.map_shards(ToZip(tmp_path / "out"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("synchronous")
def test_an_array_that_grew_since_it_was_divided_is_refused(source, tmp_path):
    store = division(source)
    zarr.open_array(source, path="height").resize((99,))
    with pytest.raises(PartitionError, match=r"'height' was divided as an array of .* partition the source again"):
        store.map_shards(ToZip(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@dataclass(frozen=True)
class Picky(Seen):
    def check(self, nodes):
        from shardedstore import ChainError

        raise ChainError(f"a source of {len(nodes)} nodes makes no sense")


def test_a_step_refuses_a_source_before_anything_is_written(source, tmp_path):
    with pytest.raises(UsageError, match="a source of 11 nodes makes no sense"):
        division(source).map_shards(Picky(str(tmp_path / "seen")), ToZip(tmp_path / "out"))
    assert list(tmp_path.iterdir()) == [source]


def test_a_sink_refuses_a_source_before_anything_is_written(source, tmp_path):
    @dataclass(frozen=True)
    class Small(ToZip):
        def check(self, nodes):
            raise UsageError("too many nodes")

    with pytest.raises(UsageError, match="too many nodes"):
        division(source).map_shards(replace(Small("x"), url=str(tmp_path / "out")))
    assert list(tmp_path.iterdir()) == [source]


# Failures


@pytest.mark.usefixtures("synchronous")
def test_the_first_failure_ends_a_job_that_is_to_stop(source, tmp_path):
    seen = tmp_path / "seen"
    chain = Seen(str(seen)), Fail("(base)"), ToZip(tmp_path / "out")
    with pytest.raises(ShardsFailed, match=r"1 of 24 shards failed .*; \d+ were not tried, and \d+ are done"):
        division(source).map_shards(*chain, on_error="stop")
    assert len(list(seen.iterdir())) == 1


class FailAll(Step):
    def __call__(self, entries, shard):
        raise ValueError("never")


def test_a_hopeless_job_ends_early(source, tmp_path):
    with pytest.raises(
        ShardsFailed, match=r"3 of 24 shards failed .*; 21 were not tried, and 0 are done; .*max_failures=3"
    ) as caught:
        division(source).map_shards(FailAll(), ToZip(tmp_path / "out"), max_failures=3)
    assert len(caught.value.exceptions) == 3


@pytest.mark.parametrize("options", [{"on_error": "never"}, {"max_failures": 0}, {"max_failures": True}])
def test_policies_that_are_none(source, tmp_path, options):
    with pytest.raises(UsageError, match=r"is not known: say 'finish', 'stop' or 'partial'|is not a number of shards"):
        division(source).map_shards(ToZip(tmp_path / "out"), **options)
