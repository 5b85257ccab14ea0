"""Changed rules, and new and removed variables, between two runs of one job: kept shards and new ones."""

import shutil

import dask
import numpy as np
import pytest
import zarr
from helpers_jobs import files_of

from shardedstore import DestinationError, Guards, ShardedStore
from shardedstore.transforms import CopyTo, Recompress, ToZip

RULES = {"t": {"time": 4}, "b": {"time": 4}, "fixed": "whole"}


@pytest.fixture(autouse=True)
def synchronous():
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.fixture
def source(tmp_path):
    root = zarr.create_group(tmp_path / "source.zarr")
    for number, name in enumerate("tb"):
        add(root, name, number)
    root.create_group("fixed").create_array("a", data=np.ones(8), chunks=(2,))
    root.create_array("small", data=np.arange(3))
    return tmp_path / "source.zarr"


def add(root, name, number=9):
    data = np.arange(60.0).reshape(10, 6) + number
    root.create_array(name, data=data, chunks=(2, 3), dimension_names=("time", "x"))


def drop(source, rules):
    shutil.rmtree(source / "b")
    return {path: rule for path, rule in rules.items() if path != "b"}


def rename(source, rules):
    (source / "b").rename(source / "c")
    return {"c" if path == "b" else path: rule for path, rule in rules.items()}


def grow(source):
    array = zarr.open_group(source)["t"]
    array.resize((12, 6))
    array[10:] = 1


def added(source, rules):
    add(zarr.open_group(source), "new")
    return {**rules, "new": {"time": 4}}


def added_where_it_grows(source, rules):
    grow(source)
    return added(source, rules)


CHANGES = {  # the change of the source, the new rules, and the number of shards that ToZip and CopyTo make
    "nothing": (lambda source, rules: rules, 0, 0),
    "a changed rule": (lambda source, rules: {**rules, "b": {"time": 2}}, 5, 5),
    "a changed rule that is whole": (
        lambda source, rules: {**rules, "b": "whole"},
        2,
        2,
    ),  # the base too, with its metadata
    "a removed rule": (lambda source, rules: {"t": rules["t"], "b": rules["b"]}, 1, 1),  # the base
    "a later rule": (lambda source, rules: {**rules, "small": "whole"}, 2, 2),
    "a later rule in a group": (lambda source, rules: {"t": rules["t"], "b": rules["b"], "fixed/a": (4,)}, 3, 3),
    "a dropped variable": (drop, 0, None),
    "a renamed variable": (rename, 4, None),
    "a new variable": (added, 4, 4),
    "a new variable and growth": (added_where_it_grows, 5, 5),
}


@pytest.mark.few(7)
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("sink", [ToZip, CopyTo], ids=["ToZip", "CopyTo"])
def test_what_is_made_again(source, tmp_path, sink, change, caplog):
    apply, zips, copies = CHANGES[change]
    chain = Recompress("gzip"), sink(tmp_path / "out")
    ShardedStore.partition(source, RULES).map_shards(*chain)
    before = files_of(tmp_path / "out")
    rules = apply(source, RULES)
    store = ShardedStore.partition(source, rules)
    expected = zips if sink is ToZip else copies
    if expected is None:
        with pytest.raises(DestinationError, match=r"'b' is gone.*as one ordinary Zarr can't hold both"):
            store.map_shards(*chain)
        assert files_of(tmp_path / "out") == before
        return
    result = store.map_shards(*chain, guards=Guards(force=True))
    made = expected + (
        change in ("a dropped variable", "a renamed variable", "a new variable", "a new variable and growth")
    )
    assert result.summary.done in (expected, made)  # the base, which holds the metadata of divided arrays
    assert result.verify(source).ok
    assert result.verify().ok
    if sink is ToZip:
        after = files_of(tmp_path / "out")
        assert {name: data for name, data in after.items() if name in before and name != "shardedstore.json"} == {
            name: data for name, data in before.items() if name != "shardedstore.json"
        }
        assert "t/0~2.zarr.zip" not in after
    assert store.map_shards(*chain).summary.done == 0
    if "rule" in change:
        assert "divided in another way than before, so all of their shards are made again: " in caplog.text
