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

from shardedstore import CorruptError, ShardedStore
from shardedstore.stores.reader import reader_of
from shardedstore.transforms import ToZip
from shardedstore.zips import ZipReadStore

DELAY = 0.05  # seconds
FEW = 64  # chunks
LENGTH = 8192  # elements of a chunk, which has 32 KiB
PADDING = {"z": bytes(600 << 10)}  # the last entry of a zip, which is read with the directory


@pytest.fixture
def proxy(bucket, s3_server, use_environment):
    """The proxy between this process and the server; `bucket.client` bypasses it."""
    with FaultProxy(s3_server.endpoint, Rule("", "delay", DELAY)) as proxy:
        use_environment(replace(s3_server, endpoint=proxy.url).environment())
        yield proxy


def chunks_source(store, count, length=LENGTH):
    """One array whose chunks hold their numbers."""
    zarr.create_array(store, data=expected(count, length), chunks=(length,), compressors=None)


def expected(count, length=LENGTH):
    return np.repeat(np.arange(1, count + 1, dtype="i4"), length)


def zip_of(contents, bucket, folder):
    obstore.put(bucket.client, "a.zip", to_zip(contents, folder / "a.zip"))
    return ZipReadStore(f"{bucket.url}/a.zip")


@pytest.mark.parametrize(("count", "requests"), [(FEW, 1), (15_000, 2)])
def test_a_zip_is_opened_with_a_request_or_two(count, requests, bucket, proxy, tmp_path):
    """The directory of a zip with very many entries is longer than the first read of its end."""
    contents = {"zarr.json": b"{}", **{f"c/{i}": b"1" for i in range(count)}}
    store = zip_of(contents, bucket, tmp_path)
    assert sync(store.exists("zarr.json"))
    assert len(proxy.log) == requests
    assert store.names() == sorted(contents)
    assert get(store, "c/nothing") is None
    assert len(proxy.log) == requests


def test_a_chunk_is_a_request_and_so_is_a_part_of_one(bucket, proxy, tmp_path):
    contents = build(chunks_source, FEW) | PADDING
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


def test_the_end_of_a_zip_is_read_with_its_directory(bucket, proxy, tmp_path):
    contents = build(chunks_source, FEW)
    store = zip_of(contents, bucket, tmp_path)
    last = list(contents)[-1]
    assert get(store, last) == contents[last]
    assert len(proxy.log) == 1


@pytest.mark.parametrize(("concurrency", "most"), [(10, 24), (64, 12)])
def test_zarr_reads_neighbours_together(concurrency, most, bucket, proxy, tmp_path):
    store = zip_of(build(chunks_source, FEW) | PADDING, bucket, tmp_path)
    with zarr.config.set({"async.concurrency": concurrency}):
        array = zarr.open_array(store, mode="r")
        np.testing.assert_array_equal(array[:], expected(FEW))
    assert len(proxy.log) <= most  # the zip's directory, zarr.json, the chunks
    assert sum(line.sent for line in proxy.log) <= 1.5 * (tmp_path / "a.zip").stat().st_size
    proxy.log.clear()
    with zarr.config.set({"async.concurrency": concurrency}):
        np.testing.assert_array_equal(array[:: 3 * LENGTH], expected(FEW)[:: 3 * LENGTH])
    assert len(proxy.log) <= FEW // 3 + 1


def test_zarr_reads_large_chunks_at_once(bucket, proxy, tmp_path):
    length = (1 << 18) + (1 << 14)  # more than 1 MiB
    store = zip_of(build(lambda store: chunks_source(store, 16, length)), bucket, tmp_path)
    np.testing.assert_array_equal(zarr.open_array(store, mode="r")[:], expected(16, length))
    assert proxy.most_at_once() >= 8


def test_shards_of_small_chunks_need_few_requests(bucket, proxy, tmp_path):
    """Eight shards of 32 chunks took 264 requests when each chunk was one."""
    array = zarr.create_array(tmp_path / "a.zarr", name="t", shape=(8, 32 * 2304), chunks=(1, 2304), dtype="i4")
    array[:] = values = np.arange(8 * 32 * 2304).reshape(8, -1) % 1013
    with dask.config.set(scheduler="sync"):
        ShardedStore.partition(tmp_path / "a.zarr", {"t": (1, -1)}).map_shards(ToZip(bucket.url))
        proxy.log.clear()
        np.testing.assert_array_equal(zarr.open_array(ShardedStore.load(bucket.url), path="t", mode="r")[:], values)
        assert len(proxy.log) <= 8 + 2  # and the config, and the base
        proxy.log.clear()
        result = ShardedStore.load(bucket.url).map_shards(ToZip(tmp_path / "again"))
        assert len(proxy.log) <= 8 + 6
    assert contents_of(result) == contents_of(ShardedStore.load(bucket.url))


def test_a_job_has_many_requests_under_way(bucket, proxy, tmp_path):
    contents = build(lambda store: chunks_source(store, 4 * FEW, 100))
    upload(bucket.client, contents)
    with dask.config.set(scheduler="synchronous"):
        result = ShardedStore.partition(bucket.url).map_shards(ToZip(tmp_path / "out"))
    assert contents_of(result) == contents
    assert proxy.most_at_once() >= 16
    read = [line for line in proxy.log if "list-type" not in line.path]
    assert len(read) < len(contents) + 16


def test_a_job_reads_neighbours_of_a_zip_together(bucket, proxy, tmp_path):
    contents = build(chunks_source, 4 * FEW) | PADDING
    view = ShardedStore.partition(zip_of(contents, bucket, tmp_path))
    with dask.config.set(scheduler="synchronous"):
        result = view.map_shards(ToZip(tmp_path / "out"))
    assert contents_of(result) == contents
    assert len(proxy.log) <= 14  # 8 MiB
    assert proxy.most_at_once() >= 3


def test_a_damaged_entry_among_neighbours_is_named(bucket, proxy, tmp_path):
    """The entries before it are read."""
    contents = build(chunks_source, FEW) | PADDING
    data = bytearray(to_zip(contents, tmp_path / "a.zip").read_bytes())
    data[data.index(b"c/7") + 100] ^= 1
    obstore.put(bucket.client, "a.zip", bytes(data))
    store = ZipReadStore(f"{bucket.url}/a.zip")
    array = zarr.open_array(store, mode="r")
    with pytest.raises(CorruptError, match=r"a\.zip: 'c/7' is damaged: its CRC-32 is wrong"):
        array[:]
    np.testing.assert_array_equal(array[: 7 * LENGTH], expected(7))
    found = reader_of(store).fetch([f"c/{i}" for i in range(5, 9)])
    assert [next(found), next(found)] == [contents["c/5"], contents["c/6"]]
    with pytest.raises(CorruptError, match="'c/7' is damaged"):
        next(found)


def test_an_inner_chunk_of_a_sharded_array_is_read_alone(bucket, proxy, tmp_path):
    store = zip_of(SOURCES["sharding-codec"].contents() | PADDING, bucket, tmp_path)
    array = zarr.open_array(store, path="inner", mode="r")
    proxy.log.clear()
    np.testing.assert_array_equal(array[4:6, 2:4], numbers(10, 9)[4:6, 2:4])
    assert len(proxy.log) == 2  # the shard's index, and the chunk
