"""`MapBlocks`: values equal those of NumPy and xarray on the whole array, for any division."""

import json
import pickle
import re

import numpy as np
import pytest
import sources
import xarray as xr
import zarr
from conformance import contents_of, keys_of
from fuzz import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs import Delta
from zarr.codecs import BloscCodec, TransposeCodec
from zarr.storage import LocalStore, MemoryStore

from shardedstore import ChainError, CorruptError, ShardedStore, ShardedStoreError, ShardsFailed
from shardedstore.jobs.fingerprint import fingerprint
from shardedstore.stores.entries import read_entries
from shardedstore.stores.hierarchy import walk
from shardedstore.transforms import CopyTo, MapBlocks, MapChunks, MigrateV3, Recompress, ToShardingCodec, ToZip
from shardedstore.transforms.base.block_array import Regrid
from shardedstore.transforms.base.chain import parse_chain
from shardedstore.transforms.base.shard import Shard
from shardedstore.zarr.grid import Blocks, ChunkKeys
from shardedstore.zarr.metadata import crop_document
from tests.unit.transforms.test_recompress import comparable

numbers = np.arange(1, 12 * 20 + 1).reshape(12, 20)


def every_second(block, position):
    return block[::2, ::2]


def twice_as_large(block, position):
    return block.repeat(2, 0).repeat(2, 1)


def twice(shape):
    return tuple(2 * size for size in shape)


def same(block, position):
    return block


def mean_over_rows(block, position):
    return block.mean(0, keepdims=True)


def one_row(shape):
    return (1, *shape[1:])


def add_position(block, position):
    rows, columns = (start + np.arange(size) for start, size in zip(position, block.shape, strict=True))
    return (block + 1000 * rows[:, None] + 100_000 * columns)[::2]


def to_tenths(block, position):
    return np.rint(block[::2, ::2] * 10).astype("i4")


def write(zarr_format, data, chunks=(2, 3), store=None, path="", **options):
    """Write an array with zarr, without its empty chunks."""
    store = MemoryStore() if store is None else store
    dtype = str if data.dtype.kind == "T" else data.dtype
    options = {"fill_value": "" if dtype is str else None, "config": {"write_empty_chunks": False}, **options}
    array = zarr.create_array(
        store, name=path, shape=data.shape, dtype=dtype, chunks=chunks, zarr_format=zarr_format, **options
    )
    array[...] = data
    return store


def source(folder, data, zarr_format=3, **options):
    zarr.create_group(folder, zarr_format=zarr_format)
    write(zarr_format, data, store=LocalStore(folder), path="deep/a", **options)
    return folder


def mapped(folder, shards, *chain):
    """Return the result of a job over a partition, opened from its config."""
    ShardedStore.partition(folder, {"deep/a": shards}).map_shards(*chain)
    return ShardedStore.load(f"{chain[-1].url}/shardedstore.json")


def run(step, store):
    step.check(walk(store))
    shard = Shard("", is_base=True)
    return {entry.key: bytes(entry.data) for entry in step(read_entries(store), shard)}


def read(contents):
    return zarr.open_array(sources.to_memory(contents), mode="r")[...]


OPTIONS = {
    "v2": (2, {}),
    "v2 fortran": (2, {"order": "F", "config": {"order": "F"}}),
    "v2 delta": (2, {"filters": [Delta("f4")]}),
    "v3": (3, {}),
    "v3 transposed": (3, {"filters": [TransposeCodec(order=(1, 0))]}),
    "v3 sharded": (3, {"shards": (4, 6)}),
    "v3 sharded, index first": (3, {"shards": {"shape": (4, 6), "index_location": "start"}}),
}
MAPS = {
    "half": (MapBlocks(every_second, shape=2), lambda a: a[::2, ::2]),
    "half a dimension": (MapBlocks(lambda b, p: b[:, ::2], shape=(1, 2)), lambda a: a[:, ::2]),
    "twice": (MapBlocks(twice_as_large, shape=twice), lambda a: a.repeat(2, 0).repeat(2, 1)),
    "same": (MapBlocks(lambda b, p: b[...] + 1), lambda a: a + 1),
    "one row": (MapBlocks(mean_over_rows, shape=one_row), lambda a: a.mean(0, keepdims=True)),
    "to integers": (MapBlocks(to_tenths, "i4", shape=2), lambda a: to_tenths(a, ())),
}


