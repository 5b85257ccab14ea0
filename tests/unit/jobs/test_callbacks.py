"""Callbacks of running jobs."""

import time

import dask
import pytest
from helpers_jobs import Fail, blocks_at

from shardedstore import ShardsFailed, UsageError
from shardedstore.abc import Callback
from shardedstore.transforms import ToZip

SHARDS = 7


class Keep(Callback):
    """Records its events."""

    def __init__(self):
        self.plans, self.tasks, self.ends = [], [], []

    def on_job_start(self, plan):
        self.plans.append(plan)

    def on_task_end(self, event):
        self.tasks.append(event)

    def on_job_end(self, event):
        self.ends.append(event)


class Raise(Callback):
    """Raises in one of its methods."""

    def __init__(self, where):
        self.where, self.told = where, []

    def _raise(self, where):
        self.told.append(where)
        if where == self.where:
            raise RuntimeError(where)

    def on_job_start(self, plan):
        self._raise("start")

    def on_task_end(self, event):
        self._raise("task")

    def on_job_end(self, event):
        self._raise("end")


@pytest.fixture
def store(tmp_path):
    return blocks_at(tmp_path / "source.zarr", SHARDS - 1)


@pytest.fixture(autouse=True)
def threads():
    with dask.config.set(scheduler="threads", num_workers=2):
        yield


def check_sums(kept, result):
    (end,) = kept.ends
    first, *tasks = kept.tasks
    assert first.task.worker == ""
    assert [event.progress.ended for event in kept.tasks] == sorted(event.progress.ended for event in kept.tasks)
    assert {event.progress.total for event in kept.tasks} == {SHARDS}
    for name in ("done", "skipped", "entries", "nbytes", "retries", "decoded_nbytes"):
        total = getattr(end.job, name)
        assert sum(getattr(event.task, name) for event in kept.tasks) == getattr(end.progress, name) == total, name
        assert getattr(result.summary, name) == total
    assert end.progress.decoded_nbytes == end.progress.total_decoded_nbytes == kept.plans[0].nbytes
    assert all(event.task.worker and event.task.seconds > 0 for event in tasks)
    assert end.progress.seconds >= max((event.task.seconds for event in tasks), default=0)
    assert (end.progress.left, end.progress.fraction, end.progress.seconds_left, end.error) == (0, 1, 0, None)


def test_a_job_tells_of_its_start_its_tasks_and_its_end(store, tmp_path):
    kept = Keep()
    result = store.map_shards(ToZip(tmp_path / "out"), callbacks=[kept])
    assert [plan.shard_count for plan in kept.plans] == [SHARDS]
    check_sums(kept, result)
    again = Keep()
    check_sums(again, store.map_shards(ToZip(tmp_path / "out"), callbacks=[again]))
    assert [event.task.skipped for event in again.tasks] == [SHARDS]


def test_each_shard_has_its_times(store, tmp_path):
    kept, before = Keep(), time.time()
    with pytest.raises(ShardsFailed):
        store.map_shards(Fail("a[2]"), ToZip(tmp_path / "out"), retries=1, callbacks=[kept])
    shards = [shard for event in kept.tasks for shard in event.task.shards]
    assert sorted(shard.number for shard in shards) == list(range(SHARDS))
    assert {shard.shard: (shard.attempts, bool(shard.code)) for shard in shards if shard.code} == {"a[2]": (1, True)}
    for shard in shards:
        assert before - 1 <= shard.begun <= shard.begun + shard.seconds <= time.time() + 1
        stages = shard.read_seconds, shard.transform_seconds, shard.write_seconds
        assert min(stages) >= 0
        assert sum(stages) <= shard.seconds + 0.01
    assert sum(shard.nbytes for shard in shards) == kept.ends[0].job.nbytes
    assert kept.ends[0].job.shards == ()


def test_a_job_on_a_cluster_tells_the_same(store, tmp_path, workers):
    kept = Keep()
    check_sums(kept, store.map_shards(ToZip(tmp_path / "out"), callbacks=[kept]))
    assert 1 <= len({event.task.worker for event in kept.tasks[1:]}) <= 2


def test_failures_are_reported_with_the_task_and_with_the_end(store, tmp_path):
    kept = Keep()
    with pytest.raises(ShardsFailed) as failed:
        store.map_shards(Fail("a[2]"), ToZip(tmp_path / "out"), retries=0, callbacks=[kept])
    (error,) = [error for event in kept.tasks for error in event.task.failures]
    assert (error.shard, error.path, error.block) == ("a[2]", "a", (2,))
    assert kept.ends[0].job.failures == (error,)
    assert kept.ends[0].error is failed.value
    assert kept.tasks[-1].progress.ended == SHARDS


@pytest.mark.parametrize("where", ["start", "task", "end"])
def test_an_exception_in_a_callback_ends_the_job_and_all_learn_of_the_end(where, store, tmp_path):
    kept, raises = Keep(), Raise(where)
    with pytest.raises(RuntimeError, match=where):
        store.map_shards(ToZip(tmp_path / "out"), callbacks=[kept, raises])
    (end,) = kept.ends
    assert (end.error is None) == (where == "end")
    assert raises.told[-1] == "end"
    assert store.map_shards(ToZip(tmp_path / "out")).summary.skipped == (SHARDS if where == "end" else end.job.done)


def test_the_job_s_own_error_is_raised_where_a_callback_fails_at_the_end(store, tmp_path, caplog):
    with pytest.raises(ShardsFailed):
        store.map_shards(Fail("a[2]"), ToZip(tmp_path / "out"), retries=0, callbacks=[Raise("end")])
    assert "fails at the end of the job: RuntimeError: end" in caplog.text


@pytest.mark.parametrize(
    ("callbacks", "message"),
    [
        (Keep, r"callbacks is <class .*Keep'>: write a list, \[Keep\(\)\]"),
        (Keep(), r"callbacks is .*: write a list, \[Keep\(\)\]"),
        ([Keep], "callbacks holds <class .*, which is not a Callback: use instances of subclasses"),
        ([print], "callbacks holds <built-in function print>, which is not a Callback"),
    ],
    ids=["a class", "an object", "a class in a list", "a function"],
)
def test_what_is_no_list_of_callbacks_is_refused(callbacks, message, store, tmp_path):
    with pytest.raises(UsageError, match=message):
        store.map_shards(ToZip(tmp_path / "out"), callbacks=callbacks)
    assert not (tmp_path / "out").exists()


def test_a_lazy_job_takes_none(store, tmp_path):
    for options in ({"callbacks": [Keep()]}, {"progress": True}):
        with pytest.raises(UsageError, match="are for jobs that run now"):
            store.map_shards(ToZip(tmp_path / "out"), compute=False, **options)
