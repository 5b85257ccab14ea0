"""`verify` against a source that zarr can't decode: at the deepest common level, which the report names."""

import json
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path

import dask
import numcodecs
import numpy as np
import pytest
import zarr

from shardedstore import ShardedStore
from shardedstore.transforms import CopyTo, MigrateV3, Recompress, ToShardingCodec, ToZip

RECORDS = [["x", "<i4"], ["v", "<f8", [3]], ["in", [["a", "<i2"], ["b", "|S3"]]]]
WORDS = np.array(["a", "bc", "", "d"], object)
MIXED = np.array(["a", None, 1, [2]], object)
Filters = list[dict]


@pytest.fixture(autouse=True)
def one_process():
    with dask.config.set(scheduler="synchronous"):
        yield


def v2(dtype, fill=None, filters: Filters | None = None, **others) -> dict:
    return {
        "zarr_format": 2,
        "shape": [4],
        "chunks": [2],
        "dtype": dtype,
        "fill_value": fill,
        "order": "C",
        "filters": filters,
        "compressor": {"id": "zlib", "level": 1},
        **others,
    }


def v3(data_type, codecs, fill=0, chunk=2, **others) -> dict:
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [4],
        "data_type": data_type,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [chunk]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": fill,
        "codecs": codecs,
        "attributes": {},
        **others,
    }


def write(folder: Path, document: dict, chunks: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True)
    name = ".zarray" if document["zarr_format"] == 2 else "zarr.json"
    (folder / name).write_text(json.dumps(document))
    for key, data in chunks.items():
        path = folder / key
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    return folder


def objects(codec: numcodecs.abc.Codec, values: np.ndarray, fill=None) -> Callable[[Path], Path]:
    chunks = {str(i): zlib.compress(bytes(codec.encode(values[2 * i : 2 * i + 2]))) for i in (0, 1)}
    return lambda folder: write(folder, v2("|O", fill, [codec.get_config()]), chunks)


def numbers(dtype, itemsize: int, fill=None) -> Callable[[Path], Path]:
    chunks = {str(i): zlib.compress(bytes(range(1 + i, 1 + i + 2 * itemsize))) for i in (0, 1)}
    return lambda folder: write(folder, v2(dtype, fill), chunks)


CATEGORIES = numcodecs.Categorize(labels=["a", "bc", "d"], dtype=object, astype="u1")
OLD = {
    "json2": objects(numcodecs.JSON(), WORDS),
    "json2 of anything": objects(numcodecs.JSON(), MIXED, 0),
    "msgpack2": objects(numcodecs.MsgPack(), WORDS),
    "pickle": objects(numcodecs.Pickle(), MIXED),
    "vlen-array": objects(numcodecs.VLenArray("<i4"), np.array([np.arange(i) for i in range(4)], object)),
    "categorize": objects(CATEGORIES, WORDS),
    "records": numbers(RECORDS, 4 + 24 + 5),
    "records, fill 0": numbers(RECORDS, 4 + 24 + 5, 0),
    "bfloat16": numbers("bfloat16", 2),
    "float8": numbers("float8_e4m3fn", 1, 0),
    "out of range": numbers("|u1", 1, -9999),
    "text for a number": numbers("<i4", 4, ""),
    "unit without a number": numbers("<M8", 8),
    "void": numbers("|V5", 5),
}


def differing(folder: Path) -> None:
    """Change one value in an array of two chunks; the other bytes stay."""
    chunk = folder / "1"
    raw = bytearray(zlib.decompress(chunk.read_bytes()))
    raw[-1] ^= 1
    chunk.write_bytes(zlib.compress(bytes(raw)))


@pytest.mark.parametrize("name", OLD)
def test_what_recompress_has_made_is_equal_to_its_source(name, tmp_path):
    folder = OLD[name](tmp_path / "source")
    source = ShardedStore.partition(folder)
    result = source.map_shards(Recompress("zstd"), CopyTo(tmp_path / "out"))
    report = result.verify(source)
    assert report.ok, str(report)
    assert report.compared_by[""] in ("decoded", "decompressed")
    told = any("compared by" in note and "decompressed bytes" in note for note in report.notes)
    assert told == (report.compared_by[""] == "decompressed"), report.notes
    differing(folder)
    report = result.verify(source)
    assert not report.ok
    assert [d.chunk for d in report.differences] == [(1,)], str(report)


@pytest.mark.parametrize("name", ["json2", "msgpack2", "categorize"])
def test_texts_are_compared_decoded_after_a_migration(name, tmp_path):
    source = ShardedStore.partition(OLD[name](tmp_path / "source"))
    report = source.map_shards(MigrateV3(), ToZip(tmp_path / "out")).verify(source)
    assert report.ok, str(report)
    assert (report.compared_by, report.notes) == ({"": "decoded"}, ())


