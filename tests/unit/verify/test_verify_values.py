"""`verify` of any two Zarrs: values are compared block by block where digests can't be."""

import warnings
from pathlib import Path

import dask
import numpy as np
import pytest
import zarr
from click.testing import CliRunner

from shardedstore import ShardedStore, UsageError, cli
from shardedstore.transforms import ToZip

DATA = np.arange(1, 97, dtype="f4").reshape(8, 12)


@pytest.fixture(autouse=True)
def one_process():
    with dask.config.set(scheduler="synchronous"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def made(folder: Path, data=DATA, chunks=(2, 4), zarr_format=3, **options) -> ShardedStore:
    root = zarr.create_group(folder, zarr_format=zarr_format)
    array = root.create_array("g/t", shape=data.shape, dtype=options.pop("dtype", data.dtype), chunks=chunks, **options)
    array[...] = data
    return ShardedStore.partition(folder)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, {"chunks": (3, 5)}),
        ({}, {"chunks": (8, 12)}),
        ({}, {"chunks": (4, 4), "shards": (8, 8)}),
        ({}, {"chunks": (3, 5), "zarr_format": 2}),
        ({}, {"chunks": (3, 5), "zarr_format": 2, "dtype": ">f4"}),
        ({}, {"chunks": (3, 5), "compressors": zarr.codecs.GzipCodec()}),
        ({"zarr_format": 2, "order": "F"}, {"chunks": (3, 5)}),
    ],
)
def test_equal_values_in_other_chunks(one, other, tmp_path):
    report = made(tmp_path / "one", **one).verify(made(tmp_path / "other", **other))
    assert report.ok, str(report)
    assert report.compared_by == {"g/t": "values"}
    assert report.arrays == 1
    assert any("'g/t' was compared by values, block by block, as its chunks are" in note for note in report.notes)


TYPES = {
    "texts": np.array(["ä", "", "a long text", "b", "c"], dtype=object),
    "fixed texts": np.array(["ä", "", "bc", "b", "c"]),
    "dates": np.array(["2000-01-01", "NaT", "1969-12-31", "NaT", "2001-01-01"], dtype="M8[s]"),
    "records": np.array([(1, 2.5), (3, np.nan), (5, 6), (7, 8), (9, 0)], dtype=[("a", "i4"), ("b", "f8")]),
    "flags": np.array([True, False, True, False, False]),
    "complex": np.array([1j, 2, np.nan, 4, 5]),
    "nan": np.array([1, np.nan, np.inf, -0.0, 0.0]),
}


@pytest.mark.parametrize("kind", TYPES)
def test_all_types(kind, tmp_path):
    data = TYPES[kind]
    options = {"dtype": str} if data.dtype == object else {}
    one = made(tmp_path / "one", data, (2,), **options)
    assert one.verify(made(tmp_path / "other", data, (3,), **options)).ok
    changed = data.copy()
    changed[3] = data[0]
    (found,) = one.verify(made(tmp_path / "changed", changed, (3,), **options)).differences
    assert (found.kind, found.array, found.chunk) == ("data", "g/t", (1,))
    assert "at (3,) it is" in found.what


def test_zeros_of_different_signs_differ_and_every_nan_is_equal(tmp_path):
    other_nan = np.frombuffer(b"\1\0\xc0\x7f", "<f4")[0]
    one = made(tmp_path / "one", np.array([np.nan, 0.0], "f4"), (1,))
    assert one.verify(made(tmp_path / "two", np.array([other_nan, 0.0], "f4"), (2,))).ok
    (found,) = one.verify(made(tmp_path / "three", np.array([np.nan, -0.0], "f4"), (2,))).differences
    assert (found.found["value"], found.expected["value"]) == ("0.0", "-0.0")


def test_a_difference_names_element_values_keys_and_urls(tmp_path):
    changed = DATA.copy()
    changed[5, 7:9] = -1
    one = made(tmp_path / "one")
    for name, chunks, key in (("other", (3, 5), "g/t/c/1/1"), ("same", (2, 4), "g/t/c/2/1")):
        report = one.verify(made(tmp_path / name, changed, chunks))
        found = report.differences[0]
        assert (found.array, found.chunk, found.key) == ("g/t", (2, 1), "g/t/c/2/1")
        assert "at (5, 7) it is 68.0 in the result and -1.0 in the source" in str(report)
        assert {**found.found, "digest": None} == {
            "value": "68.0",
            "key": "g/t/c/2/1",
            "url": str(tmp_path / "one"),
            "digest": None,
        }
        assert {**found.expected, "digest": None} == {
            "value": "-1.0",
            "key": key,
            "url": str(tmp_path / name),
            "digest": None,
        }
    assert "1 more elements differ" in str(one.verify(ShardedStore.partition(tmp_path / "other")))


