"""The folder of a result is no Zarr: zarr, xarray and fsspec say how to open it, and write nothing there."""

import json
import shutil
import warnings
from pathlib import Path

import dask
import fsspec
import numpy as np
import pytest
import xarray as xr
import zarr
from click.testing import CliRunner
from helpers_jobs import Fail

from shardedstore import ConfigError, PartitionError, ShardedStore, ShardsFailed, list_jobs
from shardedstore.cli import main
from shardedstore.errors import ChainError
from shardedstore.transforms import CopyTo, ToZip
from shardedstore.zarr.refusal import REFUSALS

SENTENCE = "this folder is a result of shardedstore and not a Zarr: open it with shardedstore.ShardedStore.load"
DOCUMENTS = {"zarr.json", ".zgroup"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A source, its result as zips, and the results of other layouts."""
    made = tmp_path_factory.mktemp("folder")
    group = zarr.create_group(made / "a.zarr")
    group.create_array("t", data=np.arange(96).reshape(12, 8), chunks=(2, 4), dimension_names=("x", "y"))
    convert(made, ToZip(made / "zips"))
    convert(made, CopyTo(made / "folders", layout="shards"))
    convert(made, CopyTo(made / "one.zarr"))
    return made


def convert(folder, *chain, **options):
    with dask.config.set(scheduler="sync"):
        return ShardedStore.partition(folder / "a.zarr", {"t": (4, -1)}).map_shards(*chain, **options)


def files(place):
    return {path: path.read_bytes() for path in Path(place).rglob("*") if path.is_file()}


MODES = ("r", "r+", "a")
HABITS = {
    "zarr.open": zarr.open,
    **{f"zarr.open in mode {mode}": lambda place, mode=mode: zarr.open(place, mode=mode) for mode in MODES},
    "zarr.open_group": zarr.open_group,
    **{f"zarr.open_group in mode {mode}": lambda place, mode=mode: zarr.open_group(place, mode=mode) for mode in MODES},
    "zarr.open of format 2": lambda place: zarr.open(place, zarr_format=2),
    "zarr.open_group of format 2": lambda place: zarr.open_group(place, mode="r", zarr_format=2),
    "zarr.open of format 3": lambda place: zarr.open(place, zarr_format=3),
    "zarr.open_consolidated": zarr.open_consolidated,
    "zarr.load": zarr.load,
    "a mapper of fsspec": lambda place: zarr.open(fsspec.get_mapper(place), mode="r"),
    "a mapper of fsspec in xarray": lambda place: xr.open_zarr(fsspec.get_mapper(place)),
    "a URL": lambda place: zarr.open(f"file://{place}"),
    "a store": lambda place: zarr.open(zarr.storage.LocalStore(place)),
    "xr.open_zarr": xr.open_zarr,
    "xr.open_zarr, consolidated": lambda place: xr.open_zarr(place, consolidated=True),
    "xr.open_zarr, not consolidated": lambda place: xr.open_zarr(place, consolidated=False),
    "xr.open_zarr of format 2": lambda place: xr.open_zarr(place, zarr_format=2),
    "xr.open_zarr of a group": lambda place: xr.open_zarr(place, group="t"),
    "xr.open_dataset": lambda place: xr.open_dataset(place, engine="zarr"),
    "xr.open_datatree": lambda place: xr.open_datatree(place, engine="zarr"),
    "to_zarr that appends": lambda place: xr.Dataset({"n": ("x", [1])}).to_zarr(place, mode="a"),
}
UNTOLD = {  # they fail before they read the format
    "zarr.open_array": lambda place: zarr.open_array(place, mode="a"),
    "zarr.open_array with a shape": lambda place: zarr.open_array(place, shape=(3,), chunks=(1,), dtype="i4"),
    "zarr.create_group": zarr.create_group,
    "to_zarr of a new Zarr": lambda place: xr.Dataset({"n": ("x", [1])}).to_zarr(place),
}


@pytest.mark.parametrize("habit", [*HABITS, *UNTOLD])
def test_readers_say_how_to_open_a_result_and_write_nothing(habit, folder):
    place = str(folder / "zips")
    before = files(place)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr warns that documents of both formats are there
        with pytest.raises(Exception, match=SENTENCE if habit in HABITS else None):
            {**HABITS, **UNTOLD}[habit](place)
    assert files(place) == before


def test_the_way_in_the_message_opens_it(folder):
    assert zarr.open_group(ShardedStore.load(folder / "zips"), mode="r")["t"][11, 7] == 95
    with xr.open_dataset(folder / "zips", engine="shardedstore") as dataset:
        assert dataset["t"].sizes == {"x": 12, "y": 8}


def test_files_of_a_result(folder):
    for result in "zips", "folders":
        assert (folder / result / "zarr.json").read_bytes() == REFUSALS["zarr.json"]
        documents = {path.name for path in (folder / result).iterdir() if path.is_file()} - {"__base__.zarr.zip"}
        assert documents == {"shardedstore.json", *DOCUMENTS}
    assert {path.name for path in (folder / "one.zarr").iterdir()} == {"zarr.json", "t"}
    assert zarr.open_group(folder / "one.zarr", mode="r")["t"][0, 1] == 1


def test_a_job_that_fails_leaves_a_folder_that_refuses_readers(folder, tmp_path):
    with pytest.raises(ShardsFailed):
        convert(folder, Fail("t[1]"), ToZip(tmp_path / "out"), retries=0)
    with pytest.raises(Exception, match=SENTENCE):
        zarr.open_group(tmp_path / "out", zarr_format=3)
    with pytest.raises(PartitionError, match="is the result of a job that has not ended"):
        ShardedStore.partition(tmp_path / "out")
    with pytest.raises(ConfigError, match="as the job has not ended"):
        ShardedStore.load(tmp_path / "out")


def test_this_package_takes_no_result_for_a_zarr(folder):
    for refused in (
        ShardedStore.partition,
        lambda place: ShardedStore.collect(f"{place}"[:-1] + "*"),
    ):
        with pytest.raises(PartitionError, match=r"is the result of a job: open it with ShardedStore\.load"):
            refused(folder / "zips")
    done = CliRunner().invoke(main, ["init", str(folder / "zips")])
    assert done.exit_code == 2
    assert "is the result of a job" in done.output
    assert {status.url for status in list_jobs(folder)} == {
        str(folder / name) for name in ("zips", "folders", "one.zarr")
    }


def test_a_result_inside_a_zarr_is_none_of_its_groups(folder, tmp_path):
    shutil.copytree(folder / "a.zarr", tmp_path / "a.zarr")
    shutil.copytree(folder / "zips", tmp_path / "a.zarr" / "old")
    assert [shard.name for shard in ShardedStore.partition(tmp_path / "a.zarr", ["*"]).shards] == ["(base)", "t"]


def test_results_without_the_documents_stay_valid_and_get_them(folder, tmp_path):
    convert(folder, ToZip(tmp_path / "out"))
    for name in DOCUMENTS:
        (tmp_path / "out" / name).unlink()
    assert ShardedStore.load(tmp_path / "out").verify(against=folder / "a.zarr").ok
    assert convert(folder, ToZip(tmp_path / "out")).summary.skipped == 4
    assert files(tmp_path / "out").keys() >= {tmp_path / "out" / name for name in DOCUMENTS}


def test_a_zarr_that_lies_at_the_destination_stays(folder, tmp_path):
    zarr.create_array(tmp_path / "out", name="own", data=np.arange(3))
    before = files(tmp_path / "out")
    convert(folder, ToZip(tmp_path / "out"), overwrite=True)
    assert files(tmp_path / "out").items() >= before.items()
    assert not (tmp_path / "out/.zgroup").exists()
    assert zarr.open_group(tmp_path / "out", mode="r")["own"][2] == 2


def test_attributes_may_hold_the_sentence(tmp_path):
    zarr.create_group(tmp_path / "a.zarr", attributes={"note": SENTENCE})
    assert [shard.name for shard in ShardedStore.partition(tmp_path / "a.zarr").shards] == ["(base)"]


@pytest.mark.parametrize("name", sorted(DOCUMENTS))
def test_no_shard_takes_such_a_name(name, folder, tmp_path):
    class Named(ToZip):
        def target(self, path, blocked):
            return name if path is None else super().target(path, blocked)

    with pytest.raises(ChainError, match=f"would be named '{name}', which the job needs itself"):
        convert(folder, Named(tmp_path / "out"))


def test_verify_prune_and_a_later_job_leave_them(folder, tmp_path):
    out = tmp_path / "out"
    result = convert(folder, ToZip(out))
    assert result.verify(against=folder / "a.zarr").ok
    assert convert(folder, ToZip(out)).summary.skipped == 4
    assert not set(ShardedStore.prune(out).names) & DOCUMENTS
    documents = {name: json.loads((out / name).read_bytes()) for name in DOCUMENTS}
    assert all(document["zarr_format"].startswith(SENTENCE) for document in documents.values())