@pytest.mark.few(12)
@pytest.mark.parametrize("kind", OPTIONS)
@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("end", [(12, 20), (11, 19), (1, 1)])
def test_a_whole_array_is_stored_as_zarr_stores_the_result(kind, name, end):
    zarr_format, options = OPTIONS[kind]
    step, expected = MAPS[name]
    data = numbers[: end[0], : end[1]].astype("f4")
    data[data < 100] = 0  # chunks with only the fill value
    store = write(zarr_format, data, **{"fill_value": 0, **options})
    if name == "to integers" and kind == "v2 delta":
        with pytest.raises(ChainError, match="its codecs are valid only for float32"):
            run(step, store)
        return
    made = run(step, store)
    whole = expected(data)
    np.testing.assert_array_equal(read(made), whole)
    config = {"write_empty_chunks": False, **options.get("config", {})}
    want = write(zarr_format, whole, **{"fill_value": 0, **options, "config": config})
    assert comparable(made) == comparable(contents_of(want))


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_texts(zarr_format):
    texts = np.array([f"text {i}" * (i % 4) for i in range(70)]).reshape(7, 10).astype("T")
    made = run(MapBlocks(every_second, shape=2), write(zarr_format, texts))
    assert comparable(made) == comparable(contents_of(write(zarr_format, texts[::2, ::2])))


@pytest.mark.parametrize("threads", [1, 3])
def test_chunks_come_in_order(threads):
    store = write(3, numbers.astype("f4"), chunks=(1, 1))
    made = run(MapBlocks(every_second, shape=2, threads=threads), store)
    assert list(made) == ["zarr.json", *(f"c/{i}/{j}" for i in range(6) for j in range(10))]


def test_arrays_come_in_order_with_those_of_which_no_chunk_is_stored():
    store = MemoryStore()
    group = zarr.create_group(store)
    for name in "abcd":
        group.create_array(name, shape=(2,), chunks=(2,), dtype="f4")[...] = name in "bd"
    made = run(MapBlocks(lambda b, p: b + 1, arrays=("*", "!d")), store)
    assert [key for key in made if key.endswith("c/0")] == ["a/c/0", "b/c/0", "c/c/0", "d/c/0"]