def test_objects_that_are_no_texts_are_compared_by_their_bytes(tmp_path):
    source = ShardedStore.partition(OLD["json2 of anything"](tmp_path / "source"))
    report = source.map_shards(Recompress("gzip"), CopyTo(tmp_path / "out")).verify(source)
    assert report.ok
    assert report.notes == ("'': 2 chunks were compared by decompressed bytes, as they can't be decoded",)


BYTES = {"name": "bytes", "configuration": {"endian": "little"}}
GZIP = {"name": "gzip", "configuration": {"level": 1}}


def sharding(chunk: int, *codecs: dict, index: list | None = None) -> dict:
    options = {
        "chunk_shape": [chunk],
        "codecs": list(codecs),
        "index_codecs": [BYTES, {"name": "crc32c"}] if index is None else index,
    }
    return {"name": "sharding_indexed", "configuration": options}


PACKED = {
    "nested": [sharding(4, sharding(2, BYTES, GZIP))],
    "index without a checksum": [sharding(2, BYTES, index=[BYTES])],
    "big-endian index": [sharding(2, BYTES, index=[{"name": "bytes", "configuration": {"endian": "big"}}])],
    "compressed around": [sharding(2, BYTES), GZIP],
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", PACKED)
def test_forms_of_the_sharding_codec_are_compared_decoded(name, tmp_path):
    """Equal values in other objects, and one different value."""
    for place, codecs in (("one", PACKED[name]), ("other", [BYTES, GZIP])):
        folder = write(tmp_path / place, v3("int32", codecs, chunk=4 if place == "one" else 2, shape=[8]), {})
        zarr.open_array(folder, mode="r+")[:] = np.array([1, 2, 0, 0, 3, 4, 5, 6])
    one, other = (ShardedStore.partition(tmp_path / place) for place in ("one", "other"))
    report = one.verify(other)
    assert report.ok, str(report)
    assert report.compared_by == {"": "decoded"}
    zarr.open_array(tmp_path / "other", mode="r+")[7] = 0
    assert [d.chunk for d in one.verify(other).differences] == [(3,)]


UNKNOWN = {
    "serializer of numcodecs": v3("int32", [{"name": "numcodecs.no_such", "configuration": {}}]),
    "serializer": v3("int32", [{"name": "https://example.com/no-such"}]),
    "compressor": v3("int32", [BYTES, {"name": "https://example.com/no-such"}]),
    "filter": v3("int32", [{"name": "no-such"}, BYTES]),
    "data type": v3({"name": "no-such"}, [BYTES]),
    "compressor of v2": v2("<i4", compressor={"id": "no-such"}),
    "filter of v2": v2("<i4", 0, [{"id": "no-such"}], compressor=None),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", UNKNOWN)
def test_a_copy_is_equal_where_a_codec_is_missing(name, tmp_path):
    document = UNKNOWN[name]
    keys = ("0", "1") if document["zarr_format"] == 2 else ("c/0", "c/1")
    folder = write(tmp_path / "source", document, dict(zip(keys, (b"first", b"second"), strict=True)))
    source = ShardedStore.partition(folder)
    result = source.map_shards(ToZip(tmp_path / "out"))
    report = result.verify(source)
    assert report.ok, str(report)
    assert report.compared_by[""] in ("decompressed", "stored")
    assert f"was compared by its {report.compared_by['']} bytes" in str(report)
    (folder / keys[1]).write_bytes(b"s3cond")
    assert [d.chunk for d in result.verify(source).differences] == [(1,)]


@pytest.mark.filterwarnings("ignore")
def test_a_codec_that_fails_when_it_decodes(tmp_path):
    """The codec pcodec without its library: zarr knows the codec, but fails for each chunk."""
    codecs = [{"name": "numcodecs.pcodec", "configuration": {}}]
    chunks = {"c/0": b"pco!1234", "c/1": b"pco!5678"}
    folder = write(tmp_path / "source", v3("int32", codecs), chunks)
    source = ShardedStore.partition(folder)
    report = source.map_shards(CopyTo(tmp_path / "out")).verify(source)
    assert report.ok, str(report)
    assert report.compared_by == {"": "decompressed"}
    assert "2 chunks were compared by decompressed bytes, as they can't be decoded ('c/0' " in str(report)


# Damage


def compressed(folder: Path, zarr_format: int = 3, **options) -> Path:
    array = zarr.create_array(
        folder, shape=(8,), chunks=(2,), dtype="i4", zarr_format=zarr_format, compressors="auto", **options
    )
    array[:] = np.arange(1, 9)
    return folder


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_chunk_that_is_damaged_on_both_sides_is_equal_by_its_bytes(zarr_format, tmp_path):
    folder = compressed(tmp_path / "source", zarr_format)
    key = {2: "2", 3: "c/2"}[zarr_format]
    (folder / key).write_bytes(b"rubbish")
    source = ShardedStore.partition(folder)
    result = source.map_shards(CopyTo(tmp_path / "out"))
    report = result.verify(source)
    assert report.ok, str(report)
    (note,) = report.notes
    assert note.startswith("'': 1 chunk was compared by stored bytes, as it can't be decoded ('")
    assert report.compared_by == {"": "decoded"}
    (tmp_path / "out" / key).write_bytes(b"rubbisH")
    report = result.verify(source)
    assert [(d.kind, d.chunk, d.is_of_source) for d in report.differences] == [
        ("damaged", (2,), False),
        ("damaged", (2,), True),
    ]


def test_equal_rubbish_of_other_codecs_is_not_equal(tmp_path):
    for place, codec in (("one", "gzip"), ("other", "zstd")):
        folder = zarr.create_array(
            tmp_path / place, shape=(8,), chunks=(2,), dtype="i4", compressors={"name": codec, "configuration": {}}
        )
        folder[:] = np.arange(1, 9)
        (tmp_path / place / "c/2").write_bytes(b"rubbish")
    report = ShardedStore.partition(tmp_path / "one").verify(tmp_path / "other")
    assert {(d.kind, d.chunk) for d in report.differences} == {("damaged", (2,))}


def test_rubbish_is_not_equal_to_a_missing_chunk(tmp_path):
    source = compressed(tmp_path / "source")
    shutil.copytree(source, tmp_path / "copy")
    (source / "c/2").write_bytes(b"rubbish")
    (tmp_path / "copy/c/2").unlink()
    report = ShardedStore.partition(tmp_path / "copy").verify(source)
    assert [(d.kind, d.chunk, d.is_of_source) for d in report.differences] == [("damaged", (2,), True)]


def test_a_damaged_inner_chunk_stays_equal_in_another_object(tmp_path):
    folder = compressed(tmp_path / "source")
    (folder / "c/2").write_bytes(b"rubbish")
    source = ShardedStore.partition(folder, {"": (4,)})
    result = source.map_shards(ToShardingCodec(tmp_path / "out"))
    report = result.verify(source)
    assert report.ok, str(report)
    assert "1 chunk was compared by stored bytes" in str(report)
    (folder / "c/3").write_bytes(b"rubbish")
    assert [(d.kind, d.chunk, d.is_of_source) for d in result.verify(source).differences] == [("damaged", (3,), True)]


def test_an_object_that_can_not_be_taken_apart(tmp_path):
    folder = compressed(tmp_path / "source", shards=(4,))
    stored = (folder / "c/1").read_bytes()
    (folder / "c/1").write_bytes(stored[:-1])
    source = ShardedStore.partition(folder)
    result = source.map_shards(CopyTo(tmp_path / "out"))
    assert result.verify(source).ok
    (folder / "c/1").write_bytes(stored)
    report = result.verify(source)
    assert "damaged" in {d.kind for d in report.differences}
    assert not any(d.is_of_source for d in report.differences)


def test_the_ledger_of_digests_is_as_it_was(tmp_path):
    """Digests of undecodable arrays are those of their stored bytes."""
    source = ShardedStore.partition(OLD["bfloat16"](tmp_path / "source"))
    result = source.map_shards(CopyTo(tmp_path / "out"), digest=True)
    assert result.verify(level="decoded").ok
    (tmp_path / "source/0").write_bytes(b"rubbish")
    assert result.verify(level="decoded").ok


def test_a_codec_that_runs_code_is_never_decoded(tmp_path):
    """A pickle in a chunk of numbers would make a file when it is decoded."""
    proof = tmp_path / "proof"
    root = zarr.create_group(tmp_path / "a.zarr", zarr_format=2)
    root.create_array("t", data=np.arange(4, dtype="i4"), chunks=(4,), compressors=None)
    document = json.loads((tmp_path / "a.zarr/t/.zarray").read_text())
    chunk = f"cpathlib\nPath\n(V{proof}\ntRp0\n0cpathlib\nPath.touch\n(g0\ntR.".encode()
    for changed in ({"filters": [{"id": "pickle"}]}, {"compressor": {"id": "pickle"}}):
        (tmp_path / "a.zarr/t/.zarray").write_text(json.dumps({**document, **changed}))
        (tmp_path / "a.zarr/t/0").write_bytes(chunk)
        store = ShardedStore.partition(tmp_path / "a.zarr")
        report = store.verify(store)
        assert report.ok
        assert report.compared_by["t"] in ("stored", "decompressed")
        assert not proof.exists()
