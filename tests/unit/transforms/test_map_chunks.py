"""`MapChunks`, and `ArrayStep` for decoded chunks: values equal those of NumPy on the whole array."""

import json
import pickle
import re

import numpy as np
import pytest
import sources
import zarr
from conformance import contents_of
from numcodecs import BitRound, Delta, FixedScaleOffset, PackBits
from zarr.codecs import BytesCodec, GzipCodec, TransposeCodec, ZstdCodec
from zarr.codecs import numcodecs as zarr_numcodecs
from zarr.storage import MemoryStore

from shardedstore import ArrayStep, ChainError, ShardedStore, ShardedStoreError, ShardsFailed
from shardedstore.jobs.fingerprint import fingerprint
from shardedstore.stores.entries import read_entries
from shardedstore.stores.hierarchy import walk
from shardedstore.transforms import MapChunks, Recompress, ToZip
from shardedstore.transforms.base.chain import parse_chain
from shardedstore.transforms.base.shard import Shard
from shardedstore.zarr.metadata import crop_document

numbers = np.arange(1, 71).reshape(7, 10)
texts = np.array([f"text {i}" * (i % 4) for i in range(70)]).reshape(7, 10)
records = np.array([(i, i / 3) for i in range(70)], dtype=[("a", "i4"), ("b", "f8")]).reshape(7, 10)
SOURCES = {
    "v2 f4": (2, numbers.astype("f4"), {}),
    "v2 >i2": (2, numbers.astype(">i2"), {}),
    "v2 fortran": (2, numbers.astype("f8"), {"order": "F"}),
    "v2 delta": (2, numbers.astype("i8"), {"filters": [Delta("i8", astype="i2")]}),
    "v2 offset": (2, numbers / 10, {"filters": [FixedScaleOffset(offset=0, scale=10, dtype="f8", astype="u1")]}),
    "v2 bits": (2, numbers % 3 == 0, {"filters": [PackBits()]}),
    "v2 texts": (2, texts.astype("T"), {}),
    "v2 fixed": (2, texts, {}),
    "v2 records": (2, records, {}),
    "v2 datetime": (2, numbers.astype("M8[s]"), {}),
    "v3 f4": (3, numbers.astype("f4"), {}),
    "v3 bool": (3, numbers % 3 == 0, {}),
    "v3 big": (3, numbers.astype("i4"), {"serializer": BytesCodec(endian="big")}),
    "v3 transposed": (3, numbers.astype("f4"), {"filters": [TransposeCodec(order=(1, 0))]}),
    "v3 texts": (3, texts.astype("T"), {}),
    "v3 bytes": (3, texts.astype("S"), {}),
    "v3 fixed": (3, texts, {}),
    "v3 records": (3, records, {}),
    "v3 datetime": (3, numbers.astype("M8[s]"), {}),
    "v3 delta": (3, numbers.astype("i8"), {"filters": [zarr_numcodecs.Delta(dtype="i8")]}),
    "v3 sharded": (3, numbers.astype("f4"), {"shards": (4, 6)}),
    "v3 sharded, index first": (3, numbers.astype("i8"), {"shards": {"shape": (8, 12), "index_location": "start"}}),
    "v3 sharded texts": (3, texts.astype("T"), {"shards": (4, 6)}),
}


def write(zarr_format, data, chunks=(2, 3), fill_value=None, store=None, **options):
    store = store or MemoryStore()
    dtype = str if data.dtype.kind == "T" else data.dtype
    config = {"write_empty_chunks": True, **({"order": options["order"]} if "order" in options else {})}
    array = zarr.create_array(
        store,
        shape=data.shape,
        dtype=dtype,
        chunks=chunks,
        zarr_format=zarr_format,
        fill_value=fill_value,
        config=config,
        **options,
    )
    array[...] = data
    return store


def read(contents):
    return zarr.open_array(sources.to_memory(contents), mode="r")[...]


def run(step, store, shard=None):
    step.check(walk(store))
    return {entry.key: bytes(entry.data) for entry in step(read_entries(store), shard or Shard("", is_base=True))}


def same(chunk, position):
    return chunk


def reverse_bits(chunk, position):
    return ~chunk


def round_bits(chunk, position):
    return BitRound(keepbits=4).encode(chunk).view(chunk.dtype)


def mask_corner(chunk, position):
    rows, columns = (start + np.arange(size) for start, size in zip(position, chunk.shape, strict=True))
    chunk[np.add.outer(rows, columns) < 5] = -1
    return chunk


