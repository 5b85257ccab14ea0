"""Chunks at the edge of an array may have any padding: no step treats it as data."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numcodecs import JSON, AsType, Delta, FixedScaleOffset, MsgPack, Shuffle, Zlib
from numcodecs.compat import ensure_bytes

from shardedstore import ShardedStore
from shardedstore.transforms import CopyTo, MapBlocks, MapChunks, MigrateV3, Recompress, ToShardingCodec, ToZip

SHAPES = [((5,), (2,)), ((1,), (3,)), ((3, 5), (2, 2)), ((3, 4, 5), (2, 4, 3))]
DIVISIONS: list[Any] = [["a"], {"a": 1}]


def write(
    folder: Path, data: Any, chunks: Any, padding: Any, filters: Any = (), compressor: Any = None, fill: Any = 0
) -> None:
    """Write a v2 array whose chunks are padded with another value than the fill value."""
    document = {"zarr_format": 2, "shape": data.shape, "chunks": chunks, "dtype": data.dtype.str, "fill_value": fill}
    configs = {"filters": [codec.get_config() for codec in filters] or None, "order": "C"}
    configs["compressor"] = None if compressor is None else compressor.get_config()
    (folder / "a").mkdir(parents=True)
    (folder / ".zgroup").write_text('{"zarr_format": 2}')
    (folder / "a" / ".zarray").write_text(json.dumps(document | configs))
    for place in itertools.product(*(range(-(-n // c)) for n, c in zip(data.shape, chunks, strict=True))):
        part = data[tuple(slice(i * c, (i + 1) * c) for i, c in zip(place, chunks, strict=True))]
        chunk: Any = np.full(chunks, padding, data.dtype)
        chunk[tuple(map(slice, np.shape(part)))] = part
        for codec in [*filters, *([compressor] if compressor else [])]:
            chunk = codec.encode(chunk)
        (folder / "a" / (".".join(map(str, place)) or "0")).write_bytes(bytes(ensure_bytes(chunk)))


def texts(shape: tuple[int, ...]) -> np.ndarray:
    return np.array([f"text {i}" for i in range(math.prod(shape))], object).reshape(shape)


@pytest.mark.parametrize("codec", [JSON(), MsgPack()], ids=lambda codec: codec.codec_id)
@pytest.mark.parametrize(("shape", "chunks"), SHAPES, ids=str)
@pytest.mark.parametrize("padding", [None, 0])
def test_texts_in_v3(codec, shape, chunks, padding, tmp_path):
    write(tmp_path / "in", texts(shape), chunks, padding, [codec], Zlib(1), None)
    source = ShardedStore.partition(tmp_path / "in", shards={"a": 1} if shape else ["a"])
    made = source.map_shards(MigrateV3(), ToZip(tmp_path / "out"), digest=True)
    assert np.array(zarr.open_array(made, path="a", mode="r")[...]).tolist() == texts(shape).tolist()
    assert made.verify(level="decoded").ok


def test_a_value_that_is_no_text_is_reported_where_it_is_data(tmp_path):
    data = texts((5,))
    data[4] = None
    write(tmp_path / "in", data, (2,), None, [JSON()], None, None)
    with pytest.raises(ExceptionGroup) as caught:
        ShardedStore.partition(tmp_path / "in").map_shards(MigrateV3(), CopyTo(tmp_path / "out"))
    assert "None is not a string" in str(caught.value.exceptions[0])


numbers = np.arange(35.0).reshape(5, 7)
FILTERED = {
    "new filters": (numbers, 1e300, [], [{"id": "astype", "encode_dtype": "f4", "decode_dtype": "f8"}]),
    "no filters": (numbers, 1e300, [FixedScaleOffset(0, 1, "f8", "f8")], None),
    "NaN": (
        numbers,
        math.nan,
        [],
        [{"id": "fixedscaleoffset", "offset": 0, "scale": 1, "dtype": "f8", "astype": "i4"}],
    ),
    "delta": (numbers.astype("i4"), 2**31 - 1, [Delta("i4")], [{"id": "shuffle"}]),
}


@pytest.mark.parametrize("name", FILTERED)
@pytest.mark.parametrize("division", DIVISIONS, ids=str)
def test_recompressed_by_other_filters(name, division, tmp_path):
    data, padding, before, after = FILTERED[name]
    write(tmp_path / "in", data, (2, 3), padding, before)
    source = ShardedStore.partition(tmp_path / "in", shards=division)
    made = source.map_shards(Recompress("zlib", filters=after), ToZip(tmp_path / "out"))
    assert zarr.open_array(made, path="a", mode="r")[...].tolist() == data.tolist()
    assert made.verify(source).ok


def as_it_is(data, position):
    assert np.nanmax(data) < 1000
    return data


STEPS = {
    "MapChunks": [MapChunks(as_it_is, name="as it is")],
    "MapBlocks": [MapBlocks(as_it_is, name="as it is")],
    "MigrateV3": [MigrateV3()],
    "MigrateV3, then MapChunks": [MigrateV3(chunk_keys="default"), MapChunks(as_it_is, name="as it is")],
    "portable": [MigrateV3(portable=True)],
}


@pytest.mark.few(5)
@pytest.mark.parametrize(
    "filters", [(), (Shuffle(8),), (AsType("f8", "f8"), Shuffle(8))], ids=["none", "bytes", "both"]
)
@pytest.mark.parametrize("name", STEPS)
def test_numbers(name, filters, tmp_path):
    write(tmp_path / "in", numbers, (2, 3), 1e300, filters, Zlib(1))
    source = ShardedStore.partition(tmp_path / "in", shards={"a": 1})
    made = source.map_shards(*STEPS[name], ToZip(tmp_path / "out"), digest=True)
    assert zarr.open_array(made, path="a", mode="r")[...].tolist() == numbers.tolist()
    assert made.verify(source).ok
    assert made.verify(level="decoded").ok


def test_sharded_texts(tmp_path):
    write(tmp_path / "in", texts((5,)), (2,), None, [MsgPack()], None, None)
    source = ShardedStore.partition(tmp_path / "in")
    source.map_shards(MigrateV3(), ToShardingCodec(tmp_path / "out"))
    assert zarr.open_array(tmp_path / "out", path="a", mode="r")[...].tolist() == texts((5,)).tolist()
