"""Codec options that implementations read differently, or write as texts: values stay as the writer meant them."""

import itertools
import json

import dask
import numcodecs
import numpy as np
import pytest
import zarr

from shardedstore import ChainError, ShardedStore, ShardsFailed
from shardedstore.transforms import CopyTo, MapChunks, MigrateV3, Recompress, ToShardingCodec

VALUES = np.linspace(1, 2, 24).reshape(4, 6)
COPY = MapChunks(lambda data, position: data, name="as it is")


@pytest.fixture(autouse=True)
def _in_this_thread():
    with dask.config.set(scheduler="synchronous"):
        yield


def v2_array(folder, written, said, dtype="<f8", compressor=None, said_compressor=None, values=VALUES):
    """An array with chunks from numcodecs, and a document that names other codecs."""
    folder.mkdir(parents=True)
    document = {
        "zarr_format": 2,
        "shape": values.shape,
        "chunks": [2, 3],
        "dtype": dtype,
        "fill_value": 0,
        "order": "C",
        "filters": said or None,
        "compressor": said_compressor or compressor,
    }
    (folder / ".zarray").write_text(json.dumps(document))
    for i, j in itertools.product(range(2), range(2)):
        data = np.ascontiguousarray(values[2 * i : 2 * i + 2, 3 * j : 3 * j + 3], dtype)
        for config in (*written, *([] if compressor is None else [compressor])):
            data = numcodecs.get_codec(dict(config)).encode(data)
        (folder / f"{i}.{j}").write_bytes(bytes(numcodecs.compat.ensure_bytes(data)))
    return folder


def shuffle(**options):
    return {"id": "shuffle", **options}


# The option in a document, and the size of the shuffled elements.
SHUFFLES = {
    "zero": ((shuffle(elementsize=0),), shuffle(elementsize=8)),
    "absent": ((shuffle(),), shuffle(elementsize=8)),
    "null": ((shuffle(elementsize=None),), shuffle(elementsize=8)),
    "text": ((shuffle(elementsize="8"),), shuffle(elementsize=8)),
    "text of zero": ((shuffle(elementsize="0"),), shuffle(elementsize=8)),
    "four": ((shuffle(elementsize=4),), shuffle(elementsize=4)),
    "one": ((shuffle(elementsize=1),), shuffle(elementsize=1)),
}
STEPS = {
    "filters": Recompress(filters=None),
    "compressor": Recompress("gzip", level=1),
    "both": Recompress("zstd", filters="shuffle"),
    "chunks": COPY,
    "v3": MigrateV3(),
}


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("said", SHUFFLES)
def test_a_shuffle_without_a_size_is_of_whole_elements(tmp_path, said, steps):
    """netCDF-C shuffles by the element size, whatever the document says; numcodecs uses 0 for no shuffle, 4 by default."""
    configs, written = SHUFFLES[said]
    source = v2_array(tmp_path / "s.zarr", [written], configs, compressor={"id": "zlib", "level": 1})
    store = ShardedStore.partition(source)
    new = store.map_shards(STEPS[steps], CopyTo(tmp_path / "out"))
    if steps != "chunks":  # this leaves the document unchanged
        assert np.array_equal(zarr.open_array(tmp_path / "out", mode="r")[...], VALUES)
    else:
        assert (tmp_path / "out/.zarray").read_bytes() == (source / ".zarray").read_bytes()
        fixed = ShardedStore.partition(tmp_path / "out").map_shards(
            Recompress(filters=None), CopyTo(tmp_path / "fixed")
        )
        assert np.array_equal(zarr.open_array(fixed, mode="r")[...], VALUES)
    assert new.verify(store).ok


def test_the_size_is_that_of_the_elements_that_the_filters_before_give(tmp_path):
    filters = [{"id": "astype", "encode_dtype": "<f4", "decode_dtype": "<f8"}]
    values = VALUES.astype("f4").astype("f8")
    source = v2_array(
        tmp_path / "s.zarr", [*filters, shuffle(elementsize=4)], [*filters, shuffle(elementsize=0)], values=values
    )
    ShardedStore.partition(source).map_shards(Recompress("zstd", filters=None), CopyTo(tmp_path / "out"))
    assert np.array_equal(zarr.open_array(tmp_path / "out", mode="r")[...], values)


