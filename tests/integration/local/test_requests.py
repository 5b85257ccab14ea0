"""Numbers of requests to open a store, read a chunk and list a group: independent of the array's size."""

import shutil
import warnings
from dataclasses import replace

import dask
import numpy as np
import obstore
import pytest
import zarr
from faultproxy import FaultProxy
from servers import web
from zarr.core.sync import sync

from shardedstore import ShardedStore
from shardedstore.transforms import CopyTo, ToZip
from shardedstore.writing.arrayshards import array_shard_directory_store
from shardedstore.zips import ZipReadStore

MOST = 10  # requests
SMALL, LARGE = 4, 12  # chunks along either dimension


@pytest.fixture(autouse=True)
def synchronous():
    with dask.config.set(scheduler="synchronous"):
        yield


def make(path, count, zarr_format, *, consolidated=True):
    group = zarr.create_group(path, zarr_format=zarr_format)
    data = np.arange(1, count * count + 1, dtype="i4").reshape(count, count)
    group.create_array("a", data=data, chunks=(1, 1), compressors=None)
    group.create_group("g").create_array("b", data=data[0], chunks=(1,), compressors=None)
    if consolidated:
        with warnings.catch_warnings(action="ignore"):
            zarr.consolidate_metadata(path)


def mapped(path, sink, **shards):
    ShardedStore.partition(path, shards).map_shards(sink)