def to_tenths(chunk, position):
    return np.rint(chunk * 10).astype("i4")


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.few(16)
def test_a_function_that_changes_nothing_changes_no_byte(name, threads):
    zarr_format, data, options = SOURCES[name]
    store = write(zarr_format, data, **options)
    made, old = run(MapChunks(same, threads=threads), store), contents_of(store)
    np.testing.assert_array_equal(read(made), read(old))
    if "sharded" not in name:  # zarr orders inner chunks differently
        assert made == old


@pytest.mark.parametrize("name", [name for name in SOURCES if "texts" in name or "fixed" in name])
def test_texts(name):
    zarr_format, data, options = SOURCES[name]
    made = run(
        MapChunks(lambda chunk, position: np.strings.replace(chunk, "text", "T")), write(zarr_format, data, **options)
    )
    assert read(made).tolist() == np.strings.replace(data, "text", "T").tolist()


@pytest.mark.parametrize("name", ["v2 f4", "v2 >i2", "v2 fortran", "v3 f4", "v3 big", "v3 transposed", "v3 sharded"])
def test_a_region_is_masked_by_position(name):
    zarr_format, data, options = SOURCES[name]
    made = run(MapChunks(mask_corner), write(zarr_format, data, **options))
    np.testing.assert_array_equal(read(made), mask_corner(data.copy(), (0, 0)))


@pytest.mark.parametrize("name", ["v2 f4", "v3 f4", "v3 sharded"])
def test_bits_are_rounded(name):
    zarr_format, data, options = SOURCES[name]
    made = run(MapChunks(round_bits), write(zarr_format, data, **options))
    np.testing.assert_array_equal(read(made), round_bits(data.copy(), (0, 0)))
    assert not np.array_equal(read(made), data)


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("shards", [None, (4, 6)])
def test_chunks_end_where_the_array_ends(zarr_format, shards):
    if zarr_format == 2 and shards:
        pytest.skip("Zarr v2 has no sharding codec")
    seen = {}

    def see(chunk, position):
        seen[position] = chunk.shape
        return chunk + 1

    store = write(zarr_format, numbers.astype("f4"), fill_value=7, **({"shards": shards} if shards else {}))
    step = MapChunks(see)
    made = {e.key: bytes(e.data) for e in step(read_entries(store), Shard("", is_base=True))}
    assert seen == {(i, j): (min(2, 7 - i), min(3, 10 - j)) for i in range(0, 7, 2) for j in range(0, 10, 3)}
    assert read(made).tolist() == (numbers + 1).tolist()
    documents = {"zarr.json": made["zarr.json"]} if zarr_format == 3 else {".zarray": made[".zarray"]}
    grown = {name: crop_document(data, (8, 12), "", name) for name, data in documents.items()}
    assert read({**made, **grown})[7:].tolist() == [[7] * 12]


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("kind", ["plain", "sharded"])
def test_positions_are_those_in_the_whole_array(zarr_format, kind, tmp_path):
    shards = {"shards": (4, 6)} if kind == "sharded" and zarr_format == 3 else {}
    folder = tmp_path / "source.zarr"
    zarr.create_group(folder, zarr_format=zarr_format).create_array(
        "deep/a", data=numbers.astype("f8"), chunks=(2, 3), attributes={"units": "K"}, **shards
    )
    store = ShardedStore.partition(folder, {"deep/a": (4, 6)})
    new = store.map_shards(MapChunks(mask_corner, name="corner"), ToZip(tmp_path / "out"))
    array = zarr.open_array(new, path="deep/a", mode="r")
    np.testing.assert_array_equal(array[...], mask_corner(numbers.astype("f8"), (0, 0)))
    assert dict(array.attrs) == {"units": "K"}


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("shards", [None, (4, 6)])
@pytest.mark.parametrize("source", ["f8", "u1"])
def test_a_new_data_type_and_fill_value(zarr_format, shards, source):
    if zarr_format == 2 and shards:
        pytest.skip("Zarr v2 has no sharding codec")
    options = {"shards": shards} if shards else {}
    data = numbers.astype(source)
    made = run(MapChunks(to_tenths, "i4", -9), write(zarr_format, data, fill_value=0, **options))
    array = zarr.open_array(sources.to_memory(made), mode="r")
    assert (array.dtype, array.fill_value) == (np.dtype("i4"), -9)
    np.testing.assert_array_equal(array[...], to_tenths(data, ()))
    expected = contents_of(write(zarr_format, to_tenths(data, ()), fill_value=-9, **options))
    name = "zarr.json" if zarr_format == 3 else ".zarray"
    assert json.loads(made[name]) == json.loads(expected[name])
    if not shards:
        assert {**made, name: b""} == {**expected, name: b""}


