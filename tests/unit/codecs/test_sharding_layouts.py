"""All layouts of the sharding codec that steps split: all kinds of indexes, and nested objects."""

import itertools
import json

import dask
import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from readers import READERS, by_tensorstore
from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec, ZstdCodec

from shardedstore import ShardedStore, ShardsFailed
from shardedstore.codecs.sharding import NestedIndex, ShardIndex
from shardedstore.transforms import CopyTo, MapBlocks, MapChunks, Recompress, ToShardingCodec

SHAPE = (19, 13)
VALUES = np.zeros(SHAPE, "i4")
VALUES[:11, :9] = np.arange(1, 100).reshape(11, 9)
VALUES[18, 12] = 7
LITTLE, BIG, CRC = BytesCodec(endian="little"), BytesCodec(endian="big"), Crc32cCodec()
INDEXES = {
    "plain": [LITTLE, CRC],
    "no checksum": [LITTLE],
    "big": [BIG, CRC],
    "big without checksum": [BIG],
    "two checksums": [LITTLE, CRC, CRC],
}


@pytest.fixture(autouse=True)
def _in_this_thread():
    with dask.config.set(scheduler="synchronous"):
        yield


def sharding(shape, index="plain", location="end", codecs=()):
    return ShardingCodec(
        chunk_shape=shape,
        codecs=[*(codecs or (LITTLE, ZstdCodec()))],
        index_codecs=INDEXES[index],
        index_location=location,
    )


def nested(index="plain", location="end"):
    """Objects of (8, 6) elements that hold objects of (4, 3) elements with chunks of (2, 1)."""
    return sharding((4, 3), "big", codecs=[sharding((2, 1), index, location)])


LAYOUTS = {
    **{
        f"{index}, {end}": sharding((2, 3), index, end)
        for index, end in zip(INDEXES, itertools.cycle(["end", "start"]), strict=False)
    },
    "nested": nested(),
    "nested, index first": nested("no checksum", "start"),
    "nested thrice": sharding((8, 6), codecs=[nested()]),
}


def array_at(path, layout):
    array = zarr.create_array(
        path, shape=SHAPE, chunks=(8, 6), dtype="i4", serializer=LAYOUTS[layout], filters=None, compressors=None,
        dimension_names=("y", "x"), config={"write_empty_chunks": False},
    )  # fmt: skip
    array[...] = VALUES
    return path


def negated(data, position):
    return -data


def quarter(data, position):
    return data[::2, ::2].copy()


STEPS = {
    "recompress": ((Recompress("gzip", level=3),), VALUES),
    "filters": ((Recompress(filters={"id": "transpose", "order": [1, 0]}),), VALUES),
    "chunks": ((MapChunks(negated, name="negated"),), -VALUES),
    "blocks": ((MapBlocks(lambda data, position: data * 3, name="three"),), VALUES * 3),
}


@pytest.mark.few(3)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_keeps_its_form_and_gets_what_the_step_makes(tmp_path, layout):
    source = array_at(tmp_path / "s.zarr", layout)
    store = ShardedStore.partition(source)
    before = json.loads((source / "zarr.json").read_text())["codecs"][0]["configuration"]
    for name, (steps, expected) in STEPS.items():
        new = store.map_shards(*steps, CopyTo(tmp_path / name))
        for reader in READERS.values():
            if reader is not by_tensorstore or "two checksums" not in layout:
                assert np.array_equal(reader(tmp_path / name), expected), (name, reader)
        after = json.loads((tmp_path / name / "zarr.json").read_text())["codecs"][0]["configuration"]
        assert {**after, "codecs": None} == {**before, "codecs": None}
        if name in ("recompress", "filters"):
            assert new.verify(store).ok


@pytest.mark.parametrize("layout", LAYOUTS)
def test_divided_into_blocks_and_packed(tmp_path, layout):
    """Larger objects have the same inner chunks, or the old objects if these are nested."""
    source = ShardedStore.partition(array_at(tmp_path / "s.zarr", layout), {"": (16, 12)})
    for number, steps in enumerate([(), (Recompress("gzip"),)]):
        new = source.map_shards(*steps, ToShardingCodec(tmp_path / f"{number}"))
        for reader in READERS.values():
            if reader is not by_tensorstore or "two checksums" not in layout:
                assert np.array_equal(reader(tmp_path / f"{number}"), VALUES), reader
        assert zarr.open_array(new, mode="r").shards == (16, 12)


def test_a_chunk_is_the_innermost_one_and_is_where_it_says(tmp_path):
    seen = []

    def note(data, position):
        seen.append((position, data.shape))
        assert np.array_equal(data, VALUES[tuple(slice(p, p + n) for p, n in zip(position, data.shape, strict=True))])
        return data

    ShardedStore.partition(array_at(tmp_path / "s.zarr", "nested thrice")).map_shards(
        MapChunks(note, name="note", threads=1), CopyTo(tmp_path / "out")
    )
    assert all(shape[0] <= 2 and shape[1] == 1 for _, shape in seen)
    assert ((18, 12), (1, 1)) in seen


@pytest.mark.parametrize("layout", ["no checksum, start", "big, end", "nested"])
def test_a_damaged_object_fails_its_shard(tmp_path, layout):
    source = array_at(tmp_path / "s.zarr", layout)
    (source / "c/0/0").write_bytes((source / "c/0/0").read_bytes()[:10])
    with pytest.raises(ShardsFailed) as caught:
        ShardedStore.partition(source).map_shards(Recompress("gzip"), CopyTo(tmp_path / "out"))
    assert "'c/0/0' can't be decoded with sharding_indexed" in str(caught.value.exceptions[0])


GRIDS = st.lists(st.integers(1, 3), min_size=1, max_size=3).map(tuple)


@given(st.data())
def test_the_chunks_of_nested_objects_come_back_in_their_places(data):
    outer = data.draw(GRIDS)
    inner = tuple(data.draw(st.integers(1, 3)) for _ in outer)
    count = int(np.prod(outer)) * int(np.prod(inner))
    chunks = data.draw(st.lists(st.none() | st.binary(min_size=1, max_size=3), min_size=count, max_size=count))
    index = NestedIndex(
        ShardIndex(int(np.prod(outer)), True, ">", 0), ShardIndex(int(np.prod(inner)), False), outer, inner
    )
    got = index.split(index.join(chunks))
    assert [None if chunk is None else bytes(chunk) for chunk in got] == chunks
