"""`diff`: structures are compared by meaning, and each changed field is named."""

import json
from pathlib import Path

import dask
import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from sources import SOURCES, to_folder

from shardedstore import ShardedStore, UsageError, cli, diff
from shardedstore.transforms import MigrateV3, ToZip

CUBE = SOURCES["cube-v3/"]


@pytest.fixture
def one(tmp_path) -> Path:
    return to_folder(CUBE.contents(), tmp_path / "one.zarr")


@pytest.fixture
def other(tmp_path) -> Path:
    return to_folder(CUBE.contents(), tmp_path / "other.zarr")


def fields(found) -> set[tuple[str, str]]:
    return {(change.path, change.field) for change in found.changes}


def test_equal_structures(one, other):
    with dask.config.set(scheduler="synchronous"):
        zips = ShardedStore.partition(one).map_shards(ToZip(other.parent / "zips"))
    for same in (other, zips, other.parent / "zips"):
        found = diff(one, same)
        assert found.is_equal
        assert str(found) == "equal: 11 groups and arrays"


def test_formats_are_compared_by_meaning(tmp_path):
    source = to_folder(SOURCES["cube-v2."].contents(), tmp_path / "v2.zarr")
    with dask.config.set(scheduler="synchronous"):
        result = ShardedStore.partition(source).map_shards(MigrateV3(), ToZip(tmp_path / "v3"))
    assert {field for _, field in fields(diff(source, result))} <= {"zarr_format", "attributes._FillValue"}


def recreate(**changes):
    def change(root):
        options = {"shape": (25,), "chunks": (2,), "dtype": "f4", "dimension_names": ("level",), "compressors": "auto"}
        root.create_array("height", overwrite=True, **{**options, **changes})

    return change


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (recreate(), set()),
        (recreate(shape=(26,)), {("height", "shape")}),
        (recreate(chunks=(5,)), {("height", "chunks")}),
        (recreate(shards=(4,)), {("height", "shards")}),
        (recreate(dtype="f8"), {("height", "data_type")}),
        (recreate(fill_value=9), {("height", "fill_value")}),
        (recreate(compressors=zarr.codecs.GzipCodec(level=1)), {("height", "codecs")}),
        (recreate(serializer=zarr.codecs.BytesCodec(endian="big")), {("height", "byte_order")}),
        (recreate(dimension_names=("z",)), {("height", "dimension_names")}),
        (recreate(chunk_key_encoding={"name": "default", "separator": "."}), {("height", "chunk_keys")}),
        (recreate(attributes={"units": "m"}), {("height", "attributes.units")}),
        (lambda root: root.attrs.update(title="other"), {("", "attributes.title")}),
        (lambda root: root.create_group("new"), {("new", "node")}),
        (lambda root: root.create_group("height", overwrite=True), {("height", "node")}),
    ],
)
def test_each_field(one, other, change, expected):
    change(zarr.open_group(other, mode="r+"))
    found = diff(one, other)
    assert fields(found) == expected
    assert found.is_equal == (not expected)


def test_the_text_is_like_a_unified_diff(tmp_path):
    for name, chunks in (("a", 2), ("b", 3)):
        root = zarr.create_group(tmp_path / name, attributes={"title": name})
        root.create_array("t", data=np.arange(6, dtype="i4"), chunks=(chunks,))
        root.create_array(name, data=np.arange(6, dtype="i4"), chunks=(chunks,))
    assert str(diff(tmp_path / "a", tmp_path / "b")).splitlines() == [
        f"--- {tmp_path}/a",
        f"+++ {tmp_path}/b",
        " (root)",
        '-  attributes.title: "a"',
        '+  attributes.title: "b"',
        '-a: array, data_type "int32", shape [6], chunks [2]',
        '+b: array, data_type "int32", shape [6], chunks [3]',
        " t",
        "-  chunks: [2]",
        "+  chunks: [3]",
    ]


def test_include_and_exclude(one, other):
    root = zarr.open_group(other, mode="r+")
    root.attrs["title"] = "other"
    root["simulation/fine"].attrs["title"] = "other"
    assert fields(diff(one, other, include="simulation")) == {("simulation/fine", "attributes.title")}
    assert fields(diff(one, other, exclude=["simulation/*"])) == {("", "attributes.title")}
    with pytest.raises(UsageError, match="include names 'sim', which is in neither Zarr"):
        diff(one, other, include=["sim"])


def test_the_command(one, other):
    run = CliRunner().invoke(cli.main, ["diff", str(one), str(other)])
    assert (run.exit_code, run.output) == (0, "equal: 11 groups and arrays\n")
    zarr.open_group(other, mode="r+").attrs["title"] = "other"
    run = CliRunner().invoke(cli.main, ["diff", str(one), str(other), "--json"])
    assert run.exit_code == 1
    assert json.loads(run.output)["changes"] == [{"path": "", "field": "attributes.title", "a": "a cube", "b": "other"}]
    assert CliRunner().invoke(cli.main, ["diff", str(one), str(one / "none")]).exit_code == 2
