"""Unfinished jobs are reported wherever their result is opened, and destinations report their differences."""

import json

import dask
import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from helpers_jobs import Fail

from shardedstore import ConfigError, DestinationError, PartitionError, ShardedStore, ShardsFailed, UsageError, cli
from shardedstore.storage.urls import BESIDE
from shardedstore.transforms import CopyTo, Recompress, ToShardingCodec, ToZip


@pytest.fixture(autouse=True)
def synchronous():
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.fixture
def source(tmp_path):
    root = zarr.create_group(tmp_path / "source.zarr")
    for name in ("t", "b"):
        root.create_array(name, data=np.arange(60.0).reshape(10, 6), chunks=(2, 3), dimension_names=("time", "x"))
    return tmp_path / "source.zarr"


def divided(source, rows=4, **options):
    return ShardedStore.partition(source, {"t": {"time": rows}, "b": {"time": 4}}, **options)


def info(path):
    return CliRunner().invoke(cli.main, ["info", str(path)])


def test_load_and_info_say_how_far_a_job_is(source, tmp_path):
    with pytest.raises(ShardsFailed):
        divided(source).map_shards(Fail("t[1]"), Fail("b[0]"), ToZip(tmp_path / "out"), retries=0)
    message = "5 of 7 shards are done, 2 failed; run the same call again, or open what there is"
    with pytest.raises(ConfigError, match=message):
        ShardedStore.load(tmp_path / "out")
    with pytest.raises(PartitionError, match=message):
        ShardedStore.partition(tmp_path / "out")
    told = info(tmp_path / "out")
    assert (told.exit_code, "5 of 7 shards are done, 2 failed" in told.stderr) == (2, True)


def test_one_ordinary_zarr_that_is_not_whole_says_so(source, tmp_path):
    with pytest.raises(ShardsFailed):
        divided(source).map_shards(Fail("t[1]"), CopyTo(tmp_path / "out"), retries=0)
    with pytest.raises(PartitionError, match="6 of 7 shards are done, 1 failed"):
        ShardedStore.partition(tmp_path / "out")
    with pytest.raises(ConfigError, match="6 of 7 shards are done, 1 failed"):
        ShardedStore.load(f"{tmp_path / 'out'}{BESIDE}")


def test_info_of_a_result_whose_successor_has_not_ended(source, tmp_path):
    mended = tmp_path / "mended"
    mended.touch()
    divided(source).map_shards(Fail("t[2]", str(mended)), ToZip(tmp_path / "out"))
    assert "has not ended" not in info(tmp_path / "out").output
    mended.unlink()
    zarr.open_group(source)["t"].resize((12, 6))
    with pytest.raises(ShardsFailed):
        divided(source).map_shards(Fail("t[2]", str(mended)), ToZip(tmp_path / "out"), retries=0)
    told = info(tmp_path / "out")
    assert told.exit_code == 0
    assert "note: a later job has not ended: 6 of 7 shards are done, 1 failed" in told.stderr


@pytest.mark.parametrize(
    ("sink", "chain", "rows", "message"),
    [
        (ToZip, [Recompress("gzip", level=7)], 4, r"\(Recompress level=5 there, 7 now\)"),
        (CopyTo, [Recompress("gzip", level=7)], 4, r"\(Recompress level=5 there, 7 now\)"),
        (ToZip, [], 4, r"\(Recompress and ToZip there, ToZip now\)"),
        (
            lambda out: ToZip(out, zip64=True),
            [Recompress("gzip", level=5)],
            4,
            r"\(ToZip zip64=False there, True now\)",
        ),
        (
            ToShardingCodec,
            [Recompress("gzip", level=5)],
            2,
            r"'t' is in blocks of 2 chunks there, in blocks of 1 chunks now",
        ),
    ],
)
def test_a_destination_says_what_differs(source, tmp_path, sink, chain, rows, message):
    first = sink if sink in (CopyTo, ToShardingCodec) else ToZip
    divided(source).map_shards(Recompress("gzip", level=5), first(tmp_path / "out"))
    with pytest.raises(DestinationError, match=message):
        divided(source, rows).map_shards(*chain, sink(tmp_path / "out"))


def test_what_differs_in_the_source(source, tmp_path):
    divided(source).map_shards(ToZip(tmp_path / "out"))
    with pytest.raises(DestinationError, match="include and exclude keep everything there, everything but b now"):
        ShardedStore.partition(source, {"t": {"time": 4}}, exclude=["b"]).map_shards(ToZip(tmp_path / "out"))
    zarr.create_group(tmp_path / "other").create_array("t", data=np.ones((10, 6)), chunks=(2, 3))
    with pytest.raises(DestinationError, match=r"source.zarr' there, '.*other' now"):
        ShardedStore.partition(tmp_path / "other", {"t": (4, -1)}).map_shards(ToZip(tmp_path / "out"))


def test_manifests_without_a_description_give_the_message_without_it(source, tmp_path):
    divided(source).map_shards(Recompress("gzip", level=5), ToZip(tmp_path / "out"))
    path = tmp_path / "out/.shardedstore/job-1.json"
    document = json.loads(path.read_text())
    del document["described"]
    path.write_text(json.dumps(document))
    with pytest.raises(DestinationError, match="holds the result of another chain of transforms: name another"):
        divided(source).map_shards(ToZip(tmp_path / "out"))
    assert divided(source).map_shards(Recompress("gzip", level=5), ToZip(tmp_path / "out")).summary.done == 0


@pytest.mark.parametrize("sink", [ToZip, CopyTo], ids=["ToZip", "CopyTo"])
def test_verify_finds_the_source_of_the_job_with_its_includes(source, tmp_path, sink):
    store = ShardedStore.partition(source, {"t": {"time": 4}}, exclude=["b"])
    result = store.map_shards(Recompress("gzip"), sink(tmp_path / "out"))
    report = result.verify(level="decoded")
    assert (report.ok, report.arrays, report.is_recorded) == (True, 1, False)
    (source / "t/c/0/0").unlink()
    assert not result.verify(level="decoded").ok
    ran = CliRunner().invoke(cli.main, ["verify", str(tmp_path / "out"), "--level", "decoded", "--workers", "1"])
    assert ran.exit_code == 1
    shutil_source = source.rename(tmp_path / "gone.zarr")
    with pytest.raises(UsageError):
        result.verify(level="decoded")
    assert shutil_source.exists()
