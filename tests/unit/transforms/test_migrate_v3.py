"""`MigrateV3`: zarr and xarray read equal values in v2 and v3, and almost every chunk keeps its bytes."""

import json
import math
import pickle
import re
import warnings
import zipfile

import dask
import numcodecs
import numpy as np
import pytest
import sources
import xarray as xr
import zarr
from conformance import contents_of
from hypothesis import given
from hypothesis import strategies as st
from numcodecs import (
    BZ2,
    CRC32,
    LZ4,
    AsType,
    Base64,
    BitRound,
    Blosc,
    Categorize,
    Delta,
    FixedScaleOffset,
    GZip,
    PackBits,
    Quantize,
    Shuffle,
    Zlib,
    Zstd,
)
from zarr.codecs import BloscCodec
from zarr.codecs import numcodecs as zarr_numcodecs
from zarr.storage import MemoryStore, StorePath

from shardedstore import ChainError, CorruptError, ShardedStore, ShardsFailed
from shardedstore.jobs.fingerprint import fingerprint
from shardedstore.stores.entries import read_entries
from shardedstore.stores.hierarchy import walk
from shardedstore.transforms import MapChunks, MigrateV3, Recompress, ToZip
from shardedstore.transforms.base.chain import parse_chain
from shardedstore.transforms.base.shard import Shard
from shardedstore.zarr.grid import Blocks
from shardedstore.zarr.metadata import ArrayMeta, GroupMeta, crop_document, parse_node
from tests.unit.transforms.test_recompress import V2

SOURCES = {name: source for name, source in sources.SOURCES.items() if "v2" in name and not name.startswith("cube-v3")}
numbers = np.arange(9 * 12).reshape(9, 12)
texts = np.array([f"text {i}" * (i % 4) for i in range(108)]).reshape(9, 12)
BIG_RECORDS = np.dtype([("a", ">i4"), ("b", ">f8")])
MIXED_RECORDS = np.dtype([("a", ">i4"), ("b", "<f8")])


def records(dtype):
    array = np.zeros((9, 12), dtype)
    for name in dtype.names:
        array[name] = numbers
    return array


# Arrays whose chunks stay unchanged: data, and options of the v2 array.
SAME = {name: (data, options) for name, (data, options) in V2.items() if name != "quantized"} | {
    "f2": (numbers.astype("f2"), {}),
    "i1": (numbers.astype("i1"), {}),
    "u8": (numbers.astype("u8"), {}),
    "big complex": (numbers.astype(">c8"), {}),
    "big texts": (texts.astype(">U7"), {}),
    "big dates": (numbers.astype(">M8[ns]"), {}),
    "25 us": (numbers.astype("M8[25us]"), {}),
    "raw": (texts.astype("S7").view("V7"), {}),
    "rounded": (numbers / np.float32(7), {"filters": [BitRound(10)]}),
    "quantized": (numbers / 7, {"filters": [Quantize(2, "f8")]}),
    "as type": (numbers.astype("f8"), {"filters": [AsType("f4", "f8")]}),
    "as netCDF4": (numbers.astype("f8"), {"filters": [Shuffle(8), Zlib(3)]}),
    "arrays, then bytes": (numbers, {"filters": [Delta("i8"), Shuffle(8)]}),
    "checksum": (numbers, {"filters": [CRC32()]}),
    "fortran delta": (numbers.astype("i4"), {"order": "F", "filters": [Delta("i4")]}),
    "fortran bits": (numbers % 3 == 0, {"order": "F", "filters": [PackBits()]}),
    "fortran shuffled": (numbers.astype("i4"), {"order": "F", "filters": [Shuffle(4)]}),
    "null": (numbers, {"fill_value": None}),
    "null dates": (numbers.astype("M8[s]"), {"fill_value": None}),
    "null texts": (texts.astype("T"), {"fill_value": None}),
    "NaN": (numbers / 2, {"fill_value": math.nan}),
    "infinity": (numbers / 2, {"fill_value": -math.inf}),
    "slashes": (numbers, {"chunk_key_encoding": {"name": "v2", "separator": "/"}}),
}
# Arrays whose chunks are encoded again.
ANEW = {
    "big delta": (numbers.astype(">i4"), {"filters": [Delta(">i4")]}),  # zarr reads these, but would write them wrongly
    "little in big": (numbers.astype(">f8"), {"filters": [FixedScaleOffset(0, 10, dtype=">f8", astype="<i2")]}),
    "another order of bytes": (numbers.astype(">i4"), {"filters": [Delta("<i4")]}),
    "bytes, then arrays": (numbers, {"filters": [Shuffle(8), Delta("i8")]}),
    "base64": (numbers, {"filters": [Base64()]}),
    "another quantized": (numbers / 7, {"filters": [Quantize(2, dtype="f8", astype="f4")]}),
    "mixed records": (records(MIXED_RECORDS), {}),
    "fortran base64": (numbers.astype("f4"), {"order": "F", "filters": [Base64()]}),
    "categories": (texts[:, :4], {"filters": [Categorize([*np.unique(texts)], dtype=texts.dtype, astype="u1")]}),
}
# Zarr 3.1 writes them wrongly: it passes the output of transpose, in another memory order, to a filter.
if tuple(map(int, zarr.__version__.split(".")[:2])) < (3, 2):
    ANEW |= {name: SAME.pop(name) for name in ("fortran delta", "fortran bits", "two filters")}