@pytest.mark.parametrize("cname", ["lz4", "zstd"])
def test_blosc_gets_the_size_of_the_new_elements(cname):
    codec = zarr.codecs.BloscCodec(cname=cname, shuffle="shuffle")
    made = run(MapChunks(to_tenths, "i4"), write(3, numbers.astype("f8"), fill_value=0, compressors=codec))
    expected = contents_of(write(3, to_tenths(numbers.astype("f8"), ()), fill_value=0, compressors=codec))
    assert json.loads(made.pop("zarr.json")) == json.loads(expected.pop("zarr.json"))
    assert made == expected


def test_missing_chunks_stay_missing_and_hold_the_new_fill_value():
    store = MemoryStore()
    array = zarr.create_array(store, shape=(4, 6), chunks=(2, 3), dtype="f4", fill_value=np.nan)
    array[:2, :3] = 1
    with pytest.raises(ChainError, match=r"can't have the fill value .*nan.*: give another fill_value="):
        run(MapChunks(to_tenths, "i4"), store)
    made = run(MapChunks(to_tenths, "i4", fill_value=-9), store)
    assert sorted(made) == ["c/0/0", "zarr.json"]
    assert read(made).tolist() == [[10] * 3 + [-9] * 3] * 2 + [[-9] * 6] * 2


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("step", [MapChunks(to_tenths, "i4", -1), MapChunks(same, fill_value=4.5)], ids=repr)
def test_metadata_commutes_with_cropping(step, zarr_format):
    contents = contents_of(write(zarr_format, numbers.astype("f4")))
    name = ".zarray" if zarr_format == 2 else "zarr.json"
    shard = Shard("", is_base=True)
    cropped = sources.to_memory({name: crop_document(contents[name], (3, 10), "", name)})
    (entry,) = step(read_entries(cropped), shard)
    (whole,) = step(read_entries(sources.to_memory({name: contents[name]})), shard)
    assert entry.data == crop_document(whole.data, (3, 10), "", name) != contents[name]
    assert entry.array.shape == (3, 10)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (MapChunks(to_tenths), "the function returned int32, but the array has float32: use dtype='int32'"),
        (MapChunks(lambda c, p: c.sum(0)), "the function returned the shape (3,), but (2, 3) is needed"),
        (MapChunks(lambda c, p: None), "the function returned"),
        (MapChunks(to_tenths, "i4", fill_value=0.5), "can't have the fill value 0.5 (it would become 0)"),
        (MapChunks(to_tenths, "i4", fill_value=2**40), "can't have the fill value 1099511627776"),
        (MapChunks(to_tenths, object), "can't have the data type object"),
        (MapChunks(to_tenths, "i4", arrays="b"), "MapChunks names 'b', but the source has no such array"),
    ],
    ids=str,
)
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_what_makes_no_sense_is_refused_before_it_runs(step, message, zarr_format):
    with pytest.raises(ChainError, match=re.escape(message)):
        step.check(walk(write(zarr_format, numbers.astype("f4"), fill_value=0)))


def test_codecs_that_hold_for_one_data_type_are_reported():
    for name in ("v2 delta", "v2 texts", "v3 delta", "v3 texts"):
        zarr_format, data, options = SOURCES[name]
        with pytest.raises(
            ChainError, match=r"changes the data type of '' to float32, but its codecs are valid only for"
        ):
            MapChunks(same, "f4").check(walk(write(zarr_format, data, **options)))


def test_what_is_no_function_or_no_data_type_is_refused():
    with pytest.raises(ChainError, match="MapChunks was given 5, which is not a function"):
        MapChunks(5)
    with pytest.raises(ChainError, match="dtype='f5', which is unknown to NumPy"):
        MapChunks(same, "f5")


def changes_late(chunk, position):
    return chunk.astype("f8") if position == (4, 3) else chunk


def fails_late(chunk, position):
    if position == (4, 3):
        raise ValueError("this is too late")
    return chunk


@pytest.mark.parametrize(
    ("func", "cause"),
    [
        (changes_late, "TypeError: the function returned float64, but the array has float32: use dtype='float64'"),
        (fails_late, "ValueError: this is too late"),
    ],
)
def test_what_goes_wrong_in_a_shard_names_it_and_the_key(func, cause, tmp_path):
    folder = tmp_path / "source.zarr"
    zarr.create_group(folder).create_array("a", data=numbers.astype("f4"), chunks=(2, 3))
    with pytest.raises(ShardsFailed) as failed:
        ShardedStore.partition(folder, {"a": (4, -1)}).map_shards(MapChunks(func), ToZip(tmp_path / "out"))
    (error,) = failed.value.exceptions
    assert error.shard == "a[1]"
    assert error.cause == f"ShardedStoreError: shard 'a[1]': MapChunks fails on 'a/c/2/1' at (4, 3): {cause}"


