"""Refusals before the first shard, and clear errors for sources that are not Zarrs."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import dask
import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from servers import web
from sources import SOURCES, to_folder

from shardedstore import ChainError, ConfigError, PartitionError, ShardedStore, ShardsFailed, UsageError, cli
from shardedstore.transforms import CopyTo, ToZip

CUBE = SOURCES["consolidated-v3"]


@pytest.fixture(autouse=True)
def one_process():
    with dask.config.set(scheduler="synchronous"):
        yield


# Levels of comparison of sources


@pytest.mark.parametrize("compute", [True, False])
def test_a_listing_of_a_web_server(compute, tmp_path):
    to_folder(CUBE.contents(), tmp_path / "source")
    with web(tmp_path / "source") as url:
        source = ShardedStore.partition(url, CUBE.shards)
        with pytest.raises(
            UsageError, match=r"changed='listing' .*the base, 'http.*lists none: say changed='metadata'"
        ):
            source.map_shards(ToZip(tmp_path / "out"), changed="listing", compute=compute)
        assert not (tmp_path / "out").exists()
        for changed in ("metadata", "content"):
            source.map_shards(ToZip(tmp_path / changed), changed=changed)


def test_a_listing_of_a_shard_elsewhere(tmp_path):
    """The base can be listed, but one component can't."""
    to_folder(CUBE.contents(), tmp_path / "source")
    zarr.create_group(tmp_path / "base")
    with web(tmp_path / "source") as url:
        source = ShardedStore(tmp_path / "base", {"simulation": f"{url}/simulation"})
        with pytest.raises(UsageError, match=r"shard 'simulation', 'http.*lists none"):
            source.map_shards(ToZip(tmp_path / "out"), changed="listing")


def test_a_listing_of_folders_and_zips(tmp_path):
    source = ShardedStore.partition(to_folder(CUBE.contents(), tmp_path / "source"), CUBE.shards, exclude=["crs"])
    made = source.map_shards(ToZip(tmp_path / "zips"), changed="listing")
    made.map_shards(CopyTo(tmp_path / "zarr"), changed="listing")


# Names


