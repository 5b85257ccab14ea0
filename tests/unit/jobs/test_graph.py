"""The Dask graph: a tree of bounded tasks, and the choice of the client."""

import logging
import pickle
import subprocess
import sys

import dask
import pytest
from dask.core import get_dependencies
from helpers_jobs import Fail, blocks_at, environment
from paths import ROOT

from shardedstore import ShardsFailed
from shardedstore.abc import Step
from shardedstore.errors import ShardError
from shardedstore.jobs import shards
from shardedstore.jobs.executors.active import active_client
from shardedstore.jobs.executors.delayed import BRANCHES
from shardedstore.jobs.summary import Summary
from shardedstore.transforms import ToZip


@pytest.fixture
def job(tmp_path, monkeypatch):
    """A lazy job of 101 tasks."""
    monkeypatch.setattr(shards, "MOST_SHARDS", 1)
    return blocks_at(tmp_path / "source.zarr", 100).map_shards(ToZip(tmp_path / "out"), compute=False)


def test_outcomes_are_added_in_a_tree(job):
    tasks = dict(job.__dask_graph__())
    names = [key.partition(" ")[0].partition("-")[0] for key in tasks]
    assert {name: names.count(name) for name in set(names)} == {"start": 1, "ToZip": 101, "add": 4 + 1, "finish": 1}
    assert max(len(get_dependencies(tasks, key)) for key in tasks) <= BRANCHES


def test_every_task_is_small(job):
    tasks = dict(job.__dask_graph__())
    assert max(len(pickle.dumps(task)) for task in tasks.values()) < 4000


def test_task_keys_are_of_this_job_alone(tmp_path):
    store = blocks_at(tmp_path / "source.zarr", 3)
    one, other = (set(store.map_shards(ToZip(tmp_path / "out"), compute=False).__dask_graph__()) for _ in range(2))
    assert one.isdisjoint(other)


class FailBlocks(Step):
    """Fails for each block."""

    def __call__(self, entries, shard):
        if shard.block is not None:
            raise ValueError(f"{shard.name} is not to the step's taste")
        return entries


@pytest.mark.parametrize("level", [logging.WARNING, logging.DEBUG])
def test_a_shard_that_fails_is_one_line_of_the_log_and_a_traceback_for_who_asks(level, tmp_path, caplog):
    caplog.set_level(level, "shardedstore")
    store = blocks_at(tmp_path / "source.zarr", 3)
    with dask.config.set(scheduler="synchronous"), pytest.raises(ShardsFailed, match="1 of 4 shards failed"):
        store.map_shards(Fail("a[1]"), ToZip(tmp_path / "out"))
    (record,) = (
        record for record in caplog.records if (record.name, record.levelno) == ("shardedstore", logging.WARNING)
    )
    assert record.getMessage() == "shard a[1] failed, attempt 1: ValueError: zarr.json is not to the step's taste"
    assert bool(record.exc_info) == (level == logging.DEBUG)


def test_equal_failures_are_a_few_lines_of_the_log(tmp_path, caplog, told):
    caplog.set_level(logging.WARNING, "shardedstore")
    with dask.config.set(scheduler="synchronous"), pytest.raises(ShardsFailed, match="30 of 31 shards failed"):
        blocks_at(tmp_path / "source.zarr", 30).map_shards(FailBlocks(), ToZip(tmp_path / "out"))
    assert [message[:8] for message in told()] == ["shard a[", "shard a["]
    assert told()[1].endswith("(10 times in this process)")


def test_a_job_may_be_a_part_of_another_graph(tmp_path):
    jobs = [
        blocks_at(tmp_path / f"{i}.zarr", 3).map_shards(ToZip(tmp_path / f"out-{i}"), compute=False) for i in range(2)
    ]
    results = dask.compute(*jobs, scheduler="synchronous")
    assert [result.summary.done for result in results] == [4, 4]


def test_outcomes_add_up():
    error = ShardError("a", "bad")
    total = Summary.total([Summary(1, 2, 3, 4, (error,)), Summary(10, 20, 30, 40), Summary(records={1: None})])
    assert total == Summary(11, 22, 33, 44, (error,), records={1: None})
    assert Summary.total([]) == Summary()


def test_no_client_is_active_where_there_is_none():
    assert active_client() is None


def test_opening_a_result_imports_neither_distributed_nor_rich(tmp_path):
    with dask.config.set(scheduler="synchronous"):
        blocks_at(tmp_path / "source.zarr", 3).map_shards(ToZip(tmp_path / "out"))
    code = (
        "import sys, shardedstore, zarr\n"
        f"loaded = shardedstore.ShardedStore.load({str(tmp_path / 'out')!r})\n"
        "print(list(zarr.open_group(loaded, mode='r')['a'][:]), sorted({'distributed', 'rich'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert ran.stdout.endswith(" []\n")


@pytest.mark.parametrize("module", sorted(ROOT.glob("shardedstore/jobs/**/*.py")), ids=lambda path: path.stem)
def test_only_public_dask_is_used(module):
    source = module.read_text()
    assert "HighLevelGraph" not in source
    assert "_task_spec" not in source