COMPRESSORS = [None, Blosc(), Blosc("zstd", 3, shuffle=-1), Zstd(5), GZip(3), Zlib(2), LZ4(), BZ2(3)]


def write(data, options, compressor=None, attributes=None):
    """Write a v2 array with one missing chunk with zarr, and return its contents."""
    options = dict(options)
    config = {"write_empty_chunks": False, "order": options.pop("order", "C")}
    dtype = str if data.dtype.kind == "T" else data.dtype
    store = MemoryStore()
    array = zarr.create_array(
        store,
        shape=data.shape,
        chunks=(4, 5),
        dtype=dtype,
        zarr_format=2,
        compressors=compressor,
        order=config["order"],
        config=config,
        attributes=attributes,
        **options,
    )
    array[:4] = data[:4]
    array[-1:, -1:] = data[-1:, -1:]
    return contents_of(store)


def run(contents, step=None, shard=None):
    """Return the keys and bytes of the step's result for some contents."""
    entries = read_entries(sources.to_memory(contents))
    return {entry.key: bytes(entry.data) for entry in (step or MigrateV3())(entries, shard or Shard("", is_base=True))}


def opened(contents):
    return zarr.open(sources.to_memory(contents), mode="r")


def chunks_of(contents):
    return {key: data for key, data in contents.items() if key.rpartition("/")[2] not in NAMES}


NAMES = {".zarray", ".zattrs", ".zgroup", ".zmetadata", "zarr.json"}


def shown(array):
    """The elements of an array as text, so that NaN equals NaN."""
    return str(np.asarray(array[...]).tolist())


pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:zarr", "ignore:.*Zarr.*:UserWarning")


def made_of(*array):
    """Migrate a v2 array, check that it reads equal values; return its contents, the result, and the opened result."""
    contents = write(*array)
    MigrateV3().check(walk(sources.to_memory(contents)))
    made = run(contents)
    old, new = opened(contents), opened(made)
    assert old.metadata.zarr_format == 2
    assert shown(new) == shown(old)
    return contents, made, new


@pytest.mark.parametrize("compressor", COMPRESSORS, ids=lambda codec: repr(codec)[:16])
@pytest.mark.parametrize("name", SAME)
@pytest.mark.few(80)
def test_chunks_that_pass_on(name, compressor):
    contents, made, new = made_of(*SAME[name], compressor)
    assert new.metadata.zarr_format == 3
    assert chunks_of(made) == chunks_of(contents)
    assert 2 <= len(chunks_of(made)) < math.prod(new.cdata_shape)
    written = new.metadata.to_buffer_dict(zarr.core.buffer.default_buffer_prototype())["zarr.json"].to_bytes()
    assert made["zarr.json"] == written  # as zarr writes it


@pytest.mark.parametrize("compressor", COMPRESSORS, ids=lambda codec: repr(codec)[:16])
@pytest.mark.parametrize("name", ANEW)
@pytest.mark.few(30)
def test_chunks_that_are_made_anew(name, compressor):
    contents, made, new = made_of(*ANEW[name], compressor)
    assert made.keys() - {"zarr.json"} == contents.keys() - {".zarray", ".zattrs"}
    assert not new.filters or "Transpose" in repr(new.filters)
    assert len(new.compressors) == (compressor is not None)


