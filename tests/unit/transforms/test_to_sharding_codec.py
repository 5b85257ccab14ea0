"""`ToShardingCodec`: one ordinary Zarr v3 whose objects hold unchanged chunks, for every reader of Zarr v3."""

import itertools
import json
import math
import re
import struct
from dataclasses import dataclass

import dask
import google_crc32c
import numpy as np
import obstore
import pytest
import xarray as xr
import zarr
from fuzz import examples
from helpers_jobs import CUBE, Fail, Slow, cube_at, division, kill_session, python, script_of, wait_until
from hypothesis import given, settings
from hypothesis import strategies as st
from readers import READERS, by_tensorstore, by_zarr
from sources import SOURCES, add_array, build, numbers, to_folder
from zarr.codecs import BytesCodec, ShardingCodec, TransposeCodec, ZstdCodec
from zarr.core.metadata.v3 import ArrayV3Metadata
from zarr.storage import MemoryStore

from shardedstore import ChainError, ShardedStore, ShardsFailed, Step
from shardedstore.codecs.sharding import ShardWriter
from shardedstore.errors import UsageError
from shardedstore.jobs.fingerprint import fingerprint
from shardedstore.transforms import MigrateV3, ToShardingCodec
from shardedstore.transforms.base.chain import Chain
from shardedstore.zarr.metadata import METADATA_NAMES

V2 = sorted(name for name in SOURCES if "-v2" in name and "-v3" not in name)
V3 = [name for name in SOURCES if name not in V2]
SMALL = 40  # bytes, so that an array in the base or in a group has several objects
MISSING = 2**64 - 1


@pytest.fixture(autouse=True)
def _in_this_thread():
    with dask.config.set(scheduler="synchronous"):
        yield


def convert(contents, folder, shards, *steps, size=SMALL):
    """Write a source to a folder, map it, and return the path of the result."""
    source = to_folder(contents, folder / "source.zarr")
    ShardedStore.partition(source, shards).map_shards(*steps, ToShardingCodec(folder / "out.zarr", object_size=size))
    return folder / "out.zarr"


