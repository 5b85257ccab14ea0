"""The rate and the time left of a running job."""

import pytest
import zarr
from msgspec.structs import replace
from zarr.storage import MemoryStore

from shardedstore import ShardedStore
from shardedstore.jobs.meter import Meter
from shardedstore.jobs.shards import Segment, Task, shard_runs
from shardedstore.jobs.summary import Summary

MIB = 2**20


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def runs():
    """A base of 8 bytes, and eight shards of one MiB."""
    root = zarr.create_group(MemoryStore())
    root.create_array("x", shape=(8,), chunks=(8,), dtype="u1")
    root.create_array("t", shape=(8 * MIB,), chunks=(MIB,), dtype="u1")
    found = shard_runs(ShardedStore.partition(root.store, {"t": (MIB,)}).config)
    return [replace(run, decoded_nbytes=nbytes) for run, nbytes in zip(found, (8, MIB), strict=True)]


def test_the_time_left_leaves_out_the_start_of_the_cluster_and_a_small_base(runs):
    base, array = runs
    clock = Clock()
    meter = Meter(None, clock, runs)
    meter.add(Summary())  # nothing was done before
    clock.now = 20.0  # the cluster starts
    tasks = [
        Task(Segment(number, (run,))) for number, run in enumerate([base, *(array.cut(i, i + 1) for i in range(8))])
    ]
    meter.handed_out(tasks)
    clock.now = 21.0
    meter.add(Summary(done=1, decoded_nbytes=8))
    assert meter.now().seconds_left is None
    clock.now = 22.0
    meter.add(Summary(done=1, decoded_nbytes=MIB))
    assert meter.now().rate == pytest.approx(MIB / 2, rel=1e-3)
    assert meter.now().seconds_left == pytest.approx(14, rel=1e-3)
    meter.add(Summary(done=7, decoded_nbytes=7 * MIB))
    assert meter.now().seconds_left == 0
