"""Unusual arrays in steps: results equal the values that zarr reads from the source."""

import json

import dask
import numpy as np
import pytest
import zarr
from numcodecs import Delta
from zarr.codecs import BytesCodec, TransposeCodec
from zarr.codecs import numcodecs as zarr_numcodecs
from zarr.core.dtype import VariableLengthBytes

from shardedstore import ChainError, ShardedStore
from shardedstore.transforms import CopyTo, MapBlocks, MapChunks, MigrateV3, Recompress, ToShardingCodec

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:zarr", "ignore:.*Zarr.*:UserWarning", "ignore:.*vlen.*")
STEPS = {
    "MapChunks": MapChunks(lambda chunk, position: chunk, name="same"),
    "MapBlocks": MapBlocks(lambda block, position: block, name="same"),
}


@pytest.fixture(autouse=True)
def one_process():
    with dask.config.set(scheduler="synchronous"):
        yield


def mapped(tmp_path, *steps):
    source = ShardedStore.partition(tmp_path / "a.zarr")
    result = source.map_shards(*steps, CopyTo(tmp_path / "out.zarr"))
    assert result.verify(source).ok
    return zarr.open_array(tmp_path / "out.zarr", mode="r+")


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("dtype", [">u4", ">i2", "<i8"])
def test_filters_of_another_byte_order_are_migrated_and_run(tmp_path, step, dtype):
    numbers = np.arange(1, 25).reshape(4, 6).astype(dtype)
    old = zarr.create_array(
        tmp_path / "a.zarr", shape=(4, 6), chunks=(2, 4), dtype=dtype, filters=[Delta(dtype)], order="F", zarr_format=2
    )
    old[...] = numbers
    made = mapped(tmp_path, MigrateV3(), STEPS[step])
    np.testing.assert_array_equal(made[...], numbers)
    made[...] = made[...]  # as zarr writes it
    np.testing.assert_array_equal(made[...], numbers)


@pytest.mark.parametrize("step", STEPS)
def test_filters_with_which_zarr_does_not_keep_values_are_refused(tmp_path, step):
    """Zarr 3.1 treats any array as one with the byte order of the filter."""
    options = {"filters": [zarr_numcodecs.Delta(dtype=">u4")], "serializer": BytesCodec(endian="big")}
    array = zarr.create_array(tmp_path / "a.zarr", shape=(6,), chunks=(3,), dtype="u4", **options)
    array[...] = np.arange(1, 7)
    if np.array_equal(array[...], np.arange(1, 7)):
        np.testing.assert_array_equal(mapped(tmp_path, STEPS[step])[...], np.arange(1, 7))
        return
    with pytest.raises(ChainError, match="its filters change the values each time that they are written, in zarr too"):
        mapped(tmp_path, STEPS[step])


@pytest.mark.parametrize("step", STEPS)
def test_transposed_texts(tmp_path, step):
    texts = np.array([f"text {i}" for i in range(24)]).reshape(4, 6).astype("T")
    array = zarr.create_array(tmp_path / "a.zarr", shape=(4, 6), chunks=(2, 3), dtype=str, fill_value="")
    array[...] = texts
    turned = ShardedStore.partition(tmp_path / "a.zarr")
    turned.map_shards(Recompress(filters=[TransposeCodec(order=(1, 0))]), CopyTo(tmp_path / "turned.zarr"))
    assert "transpose" in (tmp_path / "turned.zarr/zarr.json").read_text()
    source = ShardedStore.partition(tmp_path / "turned.zarr")
    source.map_shards(STEPS[step], CopyTo(tmp_path / "out.zarr"))
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "out.zarr", mode="r")[...], texts)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("value", [7, "a text", np.datetime64("2026-01-02", "s"), 1.5 + 2j], ids=str)
def test_scalars(tmp_path, step, zarr_format, value):
    value = np.asarray(value)
    dtype = str if value.dtype.kind == "U" else value.dtype
    zarr.create_array(tmp_path / "a.zarr", shape=(), dtype=dtype, zarr_format=zarr_format)[...] = value
    assert mapped(tmp_path, STEPS[step])[...] == value


