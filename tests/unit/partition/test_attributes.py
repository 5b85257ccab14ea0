"""Attributes of arrays: the base has all, and a block's object has those that its readers need."""

import json
import zipfile
from dataclasses import dataclass

import dask
import numpy as np
import pytest
import xarray as xr
import zarr
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from zarr.storage import LocalStore, ZipStore

from shardedstore import ShardedStore, Step, array_shard_directory_store, step
from shardedstore.cli import main
from shardedstore.transforms import CopyTo, MapChunks, MigrateV3, Recompress, ToShardingCodec, ToZip
from shardedstore.zarr.attributes import MOST, NEEDED, attributes_in, carried, completed, left_out
from shardedstore.zarr.metadata import dump_json

LARGE = {"history": "x" * 5_000_000}
NAMES = {2: ".zattrs", 3: "zarr.json"}
FORMATS = pytest.mark.parametrize("zarr_format", [2, 3])


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "source.zarr"


def build(folder, zarr_format, attributes=LARGE):
    """An array of four shards that xarray scales and masks."""
    array = xr.DataArray(np.arange(40, dtype="f4").reshape(8, 5), dims=("time", "x"))
    array.encoding.update(chunks=(2, 5), scale_factor=0.5, dtype="i2", _FillValue=-1)
    xr.Dataset({"t": array}).to_zarr(folder, zarr_format=zarr_format, consolidated=False)
    zarr.open_array(folder / "t", mode="a").attrs.update({"units": "K", **attributes})
    return ShardedStore.partition(folder, {"t": (2, 5)})


def attributes_of(store):
    return dict(zarr.open_group(store, mode="r")["t"].attrs)


def zips_of(folder):
    return sorted((folder / "t").rglob("*.zip"))


def document_in(path, name):
    with zipfile.ZipFile(path) as archive:
        return archive.read(name)


@dataclass(frozen=True)
class NeedsHistory(Step):
    """Fails for a shard whose array lacks an attribute."""

    def __call__(self, entries, shard):
        for entry in entries:
            if entry.key in NAMES.values() and shard.path == "t":
                assert "history" in attributes_in(entry.key, bytes(entry.data), shard.path)
            yield entry


@FORMATS
def test_blocks_carry_what_a_reader_of_them_needs(folder, tmp_path, zarr_format):
    source = build(folder, zarr_format)
    result = source.map_shards(ToZip(tmp_path / "out"))
    assert attributes_of(result) == attributes_of(LocalStore(folder)) == {**attributes_of(result), **LARGE}
    zips = zips_of(tmp_path / "out")
    assert [path.stat().st_size < 5000 for path in zips] == [True] * 4
    expected = xr.open_zarr(folder, consolidated=False)["t"]
    xr.testing.assert_identical(xr.open_zarr(result, consolidated=False)["t"], expected)
    for i, path in enumerate(zips):
        block = zarr.open_array(ZipStore(path, mode="r"))
        assert "history" not in block.attrs
        assert block.attrs["units"] == "K"
        np.testing.assert_array_equal(block[...] * block.attrs["scale_factor"], expected[2 * i : 2 * i + 2])
    assert result.verify(source).ok


@FORMATS
def test_documents_without_large_attributes_stay_as_they_were(folder, tmp_path, zarr_format):
    build(folder, zarr_format, {"history": "x" * 1000}).map_shards(ToZip(tmp_path / "out"))
    name = NAMES[zarr_format]
    whole = (folder / "t" / name).read_bytes()
    expected = whole if zarr_format == 2 else dump_json({**json.loads(whole), "shape": [2, 5]})
    assert [document_in(path, name) for path in zips_of(tmp_path / "out")] == [expected] * 4


@FORMATS
def test_a_job_over_such_a_result_sees_all_attributes(folder, tmp_path, zarr_format):
    build(folder, zarr_format)
    first = ShardedStore.load(build_zips(folder, tmp_path / "one"))
    second = first.map_shards(NeedsHistory(), Recompress("gzip"), ToZip(tmp_path / "two"))
    assert attributes_of(second) == attributes_of(LocalStore(folder))
    assert [path.stat().st_size < 5000 for path in zips_of(tmp_path / "two")] == [True] * 4
    first.map_shards(NeedsHistory(), CopyTo(tmp_path / "three.zarr"))
    assert attributes_of(LocalStore(tmp_path / "three.zarr")) == attributes_of(LocalStore(folder))


def build_zips(folder, out):
    ShardedStore.partition(folder, {"t": (2, 5)}).map_shards(ToZip(out))
    return out