@pytest.mark.parametrize("sink", [ToZip, lambda out: CopyTo(out, layout="shards")], ids=["zip", "shards"])
@pytest.mark.parametrize("name", ["shardedstore.json", ".shardedstore", "shardedstore.json/a", ".shardedstore/ledger"])
def test_arrays_whose_blocks_would_lie_in_what_the_job_makes(name, sink, tmp_path):
    zarr.create_group(tmp_path / "source").create_array(name, data=np.arange(4), chunks=(1,))
    source = ShardedStore.partition(tmp_path / "source", {name: (2,)})
    with pytest.raises(ChainError, match=r"which the job needs itself: choose another name, or leave '.*' out"):
        source.map_shards(sink(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    result = source.map_shards(CopyTo(tmp_path / "zarr"))
    assert zarr.open_array(result, path=name, mode="r")[:].tolist() == [0, 1, 2, 3]


LONG = "n" * 255


@pytest.mark.parametrize(
    "sink", [ToZip, CopyTo, lambda out: CopyTo(out, layout="shards")], ids=["zip", "zarr", "shards"]
)
def test_names_that_a_disk_does_not_take(sink, tmp_path):
    """A shard has its own file with a longer name; blocks and the base have other names."""
    (tmp_path / "source").mkdir()
    zarr.create_group(tmp_path / "source").create_array("a", data=np.arange(4), chunks=(1,))
    (tmp_path / "source/a").rename(tmp_path / "source" / LONG)
    with pytest.raises(
        ChainError, match=r"a file whose name has 2\d\d bytes, where a disk takes 255: do not make it a shard"
    ):
        ShardedStore.partition(tmp_path / "source", {LONG: "whole"}).map_shards(sink(tmp_path / "out"))
    for number, rule in enumerate(({LONG: (2,)}, [])):
        result = ShardedStore.partition(tmp_path / "source", rule).map_shards(sink(tmp_path / f"out{number}"))
        assert zarr.open_array(result, path=LONG, mode="r")[:].tolist() == [0, 1, 2, 3]


def test_names_that_are_no_text(tmp_path):
    folder = tmp_path / "source"
    zarr.create_group(folder).create_array("a", data=np.arange(4), chunks=(1,))
    strange = os.fsencode(folder) + b"/b\xff"
    Path(os.fsdecode(strange)).write_bytes(b"a file")
    source = ShardedStore.partition(folder, {"a": "whole"})
    with pytest.raises(ShardsFailed) as failed:
        source.map_shards(CopyTo(tmp_path / "out"))
    (error,) = failed.value.exceptions
    assert error.cause.startswith("CorruptError: ")
    assert "b\\udcff' has a name that is not valid UTF-8, so it can't be a key of a Zarr: rename it" in error.cause
    os.remove(strange)
    os.rename(folder / "a", strange)
    with pytest.raises(PartitionError, match=r"'b\\udcff' has a name that is not valid UTF-8"):
        ShardedStore.partition(folder)


# Files that are not Zarrs

FILES = {
    "neuroglancer": ({"@type": "neuroglancer_multiscale_volume", "scales": [], "num_channels": 1}, "Neuroglancer"),
    "stac": ({"type": "Feature", "stac_version": "1.0.0", "assets": {}}, "STAC"),
    "geojson": ({"type": "FeatureCollection", "features": []}, "GeoJSON"),
    "n5": ({"dimensions": [1], "blockSize": [1], "dataType": "uint8"}, "N5"),
    "tensorstore": ({"driver": "zarr3", "kvstore": "file:///a"}, "tensorstore"),
    "zarr": (
        {"zarr_format": 3, "node_type": "group"},
        "a metadata document of a Zarr: name the folder that it lies in",
    ),
    "zmetadata": ({"zarr_consolidated_format": 1, "metadata": {}}, "the consolidated metadata of a Zarr"),
    "list": ([1, 2], "it is a list"),
    "text": ("a", "it is a text"),
    "null": (None, "it is null"),
    "number": (1.5, "it is a number"),
    "another": ({"a": 1}, "some other program's"),
}


@pytest.mark.parametrize("name", FILES)
def test_json_that_is_no_zarr(name, tmp_path):
    document, told = FILES[name]
    path = tmp_path / "refs.json"
    path.write_text(json.dumps(document))
    with pytest.raises(PartitionError, match=f"refs.json' is a JSON file, which is not a Zarr: .*{told}"):
        ShardedStore.partition(path)
    with pytest.raises(ConfigError, match=f"this is not a shardedstore config.*{told}"):
        ShardedStore.load(path)
    done = CliRunner().invoke(cli.main, ["convert", str(path), str(tmp_path / "out"), "--to", "zip", "--dry-run"])
    assert done.exit_code == 2
    assert told in done.stderr


@pytest.mark.parametrize(
    ("data", "told"),
    [(b"", "empty"), (b" \n", "empty"), (b"{", "neither JSON|not JSON"), (b"\xff\xfe\x00", "neither JSON|not JSON")],
)
def test_files_that_are_no_json(data, told, tmp_path):
    path = tmp_path / "refs.json"
    path.write_bytes(data)
    with pytest.raises(PartitionError, match=told):
        ShardedStore.partition(path)
    with pytest.raises(ConfigError, match=told):
        ShardedStore.load(path)


def test_a_file_too_long_to_be_looked_at(tmp_path):
    path = tmp_path / "refs.json"
    with path.open("wb") as file:
        file.truncate(65 << 20)
    with pytest.raises(PartitionError, match="is a file of 68,157,440 bytes, which is not a Zarr"):
        ShardedStore.partition(path)


def test_a_config_is_still_the_result_of_a_job(tmp_path):
    source = ShardedStore.partition(to_folder(CUBE.contents(), tmp_path / "source"))
    source.map_shards(ToZip(tmp_path / "out"))
    for place in (tmp_path / "out", tmp_path / "out/shardedstore.json"):
        with pytest.raises(PartitionError, match=r"is the result of a job: open it with ShardedStore\.load"):
            ShardedStore.partition(place)


def test_a_folder_with_the_name_of_a_file(tmp_path):
    folder = to_folder(CUBE.contents(), tmp_path / "source.json")
    done = CliRunner().invoke(cli.main, ["convert", str(folder), str(tmp_path / "out"), "--to", "zip", "--dry-run"])
    assert done.exit_code == 0, done.output
    assert CliRunner().invoke(cli.main, ["info", str(folder)]).exit_code == 0


# Warnings of Python


def test_warnings_are_lines_and_come_once(tmp_path):
    code = (
        "import warnings, click\n"
        "from shardedstore.cli.main import main\n"
        "@main.command()\n"
        "def warn():\n"
        "    for i in range(2):\n"
        "        warnings.warn('a codec\\nof numcodecs', UserWarning, stacklevel=1)\n"
        "    warnings.warn('another', RuntimeWarning)\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code, "warn"], capture_output=True, text=True, check=True, timeout=90)
    assert done.stderr == "warning: a codec of numcodecs\nwarning: another\n"


def test_the_program_keeps_its_own_way_of_warning(tmp_path):
    before = warnings.showwarning
    CliRunner().invoke(cli.main, ["info", str(tmp_path)])
    assert warnings.showwarning is before