# Arrays that zarr's own migration can't handle, or changes: it confuses the byte orders of "little in big".
NOT_BY_ZARR = {
    *("texts", "null texts", "null", "shuffled", "as netCDF4", "arrays, then bytes", "checksum", "fortran shuffled"),
}


@pytest.mark.parametrize(
    "compressor", [None, Blosc(), Zstd(5), GZip(3), Zlib(2), BZ2(3)], ids=lambda codec: repr(codec)[:16]
)
@pytest.mark.parametrize("name", sorted(SAME.keys() - NOT_BY_ZARR))
@pytest.mark.few(60)
def test_metadata_is_that_of_zarrs_own_migration(name, compressor):
    migration = pytest.importorskip("zarr.metadata.migrate_v3")
    contents = write(*SAME[name], compressor, {"a": [1, {"b": None}]})
    target = MemoryStore()
    migration.migrate_to_v3(opened(contents), StorePath(target))
    assert run(contents)["zarr.json"] == contents_of(target)["zarr.json"]


with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    CREATED = {
        "texts": {"dtype": str, "fill_value": "", "compressors": BloscCodec(typesize=1, shuffle="shuffle")},
        "null texts": {"dtype": str, "compressors": BloscCodec(typesize=1, shuffle="shuffle")},
        "null": {"dtype": "i8"},
        "as netCDF4": {
            "dtype": "f8",
            "compressors": [
                zarr_numcodecs.Shuffle(elementsize=8),
                zarr_numcodecs.Zlib(level=3),
                BloscCodec(typesize=8),
            ],
        },
    }


@pytest.mark.parametrize("name", CREATED)
def test_metadata_is_that_of_zarr(name):
    store = MemoryStore()
    options = {"compressors": BloscCodec(typesize=8), **CREATED[name]}
    keys = {"name": "v2", "separator": "."}
    data = SAME[name][0]
    blosc = {"cname": "zstd", "clevel": 5, "shuffle": "shuffle", "blocksize": 0}
    zarr.create_array(store, shape=data.shape, chunks=(4, 5), chunk_key_encoding=keys, **options)
    made = run(write(*SAME[name], Blosc("zstd", 5, shuffle=1)))
    assert blosc.items() <= json.loads(made["zarr.json"])["codecs"][-1]["configuration"].items()
    assert made["zarr.json"] == contents_of(store)["zarr.json"]


# The whole


def minus(chunk, position):
    return -chunk


def migrated(folder, shards, target, *steps):
    with dask.config.set(scheduler="synchronous"):
        return ShardedStore.partition(folder, shards).map_shards(MigrateV3(), *steps, ToZip(target))


@pytest.mark.few(3)
@pytest.mark.parametrize("name", SOURCES)
def test_end_to_end(name, tmp_path):
    source = SOURCES[name]
    folder = sources.to_folder(source.contents(), tmp_path / "source.zarr")
    new = migrated(folder, source.shards, tmp_path / "out")
    assert_equal(zarr.open(folder, mode="r"), zarr.open(new, mode="r"))
    again = ShardedStore.load(tmp_path / "out")
    made = contents_of(again)
    assert chunks_of(made) == chunks_of(source.contents())
    assert {key.rpartition("/")[2] for key in made} & NAMES == {"zarr.json"}
    assert {
        path: mount.blocks.count if mount.blocks else 1 for path, mount in new.config.shards.items()
    } == source.mounts
    if source.for_xarray:
        whole = {"engine": "zarr", "consolidated": "consolidated" in name or "dataset" in name}
        with xr.open_datatree(folder, **whole) as before, xr.open_datatree(again, **whole) as after:
            xr.testing.assert_identical(before.load(), after.load())


def assert_equal(one, other):
    assert (one.metadata.zarr_format, other.metadata.zarr_format) == (2, 3)
    if isinstance(one, zarr.Array):
        assert shown(one) == shown(other)
        assert (one.shape, one.chunks) == (other.shape, other.chunks)
        return
    assert dict(one.attrs) == dict(other.attrs)
    members = dict(one.members())
    assert members.keys() == dict(other.members()).keys()
    for name, member in members.items():
        assert_equal(member, other[name])