def contents_at(folder):
    """The contents of a folder in the form of the sources."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# The contents of a Zarr v3, by zarr's metadata and the specification of the sharding codec


def documents_of(contents):
    return {k.rpartition("/")[0]: json.loads(v) for k, v in contents.items() if k.rpartition("/")[2] == "zarr.json"}


def arrays_of(contents):
    found = {path: document for path, document in documents_of(contents).items() if document["node_type"] == "array"}
    return {path: ArrayV3Metadata.from_dict(document) for path, document in found.items()}


def boxes(shape, chunks):
    return itertools.product(*(range(math.ceil(n / c)) for n, c in zip(shape, chunks, strict=True)))


def split(data, count):
    """The inner chunks of an object with its index at the end."""
    index = data[-16 * count - 4 :]
    assert google_crc32c.value(index[:-4]) == int.from_bytes(index[-4:], "little")
    values = struct.unpack(f"<{2 * count}Q", index[:-4])
    pairs = list(zip(values[::2], values[1::2], strict=True))
    stored = [pair for pair in pairs if pair != (MISSING, MISSING)]
    assert sum(size for _, size in stored) + len(index) == len(data)  # each byte belongs to a chunk or to the index
    return [None if pair == (MISSING, MISSING) else data[pair[0] : sum(pair)] for pair in pairs]


def chunks_of(contents):
    """The encoded (inner) chunks of each array by their place in its grid, and all other keys."""
    rest = {key: data for key, data in contents.items() if key.rpartition("/")[2] not in METADATA_NAMES}
    found = {}
    for path, meta in arrays_of(contents).items():
        outer = meta.chunk_grid.chunk_shape
        sharding = meta.codecs[0] if isinstance(meta.codecs[0], ShardingCodec) else None
        inner = outer if sharding is None else sharding.chunk_shape
        parts = tuple(n // c for n, c in zip(outer, inner, strict=True))
        chunks = found[path] = {}
        for place in boxes(meta.shape, outer):
            data = rest.pop("/".join(filter(None, [path, meta.encode_chunk_key(place)])), None)
            if data is None:
                continue
            some = [data] if sharding is None else split(data, math.prod(parts))
            for within, chunk in zip(itertools.product(*map(range, parts)), some, strict=True):
                if chunk is not None:
                    chunks[tuple(p * n + i for p, n, i in zip(place, parts, within, strict=True))] = chunk
    return found, rest


def zarrs_own(source, result):
    """The document that zarr writes for an array with these chunks and objects."""
    store = MemoryStore()
    zarr.create_array(
        store,
        shape=source.shape,
        dtype=source.metadata.data_type,
        chunks=source.chunks,
        shards=result.shards,
        filters=source.filters,
        serializer=source.serializer,
        compressors=source.compressors,
        fill_value=source.fill_value,
        attributes=source.attrs.asdict(),
        dimension_names=source.metadata.dimension_names,
    )
    return json.loads(store._store_dict["zarr.json"].to_bytes())


# Readers


def is_read_by_zarr(dtype):
    """Zarr 3.1 can neither read nor write structured elements under the sharding codec."""
    return dtype.kind != "V" or not zarr.__version__.startswith("3.1.")


def check_equal(out, contents, reader):
    """The reader finds the same values in every array as zarr in the source."""
    source = MemoryStore({key: zarr.core.buffer.cpu.Buffer.from_bytes(data) for key, data in contents.items()})
    arrays = arrays_of(contents)
    for path in arrays:
        expected = np.asarray(zarr.open_array(source, path=path, mode="r")[...])
        if expected.dtype.kind in "biufc" or (reader is by_zarr and is_read_by_zarr(expected.dtype)):
            np.testing.assert_array_equal(reader(out / path), expected, err_msg=path)
    return len(arrays)


DIVISIONS = {"divided": None, "by size": 30, "base alone": {}}
CASES = [
    pytest.param(name, SOURCES[name].shards if shards is None else shards, id=f"{name}-{label}")
    for name in V3
    for label, shards in DIVISIONS.items()
]


@pytest.mark.few(4)
@pytest.mark.parametrize(("name", "shards"), CASES)
def test_every_reader_finds_the_same_values_in_the_same_chunks(tmp_path, name, shards):
    contents = SOURCES[name].contents()
    out = convert(contents, tmp_path, shards)
    result = contents_at(out)
    assert chunks_of(result) == chunks_of(contents)
    for reader in READERS.values():
        assert check_equal(out, contents, reader)


@pytest.mark.parametrize(("name", "shards"), CASES)
@pytest.mark.few(12)
def test_metadata_are_what_zarr_writes_for_such_an_array(tmp_path, name, shards):
    contents = SOURCES[name].contents()
    out = convert(contents, tmp_path, shards)
    old, new = documents_of(contents), documents_of(contents_at(out))
    assert old.keys() == new.keys()
    objects = 0
    for path, document in new.items():
        if document["node_type"] == "group":
            assert {**document, "consolidated_metadata": None} == {**old[path], "consolidated_metadata": None}
            below = (document.get("consolidated_metadata") or {"metadata": {}})["metadata"]
            assert below.keys() == ((old[path].get("consolidated_metadata") or {"metadata": {}})["metadata"]).keys()
            for rest, known in below.items():
                assert without_consolidated(known) == without_consolidated(new["/".join(filter(None, [path, rest]))])
            continue
        result = zarr.open_array(out / path, mode="r")
        if document == old[path]:
            continue
        objects += 1
        source = zarr.open_array(tmp_path / "source.zarr" / path, mode="r")
        own = zarrs_own(source, result)
        assert document == own
        assert list(document) == list(own)
    assert objects or shards != SOURCES[name].shards


def without_consolidated(document):
    return {name: value for name, value in document.items() if name != "consolidated_metadata"}


def test_objects_follow_the_shards_and_elsewhere_the_size(tmp_path):
    out = convert(SOURCES["cube-v3/"].contents(), tmp_path, SOURCES["cube-v3/"].shards)
    shards = {path: zarr.open_array(out / path, mode="r").shards for path in arrays_of(contents_at(out))}
    assert shards == {
        "temperature": (4, 2, 6),  # {"time": 4, "y": 2}, and the rest whole: rounded up to whole chunks
        "wind_u": (3, 5, 2),  # (3, -1, 2)
        "wind_v": (3, 5, 2),
        "height": (10,),  # 40 bytes of 4
        "crs": None,
        "simulation/coarse/field": (2, 4),  # in a group shard, by the sink's object_size
        "simulation/fine/field": (2, 4),
    }


def test_xarray_opens_the_result(tmp_path):
    out = convert(SOURCES["dataset-v3"].contents(), tmp_path, SOURCES["dataset-v3"].shards)
    with (
        xr.open_datatree(out, engine="zarr") as result,
        xr.open_datatree(tmp_path / "source.zarr", engine="zarr") as tree,
    ):
        assert result.identical(tree)
        assert result["fine/temperature"].encoding["shards"] == (4, 6, 6)


def test_what_is_no_larger_than_the_size_is_copied(tmp_path):
    contents = SOURCES["cube-v3."].contents()
    out = convert(contents, tmp_path, {}, size="1 KiB")
    assert contents_at(out) == contents


def test_an_object_that_would_hold_one_chunk_is_copied(tmp_path):
    contents = build(lambda store: add_array(zarr.create_group(store), "a", numbers(8), (4,)))
    assert contents_at(convert(contents, tmp_path, {}, size=16)) == contents


def test_a_block_without_chunks_makes_no_object(tmp_path):
    contents = SOURCES["missing-v3"].contents()
    out = convert(contents, tmp_path, SOURCES["missing-v3"].shards)
    result = contents_at(out)
    assert [key for key in result if "/c/" in key] == ["sparse/c/1/1", "sparse/c/2/2"]
    assert zarr.open_array(out / "without", mode="r").shards == (4, 4)


@pytest.mark.few(3)
@pytest.mark.parametrize("name", V2)
def test_v2_is_refused_and_goes_through_migrate_v3(tmp_path, name):
    source = SOURCES[name]
    contents = source.contents()
    path = to_folder(contents, tmp_path / "source.zarr")
    with pytest.raises(ChainError, match=r"is Zarr v2: put MigrateV3\(\) \(--v3\) before ToShardingCodec"):
        ShardedStore.partition(path, source.shards).map_shards(ToShardingCodec(tmp_path / "out.zarr"))
    assert not (tmp_path / "out.zarr").exists()
    out = convert(contents, tmp_path, source.shards, MigrateV3())
    for key in contents:
        folder, _, name = key.rpartition("/")
        if name == ".zarray":
            expected = np.asarray(zarr.open_array(path / folder, mode="r")[...])
            if is_read_by_zarr(expected.dtype):
                np.testing.assert_array_equal(by_zarr(out / folder), expected, err_msg=folder)
    assert any(
        array.codecs[0].to_dict()["name"] == "sharding_indexed" for array in arrays_of(contents_at(out)).values()
    )


# Arrays that already use the sharding codec, and unknown arrays


def sharded(inner, index_location="end"):
    return ShardingCodec(chunk_shape=inner, codecs=[BytesCodec(), ZstdCodec()], index_location=index_location)


FORMS = {
    "index first": ([], sharded((2, 3), "start")),
    "index last": ([], sharded((1, 6))),
    "nested": ([], ShardingCodec(chunk_shape=(4, 3), codecs=[sharded((2, 3))])),
    "codecs around": ([TransposeCodec(order=(1, 0))], sharded((2, 2))),
    "big-endian index": ([], ShardingCodec(chunk_shape=(2, 3), index_codecs=[BytesCodec(endian="big")])),
}
REGROUPED = {"index first", "index last", "big-endian index"}
around = pytest.mark.filterwarnings("ignore:Combining a `sharding_indexed` codec disables partial reads")


def of_form(store, form):
    filters, serializer = FORMS[form]
    root = zarr.create_group(store)
    options = {"filters": filters, "serializer": serializer, "compressors": None}
    a = root.create_array("a", shape=(19, 13), chunks=(4, 6), dtype="i2", **options)
    a[:11, :7] = np.arange(1, 78).reshape(11, 7)
    a[18, 12] = 1


@around
@pytest.mark.parametrize("form", FORMS)
def test_objects_of_the_sharding_codec_are_regrouped_or_packed_as_they_are(tmp_path, form):
    contents = build(of_form, form)
    out = convert(contents, tmp_path, {"a": (8, 12)})
    for reader in READERS.values():
        check_equal(out, contents, reader)
    chunks = zarr.open_array(out / "a", mode="r").chunks
    assert zarr.open_array(out / "a", mode="r").shards == (8, 12)
    assert chunks == (FORMS[form][1].chunk_shape if form in REGROUPED else (4, 6))
    if form == "index last":
        assert chunks_of(contents_at(out)) == chunks_of(contents)


@around
@pytest.mark.parametrize("form", FORMS)
def test_in_the_base_objects_of_the_sharding_codec_are_copied(tmp_path, form):
    contents = build(of_form, form)
    assert contents_at(convert(contents, tmp_path, {}, size=200)) == contents


def test_a_damaged_object_is_reported(tmp_path):
    contents = dict(build(of_form, "index last"))
    contents["a/c/0/0"] = contents["a/c/0/0"][:-1]
    with pytest.raises(ShardsFailed, match="1 of 7 shards failed") as caught:
        convert(contents, tmp_path, {"a": (8, 12)})
    (failure,) = caught.value.exceptions
    assert failure.shard == "a[0/0]"
    assert re.search(
        r"CorruptError: shard 'a\[0/0\]': 'a/c/0/0' can't be decoded with sharding_indexed: ", failure.cause
    )


@pytest.mark.parametrize(
    "change",
    [
        {"chunk_grid": {"name": "rectilinear", "configuration": {"kind": "inline", "chunk_shapes": [[3, 7, 15], [9]]}}},
        {"chunk_key_encoding": {"name": "hilbert"}},
    ],
)
def test_an_array_in_a_grid_or_of_keys_unknown_is_copied(tmp_path, change):
    contents = dict(build(lambda store: add_array(zarr.create_group(store), "a", numbers(25, 9), (2, 3))))
    contents["a/zarr.json"] = json.dumps({**json.loads(contents["a/zarr.json"]), **change}).encode()
    assert contents_at(convert(contents, tmp_path, {})) == contents


# Properties


@st.composite
def divided(draw):
    """An array with missing chunks, and its division into shards in elements."""
    ndim = draw(st.integers(1, 3))
    chunks = tuple(draw(st.integers(1, 3)) for _ in range(ndim))
    shape = tuple(draw(st.integers(1, 9)) for _ in range(ndim))
    shards = None
    if draw(st.booleans()):
        shards = tuple(c * draw(st.integers(1, 2)) for c in chunks)
    data = np.arange(1, math.prod(shape) + 1, dtype="i4").reshape(shape)
    for place in boxes(shape, chunks):
        if draw(st.integers(0, 2)) == 0:
            data[tuple(slice(p * c, (p + 1) * c) for p, c in zip(place, chunks, strict=True))] = 0
    blocks = tuple(c * draw(st.integers(1, 4)) for c in shards or chunks)
    whole = draw(st.integers(1, ndim))
    return data, chunks, shards, (*blocks[:whole], *[-1] * (ndim - whole))


@settings(max_examples=examples(15))
@given(divided(), st.integers(1, 400))
def test_chunks_are_where_the_index_says(tmp_path_factory, case, size):
    data, chunks, shards, blocks = case
    store = MemoryStore()
    options = {"chunks": chunks, "shards": shards, "config": {"write_empty_chunks": False}}
    zarr.create_array(store, name="a", data=data, **options)
    zarr.create_array(store, name="b", data=-data, **options)
    contents = {key: value.to_bytes() for key, value in store._store_dict.items()}
    out = convert(contents, tmp_path_factory.mktemp("law"), {"a": blocks}, size=size)
    assert chunks_of(contents_at(out)) == chunks_of(contents)
    np.testing.assert_array_equal(by_zarr(out / "a"), data)
    np.testing.assert_array_equal(by_tensorstore(out / "b"), -data)


# Jobs that fail, die and resume


def undisturbed(folder, *steps):
    division(cube_at(folder / "source.zarr")).map_shards(
        *steps, ToShardingCodec(folder / "out.zarr", object_size=SMALL)
    )
    return contents_at(folder / "out.zarr")


@pytest.mark.parametrize("shard", ["temperature[1/2]", "simulation/fine", "(base)"])
def test_a_job_that_failed_goes_on_to_the_same_bytes(tmp_path, shard):
    chain = Fail(shard, str(tmp_path / "mended")), ToShardingCodec(tmp_path / "out.zarr", object_size=SMALL)
    source = division(cube_at(tmp_path / "source.zarr"))
    with pytest.raises(ShardsFailed, match="1 of 24 shards failed"):
        source.map_shards(*chain)
    assert not [path for path in (tmp_path / "out.zarr").rglob("*") if path.name == "zarr.json"]
    with pytest.raises(FileNotFoundError, match=r".*"):
        zarr.open(tmp_path / "out.zarr", mode="r")
    (tmp_path / "mended").touch()
    assert source.map_shards(*chain).summary.skipped == 23
    assert contents_at(tmp_path / "out.zarr") == undisturbed(tmp_path / "calm")


@pytest.mark.slow
def test_a_job_that_was_killed_goes_on_to_the_same_bytes(tmp_path):
    out = tmp_path / "out.zarr"
    cube_at(tmp_path / "source.zarr")
    script = script_of(__file__, f"slow_job({str(tmp_path)!r})")
    process = python("-c", script, log=tmp_path / "log")
    try:
        wait_until(lambda: len(list(out.glob("temperature/c/*/*/*"))) > 2, what="objects")
    finally:
        kill_session(process)
    assert not (out / "zarr.json").exists()
    assert slow_job(tmp_path).summary.skipped
    assert contents_at(out) == undisturbed(tmp_path / "calm")


def slow_job(folder):
    with dask.config.set(scheduler="synchronous"):
        store = ShardedStore.partition(f"{folder}/source.zarr", CUBE.shards)
        return store.map_shards(Slow(0.1), ToShardingCodec(f"{folder}/out.zarr", object_size=SMALL))


# Refusals


@dataclass(frozen=True)
class Reordered(Step):
    """Yields the entries of a shard in another order."""

    chunks_first: bool

    def __call__(self, entries, shard):
        every = list(entries)
        if self.chunks_first:
            return iter(sorted(every, key=lambda entry: entry.coords is None))
        documents = [entry for entry in every if entry.coords is None]
        chunks = every[len(documents) :]
        return iter(documents + chunks[::2] + chunks[1::2])


@pytest.mark.parametrize(
    ("chunks_first", "message"),
    [
        (True, "the chunks of 'simulation/coarse/field' come before its zarr.json: a step before the sink must pass"),
        (False, "other chunks come between the chunks of 'height/c/0': a step before the sink must keep the order"),
    ],
)
def test_a_step_that_changes_the_order_is_reported(tmp_path, chunks_first, message):
    with pytest.raises(ShardsFailed) as caught:
        convert(CUBE.contents(), tmp_path, ["simulation/coarse"], Reordered(chunks_first))
    assert any(message in failure.cause for failure in caught.value.exceptions), caught.value.exceptions


@pytest.mark.parametrize("shards", [{}, {"temperature": {"time": 4}}])
def test_a_file_with_the_name_of_an_object_is_reported(tmp_path, shards):
    contents = {
        **SOURCES["cube-v3-v2."].contents(),
        "temperature/c/0/0/0": b"a file",
        "temperature/c/9/0/0": b"outside",
    }
    with pytest.raises(ShardsFailed, match="1 of ") as caught:
        convert(contents, tmp_path, shards)
    (failure,) = caught.value.exceptions
    assert failure.shard == "(base)"
    message = "'temperature/c/0/0/0' is not a chunk of 'temperature', but has the name of one of its objects of the sharding codec"
    assert message in failure.cause


@pytest.mark.parametrize("size", [0, "", "0 MiB", "large", "-1 GiB"])
def test_a_size_that_is_none_is_refused(size):
    with pytest.raises(ChainError, match=rf"object_size is {size!r}: give a size, such as '1 GiB'"):
        ToShardingCodec("out.zarr", object_size=size)


def test_a_chunk_can_stand_in_an_object_once():
    writer = ShardWriter(lambda parts: None, 2)
    writer.add(1, b"a")
    with pytest.raises(UsageError, match="the object has an inner chunk 1 already"):
        writer.add(1, b"b")


def test_the_fingerprint_knows_the_size_but_not_the_place():
    def token(*arguments, **options):
        return fingerprint(Chain((), ToShardingCodec(*arguments, **options)))

    assert token("a") == token("b") != token("a", object_size="2 GiB")


@pytest.mark.s3
def test_objects_in_the_cloud(bucket, tmp_path):
    """Names with URL quoting, multipart objects, and equal bytes as in a local result."""
    data = np.random.default_rng(1).integers(0, 255, (40, 1 << 19), "u1")
    contents = build(in_the_cloud, data.tobytes())
    local = convert(contents, tmp_path, {"a b%20": (32, -1)}, size="4 MiB")
    source = ShardedStore.partition(tmp_path / "source.zarr", {"a b%20": (32, -1)})
    source.map_shards(ToShardingCodec(f"{bucket.url}/out.zarr", object_size="4 MiB"))
    found = {o["path"]: o["size"] for batch in obstore.list(bucket.client) for o in batch}
    expected = contents_at(local)
    assert {key: found[f"out.zarr/{key}"] for key in expected} == {key: len(value) for key, value in expected.items()}
    for key in expected:
        assert bytes(obstore.get(bucket.client, f"out.zarr/{key}").bytes()) == expected[key]
    np.testing.assert_array_equal(by_zarr(local / "a b%20"), data)


def in_the_cloud(store, data):
    root = zarr.create_group(store)
    array = np.frombuffer(data, "u1").reshape(40, -1)
    add_array(root, "a b%20", array, (8, 1 << 16), compressors=None)
    add_array(root, "base", array[:20], (1, 1 << 19), compressors=None)


def test_a_chunk_of_no_bytes_is_not_taken_for_a_missing_one(tmp_path):
    """Otherwise, a reader of a part of an object would give fill values where the source raises."""
    root = zarr.create_group(tmp_path / "source.zarr")
    root.create_array("a", data=np.arange(1, 9), chunks=(2,))
    (tmp_path / "source.zarr" / "a" / "c" / "2").write_bytes(b"")
    with pytest.raises(ShardsFailed, match="1 of 3 shards failed") as caught, dask.config.set(scheduler="synchronous"):
        ShardedStore.partition(tmp_path / "source.zarr", {"a": (4,)}).map_shards(ToShardingCodec(tmp_path / "out.zarr"))
    assert "it has 0 bytes, but a chunk in an object of the sharding codec can't be empty" in str(
        caught.value.exceptions[0]
    )
