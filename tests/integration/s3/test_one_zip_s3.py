"""One zip in an object store: parts of shards, a multipart upload at the end, and only changed shards again."""

import dask
import numpy as np
import obstore
import pytest
import zarr
from conformance import check_same_contents
from helpers_jobs import CUBE, Fail, cube_at, division, files_of

from shardedstore import ShardedStore, ShardsFailed
from shardedstore.transforms import CopyTo, ToZip
from shardedstore.zips import ZipReadStore

pytestmark = [pytest.mark.s3, pytest.mark.slow]


@pytest.fixture(autouse=True)
def synchronous():
    with dask.config.set(scheduler="threads"):
        yield


def keys(bucket):
    return {found["path"] for batch in obstore.list(bucket.client) for found in batch}


def test_a_failed_job_goes_on_and_a_changed_source_makes_few_shards_again(bucket, tmp_path):
    source, url = cube_at(tmp_path / "source.zarr", CUBE), f"{bucket.url}/a b/one.zarr.zip"
    fails = Fail("wind_u[1/0/0]", str(tmp_path / "mended"))
    with pytest.raises(ShardsFailed):
        division(source).map_shards(fails, ToZip(url), changed="content")
    assert not any(key.endswith("one.zarr.zip") for key in keys(bucket))
    (tmp_path / "mended").touch()
    result = division(source).map_shards(fails, ToZip(url), changed="content")
    assert result.summary.done == 1
    check_same_contents(result, files_of(source))
    assert not any("/parts/" in key for key in keys(bucket))
    zarr.open_group(source)["wind_v"][0:3] = 7
    result = division(source).map_shards(fails, ToZip(url), changed="content")
    assert result.summary.done == 2
    check_same_contents(ZipReadStore(url), files_of(source))
    assert result.verify(level="stored").ok
    local = division(source).map_shards(fails, ToZip(tmp_path / "one.zarr.zip"))
    assert (tmp_path / "one.zarr.zip").read_bytes() == obstore.get(bucket.client, "a b/one.zarr.zip").bytes()
    assert local.summary.done == result.summary.skipped + result.summary.done


def test_chunks_larger_than_a_part_of_an_upload(bucket, tmp_path):
    data = np.random.default_rng(3).integers(0, 255, (40 << 20,), "u1")
    zarr.create_array(tmp_path / "a.zarr", data=data, chunks=(20 << 20,), compressors=None)
    store = ShardedStore.partition(tmp_path / "a.zarr", "20 MiB")
    result = store.map_shards(ToZip(f"{bucket.url}/large.zip"))
    result.map_shards(CopyTo(tmp_path / "back.zarr"))
    assert files_of(tmp_path / "back.zarr") == files_of(tmp_path / "a.zarr")
