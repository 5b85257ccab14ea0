"""`ShardedStore.compare_codecs`: sizes and speeds of codecs on the chunks of a user."""

import json
import os
import re

import iris_sample_data
import numpy as np
import pytest
import xarray as xr
import zarr
from numcodecs import BitRound, Blosc
from zarr.storage import MemoryStore

from shardedstore import ChainError, ShardedStore, UsageError
from shardedstore.transforms import CopyTo, Recompress

CODECS = {
    "zstd": "zstd",
    "blosc-bitshuffle": {"id": "blosc", "cname": "zstd", "shuffle": "bitshuffle"},
    "a codec": Blosc("lz4", 9),
    "a step": Recompress("gzip", level=1, filters=None),
    "arguments": {"codec": "zstd", "filters": "delta", "level": 3},
    "none": None,
}


@pytest.fixture(scope="module")
def climate(tmp_path_factory):
    """Air temperature with its coordinates, in months of 37 x 49 values."""
    store = tmp_path_factory.mktemp("climate") / "e1.zarr"
    data = xr.open_dataset(os.path.join(iris_sample_data.path, "E1_north_america.nc"), decode_times=False)
    data[["air_temperature"]].isel(time=slice(24)).chunk({"time": 3}).to_zarr(store, zarr_format=3)
    return ShardedStore.partition(store)


@pytest.fixture(scope="module")
def compared(climate):
    return climate.compare_codecs(CODECS)


@pytest.mark.parametrize("name", CODECS)
def test_the_sizes_are_those_of_a_job(name, climate, compared, tmp_path):
    spec = CODECS[name]
    step = spec if isinstance(spec, Recompress) else Recompress(**spec) if name == "arguments" else Recompress(spec)
    climate.map_shards(step, CopyTo(tmp_path / "out"))
    chunks = (tmp_path / "out" / "air_temperature" / "c").rglob("*")
    stored = sum(chunk.stat().st_size for chunk in chunks if chunk.is_file())
    (row,) = (row for row in compared.of_array("air_temperature") if row.codec == name)
    assert (row.stored, row.whole, row.nbytes) == (stored, stored, 24 * 37 * 49 * 4)
    assert row.encode_seconds > 0 < row.decode_seconds


def test_the_first_row_is_the_current_codec(climate, compared, tmp_path):
    climate.map_shards(CopyTo(tmp_path / "out"))
    stored = sum(
        file.stat().st_size for file in (tmp_path / "out" / "air_temperature" / "c").rglob("*") if file.is_file()
    )
    first = compared.of_array("air_temperature")[0]
    assert (first.codec, first.codecs, first.stored) == ("(now)", "zstd(0)", stored)
    assert [row.codec for row in compared.total] == ["(now)", *CODECS]
    assert compared.total[0].whole == sum(row.whole for row in compared.rows if row.codec == "(now)" and row.array)


def sparse(count=64, **options):
    store = MemoryStore()
    group = zarr.create_group(store)
    array = group.create_array("a", shape=(count,), chunks=(1,), dtype="i8", fill_value=0, **options)
    return store, array, ShardedStore.partition(store)


def test_a_sample_is_even_and_deterministic():
    _, array, store = sparse()
    array[:] = np.arange(1, 65) * 10**9
    one, two = (store.compare_codecs({"zstd": "zstd"}, sample=8 * 8) for _ in range(2))
    assert (one.total[0].chunks, one.total[0].nbytes) == (8, 64)
    assert [row.stored for row in one.rows] == [row.stored for row in two.rows]
    assert one.total[0].whole == pytest.approx(8 * one.total[0].stored)


def test_missing_chunks_are_skipped():
    _, array, store = sparse(1000)
    array[77] = array[501] = 5
    assert store.compare_codecs({"zstd": "zstd"}).total[0].chunks == 2


