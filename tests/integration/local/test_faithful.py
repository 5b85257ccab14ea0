"""No data is lost or mixed up, whatever the source and whatever happens during the job."""

import contextlib
import json
import os
import posixpath
import shutil
import threading
from dataclasses import dataclass

import dask
import numpy as np
import pytest
import zarr
from conformance import contents_of
from sources import build, consolidated, cube, to_folder, to_zip
from zarr.storage import LocalStore

from shardedstore import ChainError, CorruptError, DestinationError, ShardedStore, ShardsFailed, Step, UsageError
from shardedstore.config.document import dump
from shardedstore.jobs.executors.local import SerialExecutor
from shardedstore.jobs.layouts import shard_folder, single_zarr
from shardedstore.jobs.layouts.registry import choose_layout
from shardedstore.jobs.ledger import Record
from shardedstore.jobs.make_plan import make_plan
from shardedstore.jobs.manifest import JobManifest, read_manifest, versioned
from shardedstore.jobs.open_destination import claim, open_destination
from shardedstore.jobs.prepare import manifest_of, prepare
from shardedstore.jobs.start import start
from shardedstore.jobs.worker import run_segment
from shardedstore.storage.folders import open_folder
from shardedstore.stores.locations import Zip
from shardedstore.transforms import CopyTo, ToZip
from shardedstore.transforms.base.chain import Chain


@pytest.fixture(autouse=True)
def one_process():
    with dask.config.set(scheduler="synchronous"):
        yield


def array_of_eight(folder):
    group = zarr.create_group(LocalStore(folder), zarr_format=3)
    group.create_array("x", data=np.arange(1, 9), chunks=(2,))
    return ShardedStore.partition(folder, {"x": (4,)})


def test_a_link_to_a_folder_that_is_not_mounted_is_no_missing_chunk(tmp_path):
    store = array_of_eight(tmp_path / "a.zarr")
    elsewhere = tmp_path / "elsewhere"
    os.rename(tmp_path / "a.zarr" / "x" / "c", elsewhere)
    os.symlink(elsewhere, tmp_path / "a.zarr" / "x" / "c")
    os.rename(elsewhere, tmp_path / "unmounted")
    with pytest.raises(ShardsFailed, match="3 of 3 shards failed"):
        store.map_shards(ToZip(tmp_path / "out"))
    os.rename(tmp_path / "unmounted", elsewhere)
    result = store.map_shards(ToZip(tmp_path / "out"))
    assert result.summary.done == 3
    assert zarr.open_array(result, path="x", mode="r")[:].tolist() == [*range(1, 9)]


def test_a_source_that_vanished_before_the_job_ran_is_not_written_as_an_empty_one(tmp_path):
    job = array_of_eight(tmp_path / "a.zarr").map_shards(ToZip(tmp_path / "out"), compute=False)
    os.rename(tmp_path / "a.zarr", tmp_path / "unmounted")
    with pytest.raises(ShardsFailed, match="3 of 3 shards failed"):
        job.compute()


def test_a_source_that_changed_before_the_job_ran_gives_no_config(tmp_path):
    job = array_of_eight(tmp_path / "a.zarr").map_shards(ToZip(tmp_path / "out"), compute=False)
    zarr.open_array(tmp_path / "a.zarr" / "x").attrs["new"] = True
    with pytest.raises(CorruptError, match=r"changed while the job ran.*partition the source again"):
        job.compute()
    assert not (tmp_path / "out" / "shardedstore.json").exists()


def test_consolidated_metadata_below_folders_without_documents_says_the_same(tmp_path):
    contents = dict(build(cube, "v2."))
    for name, zarr_format in (("old", 2), ("new", 3)):
        contents |= {f"extra/{name}.zarr/{key}": data for key, data in build(consolidated, zarr_format).items()}
    source = to_folder(contents, tmp_path / "a")
    result = ShardedStore.partition(source).map_shards(ToZip(tmp_path / "out"))
    made = contents_of(result)
    assert made.keys() == contents.keys()
    assert {posixpath.basename(key) for key in made if made[key] != contents[key]} == {".zmetadata", "zarr.json"}
    for name, zarr_format in (("old", 2), ("new", 3)):
        stores = (LocalStore(source), result)
        before, after = (
            zarr.open_consolidated(store, path=f"extra/{name}.zarr", zarr_format=zarr_format) for store in stores
        )
        assert str(before.metadata.to_dict()["attributes"]) == str(after.metadata.to_dict()["attributes"])
        members, others = (dict(group.members(max_depth=None)) for group in (before, after))
        assert members.keys() == others.keys() != set()
        assert all(str(members[path].attrs.asdict()) == str(others[path].attrs.asdict()) for path in members)


