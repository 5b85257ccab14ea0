"""`MigrateV3(chunk_keys="default", portable=True)`: keys and codecs that all readers of Zarr v3 support."""

from __future__ import annotations

import re

import numpy as np
import pytest
import tensorstore
import zarr
from numcodecs import BZ2, CRC32, JSON, LZ4, LZMA, Blosc, Delta, GZip, PackBits, Quantize, Shuffle, Zlib, Zstd

from shardedstore import ChainError, ShardedStore
from shardedstore.transforms import CopyTo, MigrateV3, Recompress, ToShardingCodec, ToZip
from tests.unit.transforms.test_padding import texts, write

numbers = np.arange(35).reshape(5, 7)
PORTABLE = MigrateV3(chunk_keys="default", portable=True)
# Data, filters and compressor, and the resulting codecs after the bytes codec; None if chunks are kept.
CASES = {
    "zlib": (numbers, [], Zlib(4), [("gzip", {"level": 4})]),
    "zlib's own level": (numbers, [], Zlib(-1), [("gzip", {"level": 5})]),
    "netCDF-4": (numbers / 2, [Shuffle(8)], Zlib(4), [("blosc", {"cname": "zlib", "clevel": 4, "shuffle": "shuffle"})]),
    "netCDF-4, both filters": (numbers / 2, [Shuffle(8), Zlib(2)], None, [("blosc", {"cname": "zlib", "clevel": 2})]),
    "bz2": (numbers, [], BZ2(2), [("zstd", {"level": 5})]),
    "lzma": (numbers, [], LZMA(preset=1), [("zstd", {"level": 5})]),
    "lz4": (numbers.astype("i2"), [Delta("i2")], LZ4(), [("zstd", {"level": 5})]),
    "shuffled bytes": (numbers.astype("u1"), [Shuffle(1)], Zlib(1), [("gzip", {"level": 1})]),
    "delta": (numbers.astype(">i4"), [Delta(">i4")], Blosc("lz4", 3), [("blosc", {"cname": "lz4", "clevel": 3})]),
    "bits": (numbers % 3 == 0, [PackBits()], None, []),
    "lossy": (numbers / 4, [Quantize(2, "f8")], Zstd(7), [("zstd", {"level": 7})]),
    "checksum": (numbers, [CRC32()], None, []),
    "texts": (texts((5, 7)), [JSON()], Zlib(3), [("gzip", {"level": 3})]),
    "blosc": (numbers, [], Blosc("zstd", 3), None),
    "gzip": (numbers, [], GZip(2), None),
    "none": (numbers, [], None, None),
}
DIVIDED = {"whole": ["a"], "blocks": {"a": 1}}


@pytest.mark.parametrize("name", CASES)
def test_codecs_and_keys(name, tmp_path):
    data, filters, compressor, expected = CASES[name]
    write(tmp_path / "in", data, (2, 3), data.flat[0], filters, compressor, None)
    source = ShardedStore.partition(tmp_path / "in")
    made = source.map_shards(PORTABLE, CopyTo(tmp_path / "out"))
    array = zarr.open_array(tmp_path / "out", path="a", mode="r")
    assert array[...].tolist() == data.tolist()
    document = array.metadata.to_dict()
    assert document["chunk_key_encoding"] == {"name": "default", "configuration": {"separator": "/"}}
    if expected is None:
        for place in ("0/0", "2/2"):
            kept = (tmp_path / "in" / "a" / place.replace("/", ".")).read_bytes()
            assert (tmp_path / "out" / "a" / "c" / place).read_bytes() == kept
    else:
        codecs = [(codec["name"], codec.get("configuration", {})) for codec in document["codecs"][1:]]
        assert [codec for codec, _ in codecs] == [codec for codec, _ in expected]
        for (_, options), (_, some) in zip(codecs, expected, strict=True):
            assert options | some == options
    assert made.verify(source).ok
    if name != "texts":  # tensorstore has no such type
        kvstore = {"driver": "file", "path": str(tmp_path / "out" / "a")}
        read = tensorstore.open({"driver": "zarr3", "kvstore": kvstore}).result().read().result()
        assert read.tolist() == data.tolist()


@pytest.mark.parametrize("name", ["netCDF-4", "blosc"])
@pytest.mark.parametrize("division", DIVIDED)
@pytest.mark.parametrize("after", [(), (Recompress("zstd"),)], ids=["alone", "recompressed"])
def test_zips(name, division, after, tmp_path):
    data, filters, compressor, _ = CASES[name]
    write(tmp_path / "in", data, (2, 3), 0, filters, compressor)
    source = ShardedStore.partition(tmp_path / "in", shards=DIVIDED[division])
    made = source.map_shards(PORTABLE, *after, ToZip(tmp_path / "out"), digest=True)
    assert zarr.open_array(made, path="a", mode="r")[...].tolist() == data.tolist()
    again = ShardedStore.load(tmp_path / "out")
    assert again.verify(level="decoded").ok
    assert again.verify(source).ok


def test_sharded(tmp_path):
    data, filters, compressor, _ = CASES["netCDF-4"]
    write(tmp_path / "in", data, (2, 3), 0, filters, compressor)
    source = ShardedStore.partition(tmp_path / "in", shards={"a": 1})
    made = source.map_shards(PORTABLE, ToShardingCodec(tmp_path / "out"))
    assert zarr.open_array(tmp_path / "out", path="a", mode="r")[...].tolist() == data.tolist()
    assert made.verify(source).ok


def test_keys_alone_keep_the_bytes_of_chunks(tmp_path):
    data, filters, compressor, _ = CASES["netCDF-4"]
    write(tmp_path / "in", data, (2, 3), 0, filters, compressor)
    ShardedStore.partition(tmp_path / "in").map_shards(MigrateV3(chunk_keys="default"), CopyTo(tmp_path / "out"))
    for key in ("0.0", "2.2"):
        kept = (tmp_path / "in" / "a" / key).read_bytes()
        assert (tmp_path / "out" / "a" / "c" / key.replace(".", "/")).read_bytes() == kept


@pytest.mark.parametrize(
    ("options", "says"), [({"chunk_keys": "v3"}, "chunk_keys='v3': use"), ({"portable": "yes"}, "portable='yes': use")]
)
def test_options_that_it_does_not_have(options, says):
    with pytest.raises(ChainError, match=re.escape(says)):
        MigrateV3(**options)
