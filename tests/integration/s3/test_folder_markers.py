"""Folder markers, empty objects of consoles, `aws s3 sync` and Hadoop in buckets: they do not belong to a Zarr."""

from urllib.parse import quote
from urllib.request import Request, urlopen

import dask
import numpy as np
import obstore
import pytest
import zarr
from servers import upload
from sources import add_array, build

from shardedstore import ShardedStore
from shardedstore.transforms import CopyTo, Recompress, ToZip

VALUES = np.arange(1, 49, dtype="i4").reshape(8, 6)
SLASHED = ("", "attic/", "a/", "a/c/", "a/c/0/", "g/", "g/deep/er/")
HADOOP = ("attic_$folder$", "a_$folder$", "a/c_$folder$")
NAMES = {"attic", "a", "a/c", "a/c/0", "g", "g/deep/er", ""}


@pytest.fixture(autouse=True)
def _in_this_thread():
    with dask.config.set(scheduler="synchronous"):
        yield


def arrays(store):
    root = zarr.create_group(store)
    add_array(root, "a", VALUES, (2, 6), ("y", "x"))
    add_array(root.create_group("g"), "b", VALUES, (2, 6), ("y", "x"))


def put(server, bucket, key, data=b""):
    """Put an object of any name, as obstore can't put names that end in a slash."""
    with urlopen(Request(f"{server.endpoint}/{bucket}/{quote(key)}", data=data, method="PUT"), timeout=5):
        pass


@pytest.fixture
def marked(s3_server, use_environment, request):
    """A Zarr with a real empty file, and markers of both kinds."""
    use_environment(s3_server.environment())
    name = request.node.name.translate(str.maketrans("[]- ", "____"))
    folder = s3_server.folder("open", name)
    upload(folder.client, {**build(arrays), "g/empty.txt": b"", "g/deep.txt": b"x"})
    for key in (*SLASHED, *HADOOP):
        put(s3_server, "open", f"{name}/{key}")
    return folder


def notice_of(new):
    return [notice for notice in new.summary.notices if "mark folders" in notice.text]


@pytest.mark.parametrize("shards", [{}, {"a": (4, 6)}, {"a": "whole", "g": "whole"}], ids=["base", "blocks", "whole"])
def test_they_are_left_out_and_told(marked, tmp_path, shards):
    store = ShardedStore.partition(marked.url, shards)
    new = store.map_shards(Recompress("gzip"), ToZip(tmp_path / "out"))
    assert np.array_equal(zarr.open_group(new, mode="r")["a"][...], VALUES)
    (notice,) = notice_of(new)
    assert {name.removesuffix("_$folder$") for name in notice.arrays} <= NAMES
    assert "attic" in notice.arrays
    assert "attic_$folder$" in notice.arrays
    assert new.verify(store).ok
    assert new.verify().ok
    keys = sorted(zarr.core.sync.sync(listed(new)))
    assert "g/empty.txt" in keys
    assert not [key for key in keys if key.endswith("$") or key in ("attic", "g/deep/er")]


async def listed(store):
    return [key async for key in store.list()]


@pytest.mark.parametrize("changed", ["listing", "content"])
def test_a_source_is_as_it_was_when_only_markers_have_come(marked, s3_server, tmp_path, changed):
    store = ShardedStore.partition(marked.url, {"a": (4, 6)})
    store.map_shards(CopyTo(tmp_path / "out"), changed=changed)
    put(s3_server, "open", f"{marked.url.rpartition('/')[2]}/new/")
    again = ShardedStore.partition(marked.url, {"a": (4, 6)}).map_shards(CopyTo(tmp_path / "out"), changed=changed)
    assert (again.summary.done, again.summary.changed) == (0, 0)


@pytest.mark.parametrize(
    "sink", [CopyTo, lambda url: CopyTo(url, layout="shards"), ToZip], ids=["copy", "shards", "zip"]
)
def test_a_destination_may_have_markers(s3_server, use_environment, tmp_path, sink, request):
    """A console makes a marker when a user creates the folder for the result."""
    use_environment(s3_server.environment())
    name = f"made-{request.node.callspec.id}"
    put(s3_server, "open", f"{name}/")
    source = zarr.storage.LocalStore(tmp_path / "s.zarr")
    arrays(source)
    store = ShardedStore.partition(tmp_path / "s.zarr", {"a": (4, 6)})
    new = store.map_shards(sink(f"s3://open/{name}"))
    for folder in ("", "a", "base.zarr", "a/0.zarr"):
        put(s3_server, "open", f"{name}/{folder}/".replace("//", "/"))
    again = store.map_shards(sink(f"s3://open/{name}"))
    assert (again.summary.done, again.summary.missing) == (0, 0)
    assert new.verify(store).ok
    assert new.verify().ok
    assert new.verify(level="exists").ok
    assert not new.summary.notices
    if sink is not CopyTo:
        assert not ShardedStore.prune(f"s3://open/{name}").names


def test_an_object_with_the_name_of_a_marker_is_an_object(s3_server, use_environment, tmp_path):
    """Both can exist: the object is copied once, whatever it holds."""
    use_environment(s3_server.environment())
    folder = s3_server.folder("open", "both")
    upload(folder.client, build(arrays))
    for key, data in {"notes": b"text", "g/none": b""}.items():
        obstore.put(folder.client, key, data)
    new = ShardedStore.partition(folder.url).map_shards(CopyTo(tmp_path / "out"))
    assert (tmp_path / "out/notes").read_bytes() == b"text"
    assert (tmp_path / "out/g/none").read_bytes() == b""
    assert not new.summary.notices


def test_members_of_a_collection(s3_server, use_environment, tmp_path):
    use_environment(s3_server.environment())
    folder = s3_server.folder("open", "many")
    for name in ("x", "y"):
        upload(folder.client, build(arrays), f"{name}.zarr")
        put(s3_server, "open", f"many/{name}.zarr/")
        put(s3_server, "open", f"many/{name}.zarr/a/")
        put(s3_server, "open", f"many/{name}.zarr_$folder$")
    put(s3_server, "open", "many/")
    store = ShardedStore.collect(f"{folder.url}/*.zarr")
    new = store.map_shards(ToZip(tmp_path / "out"))
    assert sorted(zarr.open_group(new, mode="r").group_keys()) == ["x", "y"]
    assert new.verify(store).ok
