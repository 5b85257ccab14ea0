"""The base: it holds nothing large without a request."""

import json

import dask
import pytest
import zarr
from click.testing import CliRunner

from shardedstore import PartitionError, ShardedStore, UsageError
from shardedstore.cli.main import main
from shardedstore.transforms import CopyTo, ToZip

GIB = 1 << 30


@pytest.fixture(autouse=True)
def synchronous():
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.fixture
def folder(tmp_path):
    """Arrays of 2 GiB and one that can't be divided, all without stored chunks."""
    group = zarr.create_group(tmp_path / "source.zarr")
    for name in "tp", "t2m", "g/u":
        group.create_array(name, shape=(8, GIB // 4), chunks=(1, GIB // 4), dtype="i1", dimension_names=("time", "x"))
    group.create_array("small", shape=(4,), dtype="i1")
    return tmp_path / "source.zarr"


def grids(store):
    return {path: mount.blocks and mount.blocks.grid for path, mount in store.config.shards.items()}


@pytest.mark.parametrize(
    ("shards", "expected"),
    [
        ({"tp": {"time": 2}}, {"tp": (4,), "t2m": (2,), "g/u": (2,)}),
        (["tp"], {"tp": None, "t2m": (2,), "g/u": (2,)}),
        (["g"], {"g": None, "tp": (2,), "t2m": (2,)}),
        ({"t*": {"time": 1}}, {"tp": (8,), "t2m": (8,), "g/u": (2,)}),
        ({"tp": {"time": 2}, "*": "512 MiB"}, {"tp": (4,), "t2m": (4,), "g/u": (4,)}),
        ({"tp": {"time": 2}, "*": "base"}, {"tp": (4,)}),
        ({"tp": {"time": 2}, "g": "base"}, {"tp": (4,), "t2m": (2,)}),
        ({"g": "base", "g/u": {"time": 4}}, {"g/u": (2,), "tp": (2,), "t2m": (2,)}),
        ({"": "whole"}, {}),
        ([], {}),
        ({}, {}),
    ],
    ids=str,
)
def test_what_no_rule_covers_is_divided(folder, shards, expected):
    assert grids(ShardedStore.partition(folder, shards)) == expected


def test_a_large_base_is_refused(folder, tmp_path):
    view = ShardedStore.partition(folder, {"tp": {"time": 8}, "*": "base"})
    with pytest.raises(
        PartitionError,
        match=r"one object of 4\.00 GiB decoded, which is more than max_base='1 GiB': it holds 't2m' \(2\.00 GiB\), 'g/u' \(2\.00 GiB\), "
        r"'small' \(4 B\)\. Best divide them .* or say max_base='5 GiB'",
    ):
        view.map_shards(ToZip(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    assert view.map_shards(ToZip(tmp_path / "out"), max_base="5 GiB").summary.done == 2
    assert view.map_shards(ToZip(tmp_path / "two"), max_base=5 * GIB).summary.done == 2
    with pytest.raises(PartitionError, match="one object of 4 B decoded, which is more than max_base=1"):
        ShardedStore.partition(folder).map_shards(ToZip(tmp_path / "three"), max_base=1)


def many_small(tmp_path):
    group = zarr.create_group(tmp_path / "source.zarr")
    for number, size in enumerate((3, 4, 2, 3)):
        group.create_array(f"a{number}", shape=(size * GIB // 10,), chunks=(GIB,), dtype="i1")
    zarr.create_array(tmp_path / "source.zarr" / "a1" / "inside", shape=(GIB // 10,), chunks=(GIB,), dtype="i1")
    return tmp_path / "source.zarr"


def test_small_arrays_that_are_more_than_the_base_holds_are_shards_of_their_own(tmp_path):
    folder = many_small(tmp_path)
    assert grids(ShardedStore.partition(folder)) == {"a1": None}
    assert grids(ShardedStore.partition(folder, {"a0": "whole"})) == {"a0": None}
    assert grids(ShardedStore.partition(folder, {"a*": "2 GiB"})) == {"a1": None}
    assert grids(ShardedStore.partition(folder, "250 MiB")).keys() == {"a0", "a1", "a3"}
    store = ShardedStore.partition(folder)
    assert store.map_shards(ToZip(tmp_path / "out")).summary.done == 2
    assert zarr.open_array(ShardedStore.load(tmp_path / "out"), path="a1", mode="r").shape == (4 * GIB // 10,)


def test_small_arrays_that_are_said_to_be_in_the_base_stay_there(tmp_path):
    folder = many_small(tmp_path)
    view = ShardedStore.partition(folder, {"a*": "base"})
    assert grids(view) == {}
    with pytest.raises(PartitionError, match=r"it holds 'a1' .* and 2 more"):
        view.map_shards(ToZip(tmp_path / "out"))


def test_the_base_of_one_zarr_is_warned_of(folder, tmp_path):
    """There it is one task, but not one object."""
    result = ShardedStore.partition(folder, []).map_shards(CopyTo(tmp_path / "out"))
    (notice,) = result.summary.notices
    assert "one task makes the whole base, which holds 6.00 GiB decoded of undivided arrays" in notice.text
    assert ShardedStore.partition(folder).map_shards(CopyTo(tmp_path / "two")).summary.notices == ()


@pytest.mark.parametrize("size", ["much", 0, -1, True, None, "0 GiB"])
def test_a_limit_that_is_no_size_is_refused(folder, tmp_path, size):
    with pytest.raises(UsageError, match=r"max_base=.* is not a size"):
        ShardedStore.partition(folder).map_shards(ToZip(tmp_path / "out"), max_base=size)


def test_on_the_command_line(folder, tmp_path):
    convert = ["convert", str(folder), str(tmp_path / "out"), "--to", "zip", "--dry-run"]
    refused = CliRunner().invoke(main, [*convert, "--shards", "tp=time:8", "--shards", "*=base"])
    assert refused.exit_code == 2
    assert "more than max_base='1 GiB'" in refused.output
    done = CliRunner().invoke(main, [*convert, "--shards", "tp=time:8", "--shards", "*=base", "--max-base", "5 GiB"])
    assert done.exit_code == 0
    assert "base 4.00 GiB" in done.output
    divided = CliRunner().invoke(main, [*convert, "--shards", "tp=time:8"])
    assert "6 new" in divided.output
    assert json.loads((folder / "zarr.json").read_text())["node_type"] == "group"