def test_inner_chunks_of_the_sharding_codec():
    _, array, store = sparse(64, shards=(16,))
    array[:] = np.arange(64)
    row = store.compare_codecs({"gzip": "gzip"}).total[1]
    assert (row.chunks, row.nbytes) == (63, 63 * 8)  # the first inner chunk equals the fill value


def texts_and_numbers():
    store = MemoryStore()
    group = zarr.create_group(store, zarr_format=2)
    group.create_array("numbers", data=np.arange(1000), chunks=(100,))
    group.create_array("texts", data=np.array(["a", "bc"] * 50, dtype="U2"), chunks=(10,))
    return ShardedStore.partition(store)


def test_a_codec_that_fits_some_arrays_has_an_error_for_the_others():
    found = texts_and_numbers().compare_codecs({"delta": {"codec": "zstd", "filters": "delta"}})
    (row,) = (row for row in found.of_array("texts") if row.codec == "delta")
    assert "can't have" in row.error or "can't encode" in row.error
    assert row.stored == found.of_array("texts")[0].stored
    assert "'texts' keeps its codecs" in found.total[1].error
    assert "note: delta: 'texts' keeps its codecs" in str(found)


@pytest.mark.parametrize(
    ("codecs", "options", "error", "says"),
    [
        ({}, {}, UsageError, "names no codec: write it like {'zstd': 'zstd'"),
        (["zstd"], {}, UsageError, "names no codec"),
        ({"(now)": "zstd"}, {}, UsageError, "is the name of the current codecs"),
        ({"a": {"id": "zstd", "levle": 3}}, {}, ChainError, "has no option 'levle'"),
        (
            {"a": "zsdt"},
            {},
            ChainError,
            "'a' fits no array: Recompress('zsdt') names an unknown codec: did you mean 'zstd'?",
        ),
        ({"a": {"codec": None, "filters": {"id": "bitround", "keepbits": 3}}}, {}, ChainError, "fits no array"),
        ({"a": {"codec": "zstd", "filters": "delta"}}, {"arrays": "texts"}, ChainError, "'a' fits no array"),
        ({"a": "zstd"}, {"sample": "much"}, UsageError, "sample='much' is not a size"),
        ({"a": "zstd"}, {"arrays": "nmbers"}, ChainError, "Did you mean 'numbers'?"),
    ],
)
def test_refused(codecs, options, error, says):
    with pytest.raises(error, match=re.escape(says)):
        texts_and_numbers().compare_codecs(codecs, **options)


def test_lossy_filters_are_refused_by_name(climate):
    with pytest.raises(ChainError, match="as bitround is lossy: use MapChunks"):
        climate.compare_codecs({"rounded": Recompress(filters=BitRound(7))}, arrays="air_temperature")


def test_a_damaged_chunk_is_a_note():
    store, array, divided = sparse()
    array[:] = np.arange(64)
    key = "a/c/31"
    store._store_dict[key] = type(store._store_dict[key]).from_bytes(b"damaged") if key in store._store_dict else None
    with pytest.raises(UsageError, match="no array can be measured: 'a' can't be decoded"):
        divided.compare_codecs({"zstd": "zstd"})


def test_views(compared):
    told = compared.to_dict()
    assert json.loads(json.dumps(told)) == told
    frame = compared.to_dataframe()
    assert set(frame.columns) >= {"array", "ratio", "encode_rate", "decode_rate", "stored"}
    text = str(compared)
    assert max(map(len, text.splitlines())) <= 100
    assert "note: none makes larger: /air_temperature by" in text
    assert "of now" in compared._repr_html_()
    assert compared.smallest in CODECS


def test_plot(compared):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    axes = compared.plot("air_temperature")
    assert {text.get_text() for text in axes.get_legend().get_texts()} == {"(now)", *CODECS}
    assert compared.plot(axes=axes) is axes
    with pytest.raises(UsageError, match="the comparison has no array 'wind': it has 'air_temperature'"):
        compared.plot("wind")