def test_scalars_may_be_changed_in_place(tmp_path):
    zarr.create_array(tmp_path / "a.zarr", shape=(), dtype="i4")[...] = 7

    def change(chunk, position):
        chunk[...] = 8
        return chunk

    ShardedStore.partition(tmp_path / "a.zarr").map_shards(MapChunks(change, name="eight"), CopyTo(tmp_path / "o.zarr"))
    assert zarr.open_array(tmp_path / "o.zarr")[...] == 8


def test_differences_of_dates(tmp_path):
    dates = np.arange("2026-01-01", "2026-01-09", dtype="M8[D]").astype("M8[s]")
    zarr.create_array(tmp_path / "a.zarr", data=dates, chunks=(4,))
    made = mapped(tmp_path, Recompress(filters="delta"))
    assert "delta" in (tmp_path / "out.zarr/zarr.json").read_text()
    np.testing.assert_array_equal(made[...], dates)


@pytest.mark.parametrize("step", [*STEPS, "Recompress", "MigrateV3"])
def test_bytes_of_variable_length_in_v2(tmp_path, step):
    values = np.array([b"a", b"", b"\xff\x00c", b"dd"], object)
    store = tmp_path / "a.zarr"
    array = zarr.create_array(store, shape=(4,), chunks=(2,), dtype=VariableLengthBytes(), zarr_format=2)
    assert "vlen-bytes" in (store / ".zarray").read_text()
    array[...] = values
    made = mapped(tmp_path, {**STEPS, "Recompress": Recompress("zstd"), "MigrateV3": MigrateV3()}[step])
    np.testing.assert_array_equal(made[...], values)


def test_a_sharding_codec_that_does_not_say_how_its_index_is_encoded(tmp_path):
    numbers = np.arange(16)
    zarr.create_array(tmp_path / "a.zarr", data=numbers, chunks=(2,), shards=(8,))
    path = tmp_path / "a.zarr/zarr.json"
    document = json.loads(path.read_text())
    del document["codecs"][0]["configuration"]["index_codecs"]
    path.write_text(json.dumps(document))
    np.testing.assert_array_equal(mapped(tmp_path, Recompress("gzip"))[...], numbers)


def test_a_fill_value_that_no_record_has_is_refused(tmp_path):
    zarr.create_array(tmp_path / "a.zarr", data=np.array([b"a", b"b"], "S1"))
    step = MapChunks(lambda chunk, position: chunk, dtype=[("x", "i4")], name="records")
    with pytest.raises(ChainError, match="can't have the fill value"):
        ShardedStore.partition(tmp_path / "a.zarr").map_shards(step, CopyTo(tmp_path / "out.zarr"))


def test_an_array_of_v2_inside_v3_is_migrated_before_it_is_packed(tmp_path):
    group = zarr.create_group(tmp_path / "a.zarr", zarr_format=3)
    group.create_array("new", data=np.arange(12), chunks=(2,))
    zarr.create_array(tmp_path / "a.zarr", name="old", data=np.arange(4), chunks=(2,), zarr_format=2)
    store = ShardedStore.partition(tmp_path / "a.zarr", {"new": (12,), "old": (4,)})
    with pytest.raises(ChainError, match=r"'old' is Zarr v2: put MigrateV3\(\)"):
        store.map_shards(ToShardingCodec(tmp_path / "out.zarr"))
    store.map_shards(MigrateV3(), ToShardingCodec(tmp_path / "out.zarr"))
    for name, length in (("new", 12), ("old", 4)):
        array = zarr.open_array(tmp_path / "out.zarr" / name, zarr_format=3)
        np.testing.assert_array_equal(array[...], np.arange(length))
        assert array.shards == (length,)