def test_missing_chunks_hold_the_fill_value(tmp_path):
    data = np.zeros((8, 12), "f4")
    data[0, 0] = 1
    one = made(tmp_path / "one", data, config={"write_empty_chunks": True})
    assert one.verify(made(tmp_path / "other", data, (3, 5))).ok
    (found,) = one.verify(made(tmp_path / "filled", data, (3, 5), fill_value=7)).differences
    assert found.kind == "layout"
    assert found.what == "'g/t' has the fill value 0.0 in the result and 7.0 in the source"
    empty = made(tmp_path / "empty", data, (3, 5))
    (tmp_path / "empty/g/t/c/0/0").unlink()
    (found,) = one.verify(empty).differences
    assert "at (0, 0) it is 1.0 in the result and 0.0 in the source" in found.what


def test_a_damaged_chunk_is_named(tmp_path):
    one, other = made(tmp_path / "one"), made(tmp_path / "other", chunks=(3, 5))
    (tmp_path / "other/g/t/c/1/1").write_bytes(b"damage")
    (found,) = one.verify(other).differences
    assert (found.kind, found.key, found.is_of_source) == ("damaged", "g/t/c/1/1", True)
    assert "the source: 'g/t/c/1/1' of 'g/t' can't be read" in found.what
    (found,) = other.verify(one).differences
    assert (found.kind, found.key, found.is_of_source) == ("damaged", "g/t/c/1/1", False)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"data": DATA[:4]}, "has the shape (8, 12) in the result and (4, 12) in the source"),
        ({"dtype": "f8"}, "has the data type"),
    ],
)
def test_other_shapes_and_types_can_not_be_compared(options, text, tmp_path):
    (found, *_) = made(tmp_path / "one").verify(made(tmp_path / "other", chunks=(3, 5), **options)).differences
    assert found.kind == "layout"
    assert text in found.what


def test_a_result_of_zips(tmp_path):
    source = made(tmp_path / "one")
    result = source.map_shards(ToZip(tmp_path / "zips"))
    assert result.verify(made(tmp_path / "other", chunks=(3, 5))).ok


def test_large_arrays_are_read_once_and_in_many_blocks(tmp_path):
    data = np.arange(3_000_000, dtype="i8")
    one = ShardedStore.partition(made(tmp_path / "one", data, (10_000,)), {"g/t": (1_000_000,)})
    data = data.copy()
    data[[0, 2_999_999]] = -5
    report = one.verify(ShardedStore.partition(made(tmp_path / "other", data, (20_000,)), {"g/t": (800_000,)}))
    assert [difference.found["value"] for difference in report.differences] == ["0", "2999999"]


def test_include_and_exclude(tmp_path):
    stores = []
    for name in ("one", "other"):
        made(tmp_path / name)
        root = zarr.open_group(tmp_path / name)
        root.create_array("only-" + name, data=np.arange(3))
        root.create_array("h", data=np.arange(3) + len(name))
        stores.append(ShardedStore.partition(tmp_path / name))
    one, other = stores
    assert {d.array for d in one.verify(other).differences} == {"h", "only-one", "only-other"}
    assert one.verify(other, include="g").ok
    assert one.verify(other, exclude=["h", "only-*"]).ok
    assert {d.array for d in one.verify(other, include=["g", "only-one"]).differences} == {"only-one"}
    for wrong, text in (
        ({"include": "nothing"}, "which is in neither Zarr"),
        ({"include": "only-one"}, "leaves nothing of"),
    ):
        with pytest.raises(UsageError, match=text):
            one.verify(other, **wrong)
    with pytest.raises(UsageError, match="include and exclude are for a comparison"):
        one.verify(level="exists", include="g")
    run = CliRunner().invoke(
        cli.main, ["verify", str(tmp_path / "one"), "--against", str(tmp_path / "other"), "--include", "g"]
    )
    assert run.exit_code == 0
    run = CliRunner().invoke(cli.main, ["verify", str(tmp_path / "one"), "--against", str(tmp_path / "other")])
    assert run.exit_code == 1


def test_equal_blocks_are_not_compared_again(tmp_path):
    one, other = made(tmp_path / "one"), made(tmp_path / "other", chunks=(3, 5))
    zarr.create_array(tmp_path / "other", name="h", data=np.arange(30), chunks=(2,), overwrite=True)
    zarr.create_array(tmp_path / "one", name="h", data=np.arange(30), chunks=(3,), overwrite=True)
    chunk = tmp_path / "other/h/c/0"
    kept = chunk.read_bytes()
    chunk.write_bytes(b"damage")
    report = one.verify(other, resume=tmp_path / "kept")
    assert [d.kind for d in report.differences] == ["damaged"]
    chunk.write_bytes(kept)
    assert one.verify(other, resume=tmp_path / "kept").ok