def as_zips(source, out):
    mapped(source, ToZip(out), a=(SMALL // 2, -1), g="whole")


def as_shards(source, out):
    mapped(source, CopyTo(out, layout="shards"), a=(SMALL // 2, -1), g="whole")


def as_view(source, out):
    shutil.copytree(source, out / "source.zarr")
    ShardedStore.partition(out / "source.zarr", {"a": (SMALL // 2, -1), "g": "whole"}).save(out / "shardedstore.json")


def as_nested(source, out):
    as_zips(source, out / "inner")
    outer = ShardedStore(ShardedStore.load(out / "inner"))
    outer.save(out / "shardedstore.json")


def as_written(source, out):
    written = ShardedStore(str(out / "base.zarr"), {}, {"a": (1, array_shard_directory_store(str(out / "a")))})
    whole = zarr.open_group(source, mode="r")
    group = zarr.create_group(written, zarr_format=whole.metadata.zarr_format)
    group.create_array("a", data=whole["a"][...], chunks=(1, 1), compressors=None)
    group.create_group("g").create_array("b", data=whole["g/b"][...], chunks=(1,), compressors=None)
    written.save(out / "shardedstore.json")


KINDS = [as_zips, as_shards, as_view, as_nested, as_written]


def names(store, path):
    async def listed():
        return sorted([name async for name in store.list_dir(path)])

    return sync(listed())


def counted(url, log):
    """The operations, and the largest number of requests for each."""
    zarr_format = 3 if "v3" in url else 2
    store = ShardedStore.load(url)
    value = zarr.open_group(store, mode="r", zarr_format=zarr_format)["a"][0, 0]
    chunk = len(log)
    return value, chunk, names(store, ""), names(store, "g"), len(log) - chunk


@pytest.mark.parametrize(("kind", "zarr_format"), [(as_zips, 2), (as_shards, 2), *((kind, 3) for kind in KINDS)])
def test_a_web_server(kind, zarr_format, tmp_path):
    found = []
    for count in (SMALL, LARGE):
        place = tmp_path / f"v{zarr_format}" / str(count)
        make(tmp_path / f"{count}.zarr", count, zarr_format)
        place.mkdir(parents=True)
        kind(tmp_path / f"{count}.zarr", place)
    with web(tmp_path) as url, FaultProxy(url) as proxy:
        for count in (SMALL, LARGE):
            proxy.log.clear()
            if kind is as_written:  # it has no consolidated metadata, and therefore no names
                store = ShardedStore.load(f"{proxy.url}/v{zarr_format}/{count}")
                value = zarr.open_group(store, mode="r", zarr_format=zarr_format)["a"][0, 0]
                found.append((value, len(proxy.log), [], [], 0))
            else:
                found.append(counted(f"{proxy.url}/v{zarr_format}/{count}", proxy.log))
    assert found[0] == found[1]
    value, chunk, root, group, listing = found[0]
    assert (value, chunk <= MOST, listing <= MOST) == (1, True, True)
    if kind is not as_written:
        own = {"zarr.json"} if zarr_format == 3 else {".zgroup", ".zattrs"}
        assert ({*root} - {".zmetadata"}, {*group} - {".zmetadata"}) == ({"a", "g", *own}, {"b", *own})


@pytest.mark.few(2)
@pytest.mark.s3
@pytest.mark.parametrize("kind", KINDS)
def test_an_object_store(kind, bucket, s3_server, use_environment, tmp_path):
    found = []
    with FaultProxy(s3_server.endpoint) as proxy:
        use_environment(replace(s3_server, endpoint=proxy.url).environment())
        for count in (SMALL, LARGE):
            place = tmp_path / "v3" / str(count)
            make(tmp_path / f"{count}.zarr", count, 3)
            place.mkdir(parents=True)
            kind(tmp_path / f"{count}.zarr", place)
            for file in place.rglob("*"):
                if file.is_file():
                    obstore.put(bucket.client, f"v3/{count}/{file.relative_to(place)}", file.read_bytes())
            proxy.log.clear()
            found.append(counted(f"{bucket.url}/v3/{count}", proxy.log))
    assert found[0] == found[1]
    value, chunk, root, group, listing = found[0]
    assert (value, chunk <= MOST, listing <= 4) == (1, True, True)
    assert ({"a", "g"} <= {*root}, "b" in group) == (True, True)


@pytest.mark.parametrize("consolidated", [True, False])
def test_a_source_on_a_web_server(consolidated, tmp_path):
    """For a plain folder: a root array, as dividing a group needs consolidated metadata."""
    found = []
    for count in (SMALL, LARGE):
        make(tmp_path / f"{count}.zarr", count, 3, consolidated=consolidated)
    with web(tmp_path) as url, FaultProxy(url) as proxy:
        for count in (SMALL, LARGE):
            proxy.log.clear()
            path = f"{proxy.url}/{count}.zarr" + ("" if consolidated else "/a")
            store = ShardedStore.partition(path, "1 KiB")
            divided = len(proxy.log)
            opened = zarr.open(store, mode="r")
            value, listed = (opened["a"] if consolidated else opened)[0, 0], names(store, "")
            assert (value, listed) == (1, ["a", "g", "zarr.json"] if consolidated else ["c", "zarr.json"])
            found.append((divided, len(proxy.log) - divided))
    assert max(found[0] + found[1]) <= MOST


def test_a_collection_on_a_web_server(tmp_path):
    found = []
    for count in (SMALL, LARGE):
        for i in range(count):
            make(tmp_path / f"{count}/m{i:02}.zarr", 2, 3)
    with web(tmp_path) as url, FaultProxy(url) as proxy:
        for count in (SMALL, LARGE):
            proxy.log.clear()
            members = [f"{i:02}" for i in range(count)]
            store = ShardedStore.collect(f"{proxy.url}/{count}/m*.zarr", names=members)
            opened = zarr.open_group(store, mode="r")
            assert opened["00/a"][0, 0] == 1
            assert names(store, "") == sorted([*members, "zarr.json"])
            assert names(store, "00") == ["a", "g", "zarr.json"]
            found.append(len(proxy.log))
    assert found[0] == found[1] <= MOST


def test_the_documents_are_those_of_the_result_wherever_it_is(tmp_path):
    """Also the consolidated metadata of each group, and that of a result that is divided again."""
    make(tmp_path / "source.zarr", SMALL, 3)
    with warnings.catch_warnings(action="ignore"):
        zarr.consolidate_metadata(tmp_path / "source.zarr", path="g")
    as_zips(tmp_path / "source.zarr", tmp_path / "out")
    local = ShardedStore.load(tmp_path / "out")
    with web(tmp_path) as url:
        remote = ShardedStore.load(f"{url}/out")
        for path in "", "g":
            groups = [zarr.open_group(store, path=path, mode="r").metadata.to_dict() for store in (local, remote)]
            assert groups[0] == groups[1]
            assert groups[0]["consolidated_metadata"]["metadata"]
        remote.map_shards(ToZip(tmp_path / "again"))
    again = ShardedStore.load(tmp_path / "again")
    assert again.verify(local).ok
    assert zarr.open_group(again, path="g", mode="r").metadata.consolidated_metadata is not None


@pytest.mark.parametrize("zip64", [False, True])
def test_one_zip_on_a_web_server_takes_a_request_for_each_chunk(zip64, tmp_path):
    """Two requests for the directory, and none for a local header; the first also has the chunks at the zip's end."""
    chunks, elements = 12, 1 << 16
    group = zarr.create_group(tmp_path / "source.zarr")
    data = np.arange(chunks * elements, dtype="i4").reshape(chunks, elements)
    group.create_array("a", data=data, chunks=(1, elements), compressors=None)
    mapped(tmp_path / "source.zarr", ToZip(tmp_path / "one.zarr.zip", zip64=zip64), a=(chunks // 2, -1))
    with web(tmp_path) as url, FaultProxy(url) as proxy:
        array = zarr.open_array(ZipReadStore(f"{proxy.url}/one.zarr.zip"), path="a", mode="r")
        opened = len(proxy.log)
        assert opened <= 3  # the directory, which may take two, and the array's document
        assert [array[i, 1] for i in (0, 5, 2)] == [1, 5 * elements + 1, 2 * elements + 1]
        assert len(proxy.log) - opened == 3


@pytest.mark.few(1)
@pytest.mark.parametrize("zip64", [False, True])
def test_one_zip_of_many_chunks_on_a_web_server_takes_two_requests(zip64, tmp_path):
    count = 45
    make(tmp_path / "source.zarr", count, 3)
    mapped(tmp_path / "source.zarr", ToZip(tmp_path / "one.zarr.zip", zip64=zip64), a=(count, -1))
    with web(tmp_path) as url, FaultProxy(url) as proxy:
        array = zarr.open_array(ZipReadStore(f"{proxy.url}/one.zarr.zip"), path="a", mode="r")
        assert (array[0, 0], array[count - 1, count - 1], array[1, 1]) == (1, count * count, count + 2)
        assert len(proxy.log) <= 2
