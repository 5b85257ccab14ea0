"""Numbers of requests for reading, in total and at once, with 50 ms each; a proxy counts them."""

from dataclasses import replace

import dask
import numpy as np
import obstore
import pytest
import zarr
from conformance import contents_of, get
from faultproxy import FaultProxy, Rule
from servers import upload
from sources import SOURCES, build, numbers, to_zip
from zarr.abc.store import RangeByteRequest, SuffixByteRequest
from zarr.core.sync import sync

from shardedstore import ShardedStore
from shardedstore.transforms import ToZip
from shardedstore.zips import ZipReadStore

DELAY = 0.05  # seconds
FEW, MANY = 64, 1500  # chunks: the directory of a large zip is longer than the first read of its end


@pytest.fixture
def proxy(bucket, s3_server, use_environment):
    """The proxy between this process and the server; `bucket.client` bypasses it."""
    with FaultProxy(s3_server.endpoint, Rule("", "delay", DELAY)) as proxy:
        use_environment(replace(s3_server, endpoint=proxy.url).environment())
        yield proxy


def chunks_source(store, count):
    """One array whose chunks hold their numbers."""
    zarr.create_array(store, data=expected(count), chunks=(100,), compressors=None)


def expected(count):
    return np.repeat(np.arange(1, count + 1, dtype="i4"), 100)


def zip_of(contents, bucket, folder):
    obstore.put(bucket.client, "a.zip", to_zip(contents, folder / "a.zip"))
    return ZipReadStore(f"{bucket.url}/a.zip")


@pytest.mark.parametrize(("count", "requests"), [(FEW, 1), (MANY, 2)])
def test_a_zip_is_opened_with_a_request_or_two(count, requests, bucket, proxy, tmp_path):
    contents = build(chunks_source, count)
    store = zip_of(contents, bucket, tmp_path)
    assert sync(store.exists("zarr.json"))
    assert len(proxy.log) == requests
    assert store.names() == sorted(contents)
    assert get(store, "c/nothing") is None
    assert len(proxy.log) == requests


def test_a_chunk_is_a_request_and_so_is_a_part_of_one(bucket, proxy, tmp_path):
    contents = build(chunks_source, FEW)
    store = zip_of(contents, bucket, tmp_path)
    store.names()
    for byte_range, data in (
        (None, contents["c/7"]),
        (RangeByteRequest(100, 200), contents["c/7"][100:200]),
        (SuffixByteRequest(16), contents["c/7"][-16:]),
    ):
        proxy.log.clear()
        assert get(store, "c/7", byte_range) == data
        assert [line.status for line in proxy.log] == [206]
        assert proxy.log[0].sent <= len(data) + 100


@pytest.mark.parametrize(("concurrency", "at_once"), [(10, 8), (64, 16)])
def test_zarr_reads_the_chunks_of_a_zip_at_once(concurrency, at_once, bucket, proxy, tmp_path):
    store = zip_of(build(chunks_source, FEW), bucket, tmp_path)
    with zarr.config.set({"async.concurrency": concurrency}):
        np.testing.assert_array_equal(zarr.open_array(store, mode="r")[:], expected(FEW))
    assert len(proxy.log) == 1 + 1 + FEW  # the zip's directory, zarr.json, the chunks
    assert proxy.most_at_once() >= at_once


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_a_job_has_many_requests_under_way(kind, bucket, proxy, tmp_path):
    contents = build(chunks_source, 4 * FEW)
    url = bucket.url
    if kind == "zip":
        url = zip_of(contents, bucket, tmp_path).url
    else:
        upload(bucket.client, contents)
    view = ShardedStore.partition(url)
    with dask.config.set(scheduler="synchronous"):
        result = view.map_shards(ToZip(tmp_path / "out"))
    assert contents_of(result) == contents
    assert proxy.most_at_once() >= 16
    read = [line for line in proxy.log if "list-type" not in line.path]
    assert len(read) < len(contents) + 16


def test_an_inner_chunk_of_a_sharded_array_is_read_alone(bucket, proxy, tmp_path):
    store = zip_of(SOURCES["sharding-codec"].contents(), bucket, tmp_path)
    array = zarr.open_array(store, path="inner", mode="r")
    proxy.log.clear()
    np.testing.assert_array_equal(array[4:6, 2:4], numbers(10, 9)[4:6, 2:4])
    assert len(proxy.log) == 2  # the shard's index, and the chunk