@pytest.mark.parametrize("name", SOURCES)
def test_what_comes_after_it_is_shown_v3(name):
    contents = SOURCES[name].contents()
    nodes = walk(sources.to_memory(contents))
    found = walk(sources.to_memory(run(contents)))
    changed = MigrateV3().changed(nodes)
    assert {path: (node.meta.zarr_format, node.documents) for path, node in changed.items()} == {
        path: (3, node.documents) for path, node in found.items()
    }
    assert [path for path, node in changed.items() if isinstance(node.meta, GroupMeta) and node.meta.consolidated] == [
        path for path, node in nodes.items() if isinstance(node.meta, GroupMeta) and node.meta.consolidated
    ]
    entries = MigrateV3()(read_entries(sources.to_memory(contents)), Shard("", is_base=True))
    arrays = {node.meta for node in found.values() if isinstance(node.meta, ArrayMeta)}
    assert {entry.array for entry in entries} - {None} == arrays


@pytest.mark.parametrize("name", ["consolidated-v2", "dataset-v2"])
def test_consolidated_metadata_is_that_of_zarr(name, tmp_path):
    source = SOURCES[name]
    new = migrated(sources.to_folder(source.contents(), tmp_path / "source.zarr"), source.shards, tmp_path / "out")
    made = contents_of(new)
    store = sources.to_memory(run(source.contents()))
    groups = [group for group in sources.groups_of(made) if group + "/.zmetadata" in source.contents() or not group]
    for group in sorted(groups, reverse=True):
        zarr.consolidate_metadata(store, path=group, zarr_format=3)
        wanted = zarr.open_group(store, path=group, use_consolidated=True).metadata.to_dict()
        got = zarr.open_group(new, path=group, mode="r", use_consolidated=True).metadata.to_dict()
        assert json.dumps(got) == json.dumps(wanted)
        key = f"{group}/zarr.json".lstrip("/")
        for document in (made[key], contents_of(store)[key]):
            assert b"_ARRAY_DIMENSIONS" not in document
            assert b".zarray" not in document
    assert len(groups) == 1 + (name == "consolidated-v2")


@pytest.mark.parametrize("step", [Recompress("zstd", level=3), MapChunks(minus, name="minus")], ids=repr)
def test_other_steps_come_after_it(step, tmp_path):
    source = SOURCES["cube-v2/"]
    folder = sources.to_folder(source.contents(), tmp_path / "source.zarr")
    new = migrated(folder, source.shards, tmp_path / "out", step)
    old, array = zarr.open_group(folder, mode="r"), zarr.open_array(new, path="temperature", mode="r")
    sign = -1 if isinstance(step, MapChunks) else 1
    np.testing.assert_array_equal(array[...], sign * old["temperature"][...])
    assert array.metadata.zarr_format == 3
    assert ("level=3" in repr(array.compressors)) == isinstance(step, Recompress)
    assert new.config.shards["temperature"].blocks.keys.separator == "/"


def test_a_compressor_that_v3_has_not_is_replaced_before_it():
    numcodecs.register_codec(Reversed)
    try:
        contents = write(numbers, {}, Reversed())
        with pytest.raises(ChainError, match=re.escape("put Recompress('zstd', arrays='') before MigrateV3")):
            MigrateV3().check(walk(sources.to_memory(contents)))
        before = Recompress("zstd")
        nodes = walk(sources.to_memory(contents))
        before.check(nodes)
        MigrateV3().check(before.changed(nodes))
        made = run(run(contents, before))
        assert shown(opened(made)) == shown(opened(contents))
    finally:
        numcodecs.registry.codec_registry.pop("reversed")


class Reversed(numcodecs.abc.Codec):
    codec_id = "reversed"

    def encode(self, buf):
        return bytes(np.ascontiguousarray(buf).tobytes())[::-1]

    def decode(self, buf, out=None):
        return bytes(buf)[::-1]


