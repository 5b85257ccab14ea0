"""Reads without the event loop, by `get_sync` and zarr's fused pipeline."""

import dask
import numpy as np
import pytest
import zarr
from zarr.abc.store import RangeByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from shardedstore import ShardedStore
from shardedstore.errors import CorruptError
from shardedstore.transforms import CopyTo, ToZip

FUSED = "zarr.core.codec_pipeline.FusedCodecPipeline"
PROTOTYPE = default_buffer_prototype()


def stores(folder):
    """One store of each structure with local files."""
    root = zarr.create_group(folder / "a.zarr")
    root.create_array("t", data=np.arange(96).reshape(12, 8), chunks=(2, 4))
    root.create_array("u", data=np.arange(8), chunks=(4,))
    views = ShardedStore.partition(folder / "a.zarr", {"t": (4, -1)})
    zips = views.map_shards(ToZip(folder / "zips"))
    return {
        "views": views,
        "part": ShardedStore.partition(folder / "a.zarr", {"t": (4, -1)}, exclude=["u"]),
        "zips": zips,
        "nested": ShardedStore.partition(zips, {"t": (6, -1)}),
        "directories": views.map_shards(CopyTo(folder / "folders", layout="shards")),
        "writable": ShardedStore(str(folder / "a.zarr")),
    }


@pytest.fixture
def store(request, tmp_path):
    with dask.config.set(scheduler="sync"):
        return stores(tmp_path)[request.param]


EACH = pytest.mark.parametrize("store", ["views", "part", "zips", "nested", "directories", "writable"], indirect=True)


@EACH
def test_get_sync_is_get(store):
    async def keys():
        return [key async for key in store.list()]

    for key in [*sync(keys()), "t/c/9/9", "t/c/0/1/2", "nothing", "u/c/7"]:
        for part in (None, RangeByteRequest(2, 9)):
            value, same = store.get_sync(key, byte_range=part), sync(store.get(key, PROTOTYPE, part))
            assert (value and value.to_bytes()) == (same and same.to_bytes()), key


@EACH
def test_the_fused_pipeline_reads_the_same(store):
    if not hasattr(zarr.core.codec_pipeline, "FusedCodecPipeline"):
        pytest.skip("this zarr has no FusedCodecPipeline: it takes 3.4")
    with zarr.config.set({"codec_pipeline.path": FUSED}):
        found = zarr.open_array(store, path="t", mode="r")[:]
    np.testing.assert_array_equal(found, np.arange(96).reshape(12, 8))


@pytest.mark.parametrize("store", ["zips"], indirect=True)
def test_a_damaged_member_is_named(store, tmp_path):
    store.get_sync("t/zarr.json")
    path = tmp_path / "zips/t/0.zarr.zip"
    data = bytearray(path.read_bytes())
    at = data.index(b"c/0/0") + 12
    data[at] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptError, match=r"t/0.zarr.zip: 'c/0/0' is damaged: its CRC-32 is wrong"):
        store.get_sync("t/c/0/0")


def test_writes_are_refused_or_done(tmp_path):
    with dask.config.set(scheduler="sync"):
        found = stores(tmp_path)
    value = PROTOTYPE.buffer.from_bytes(b"x")
    with pytest.raises(ValueError, match="map it with map_shards"):
        found["zips"].set_sync("note", value)
    with pytest.raises(ValueError, match="map it with map_shards"):
        found["zips"].delete_sync("t/c/0/0")
    found["writable"].set_sync("note", value)
    assert found["writable"].get_sync("note").to_bytes() == b"x"
    found["writable"].delete_sync("note")
    assert found["writable"].get_sync("note") is None
