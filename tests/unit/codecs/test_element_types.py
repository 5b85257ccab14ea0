"""Data types in v2 documents that are unknown to zarr 3 or NumPy: chunks can still be recompressed."""

import json
import subprocess
import sys
import zlib
from pathlib import Path

import dask
import numcodecs
import pytest

from shardedstore import ChainError, ShardedStore
from shardedstore.stores.hierarchy import read_nodes
from shardedstore.transforms import CopyTo, Recompress
from shardedstore.zarr.metadata import element_dtype


def raw(size: int | None) -> list[bytes]:
    """The elements of two chunks of about 48 bytes."""
    nbytes = 48 // (size or 1) * (size or 1)
    return [bytes(range(first, first + nbytes)) for first in (1, 101)]


SIZES = {
    "bfloat16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1, "int4": 1, "uint4": 1, "no such type": None, "|V": None, "|V3": 3,
    "|V16": 16, "<M8": 8, "<M8[D]": 8, ">m8[25us]": 8, ">U3": 12, "|S4": 4, "<f2": 2, "<c16": 16, "|b1": 1, "float32": 4,
}  # fmt: skip
RECORDS = {
    "subarray": ([["a", "<i2"], ["b", ">f4", [2]]], 10),
    "nested": ([["a", "<i2"], ["b", [["c", "|S3"], ["d", "<i8"]]]], 13),
    "nested, of arrays": ([["a", [["c", "<i2", [2, 2]]], [2]]], 16),
    "of bfloat16": ([["a", "bfloat16"], ["b", "<i2"]], 4),
    "of no such type": ([["a", "no such type"]], None),
}
CASES = {**{name: (name, size) for name, size in SIZES.items()}, **RECORDS}


def source(folder: Path, dtype, size: int | None, **others) -> Path:
    folder.mkdir()
    chunk = 48 // (size or 1)
    document = {
        "zarr_format": 2, "shape": [2 * chunk], "chunks": [chunk], "dtype": dtype, "fill_value": None, "order": "C",
        "filters": None, "compressor": {"id": "zlib", "level": 1},
    }  # fmt: skip
    (folder / ".zarray").write_text(json.dumps({**document, **others}))
    for i, data in enumerate(raw(size)):
        (folder / str(i)).write_bytes(zlib.compress(data))
    return folder


@pytest.fixture(autouse=True)
def one_process():
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.mark.parametrize("codec", ["zstd", "blosc", "bz2"])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.few(30)
def test_every_type_is_compressed_anew(name, codec, tmp_path):
    dtype, size = CASES[name]
    store = ShardedStore.partition(source(tmp_path / "source", dtype, size))
    result = store.map_shards(Recompress(codec), CopyTo(tmp_path / "out"))
    made = numcodecs.get_codec(json.loads((tmp_path / "out/.zarray").read_text())["compressor"])
    assert [bytes(made.decode((tmp_path / "out" / key).read_bytes())) for key in "01"] == raw(size)
    assert result.verify(store).ok
    if codec == "blosc":
        assert (tmp_path / "out/0").read_bytes()[3] == (size or 1)  # the element size in Blosc's header


def test_arrays_of_different_lengths(tmp_path):
    filters = [{"id": "vlen-array", "dtype": "<i4"}]
    store = ShardedStore.partition(source(tmp_path / "source", "|O", 8, filters=filters))
    store.map_shards(Recompress("blosc"), CopyTo(tmp_path / "out"))
    assert [bytes(numcodecs.Blosc().decode((tmp_path / "out" / key).read_bytes())) for key in "01"] == raw(8)


def test_a_filter_that_is_not_known_is_to_blame(tmp_path):
    store = ShardedStore.partition(source(tmp_path / "source", "<i2", 2, filters=[{"id": "no-such-filter"}]))
    with pytest.raises(ChainError, match=r"'' has filters that can't be run .*no-such-filter"):
        store.map_shards(Recompress("zstd"), CopyTo(tmp_path / "out"))


PLANNED = """
import json, sys
from shardedstore.codecs.array_document import parse_array_document
from shardedstore.codecs.array_info import read_info
from shardedstore.zarr.metadata import element_dtype, parse_node
for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2", "int4", "uint4", "float4_e2m1fn"):
    for extra in ({}, {"filters": [{"id": "shuffle", "elementsize": 2}]}):
        document = {"zarr_format": 2, "shape": [4], "chunks": [2], "dtype": name, "fill_value": None, "order": "C",
                    "filters": None, "compressor": {"id": "blosc"}, **extra}
        print(parse_node({".zarray": json.dumps(document).encode()}, ""), read_info(parse_array_document(document, ""), "", {}))
    new = {"zarr_format": 3, "node_type": "array", "shape": [4], "data_type": name, "fill_value": 0, "attributes": {},
           "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [2]}}, "codecs": ["bytes"],
           "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}}}
    print(parse_node({"zarr.json": json.dumps(new).encode()}, ""), read_info(parse_array_document(new, ""), "", {}))
"""


def test_the_plan_does_not_depend_on_what_is_imported():
    """Workers may have imported a package that adds data types to NumPy."""
    pytest.importorskip("ml_dtypes")
    said = [
        subprocess.run([sys.executable, "-c", before + PLANNED], capture_output=True, text=True, check=True, timeout=90)
        for before in ("", "import ml_dtypes")
    ]
    assert said[0].stdout == said[1].stdout
    assert said[0].stdout.count("itemsize=2") >= 3


def test_types_that_are_none():
    for dtype in (None, 5, True, {}, ["a"], [["a"]], [["a", "<i2", 3, 4]], "V999999999999999999999", "\ud800", "<i3"):
        assert element_dtype(dtype) is None


def test_the_size_of_an_array_is_that_of_its_elements(tmp_path):
    store = ShardedStore.partition(source(tmp_path / "source", "bfloat16", 2))
    assert read_nodes(store.config)[""].meta.nbytes == 96