def test_a_root_of_both_formats_keeps_both(tmp_path):
    contents = {**build(consolidated, 2), **build(cube, "v3/")}
    result = ShardedStore.partition(to_folder(contents, tmp_path / "a")).map_shards(ToZip(tmp_path / "out"))
    assert contents_of(result) == contents


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_what_only_consolidated_metadata_knows_is_kept(zarr_format, tmp_path):
    contents = dict(build(consolidated, zarr_format))
    for name in (".zarray", ".zattrs", "zarr.json"):
        contents.pop(f"temperature/{name}", None)
    source = to_folder(contents, tmp_path / "a")
    result = ShardedStore.partition(source).map_shards(ToZip(tmp_path / "out"))
    expected = zarr.open_consolidated(source, zarr_format=zarr_format)["temperature"][...]
    assert (zarr.open_consolidated(result, mode="r", zarr_format=zarr_format)["temperature"][...] == expected).all()


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_consolidated_metadata_outlives_a_second_job(zarr_format, tmp_path):
    source = to_folder(build(consolidated, zarr_format), tmp_path / "a")
    first = ShardedStore.partition(source, ["simulation"]).map_shards(ToZip(tmp_path / "one"))
    second = first.map_shards(ToZip(tmp_path / "two"))
    assert contents_of(second) == contents_of(first)
    assert second.config.consolidated is not None