def test_a_shuffle_may_stand_where_the_compressor_does(tmp_path):
    compressor, said = shuffle(elementsize=8), shuffle(elementsize=0)
    source = v2_array(tmp_path / "s.zarr", [], [], compressor=compressor, said_compressor=said)
    ShardedStore.partition(source).map_shards(Recompress("zstd"), CopyTo(tmp_path / "out"))
    assert np.array_equal(zarr.open_array(tmp_path / "out", mode="r")[...], VALUES)


@pytest.mark.parametrize(
    ("compressor", "said"),
    [
        ({"id": "zlib", "level": 1}, {"id": "zlib", "level": "1"}),
        ({"id": "gzip", "level": 1}, {"id": "gzip", "level": "1"}),
        ({"id": "bz2", "level": 1}, {"id": "bz2", "level": "1"}),
        ({"id": "zstd", "level": 1}, {"id": "zstd", "level": "1"}),
        ({"id": "lz4", "acceleration": 1}, {"id": "lz4", "acceleration": "1"}),
        ({"id": "blosc", "shuffle": 2}, {"id": "blosc", "clevel": "5", "shuffle": "2", "blocksize": "0"}),
        ({"id": "blosc", "shuffle": 1}, {"id": "blosc", "shuffle": -1}),
        ({"id": "blosc", "shuffle": 0}, {"id": "blosc"}),
        ({"id": "zlib", "level": 9}, {"id": "zlib"}),
        ({"id": "gzip", "level": 9}, {"id": "gzip"}),
        ({"id": "zstd", "level": 9, "checksum": True}, {"id": "zstd"}),
        ({"id": "lz4", "acceleration": 9}, {"id": "lz4"}),
        ({"id": "crc32c", "location": "start"}, {"id": "crc32c", "location": "start"}),
        ({"id": "crc32c", "location": "end"}, {"id": "crc32c"}),
        ({"id": "crc32", "location": "start"}, {"id": "crc32"}),
        ({"id": "adler32", "location": "end"}, {"id": "adler32", "location": "end"}),
    ],
    ids=lambda config: json.dumps(config).translate(str.maketrans("", "", '{}":,')),
)
@pytest.mark.parametrize("step", [Recompress("lzma"), COPY], ids=["recompress", "chunks"])
def test_options_that_are_absent_or_texts(tmp_path, compressor, said, step):
    """Decoders read them equally, or by the chunk's header; chunks that are encoded again are read by the document."""
    source = v2_array(tmp_path / "s.zarr", [], [], compressor=compressor, said_compressor=said)
    store = ShardedStore.partition(source)
    new = store.map_shards(step, CopyTo(tmp_path / "out"))
    assert new.verify(store).ok
    document = json.loads((tmp_path / "out/.zarray").read_text())
    document["compressor"] = {
        k: int(v) if isinstance(v, str) and v.isdigit() else v for k, v in document["compressor"].items()
    }
    (tmp_path / "out/.zarray").write_text(json.dumps(document))  # zarr refuses numbers as texts
    assert np.array_equal(zarr.open_array(tmp_path / "out", mode="r")[...], VALUES)