@pytest.mark.parametrize("name", ANEW)
def test_blocks_are_made_anew(name, tmp_path):
    contents = {f"group/a/{key}": data for key, data in write(*ANEW[name], Zstd(1)).items()}
    contents |= {"group/.zgroup": b'{"zarr_format": 2}', ".zgroup": b'{"zarr_format": 2}'}
    folder = sources.to_folder(contents, tmp_path / "source.zarr")
    new = migrated(folder, {"group/a": (4, -1)}, tmp_path / "out", Recompress("gzip"))
    assert_equal(zarr.open(folder, mode="r"), zarr.open(new, mode="r"))
    assert new.config.shards["group/a"].blocks.count == -(-ANEW[name][0].shape[0] // 4)


@pytest.mark.parametrize("scheduler", ["threads", "processes"])
def test_any_scheduler_gives_equal_bytes(scheduler, tmp_path):
    source = SOURCES["types-v2"]
    folder = sources.to_folder(source.contents(), tmp_path / "source.zarr")
    one = migrated(folder, source.shards, tmp_path / "one")
    with dask.config.set(scheduler=scheduler):
        two = ShardedStore.partition(folder, source.shards).map_shards(MigrateV3(), ToZip(tmp_path / "two"))
    assert contents_of(one) == contents_of(two)


# Documents


@given(st.data())
def test_metadata_commutes_with_cropping(data):
    table = {**SAME, **ANEW}
    contents = write(*table[data.draw(st.sampled_from(sorted(table)))], Blosc(), {"_ARRAY_DIMENSIONS": ["y", "x"]})
    shape = tuple(data.draw(st.integers(0, 20)) for _ in range(2))
    documents = {key: contents[key] for key in (".zarray", ".zattrs")}
    cropped = documents | {".zarray": crop_document(documents[".zarray"], shape, "", ".zarray")}
    assert run(cropped) == {"zarr.json": crop_document(run(documents)["zarr.json"], shape, "", "zarr.json")}


def test_blocks_are_cropped_as_the_whole_is(tmp_path):
    source = SOURCES["cube-v2."]
    folder = sources.to_folder(source.contents(), tmp_path / "source.zarr")
    new = migrated(folder, source.shards, tmp_path / "out")
    whole = contents_of(new)["temperature/zarr.json"]
    meta = parse_node({"zarr.json": whole}, "temperature")
    blocks = new.config.shards["temperature"].blocks
    assert isinstance(blocks, Blocks)
    assert blocks.keys == meta.keys
    for number in range(blocks.count):
        block = blocks.index(number)
        path = tmp_path / "out" / "temperature" / f"{block[0]}/{block[1]}.zarr.zip"
        shape = blocks.crop(meta.shape, meta.chunks, block)
        with zipfile.ZipFile(path) as file:
            assert file.read("zarr.json") == crop_document(whole, shape, "", "zarr.json")


@pytest.mark.parametrize("dims", [["y", "x"], ["y"], ["y", 1], "yx", None, {"a": 1}, ["y", None]], ids=str)
def test_dimensions_that_are_names_are_dimension_names(dims):
    document = json.loads(run(write(numbers, {}, None, {"_ARRAY_DIMENSIONS": dims, "a": 1}))["zarr.json"])
    if dims in (["y", "x"], ["y", None]):
        assert document["dimension_names"] == dims
        assert document["attributes"] == {"a": 1, "_FillValue": 0}
    else:
        assert "dimension_names" not in document
        assert document["attributes"] == {"_ARRAY_DIMENSIONS": dims, "a": 1}


MASKED = {
    "packed": (np.array([1, -9, 3], "i2"), -9, {"scale_factor": 0.1, "add_offset": 4}),
    "floats": (np.array([1, -9, 3], ">f4"), -9.0, {}),
    "NaN": (np.array([1, np.nan, 3], "f8"), np.nan, {}),
    "zero": (np.array([1, 0, 3], "u1"), 0, {}),
    "bool": (np.array([True, False, True]), False, {}),
    "complex": (np.array([1j, 3 - 2j]), 1j, {}),
    "null": (np.array([1, 0, 3]), None, {}),
    "null and an attribute": (np.array([1, 0, 3], "f4"), None, {"_FillValue": 1.0}),
    "null and an attribute, whole": (np.array([1, 0, 3], "i4"), None, {"_FillValue": 3}),
    "both": (np.array([1, 0, 3], "i4"), 1, {"missing_value": 1}),
    "times": (np.array([1, 0, 3]), 0, {"units": "days since 2000-01-01"}),
}


@pytest.mark.parametrize("name", MASKED)
def test_xarray_masks_what_it_masked(name):
    data, fill_value, attributes = MASKED[name]
    store = MemoryStore()
    group = zarr.create_group(store, zarr_format=2)
    attributes = {"_ARRAY_DIMENSIONS": ["x"], **attributes}
    group.create_array("a", data=data, chunks=(2,), fill_value=fill_value, attributes=attributes)
    contents = contents_of(store)
    made = run(contents)
    for mask in (True, False):
        options = {"engine": "zarr", "consolidated": False, "mask_and_scale": mask}
        before = xr.open_dataset(sources.to_memory(contents), zarr_format=2, **options)
        after = xr.open_dataset(sources.to_memory(made), zarr_format=3, **options)
        xr.testing.assert_identical(before.load(), after.load())


def test_what_is_no_node_passes_on():
    contents = dict(sources.SOURCES["others-v2"].contents())
    extra = {
        "notes/.zattrs": b'{"a": 1}',
        "notes/broken/.zarray": b"not JSON",
        "notes/v3/zarr.json": b'{"zarr_format": 3, "node_type": "group"}',
        "notes/v3/.zattrs": b"{}",
    }
    made = run(contents | extra)
    assert extra.items() <= made.items()
    assert chunks_of(made) == chunks_of(contents)
    assert {key.rpartition("/")[0] for key in made if key.endswith("zarr.json")} - {"notes/v3"} == {
        key.rpartition("/")[0] for key in contents if key.endswith((".zarray", ".zgroup"))
    }
    entries = [*MigrateV3()(read_entries(sources.to_memory(contents)), Shard("", is_base=True))]
    assert [entry.key for entry in entries] == [
        entry.key for entry in read_entries(sources.to_memory(run(contents)))
    ]  # in the order of an original v3 source


def test_a_group_that_has_no_document_has_none_after_it():
    contents = {
        key: data for key, data in build_cube().items() if key not in {"simulation/.zgroup", "simulation/.zattrs"}
    }
    made = run(contents)
    assert "simulation/zarr.json" not in made
    assert shown(zarr.open_array(sources.to_memory(made), path="simulation/fine/field", mode="r")) == shown(
        zarr.open_array(sources.to_memory(contents), path="simulation/fine/field", mode="r")
    )


def build_cube():
    return dict(sources.SOURCES["cube-v2."].contents())


def test_documents_of_both_formats_are_reported(tmp_path):
    contents = build_cube() | {"wind_u/zarr.json": b'{"zarr_format": 3, "node_type": "group"}'}
    with pytest.raises(ShardsFailed) as failed:
        migrated(sources.to_folder(contents, tmp_path / "source.zarr"), ["simulation"], tmp_path / "out")
    assert "'wind_u' has documents of Zarr v2 and v3 that describe different nodes or chunks" in str(
        failed.value.exceptions[0]
    )


# Texts


def objects(codec, values=None, padding="", fill_value=None):
    """The contents of an array of objects as written by zarr-python 2."""
    values = texts.astype(object) if values is None else values
    document = {
        "zarr_format": 2,
        "shape": list(values.shape),
        "chunks": [4, 5],
        "dtype": "|O",
        "fill_value": fill_value,
        "order": "C",
        "filters": [codec.get_config()],
        "compressor": {"id": "zlib", "level": 1},
    }
    contents = {".zarray": json.dumps(document).encode()}
    whole = np.full((12, 15), padding, object)
    whole[:9, :12] = values
    for i, j in np.ndindex(3, 3):
        chunk = whole[4 * i : 4 * i + 4, 5 * j : 5 * j + 5]
        contents[f"{i}.{j}"] = numcodecs.Zlib(1).encode(codec.encode(np.ascontiguousarray(chunk)))
    return contents


CATEGORIES = Categorize([*np.unique(texts)], dtype=object, astype="u2")


@pytest.mark.parametrize("codec", [numcodecs.JSON(), numcodecs.MsgPack(), CATEGORIES], ids=lambda codec: codec.codec_id)
def test_texts_of_other_codecs_are_made_anew(codec):
    contents = objects(codec)
    MigrateV3().check(walk(sources.to_memory(contents)))
    made = run(contents)
    assert [codec["name"] for codec in json.loads(made["zarr.json"])["codecs"]] == ["vlen-utf8", "numcodecs.zlib"]
    assert opened(made)[...].tolist() == texts.tolist()
    expected = contents_of(write_texts())
    assert chunks_of(made) == chunks_of(expected)


def write_texts():
    store = MemoryStore()
    array = zarr.create_array(store, shape=texts.shape, chunks=(4, 5), dtype=str, zarr_format=2, compressors=Zlib(1))
    array[...] = texts.astype("T")
    return store


@pytest.mark.parametrize("value", [1, None, b"a", ["a"]], ids=repr)
def test_objects_that_are_no_texts_are_reported(value):
    values = texts.astype(object)
    values[5, 6] = value
    codec = numcodecs.MsgPack() if isinstance(value, bytes) else numcodecs.JSON()
    with pytest.raises(Exception, match=re.escape(f"'(base)': MigrateV3 fails on '1.1': {value!r} is not a string")):
        run(objects(codec, values))


def test_bytes_of_any_length_pass_on():
    values = np.vectorize(str.encode, otypes=[object])(texts)
    contents = objects(numcodecs.VLenBytes(), values, b"", "")
    made = run(contents)
    assert chunks_of(made) == chunks_of(contents)
    assert opened(made)[...].tolist() == values.tolist()


# Refusals and notices


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"filters": [{"id": "pickle"}], "dtype": "|O"},
            "'a' holds pickled Python objects (pickle), for which Zarr v3 has no",
        ),
        ({"filters": [{"id": "vlen-array", "dtype": "<i4"}], "dtype": "|O"}, "'a' holds arrays of different lengths"),
        ({"compressor": {"id": "secret"}}, "'a' is compressed with 'secret', which zarr does not support in Zarr v3"),
        ({"compressor": {"id": "gzip", "level": -1}}, "put Recompress('zstd', arrays='a') before MigrateV3"),
        ({"dtype": "|O"}, "'a' (|O, no filter) can't be converted to Zarr v3"),
        ({"filters": [{"id": "secret"}]}, "'a' (<i8, secret) can't be converted to Zarr v3"),
        ({"fill_value": "x"}, "'a' has the data type '<i8' and the fill value 'x', which zarr does not support"),
        ({"dtype": "<g9"}, "'a' has the data type '<g9'"),
    ],
    ids=str,
)
def test_what_has_no_place_in_v3_is_refused_before_it_runs(changes, message, tmp_path):
    contents = {".zgroup": b'{"zarr_format": 2}'} | {f"a/{key}": data for key, data in write(numbers, {}).items()}
    contents["a/.zarray"] = json.dumps(json.loads(contents["a/.zarray"]) | changes).encode()
    with pytest.raises(ChainError, match=re.escape(message)):
        migrated(sources.to_folder(contents, tmp_path / "source.zarr"), ["a"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["cube-v3/", "root-array-v3"])
def test_v3_is_refused(name):
    with pytest.raises(ChainError, match=r"the root is Zarr v3 already: leave MigrateV3 \(--v3\) out of the chain"):
        MigrateV3().check(walk(sources.to_memory(sources.SOURCES[name].contents())))


def test_a_damaged_chunk_that_is_made_anew_is_reported():
    contents = write(*ANEW["base64"], Zlib(1))
    contents["0.1"] = b"damaged"
    with pytest.raises(CorruptError, match=re.escape("'0.1' can't be decoded with base64, zlib: ")):
        run(contents)


@pytest.mark.parametrize(
    "attributes",
    [{"multiscales": [{"version": "0.4", "axes": []}]}, {"plate": {"version": "0.4"}}, {"well": {"version": "0.4"}}],
    ids=lambda attributes: next(iter(attributes)),
)
def test_ome_zarr_is_reported(attributes):
    contents = build_cube() | {"simulation/.zattrs": json.dumps(attributes).encode()}
    nodes = walk(sources.to_memory(contents))
    (notice,) = MigrateV3(chunk_keys="default").notices(nodes)
    assert notice.arrays == ("simulation",)
    assert "OME-Zarr 0.4 stay as they are" in notice.text
    assert json.loads(run(contents)["simulation/zarr.json"])["attributes"] == attributes


def test_what_only_consolidated_metadata_knows_is_reported():
    contents = dict(sources.SOURCES["consolidated-v2"].contents())
    for name in (".zarray", ".zattrs"):
        del contents[f"temperature/{name}"]
    nodes = walk(sources.to_memory(contents))
    (notice,) = MigrateV3(chunk_keys="default").notices(nodes)
    assert notice.arrays == ("temperature",)
    assert "consolidated metadata names" in notice.text


def test_it_is_a_value():
    step = MigrateV3(threads=2)
    assert pickle.loads(pickle.dumps(step)) == step == MigrateV3() == eval(repr(step))
    again = parse_chain([step, ToZip("x")])
    assert fingerprint(again) == fingerprint(parse_chain([MigrateV3(), ToZip("y")])) is not None


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_keep_the_order(threads):
    contents = write(*ANEW["base64"], Zlib(1))
    assert list(run(contents, MigrateV3(threads)).items()) == list(run(contents).items())