def tree(zarr_format, folder):
    """A dataset for coarsening along rows and columns."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(6, 16, 23)).astype("f4")
    dataset = xr.Dataset(
        {"a": (("time", "y", "x"), values), "height": (("y", "x"), values[0]), "crs": 7},
        {"time": np.arange(6), "y": np.arange(16.0), "x": np.arange(23.0)},
    )
    dataset.to_zarr(folder, zarr_format=zarr_format, encoding={"a": {"chunks": (2, 4, 6)}}, consolidated=True)
    return dataset


def mean_of_two(block, axis):
    size = block.shape[axis] // 2 * 2
    pairs = np.moveaxis(block, axis, -1)[..., :size].reshape(*np.delete(block.shape, axis), -1, 2)
    return np.moveaxis(pairs.mean(-1), -1, axis)


def coarsened(block, position):
    return mean_of_two(mean_of_two(block, -1), -2)


def coarsened_coordinate(block, position):
    return mean_of_two(block, -1)


def trimmed(shape):
    return (*shape[:-2], shape[-2] // 2, shape[-1] // 2)


def trimmed_coordinate(shape):
    return (shape[0] // 2,)


COARSEN = (
    MapBlocks(coarsened, shape=trimmed, arrays=("a", "height"), name="mean"),
    MapBlocks(coarsened_coordinate, shape=trimmed_coordinate, arrays=("y", "x"), name="coordinate"),
)


@pytest.mark.few(4)
@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize(
    "shards",
    [
        {"a": {"time": 2}},
        {"a": {"time": 4, "y": 8}},
        {"a": {"y": 8, "x": 12}},
        {"a": "whole", "y": "whole"},
        {"a": {"x": 12}, "x": "whole"},
        "1 GiB",
    ],
    ids=str,
)
def test_xarray_coarsens_to_the_same(zarr_format, shards, tmp_path):
    dataset = tree(zarr_format, tmp_path / "source.zarr")
    new = ShardedStore.partition(tmp_path / "source.zarr", shards).map_shards(*COARSEN, ToZip(tmp_path / "out"))
    expected = dataset.coarsen(y=2, x=2, boundary="trim").mean()
    xr.testing.assert_allclose(xr.open_zarr(new, consolidated=True).load(), expected)
    again = ShardedStore.load(tmp_path / "out" / "shardedstore.json")
    copied = again.map_shards(ToZip(tmp_path / "copy"))  # a job needs to know the new blocks
    xr.testing.assert_allclose(xr.open_zarr(copied, consolidated=True).load(), expected)
    assert all(zarr.open_array(copied, path=name, mode="r").dtype == "f4" for name in ("a", "height"))


def test_an_ordinary_zarr_does_not_depend_on_the_partition(tmp_path):
    tree(3, tmp_path / "source.zarr")
    made = []
    for i, shards in enumerate([{"a": {"time": 2}}, {"a": {"y": 8, "x": 12}}, "1 GiB"]):
        ShardedStore.partition(tmp_path / "source.zarr", shards).map_shards(*COARSEN, CopyTo(tmp_path / f"out{i}"))
        made.append(contents_of(LocalStore(tmp_path / f"out{i}")))
    assert made[0] == made[1] == made[2]


def test_objects_of_the_sharding_codec_are_not_made_of_other_blocks(tmp_path):
    folder = source(tmp_path / "source.zarr", numbers)
    step = MapBlocks(every_second, shape=2)
    with pytest.raises(ChainError, match="shape of the blocks of 'deep/a': run the steps in a separate job"):
        mapped(folder, (8, -1), step, ToShardingCodec(tmp_path / "out.zarr"))
    ShardedStore.partition(folder, {"deep/a": "whole"}).map_shards(step, ToShardingCodec(tmp_path / "out.zarr"))
    array = zarr.open_array(tmp_path / "out.zarr", path="deep/a", mode="r")
    np.testing.assert_array_equal(array[...], numbers[::2, ::2])


@st.composite
def divisions(draw):
    """An array's shape and chunks, a divisor for each dimension, and blocks that become whole chunks."""
    divisors = draw(st.tuples(*[st.integers(1, 3)] * 2))
    chunks = draw(st.tuples(*[st.integers(1, 3)] * 2))
    blocks = tuple(d * c * draw(st.integers(1, 2)) for d, c in zip(divisors, chunks, strict=True))
    shape = draw(st.tuples(*[st.integers(1, 17)] * 2))
    return shape, chunks, divisors, blocks


@settings(max_examples=examples(15), deadline=None)
@given(divisions(), st.sampled_from([2, 3]), st.sampled_from([(0,), (1,), (0, 1)]), st.integers(0, 200))
def test_the_result_does_not_depend_on_the_division(tmp_path_factory, division, zarr_format, axes, hidden):
    shape, chunks, divisors, blocks = division
    folder = tmp_path_factory.mktemp("division")
    data = np.arange(1, np.prod(shape) + 1, dtype="i4").reshape(shape)
    data[data < hidden] = 0
    source(folder / "source.zarr", data, zarr_format, chunks=chunks, fill_value=0)
    step = MapBlocks(lambda b, p: b[:: divisors[0], :: divisors[1]], shape=divisors)
    whole = {axis: size for axis, size in enumerate(blocks) if axis in axes}
    new = mapped(folder / "source.zarr", tuple(whole.get(i, -1) for i in range(2)), step, ToZip(folder / "out"))
    expected = data[:: divisors[0], :: divisors[1]]
    np.testing.assert_array_equal(zarr.open_array(new, path="deep/a", mode="r")[...], expected)
    want = source(folder / "want.zarr", expected, zarr_format, chunks=chunks, fill_value=0)
    assert sorted(keys_of(new)) == sorted(keys_of(LocalStore(want)))