@pytest.mark.parametrize(
    ("filters", "dtype"),
    [
        ([{"id": "delta", "dtype": "<i4"}], "<i4"),
        ([{"id": "fixedscaleoffset", "scale": 1, "offset": 5, "dtype": "<i4"}], "<i4"),
        ([{"id": "quantize", "digits": 3, "dtype": "<f8"}], "<f8"),
        ([{"id": "bitround", "keepbits": "10"}], "<f8"),
        ([{"id": "delta", "dtype": "<i4"}, shuffle(elementsize="0")], "<i4"),
    ],
)
def test_filters_without_the_type_of_what_they_give(tmp_path, filters, dtype):
    written = [{**config, **({"elementsize": 4} if config["id"] == "shuffle" else {})} for config in filters]
    written = [{**config, **({"keepbits": 10} if config["id"] == "bitround" else {})} for config in written]
    values = (VALUES * 1000).astype(dtype)
    source = v2_array(tmp_path / "s.zarr", written, filters, dtype, values=values)
    if dtype == "<f8":
        values = zarr.open_array(source, mode="r")[...] if "keepbits" not in filters[0] else None
    store = ShardedStore.partition(source)
    new = store.map_shards(Recompress("zstd", filters=None), CopyTo(tmp_path / "out"))
    assert new.verify(store).ok
    if values is not None:
        assert np.array_equal(zarr.open_array(tmp_path / "out", mode="r")[...], values)


def v3_array(folder, codecs, encode, dtype="float64", chunks=(2, 3)):
    folder.mkdir(parents=True)
    document = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": VALUES.shape,
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunks}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": 0,
        "codecs": codecs,
        "attributes": {},
    }
    (folder / "zarr.json").write_text(json.dumps(document))
    for i, j in itertools.product(range(2), range(2)):
        data = np.ascontiguousarray(VALUES[2 * i : 2 * i + 2, 3 * j : 3 * j + 3])
        (folder / f"c.{i}.{j}").write_bytes(encode(data))
    return folder


@pytest.mark.parametrize("options", [{}, {"elementsize": 0}, {"elementsize": "8"}])
@pytest.mark.parametrize("sink", [CopyTo, lambda url: ToShardingCodec(url, object_size="1 KiB")], ids=["copy", "codec"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_shuffle_of_zarr_v3(tmp_path, options, sink):
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    codecs = [little, {"name": "numcodecs.shuffle", "configuration": options}]
    source = v3_array(tmp_path / "s.zarr", codecs, lambda data: bytes(numcodecs.Shuffle(8).encode(data)))
    store = ShardedStore.partition(source)
    new = store.map_shards(Recompress("zstd"), sink(tmp_path / "out"))
    assert np.array_equal(zarr.open_array(tmp_path / "out", mode="r")[...], VALUES)
    assert new.verify(store).ok


@pytest.mark.parametrize("codec", ["bytes", {"name": "bytes"}, {"name": "bytes", "configuration": {}}])
def test_bytes_that_say_no_order_are_little(tmp_path, codec):
    """The values are those of zarr; tensorstore refuses the arrays."""
    source = v3_array(tmp_path / "s.zarr", [codec], lambda data: data.astype("<f8").tobytes())
    store = ShardedStore.partition(source)
    new = store.map_shards(COPY, Recompress("zstd"), CopyTo(tmp_path / "out"))
    assert new.verify(store).ok
    document = json.loads((tmp_path / "out/zarr.json").read_text())
    document["codecs"][0] = {"name": "bytes", "configuration": {"endian": "little"}}
    (tmp_path / "out/zarr.json").write_text(json.dumps(document))
    assert np.array_equal(zarr.open_array(tmp_path / "out", mode="r")[...], VALUES)


@pytest.mark.parametrize("endian", [None, "native", "LITTLE"])
def test_an_order_of_bytes_that_is_none_is_refused(tmp_path, endian):
    codecs = [{"name": "bytes", "configuration": {"endian": endian}}]
    source = v3_array(tmp_path / "s.zarr", codecs, lambda data: data.tobytes())
    with pytest.raises((ChainError, ShardsFailed), match="endian"):
        ShardedStore.partition(source).map_shards(COPY, CopyTo(tmp_path / "out"))


def test_a_size_that_is_not_known_is_refused(tmp_path):
    codecs = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "numcodecs.shuffle"}]
    source = v3_array(tmp_path / "s.zarr", codecs, lambda data: data.tobytes(), dtype="float128x")
    with pytest.raises(ChainError, match=r"the codec numcodecs\.shuffle without the size of its elements"):
        ShardedStore.partition(source).map_shards(Recompress("zstd"), CopyTo(tmp_path / "out"))