def test_in_a_chain_with_recompress(tmp_path):
    folder = tmp_path / "source.zarr"
    zarr.create_group(folder).create_array("a", data=numbers.astype("f4"), chunks=(2, 3), compressors=ZstdCodec())
    chain = MapChunks(to_tenths, "i4", 0), Recompress("blosc"), ToZip(tmp_path / "out")
    new = ShardedStore.partition(folder, {"a": (4, -1)}).map_shards(*chain)
    array = zarr.open_array(new, path="a", mode="r")
    np.testing.assert_array_equal(array[...], to_tenths(numbers, ()))
    assert array.compressors[0].typesize == 4


class Uppercase(ArrayStep):
    """Changes only attributes."""

    def metadata(self, meta):
        return meta.replace(attributes={key.upper(): value for key, value in meta.attributes.items()})


class Marked(ArrayStep):
    """Adds attributes to arrays without attributes."""

    def metadata(self, meta):
        return meta.replace(attributes={"marked": meta.path})


class Larger(ArrayStep):
    def metadata(self, meta):
        return meta.replace(shape=(9, 9))


class Flipped(ArrayStep):
    """Encoded chunks: the bytes before compression."""

    def chunk(self, data, position):
        return bytes(data)[::-1]


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_step_of_attributes_leaves_chunks_as_they_are(zarr_format):
    contents = contents_of(write(zarr_format, numbers, attributes={"units": "K"}))
    contents = {k: d if k.startswith((".z", "zarr")) else b"not to be decoded" for k, d in contents.items()}
    made = run(Uppercase(), sources.to_memory(contents))
    name = ".zattrs" if zarr_format == 2 else "zarr.json"
    assert {key for key in made if made[key] != contents[key]} == {name}
    document = json.loads(made[name])
    assert (document if zarr_format == 2 else document["attributes"]) == {"UNITS": "K"}


def test_attributes_where_there_were_none():
    contents = contents_of(write(2, numbers))
    contents.pop(".zattrs", None)
    made = run(Marked(), sources.to_memory(contents))
    assert list(made)[:2] == [".zarray", ".zattrs"]
    assert json.loads(made[".zattrs"]) == {"marked": ""}


def test_a_step_can_not_change_a_shape():
    with pytest.raises(ChainError, match=r"Larger changes the shape of '' from \(7, 10\) to \(9, 9\)"):
        Larger().check(walk(write(3, numbers)))


@pytest.mark.parametrize("options", [{}, {"shards": (4, 6)}])
def test_encoded_chunks(options):
    store = write(
        3, numbers.astype("u1"), compressors=GzipCodec(), chunks=(1, 2), **({"shards": (4, 10)} if options else {})
    )
    made = run(Flipped(threads=2), store)
    np.testing.assert_array_equal(read(made), numbers.reshape(7, 5, 2)[..., ::-1].reshape(7, 10))


def test_the_metadata_after_a_step():
    nodes = walk(sources.to_memory(sources.SOURCES["cube-v2."].contents()))
    changed = MapChunks(to_tenths, "f8", arrays="wind_*").changed(nodes)
    assert {path: node.meta.itemsize for path, node in changed.items() if path.startswith(("wind", "temp"))} == {
        "wind_u": 8,
        "wind_v": 8,
        "temperature": 4,
    }
    assert changed["temperature"] == nodes["temperature"]


def test_it_is_a_value():
    step = MapChunks(round_bits, "f8", fill_value=-1, arrays=["a", "b*"], threads=2)
    assert repr(step) == "MapChunks(round_bits, dtype='float64', fill_value=-1, arrays=('a', 'b*'), threads=2)"
    assert pickle.loads(pickle.dumps(step)) == step
    assert MapChunks(round_bits) == MapChunks(round_bits) != MapChunks(same)
    assert MapChunks(round_bits, name="x") == MapChunks(same, name="x") != MapChunks(same, name="y")


def test_a_function_without_a_name_has_no_fingerprint():
    assert fingerprint(parse_chain([MapChunks(round_bits), ToZip("x")])) is None


def test_a_function_with_a_name_has_a_fingerprint():
    one, two = (fingerprint(parse_chain([MapChunks(func, name="8 bits"), ToZip("x")])) for func in (same, round_bits))
    assert one == two is not None


def test_errors_of_a_step_are_ours():
    store = write(3, numbers.astype("f4"))
    with pytest.raises(ShardedStoreError, match=r"shard '\(base\)': MapChunks fails on 'c/2/1' at \(4, 3\)"):
        run(MapChunks(fails_late), store)