@pytest.mark.parametrize("kind", ["v2", "v3", "v3 sharded"])
@pytest.mark.parametrize("shards", [(8, -1), (-1, 12), (8, 12), (-1, -1)])
def test_positions_are_those_in_the_whole_array(kind, shards, tmp_path):
    zarr_format, options = OPTIONS[kind]
    folder = source(tmp_path / "source.zarr", numbers, zarr_format, **options)
    new = mapped(folder, shards, MapBlocks(add_position, shape=(2, 1)), ToZip(tmp_path / "out"))
    np.testing.assert_array_equal(zarr.open_array(new, path="deep/a", mode="r")[...], add_position(numbers, (0, 0)))


@pytest.mark.parametrize("shards", [(8, -1), "whole"])
def test_steps_after_it_see_the_new_array(shards, tmp_path):
    folder = source(tmp_path / "source.zarr", numbers[:11].astype("f4"))
    chain = MapBlocks(every_second, shape=2), MapChunks(_add_row), Recompress("blosc"), ToZip(tmp_path / "out")
    array = zarr.open_array(mapped(folder, shards, *chain), path="deep/a", mode="r")
    np.testing.assert_array_equal(array[...], _add_row(numbers[:11:2, ::2].astype("f4"), (0, 0)))
    assert isinstance(array.compressors[0], BloscCodec)


def _add_row(chunk, position):
    chunk[...] += 1000 * (position[0] + np.arange(chunk.shape[0]))[:, None]
    return chunk


@pytest.mark.parametrize("shards", [(4, -1), "whole", None])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_missing_chunks_hold_the_fill_value(shards, zarr_format, tmp_path):
    folder = tmp_path / "source.zarr"
    group = zarr.create_group(folder, zarr_format=zarr_format)
    array = group.create_array("deep/a", shape=(12, 20), chunks=(2, 3), dtype="f4", fill_value=5)
    group.create_array("deep/b", shape=(3,), chunks=(2,), dtype="f4", fill_value=5)
    array[4:6, :3] = 1
    step = MapBlocks(lambda b, p: b[:: 2 if b.ndim == 1 else 1] * 2, shape=_half_of_b, fill_value=10)
    partition = ShardedStore.partition(folder, {} if shards is None else {"deep/a": shards})
    new = partition.map_shards(step, ToZip(tmp_path / "out"))
    np.testing.assert_array_equal(zarr.open_array(new, path="deep/a", mode="r")[...], array[...] * 2)
    assert zarr.open_array(new, path="deep/b", mode="r")[...].tolist() == [10, 10]
    assert [key for key in keys_of(new) if key.startswith("deep/a/") and key[-1].isdigit()] == [
        "deep/a/2.0" if zarr_format == 2 else "deep/a/c/2/0"
    ]
    changed = partition.map_shards(MapBlocks(lambda b, p: b + 1), ToZip(tmp_path / "changed"))
    np.testing.assert_array_equal(zarr.open_array(changed, path="deep/a", mode="r")[...], array[...] + 1)
    assert zarr.open_array(changed, path="deep/b", mode="r")[...].tolist() == [6, 6, 6]


