"""`JobPlan.try_shard`: one shard in this process."""

import dask
import numpy as np
import pytest
import zarr

from shardedstore import NoShardError, ShardedStore, step
from shardedstore.transforms import Recompress, ToZip


@pytest.fixture
def store(tmp_path):
    root = zarr.create_group(tmp_path / "a.zarr")
    root.create_array("t", data=np.ones(4000), chunks=(1000,), compressors=None)
    root.create_group("g").create_array("u", data=np.ones(8), chunks=(4,), compressors=None)
    return ShardedStore.partition(tmp_path / "a.zarr", {"t": (2000,), "g": "whole"})


@pytest.mark.parametrize(("name", "changed"), [("t[0]", 3), ("t[1]", 3), ("g", 3), ("(base)", 1)])
def test_a_trial_measures_and_writes_nothing(name, changed, store, tmp_path):
    trial = store.plan(Recompress("zstd", level=3), ToZip(tmp_path / "zips")).try_shard(name)
    assert (trial.shard, trial.changed) == (name, changed)
    assert trial.entries == trial.made_entries > 0
    assert trial.nbytes > 0 < trial.seconds
    assert str(trial).startswith(f"{name}: {trial.entries} -> ")
    assert not (tmp_path / "zips").exists()


def test_a_chain_without_steps_changes_nothing(store, tmp_path):
    trial = store.plan(ToZip(tmp_path / "zips")).try_shard("t[1]")
    assert (trial.changed, trial.changes, trial.ratio) == (0, (), 1.0)


def test_added_and_removed_keys_are_reported(store, tmp_path):
    def other(entries, shard):
        for entry in entries:
            yield entry._replace(key="c/9") if entry.key == "c/0" else entry

    trial = store.plan(step(other), ToZip(tmp_path / "zips")).try_shard("t[0]")
    assert trial.changes == ("c/0: removed, 8,000 bytes", "c/9: added, 8,000 bytes")


def test_an_error_of_a_step_is_its_own(store, tmp_path):
    def broken(entries, shard):
        yield from entries
        raise ZeroDivisionError(shard.name)

    plan = store.plan(step(broken), ToZip(tmp_path / "zips"))
    with pytest.raises(ZeroDivisionError, match=r"t\[0\]"):
        plan.try_shard("t[0]")


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("t[9]", ": the shards of 't' are 't[0]' to 't[1]'"),
        ("t", ": the shards of 't' are 't[0]' to 't[1]'"),
        ("g[0]", ": 'g' is one shard"),
        ("xyz", ": it has shards of '(base)', 'g', 't'"),
    ],
)
def test_an_unknown_shard_is_refused(name, advice, store, tmp_path):
    with pytest.raises(NoShardError) as refused:
        store.plan(ToZip(tmp_path / "zips")).try_shard(name)
    assert str(refused.value) == f"the plan has no shard {name!r}{advice}"


def test_the_job_runs_after_a_trial(store, tmp_path):
    plan = store.plan(Recompress("zstd"), ToZip(tmp_path / "zips"))
    plan.try_shard("t[0]")
    with dask.config.set(scheduler="sync"):
        assert plan.run().summary.done == 4
