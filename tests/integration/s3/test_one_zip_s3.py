"""One zip in an object store: parts of shards, a multipart upload at the end, and only changed shards again."""

import os
import time
from dataclasses import replace

import dask
import numpy as np
import obstore
import pytest
import zarr
from chaos import processes
from conformance import check_same_contents
from faultproxy import FaultProxy, Rule
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


def join_here(source, url, environment):
    """Run a job in this process, which has been started for it."""
    os.environ.update(environment)
    with dask.config.set(scheduler="threads"):
        ShardedStore.partition(source, {"a": (10 << 20,)}).map_shards(ToZip(url))


KILLS = {
    "the start of the upload": ("^POST .*one.zarr.zip.uploads", "hang"),
    "its second part": ("^PUT .*one.zarr.zip.partNumber=2", "hang"),
    "its end": ("^POST .*one.zarr.zip.uploadId", "hang"),
    "its unanswered end": ("^POST .*one.zarr.zip.uploadId", "lose"),
    "the config": ("^PUT .*/shardedstore.json", "hang"),
    "the removal of the parts": ("^POST .*delete", "lose"),
}


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A source of 20 MiB, and its zip by a job that was not disturbed."""
    folder = tmp_path_factory.mktemp("large")
    data = np.random.default_rng(3).integers(0, 255, 20 << 20, "u1")
    zarr.create_array(folder / "a.zarr", name="a", data=data, chunks=(5 << 20,), compressors=None)
    join_here(folder / "a.zarr", folder / "one.zarr.zip", {})
    return folder / "a.zarr", (folder / "one.zarr.zip").read_bytes()


@pytest.mark.few(2)
@pytest.mark.parametrize("moment", KILLS)
def test_a_job_that_is_killed_while_it_uploads_the_zip_ends_by_the_same_call(
    moment, large, s3_server, bucket, tmp_path, caplog
):
    (source, expected), url = large, f"{bucket.url}/one.zarr.zip"
    processes.prepare()
    with FaultProxy(s3_server.endpoint, Rule(*KILLS[moment], after="^PUT .*/parts/.*zip")) as proxy:
        environment = replace(s3_server, endpoint=proxy.url).environment()
        process = processes.forked(join_here, tmp_path / "log", source, url, environment)
        while not proxy.rules[0].fired:
            assert process.is_alive()
            time.sleep(0.01)
        process.kill()
        process.join()
    found = keys(bucket)
    assert "one.zarr.zip.shardedstore/shardedstore.json" not in found or moment == "the removal of the parts"
    with caplog.at_level("WARNING", "shardedstore"):
        join_here(source, url, s3_server.environment())
    assert obstore.get(bucket.client, "one.zarr.zip").bytes() == expected
    left = {key.removeprefix("one.zarr.zip.shardedstore/") for key in keys(bucket)} - {"one.zarr.zip"}
    assert not [key for key in left if key.startswith(("parts/", "uploading"))]
    told = [
        record.getMessage() for record in caplog.records if "parts of its uploads may be left" in record.getMessage()
    ]
    assert len(told) == ("upload" in moment or "its" in moment)
    assert all(f'"Prefix": "{url.split("/", 3)[3]}"' in text for text in told)