@pytest.mark.parametrize(
    "steps", [[], [MapChunks(lambda chunk, place: -chunk, name="negative")]], ids=["as-it-is", "changed"]
)
def test_one_ordinary_zarr_has_all_attributes(folder, tmp_path, steps):
    source = build(folder, 2)
    expected = attributes_of(LocalStore(folder))
    source.map_shards(*steps, CopyTo(tmp_path / "a.zarr"))
    source.map_shards(*steps, MigrateV3(), ToShardingCodec(tmp_path / "b.zarr"))
    assert attributes_of(LocalStore(tmp_path / "a.zarr")) == expected
    migrated = {key: value for key, value in expected.items() if key != "_ARRAY_DIMENSIONS"}
    assert attributes_of(LocalStore(tmp_path / "b.zarr")) == {
        **migrated,
        "_FillValue": -1,
    }  # v2 has this as its fill value


@FORMATS
def test_blocks_that_are_written_to_carry_the_same(tmp_path, zarr_format):
    store = ShardedStore(tmp_path / "base", None, {"a": (1, array_shard_directory_store(tmp_path / "a"))})
    array = zarr.create_array(
        store, name="a", data=np.arange(8), chunks=(4,), zarr_format=zarr_format, attributes={"units": "K", **LARGE}
    )
    assert dict(zarr.open_array(store, path="a").attrs) == {"units": "K", **LARGE}
    blocks = sorted(path for path in (tmp_path / "a").iterdir() if path.is_dir())
    assert len(blocks) == 2
    before = {path: (path / NAMES[zarr_format]).stat() for path in blocks}
    assert all(found.st_size < 5000 for found in before.values())
    array.attrs["history"] = "y" * 100_000
    assert {path: (path / NAMES[zarr_format]).stat() for path in blocks} == before
    array.attrs["units"] = "degC"
    assert {dict(zarr.open_array(path).attrs)["units"] for path in blocks} == {"degC"}


def test_a_job_tells_of_attributes_before_it_runs(folder, tmp_path):
    source = build(folder, 3)
    expected = "4 shards of 't' carry 59 B of attributes each, 236 B in all; only the base holds the other 4.77 MiB"
    arguments = ["convert", str(folder), str(tmp_path / "out"), "--to", "zip", "--shards", "t=time:2", "--dry-run"]
    ran = CliRunner().invoke(main, arguments)
    assert expected in ran.stderr
    assert any(expected in str(notice) for notice in source.map_shards(ToZip(tmp_path / "out")).summary.notices)
    copied = source.map_shards(CopyTo(tmp_path / "a.zarr"))
    assert not any("attributes" in str(notice) for notice in copied.summary.notices)


NAME = st.sampled_from([*sorted(NEEDED), "history", "title"]) | st.text(max_size=5)
ATTRIBUTES = st.dictionaries(
    NAME, st.text(max_size=5) | st.builds(lambda text, n: text * n, st.text("ab", max_size=9), st.integers(0, 20_000))
)


@given(attributes=ATTRIBUTES, name=st.sampled_from(sorted(NAMES.values())))
def test_attributes_are_parted_and_joined(attributes, name):
    document = dump_json(attributes if name == ".zattrs" else {"shape": [2], "attributes": attributes})
    left, block = left_out(name, document, "t"), carried(name, document, "t")
    kept = attributes_in(name, block, "t")
    assert kept | left == attributes
    assert not kept.keys() & left.keys()
    assert not left.keys() & NEEDED
    assert sum(len(json.dumps({key: kept[key]})) for key in kept.keys() - NEEDED) <= MOST
    if len(document) <= MOST:
        assert not left
    if not left:
        assert block == document
    assert attributes_in(name, completed(name, block, "t", document), "t") == attributes
    assert carried(name, block, "t") == block


def test_a_document_without_white_space_is_cut_and_completed_alike(tmp_path):
    with zarr.config.set({"json_indent": None}):
        group = zarr.create_group(tmp_path / "source.zarr")
        group.create_array("t", data=np.ones(10), chunks=(5,), attributes={"lut": [7] * 12_000, "long": [7] * 40_000})
    source = ShardedStore.partition(tmp_path / "source.zarr", {"t": (5,)})
    result = source.map_shards(ToZip(tmp_path / "one"))
    assert len(result.summary.notices) == 1
    (name, *_) = zips_of(tmp_path / "one")
    assert attributes_in("zarr.json", document_in(name, "zarr.json"), "t") == {"lut": [7] * 12_000}
    seen = []

    def look(entries, shard):
        for entry in entries:
            if entry.key == "zarr.json" and shard.path == "t":
                seen.append(len(attributes_in("zarr.json", bytes(entry.data), "t")["long"]))
            yield entry

    with dask.config.set(scheduler="synchronous"):
        result.map_shards(step(look, name="look"), ToZip(tmp_path / "two"))
    assert seen == [40_000] * 2


def test_the_content_of_a_result_with_cut_attributes_has_not_changed(folder, tmp_path):
    build(folder, 3).map_shards(ToZip(tmp_path / "one"))
    for done in (5, 0):
        again = ShardedStore.load(tmp_path / "one").map_shards(ToZip(tmp_path / "two"), changed="content")
        assert again.summary.done == done