def test_two_jobs_that_start_at_once_do_not_share_a_generation(tmp_path):
    for trial in range(20):
        folder, ledgers, barrier = str(tmp_path / str(trial)), [], threading.Barrier(2)

        def start(name, folder=folder, ledgers=ledgers, barrier=barrier):
            barrier.wait()
            try:
                ledgers.append(open_destination(open_folder(folder), JobManifest(name, name), overwrite=False))
            except DestinationError:
                ledgers.append(None)

        threads = [threading.Thread(target=start, args=(name,)) for name in "ab"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(ledger is None for ledger in ledgers) == [False, True]


class Watched:
    """A folder that runs a function before one of its accesses."""

    def __init__(self, folder, look, happen):
        self.folder, self.left, self.happen = folder, look, happen

    def __getattr__(self, name):
        if name in {"names", "sizes", "read", "write"}:
            self.left -= 1
            if self.left == 0:
                self.happen()
        return getattr(self.folder, name)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("look", range(1, 9))
def test_a_job_that_starts_between_two_looks_is_seen(tmp_path, look, overwrite):
    (tmp_path / "a.txt").touch() if overwrite else None
    folder, firsts = open_folder(str(tmp_path)), []

    def start_the_other():
        firsts.append(open_destination(folder, JobManifest("first", ""), overwrite))
        folder.write(versioned("a.zip", firsts[0].generation), b"")

    second = None
    with contextlib.suppress(DestinationError):
        second = open_destination(Watched(folder, look, start_the_other), JobManifest("second", ""), overwrite)
    if firsts and not overwrite:
        assert second is None
    else:
        assert second == read_manifest(folder)
        assert len(list(tmp_path.glob(".shardedstore/job-*.json"))) == 1 + len(firsts)


def begun(store, out):
    """A job with an open destination, and its source."""
    plan, chain = make_plan(store.config), Chain((), ToZip(out))
    plan, job = prepare(plan, chain, choose_layout(chain.sink), False, 2)
    return start(job, plan, manifest_of(plan, job), False, SerialExecutor()), plan


def test_workers_of_a_job_whose_destination_was_removed_are_not_heard(tmp_path):
    """They may continue when another job with the same number runs there."""
    old, plan = begun(array_of_eight(tmp_path / "a.zarr"), tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    source = array_of_eight(tmp_path / "b.zarr")
    new, plan = begun(source, tmp_path / "out")
    assert new.generation == old.generation
    with old.ledger.writer(0) as append:
        append(Record(2, 3, "", shard=1))
    assert new.ledger.read() == {}
    (segment,) = old.segments(plan)
    (error, *_) = run_segment(old, segment).failures
    assert "its destination was removed while the job ran" in str(error)
    assert source.map_shards(ToZip(tmp_path / "out")).summary.done == 3


@pytest.mark.parametrize("sink", [ToZip, CopyTo])
def test_a_job_that_is_overtaken_at_its_very_end_says_so(tmp_path, monkeypatch, sink):
    store, overtaking = array_of_eight(tmp_path / "a.zarr"), []
    place = tmp_path / ("out" if sink is ToZip else "out.shardedstore")

    def overtake(config, folder=None):
        if not overtaking:
            overtaking.append(claim(open_folder(str(place)), JobManifest("another", ""), 1))
        return dump(config, folder)

    for module in (shard_folder, single_zarr):
        monkeypatch.setattr(module, "dump", overtake)
    with pytest.raises(DestinationError, match="run the other job again, since this job may have replaced its config"):
        store.map_shards(sink(tmp_path / "out"))


def test_a_job_that_was_overtaken_does_not_switch_the_config_back(tmp_path):
    store = array_of_eight(tmp_path / "a.zarr")
    overtaken = store.map_shards(ToZip(tmp_path / "out"), compute=False)

    def overtake(done, total):
        if not (tmp_path / "out" / "shardedstore.json").exists() and done:
            lazy = store.map_shards(ToZip(tmp_path / "out", zip64=True), overwrite=True, compute=False)
            lazy.compute()  # it holds no lock

    with pytest.raises(DestinationError, match="another job took over the destination"):
        store.map_shards(ToZip(tmp_path / "out"), progress=overtake)
    assert ShardedStore.load(tmp_path / "out").config.base.source == Zip(f"{tmp_path}/out/__base__~2.zarr.zip")
    with pytest.raises(DestinationError, match="another chain"):
        overtaken.compute()


def test_a_start_that_was_cut_short_can_be_repeated(tmp_path):
    (tmp_path / "out" / ".shardedstore").mkdir(parents=True)
    assert array_of_eight(tmp_path / "a.zarr").map_shards(ToZip(tmp_path / "out")).summary.done == 3


def test_a_zip_with_an_empty_segment_in_a_name_is_refused(tmp_path):
    contents = {**build(cube, "v3/"), "simulation//zarr.json": json.dumps({"a": 1}).encode()}
    with pytest.raises(
        CorruptError, match=r"a\.zip: 'simulation//zarr.json' is not a valid key: .*; create the zip again"
    ):
        ShardedStore.partition(to_zip(contents, tmp_path / "a.zip"))


@pytest.mark.parametrize("url", ["s3://bucket/out/../secret", "s3://bucket/out/%2e%2e/secret", "https://host/a/./b"])
def test_a_url_that_leads_elsewhere_is_refused(url):
    with pytest.raises(UsageError, match=r"has a segment '\.' or '\.\.'"):
        ShardedStore.partition(url)


def test_a_chain_that_does_nothing_is_refused(tmp_path):
    with pytest.raises(ChainError, match="was given no transform"):
        array_of_eight(tmp_path / "a.zarr").map_shards()


@dataclass(frozen=True)
class Leave(Step):
    """Ends the process, or tries to."""

    def __call__(self, entries, shard):
        raise SystemExit(3)


def test_a_step_that_ends_the_process_fails_its_shards(tmp_path):
    with pytest.raises(ShardsFailed, match="3 of 3 shards failed") as failed:
        array_of_eight(tmp_path / "a.zarr").map_shards(Leave(), ToZip(tmp_path / "out"))
    assert "SystemExit: 3" in str(failed.value.exceptions[0])


def test_records_that_can_not_be_kept_fail_every_shard_of_their_segment(tmp_path):
    store = array_of_eight(tmp_path / "a.zarr")
    (tmp_path / "out" / ".shardedstore").mkdir(parents=True)
    (tmp_path / "out" / ".shardedstore" / "ledger").touch()
    with pytest.raises(ShardsFailed, match="3 of 3 shards failed") as failed:
        store.map_shards(ToZip(tmp_path / "out"))
    assert "its record can't be kept" in str(failed.value.exceptions[0])
