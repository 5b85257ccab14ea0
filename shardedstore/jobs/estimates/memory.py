"""The memory that a worker's thread needs for a shard, from the sizes of chunks and shards in the metadata."""

from __future__ import annotations

from shardedstore.jobs.job import Job
from shardedstore.jobs.shards import Plan, Run
from shardedstore.storage.outputs import BYTES_ON_THEIR_WAY, part_nbytes
from shardedstore.storage.requests import BYTES_IN_FLIGHT
from shardedstore.storage.urls import is_remote
from shardedstore.stores.locations import url_of
from shardedstore.stores.members import MountIndex
from shardedstore.transforms.base.parallel import UNDER_WAY, default_threads
from shardedstore.zarr.metadata import ArrayMeta

FIXED = 16 << 20  # bytes for threads, buffers and freed memory that the allocator keeps
PER_ENTRY = 700  # bytes of the key, the metadata and the zip's directory of an entry


def shard_memory(job: Job, plan: Plan) -> dict[int, int]:
    """Return the most bytes that one shard of each run takes in a worker, by the number of the run's first shard.

    Chunks are assumed to be as large as their decoded data. A user's function may need more memory than its input and
    its output.
    """
    largest = _largest_chunks(plan)
    return {
        run.number: _of_shard(job, run, largest.get(run.number, 0), -(-load.files // (run.stop - run.first)))
        for run, load in zip(plan.runs, plan.loads, strict=True)
    }


def _largest_chunks(plan: Plan) -> dict[int, int]:
    """Return the size of the largest decoded chunk of each run, by the number of the run's first shard."""
    numbers = {None if run.mounted is not None else run.path: run.number for run in plan.runs}
    index = MountIndex({path: mount.division for path, mount in plan.config.shards.items()})
    divided = {run.path for run in plan.runs if run.blocks is not None}
    largest: dict[int, int] = {}
    for path, node in plan.nodes.items():
        if isinstance(node.meta, ArrayMeta):
            number = numbers[path if path in divided else index.find(path)]
            largest[number] = max(largest.get(number, 0), min(node.meta.chunk_nbytes, max(node.meta.nbytes, 1)))
    return largest


def _of_shard(job: Job, run: Run, chunk: int, files: int) -> int:
    """Return the memory of one shard: entries read ahead, entries in the steps, and entries that wait for the sink."""
    whole = max(run.nbytes, 1)
    read = _read_ahead(run, chunk, whole)
    steps = sum(_of_step(step.is_chunkwise, chunk, whole) for step in job.chain.steps)
    return FIXED + read + steps + _waiting(job, chunk, whole) + PER_ENTRY * files


def _read_ahead(run: Run, chunk: int, whole: int) -> int:
    if not is_remote(url_of(run.location) or ""):
        return chunk
    return min(whole, max(2 * chunk, BYTES_IN_FLIGHT))


def _of_step(is_chunkwise: bool, chunk: int, whole: int) -> int:
    if not is_chunkwise:
        return 2 * whole
    threads = default_threads()
    held = min(whole, max((threads + 1) * chunk, UNDER_WAY))
    return 2 * held + min(whole, threads * chunk)


def _waiting(job: Job, chunk: int, whole: int) -> int:
    if not job.layout.is_remote:
        return chunk
    return min(whole, BYTES_IN_FLIGHT if job.chain.sink.writes_keys else BYTES_ON_THEIR_WAY + part_nbytes(2 * whole))
