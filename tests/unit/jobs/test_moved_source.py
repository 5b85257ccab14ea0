"""A source that was moved to another URL: the same result is continued, and its shards are kept."""

import shutil
import tempfile
from pathlib import Path

import dask
import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from helpers_jobs import Fail

from shardedstore import DestinationError, Move, ShardedStore, ShardsFailed, UsageError
from shardedstore.cli import main
from shardedstore.transforms import CopyTo, Recompress, ToShardingCodec, ToZip

SINKS = {
    "zips": ToZip,
    "folder": lambda url: CopyTo(url, layout="shards"),
    "one zarr": CopyTo,
    "sharding": ToShardingCodec,
}


@pytest.fixture(autouse=True)
def synchronous(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with dask.config.set(scheduler="synchronous"):
        yield


def make_source(url, seed=0, **options):
    data = np.random.default_rng(seed).integers(0, 99, (8, 6)).astype("i4")
    group = zarr.create_group(url, **options)
    group.create_array("t", data=data, chunks=(1, 6))
    group.create_array("u", data=data[:4], chunks=(2, 6))
    return data


def partition(url):
    return ShardedStore.partition(url, {"t": (2, -1)})


@pytest.fixture
def old(tmp_path):
    make_source(tmp_path / "old.zarr")
    return tmp_path / "old.zarr"


@pytest.mark.few(4)
@pytest.mark.parametrize("changed", ["metadata", "listing", "content"])
@pytest.mark.parametrize("sink", SINKS)
def test_shards_are_kept(old, tmp_path, sink, changed):
    chain = Recompress("gzip", level=1), SINKS[sink](tmp_path / "out")
    partition(old).map_shards(*chain, changed=changed)
    new = tmp_path / "elsewhere" / "new.zarr"
    shutil.copytree(old, new)
    shutil.rmtree(old)
    plan = partition(new).plan(*chain, changed=changed, source_moved_from=old)
    assert len(plan.estimate().states.kept) == 5
    result = plan.run()
    assert (result.summary.done, result.summary.skipped) == (0, 5)
    assert result.verify(partition(new)).ok
    assert not list(Path(tempfile.gettempdir()).glob("shardedstore-*"))
    later = partition(new).map_shards(*chain, changed=changed)  # without the option
    assert (later.summary.done, later.summary.skipped) == (0, 5)
    zarr.open_array(new, path="t")[7] = 5
    changes = partition(new).map_shards(*chain, changed=changed, source_moved_from=old)  # the option may stay
    assert changes.summary.done == (0 if changed == "metadata" else 4 if sink == "sharding" else 1)


def test_the_result_of_a_moved_source_can_grow(old, tmp_path):
    partition(old).map_shards(ToZip(tmp_path / "out"))
    new = old.rename(tmp_path / "new.zarr")
    array = zarr.open_array(new, path="t")
    array.resize((10, 6))
    array[8:] = 7
    result = partition(new).map_shards(ToZip(tmp_path / "out"), source_moved_from=old)
    assert (result.summary.done, result.summary.skipped) == (3, 3)  # the base, the last block, and a new one
    assert result.verify(partition(new)).ok


def test_an_unfinished_job_goes_on(old, tmp_path):
    with pytest.raises(ShardsFailed):
        partition(old).map_shards(Fail("t[2]", str(tmp_path / "mended")), ToZip(tmp_path / "out"))
    new = old.rename(tmp_path / "new.zarr")
    (tmp_path / "mended").touch()
    result = partition(new).map_shards(
        Fail("t[2]", str(tmp_path / "mended")), ToZip(tmp_path / "out"), source_moved_from=old
    )
    assert (result.summary.done, result.summary.skipped) == (1, 4)
    assert result.verify(partition(new)).ok


def test_a_source_in_an_object_store(old, tmp_path, bucket):
    url = f"{bucket[0]}/new.zarr"
    partition(old).map_shards(ToZip(f"{bucket[0]}/out"), changed="listing")
    partition(old).map_shards(CopyTo(url))
    new = partition(url).map_shards(ToZip(f"{bucket[0]}/out"), changed="listing", source_moved_from=old)
    assert (new.summary.done, new.summary.skipped) == (0, 5)
    assert new.verify(partition(url)).ok


def test_other_data_with_the_same_metadata_are_refused(old, tmp_path):
    partition(old).map_shards(ToZip(tmp_path / "out"))
    make_source(tmp_path / "other.zarr", seed=1)
    with pytest.raises(DestinationError, match=r"shard .* has other contents when it is made from .*other.zarr"):
        partition(tmp_path / "other.zarr").map_shards(ToZip(tmp_path / "out"), source_moved_from=old)
    assert ShardedStore.load(tmp_path / "out").verify(partition(old)).ok


def test_another_url_than_that_of_the_result_is_refused(old, tmp_path):
    partition(old).map_shards(ToZip(tmp_path / "out"))
    new = old.rename(tmp_path / "new.zarr")
    with pytest.raises(DestinationError, match=r"holds the result of another source.*old.zarr' there.*new.zarr' now"):
        partition(new).plan(ToZip(tmp_path / "out"), source_moved_from=tmp_path / "older.zarr")


def test_moves_and_collections_are_refused(old, tmp_path):
    with pytest.raises(UsageError, match="source_moved_from can't be combined with a move"):
        partition(old).plan(ToZip(tmp_path / "out"), source_moved_from="x", move=Move(yes_delete_source=True))
    make_source(tmp_path / "older.zarr")
    both = ShardedStore.collect(str(tmp_path / "*.zarr"))
    with pytest.raises(UsageError, match="needs a source that is one Zarr at one URL"):
        both.plan(ToZip(tmp_path / "out"), source_moved_from="x")


def test_the_command_keeps_the_shards(old, tmp_path):
    call = [str(tmp_path / "out"), "--to", "zip", "--shards", "t=2,-1", "--workers", "1", "--threads", "1"]
    assert CliRunner().invoke(main, ["convert", str(old), *call]).exit_code == 0
    new = old.rename(tmp_path / "new.zarr")
    refused = CliRunner().invoke(main, ["convert", str(new), *call])
    assert (refused.exit_code, "--source-moved-from" in refused.stderr) == (2, True)
    moved = CliRunner().invoke(main, ["convert", str(new), *call, "--source-moved-from", str(old), "--json"])
    assert moved.exit_code == 0, moved.output
    assert "shards are kept, as their source was moved from" in moved.stderr
