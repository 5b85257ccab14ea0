"""What a report tells of a difference is told by its attributes too."""

import json

import pytest
import zarr

from shardedstore import ShardedStore
from shardedstore.transforms import CopyTo, ToZip
from tests.unit.verify.test_verify import CHUNK, ZIP, flip, offset, one_process, only, rewrite, source, zipped

__all__ = ["one_process", "source", "zipped"]


def test_an_object_that_is_missing(zipped, tmp_path):
    size = (tmp_path / ZIP).stat().st_size
    (tmp_path / ZIP).unlink()
    found = only(zipped.verify(level="exists"))
    assert (found.kind, found.shard, found.path, found.block) == ("missing", "temperature[1/0]", "temperature", (1, 0))
    assert found.url == str(tmp_path / ZIP)
    assert (found.found, found.expected["nbytes"]) == (None, size)
    assert "--mark" in found.advice


def test_an_object_of_another_size(zipped, tmp_path):
    size = (tmp_path / ZIP).stat().st_size
    (tmp_path / ZIP).write_bytes((tmp_path / ZIP).read_bytes() + b"more")
    found = only(zipped.verify(level="exists"))
    assert (found.kind, found.found, found.expected["nbytes"]) == ("size", {"nbytes": size + 4}, size)
    assert f"{size + 4:,}" in found.what


def test_an_entry_that_is_damaged(zipped, tmp_path):
    flip(tmp_path / ZIP, offset(tmp_path / ZIP, CHUNK) + 3)
    found = only(zipped.verify())
    assert (found.kind, found.key, found.url) == ("damaged", CHUNK, str(tmp_path / ZIP))
    assert found.cause
    assert found.cause in found.what


def test_stored_bytes_that_are_not_those_of_the_record(source, tmp_path):
    result = source.map_shards(CopyTo(tmp_path / "out", layout="shards"))
    flip(next(path for path in sorted((tmp_path / "out/temperature/1/0.zarr/c").rglob("*")) if path.is_file()), 3)
    found = only(result.verify())
    assert (found.kind, found.path, found.block) == ("record", "temperature", (1, 0))
    assert found.url == str(tmp_path / "out/temperature/1/0.zarr")
    assert found.found.keys() == found.expected.keys() == {"digest"}
    assert found.found != found.expected


def test_a_chunk_that_is_missing(source, zipped, tmp_path):
    rewrite(tmp_path / ZIP, lambda members: members.pop(CHUNK))
    found = [difference for difference in zipped.verify(source).differences if difference.chunk is not None]
    (difference,) = found
    assert (difference.kind, difference.array) == ("missing", "temperature")
    assert difference.found["value"] == "0.0"
    assert difference.expected.keys() == {"digest", "value", "key", "url"}
    assert (difference.path, difference.block) == ("temperature", (1, 0))


def test_arrays_of_other_shapes(source, tmp_path):
    result = source.map_shards(CopyTo(tmp_path / "out.zarr"))
    other = zarr.open_group(tmp_path / "other.zarr", mode="w", zarr_format=3)
    array = zarr.open_group(result, mode="r")["temperature"]
    other.create_array("temperature", shape=(1, *array.shape[1:]), chunks=array.chunks, dtype=array.dtype)
    report = result.verify(ShardedStore.partition(tmp_path / "other.zarr"))
    (found,) = (difference for difference in report.differences if difference.kind == "layout")
    assert (found.array, found.found, found.expected) == (
        "temperature",
        {"shape": array.shape},
        {"shape": (1, *array.shape[1:])},
    )


def test_a_file_that_one_zarr_lacks(source, tmp_path):
    result = source.map_shards(CopyTo(tmp_path / "out.zarr"))
    next(path for path in sorted((tmp_path / "out.zarr/temperature/c").rglob("*")) if path.is_file()).unlink()
    found = only(result.verify(level="exists"))
    assert found.kind == "missing"
    assert found.found["entries"] == found.expected["entries"] - 1
    assert found.path == "temperature"


@pytest.mark.parametrize("sink", [ToZip, CopyTo])
def test_a_report_as_json_has_all_attributes(source, tmp_path, sink):
    result = source.map_shards(sink(tmp_path / "out"))
    for path in sorted((tmp_path / "out").rglob("*")):
        if path.is_file() and "temperature" in path.parts and path.suffix != ".json":
            path.unlink()
    report = result.verify(level="exists")
    assert not report.ok
    told = json.loads(json.dumps(report.to_dict()))["differences"]
    assert [difference["path"] for difference in told] == [difference.path for difference in report.differences]


def test_a_group_whose_document_is_lost(tmp_path):
    for name in ("one", "other"):
        root = zarr.create_group(tmp_path / name)
        root.create_group("g").create_array("t", shape=(2,), dtype="i4")
    (tmp_path / "other/g/zarr.json").unlink()
    one, other = (ShardedStore.partition(tmp_path / name) for name in ("one", "other"))
    found = only(other.verify(one))
    assert (found.kind, found.array, found.what) == ("missing", "g", "the group 'g' has a document in the source only")
    assert one.verify(other).ok