def _half_of_b(shape):
    return shape if len(shape) == 2 else (-(-shape[0] // 2),)


@pytest.mark.parametrize("kind", ["v2", "v3"])
@pytest.mark.parametrize("chunks", [(2, 6), (1, 4)])
def test_chunks_of_its_own(kind, chunks, tmp_path):
    zarr_format, options = OPTIONS[kind]
    folder = source(tmp_path / "source.zarr", numbers[:11], zarr_format, chunks=(2, 2), **options)
    step = MapBlocks(every_second, shape=2, chunks=chunks)
    new = mapped(folder, (8, -1), step, ToZip(tmp_path / "out"))
    array = zarr.open_array(new, path="deep/a", mode="r")
    assert array.chunks == chunks
    np.testing.assert_array_equal(array[...], numbers[:11:2, ::2])


def test_chunks_outside_of_an_array_do_not_come_into_it(tmp_path):
    folder = source(tmp_path / "source.zarr", numbers[:4, :6].astype("f4"))
    (folder / "deep" / "a" / "c" / "2").mkdir()
    (folder / "deep" / "a" / "c" / "2" / "0").write_bytes(b"of a larger array")
    (folder / "deep" / "a" / "notes.txt").write_bytes(b"notes")
    for shards in (2, -1), "whole":
        out = tmp_path / str(shards)
        new = mapped(folder, shards, MapBlocks(twice_as_large, shape=twice), ToZip(out))
        np.testing.assert_array_equal(
            zarr.open_array(new, path="deep/a", mode="r")[...], twice_as_large(numbers[:4, :6], ())
        )
        assert "deep/a/notes.txt" in keys_of(new)


def test_a_result_that_ends_before_the_last_block(tmp_path):
    """Of nine rows in blocks of four, the last block vanishes when the last row is trimmed."""
    folder = source(tmp_path / "source.zarr", numbers[:9, :4], chunks=(2, 4))
    step = MapBlocks(lambda b, p: b[: len(b) // 2 * 2 : 2], shape=lambda shape: (shape[0] // 2, shape[1]))
    new = mapped(folder, (4, -1), step, ToZip(tmp_path / "out"))
    np.testing.assert_array_equal(zarr.open_array(new, path="deep/a", mode="r")[...], numbers[:8:2, :4])


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_metadata_commutes_with_cropping(zarr_format):
    step = MapBlocks(to_tenths, "i4", -1, shape={"y": 2})
    names = {"dimension_names": ("y", "x")} if zarr_format == 3 else {"attributes": {"_ARRAY_DIMENSIONS": ["y", "x"]}}
    contents = contents_of(write(zarr_format, numbers.astype("f4"), **names))
    documents = {key: data for key, data in contents.items() if key in {"zarr.json", ".zarray", ".zattrs"}}
    name = "zarr.json" if zarr_format == 3 else ".zarray"
    shard = Shard("", is_base=True, divided=frozenset([""]))  # so that there are documents, but no chunks
    cropped = {**documents, name: crop_document(documents[name], (8, 20), "", name)}
    made, then = (
        {e.key: bytes(e.data) for e in step(read_entries(sources.to_memory(c)), shard)} for c in (cropped, documents)
    )
    assert json.loads(made[name])["shape"] == [4, 20]
    assert made[name] == crop_document(then[name], (4, 20), "", name)


REFUSED = [
    (
        MapBlocks(every_second, shape=2),
        (6, -1),
        "each block must become whole chunks of 2, without rounding: partition it with 4 or 8 elements along 'y', or give",
    ),
    (MapBlocks(every_second, shape=2), (-1, 9), "partition it with 6 or 12 elements along 'x'"),
    (MapBlocks(lambda b, p: b[::5], shape=(5, 1)), (4, -1), "partition it with 10 elements along 'y'"),
    (MapBlocks(lambda b, p: b[::7], shape={"y": 7}), (4, -1), "partition it, whole along 'y'"),
    (MapBlocks(same, shape=lambda s: (s[0] * s[0], s[1])), (4, -1), "makes 16 elements of a block's 4 along 'y'"),
    (
        MapBlocks(same, shape=lambda s: (s[0], s[1] if s[0] == 12 else 2 * s[1])),
        (8, -1),
        "makes (12, 20) of (12, 20), but (12, 40) is needed: the new size of one dimension must not depend on",
    ),
    (
        MapBlocks(same, shape=lambda s: (s[0], 0)),
        (8, -1),
        "gives the shape (12, 0), which has no elements and can't be divided into blocks",
    ),
    (
        MapBlocks(same, shape=lambda s: s[:1]),
        "whole",
        "changes the shape (12, 20) of 'deep/a' to (12,): return one size for each dimension",
    ),
    (MapBlocks(same, shape={"z": 2}), "whole", "names the dimension 'z', and 'deep/a' has ['y', 'x']: leave it out"),
    (MapBlocks(same, shape=(2, 2, 2)), "whole", "has 3 divisors, and 'deep/a' 2 dimensions"),
    (MapBlocks(same, chunks=(2,)), "whole", "was given chunks=(2,), and 'deep/a' has the shape (12, 20)"),
    (MapBlocks(same, shape=2), (8, -1), "the function returned the shape (8, 20), but (4, 10) is needed"),
    (
        MapBlocks(to_tenths, shape=2),
        (8, -1),
        "the function returned int32, but the array has float32: use dtype='int32'",
    ),
    (MapBlocks(same, arrays="b"), (8, -1), "MapBlocks names 'b', but the source has no such array"),
]


@pytest.mark.parametrize(("step", "shards", "message"), REFUSED, ids=[message[:40] for _, _, message in REFUSED])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_what_makes_no_sense_is_refused_before_it_runs(step, shards, message, zarr_format, tmp_path):
    names = {"dimension_names": ("y", "x")} if zarr_format == 3 else {"attributes": {"_ARRAY_DIMENSIONS": ["y", "x"]}}
    folder = source(tmp_path / "source.zarr", numbers.astype("f4"), zarr_format, **names)
    with pytest.raises(ChainError, match=re.escape(message)):
        mapped(folder, shards, step, ToZip(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_dimensions_without_names_are_numbered(tmp_path):
    folder = source(tmp_path / "source.zarr", numbers)
    with pytest.raises(ChainError, match="along 'dimension 1'"):
        mapped(folder, (-1, 3), MapBlocks(every_second, shape=2), ToZip(tmp_path / "out"))


def test_under_the_sharding_codec_objects_are_the_chunks(tmp_path):
    folder = source(tmp_path / "source.zarr", numbers, shards=(4, 6))
    with pytest.raises(ChainError, match="each block must become whole chunks of 4"):
        mapped(folder, (4, -1), MapBlocks(every_second, shape=2), ToZip(tmp_path / "out"))
    with pytest.raises(ChainError, match="'deep/a' uses the sharding codec, whose chunks can't be changed"):
        mapped(folder, (4, -1), MapBlocks(every_second, shape=2, chunks=(1, 1)), ToZip(tmp_path / "out"))


def test_two_of_one_array_in_one_chain(tmp_path):
    folder = source(tmp_path / "source.zarr", numbers)
    step = MapBlocks(every_second, shape=2)
    with pytest.raises(
        ChainError, match="another step before MapBlocks has changed the shape of the blocks of 'deep/a'"
    ):
        mapped(folder, (8, -1), step, step, ToZip(tmp_path / "out"))
    new = mapped(folder, "whole", step, step, ToZip(tmp_path / "out"))
    np.testing.assert_array_equal(zarr.open_array(new, path="deep/a", mode="r")[...], numbers[::4, ::4])


@pytest.mark.parametrize("divisor", [1, 2])
def test_after_migration(divisor, tmp_path):
    folder = source(tmp_path / "source.zarr", numbers, 2)
    step = MapBlocks(lambda b, p: b[::divisor] * 2, shape=(divisor, 1))
    new = mapped(folder, (8, -1), MigrateV3(), step, ToZip(tmp_path / "out"))
    np.testing.assert_array_equal(zarr.open_array(new, path="deep/a", mode="r")[...], numbers[::divisor] * 2)


def fails_late(block, position):
    if position[0] == 8:
        raise ValueError("this is too late")
    return block[::2, ::2]


def is_short_late(block, position):
    return block[::2, :: 2 if position[0] == 0 else 3]


@pytest.mark.parametrize(
    ("func", "cause"),
    [
        (fails_late, "ValueError: this is too late"),
        (is_short_late, "ValueError: the function returned the shape (2, 7), but (2, 10) is needed"),
    ],
)
def test_what_goes_wrong_in_a_shard_names_it(func, cause, tmp_path):
    folder = source(tmp_path / "source.zarr", numbers)
    with pytest.raises(ShardsFailed) as failed:
        mapped(folder, (8, -1), MapBlocks(func, shape=2), ToZip(tmp_path / "out"))
    (error,) = failed.value.exceptions
    assert error.shard == "deep/a[1]"
    assert error.cause == f"ShardedStoreError: shard 'deep/a[1]': MapBlocks fails on 'deep/a' at (8, 0): {cause}"


@pytest.mark.parametrize("shards", [None, (4, 6)])
def test_a_corrupt_chunk_is_reported(shards):
    contents = contents_of(write(3, numbers, **({"shards": shards} if shards else {})))
    contents["c/1/1"] = bytes(8) + contents["c/1/1"][8:]
    with pytest.raises(CorruptError, match=r"'c/1/1' can't be decoded with zstd"):
        run(MapBlocks(same), sources.to_memory(contents))


def test_values_that_can_not_be_encoded_are_reported():
    store = write(3, numbers.astype("T"))
    with pytest.raises(ShardedStoreError, match=r"fails on '' at \(0, 0\): TypeError: the function returned int64"):
        list(MapBlocks(lambda b, p: b.astype("i8"))(read_entries(store), Shard("", is_base=True)))


def test_shapes_that_are_no_divisors_are_refused():
    for shape in 0, -1, 1.5, (2, 0), {"y": "2"}, None:
        with pytest.raises(ChainError, match=re.escape(f"MapBlocks was given shape={shape!r}: use a divisor")):
            MapBlocks(same, shape=shape)
    with pytest.raises(ChainError, match="MapBlocks was given 5, which is not a function"):
        MapBlocks(5)


def test_it_is_a_value():
    step = MapBlocks(every_second, "f8", shape={"y": 2}, chunks=[1, 2], fill_value=-1, arrays=["a", "b*"])
    assert repr(step) == (
        "MapBlocks(every_second, shape={'y': 2}, chunks=(1, 2), dtype='float64', fill_value=-1, arrays=('a', 'b*'))"
    )
    assert pickle.loads(pickle.dumps(step)) == step
    assert hash(step) == hash(pickle.loads(pickle.dumps(step)))
    assert MapBlocks(same, name="x", shape=2) == MapBlocks(every_second, name="x", shape=2)
    assert MapBlocks(same, name="x", shape=2) != MapBlocks(same, name="x", shape=3)
    assert MapBlocks(same, shape={"y": 2, "x": 3}) == MapBlocks(same, shape={"x": 3, "y": 2})
    assert repr(MapBlocks(same, shape=twice)) == "MapBlocks(same, shape='twice')"


def test_fingerprints():
    def of(**options):
        return fingerprint(parse_chain([MapBlocks(same, **options), ToZip("x")]))

    assert of() is None
    assert of(name="x", shape=2) == of(name="x", shape=2) != of(name="x", shape=3)
    assert of(name="x", shape=twice) == of(name="x", shape=one_row) is not None  # the name identifies both


def test_blocks_of_another_chain_are_not_taken_for_whole_chunks():
    blocks = Blocks((7,), (3,), ChunkKeys("v2", "."))
    with pytest.raises(
        ChainError, match=r"blocks of \(30,\) become \(15,\), which is not a multiple of the chunks \(10,\)"
    ):
        Regrid(blocks, (70,), (10,), (10,), lambda shape: (shape[0] // 2,)).first_chunk((1,))


@pytest.mark.parametrize("step", [MapBlocks, MapChunks])
def test_a_function_of_other_parameters_is_refused(step):
    with pytest.raises(
        ChainError, match=r"calls <lambda>\(data, position\), and the parameters of <lambda> are \(data\): too many"
    ):
        step(lambda data: data)
    step(lambda *both: both[0])
    step(np.round)
