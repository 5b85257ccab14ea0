"""`unpack`: the way back to one ordinary Zarr keeps every key and its bytes."""

import json

import dask
import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from helpers_jobs import files_of
from sources import SOURCES, to_folder
from zarr.storage import LocalStore

from shardedstore import ShardedStore
from shardedstore.cli import main
from shardedstore.transforms import CopyTo, ToZip

SINKS = {
    "zips": ToZip,
    "one.zarr.zip": ToZip,
    "zarrs": lambda url: CopyTo(url, layout="shards"),
    "copy.zarr": CopyTo,
}


@pytest.fixture(autouse=True)
def synchronous():
    with dask.config.set(scheduler="synchronous"):
        yield


def unusual(folder):
    """Groups without members, attributes of all kinds, the sharding codec, and files that are no Zarr."""
    attributes = {"text": "é\n", "none": None, "nan": float("nan"), "list": [1, 2.5, {"a": []}], "long": "x" * 5000}
    root = zarr.create_group(LocalStore(folder), attributes=attributes)
    root.create_group("empty").create_group("below", attributes={"alone": True})
    root.create_array("inner", data=np.arange(64), chunks=(2,), shards=(16,))
    root.create_array("without_chunks", shape=(8,), chunks=(2,), dtype="i2", attributes=attributes)
    (folder / "README.txt").write_text("not a Zarr")
    (folder / "inner" / "notes").mkdir()
    (folder / "inner" / "notes" / "one.md").write_text("not a chunk")
    return folder


def source_at(name, folder):
    if name == "unusual":
        return unusual(folder), {"inner": (32,), "*": "base"}
    return to_folder(SOURCES[name].contents(), folder), SOURCES[name].shards


def undecorated(files):
    """Documents as JSON, without consolidated metadata, and other files as bytes."""
    return {
        key: (
            {field: value for field, value in json.loads(data).items() if field != "consolidated_metadata"}
            if key.endswith("zarr.json")
            else data
        )
        for key, data in files.items()
        if not key.endswith(".zmetadata")
    }


NAMES = [
    "cube-v2.",
    "cube-v3-v2/",
    "missing-v3",
    "types-v2",
    "types-v3",
    "root-array-v3",
    "others-v2",
    "sharding-codec",
]
CASES = [*((name, place) for name in NAMES for place in ("zips", "one.zarr.zip")), *(("unusual", place) for place in SINKS), *(("others-v3", place) for place in SINKS)]  # fmt: skip


@pytest.mark.parametrize(("name", "place"), CASES)
@pytest.mark.few(10)
def test_all_keys_come_back_byte_for_byte(name, place, tmp_path):
    source, shards = source_at(name, tmp_path / "source.zarr")
    ShardedStore.partition(source, shards).map_shards(SINKS[place](tmp_path / place))
    opened = ShardedStore.partition(tmp_path / place) if ".zarr" in place else ShardedStore.load(tmp_path / place)
    opened.map_shards(CopyTo(tmp_path / "back.zarr"))
    assert files_of(tmp_path / "back.zarr") == files_of(source)


@pytest.mark.parametrize(
    ("name", "place"), [("consolidated-v2", "zips"), ("consolidated-v3", "one.zarr.zip"), ("dataset-v3", "zips")]
)
def test_consolidated_metadata_is_made_again_and_then_stays(name, place, tmp_path):
    source, shards = source_at(name, tmp_path / "source.zarr")
    first, second = tmp_path / "first.zarr", tmp_path / "second.zarr"
    ShardedStore.partition(source, shards).map_shards(CopyTo(first))
    assert files_of(first).keys() == files_of(source).keys()
    assert undecorated(files_of(first)) == undecorated(files_of(source))
    ShardedStore.partition(first, shards).map_shards(ToZip(tmp_path / place))
    opened = ShardedStore.load(tmp_path / place) if place == "zips" else ShardedStore.partition(tmp_path / place)
    opened.map_shards(CopyTo(second))
    assert files_of(second) == files_of(first)


def invoke(*arguments):
    done = CliRunner().invoke(main, [*map(str, arguments)])
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize("place", ["zips", "zips/shardedstore.json", "one.zarr.zip"])
def test_the_command_takes_folders_configs_and_zips(place, tmp_path):
    source, shards = source_at("missing-v3", tmp_path / "source.zarr")
    first = place.partition("/")[0]
    ShardedStore.partition(source, shards).map_shards(SINKS[first](tmp_path / first))
    assert "CopyTo to" in invoke("unpack", tmp_path / place, tmp_path / "out.zarr", "--dry-run")


def test_a_part_is_unpacked_by_include(tmp_path):
    source, shards = source_at("cube-v3/", tmp_path / "source.zarr")
    result = ShardedStore.partition(source, shards).map_shards(ToZip(tmp_path / "zips"))
    ShardedStore.partition(result, include=["simulation/fine"]).map_shards(CopyTo(tmp_path / "out.zarr"))
    found, expected = files_of(tmp_path / "out.zarr"), files_of(source)
    kept = {key for key in expected if key.startswith("simulation/fine/")}
    assert found == {key: expected[key] for key in kept | {"zarr.json", "simulation/zarr.json"}}
    told = invoke("unpack", tmp_path / "zips", tmp_path / "out2.zarr", "--include", "simulation/fine", "--dry-run")
    assert ("/simulation/fine/field" in told, "/wind_u" in told) == (True, False)


def test_it_is_convert_to_zarr(tmp_path):
    arguments = tmp_path / "zips", tmp_path / "out.zarr", "--include", "t", "--print-job"
    assert invoke("unpack", *arguments) == invoke("convert", *arguments, "--to", "zarr")
    done = CliRunner().invoke(main, ["unpack", "a", "b", "--codec", "zstd"])
    assert (done.exit_code, "No such option" in done.output) == (2, True)
