"""What one ordinary Zarr has lost since it was written: its files are marked to be made again, its documents put back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from shardedstore.sinks.onezarr import WAITING, Listed, put_back, tally_shards, waiting_name
from shardedstore.storage.folders import open_folder
from shardedstore.storage.urls import BESIDE
from shardedstore.tasks.ledger import Record
from shardedstore.tasks.plan import Plan
from shardedstore.tasks.result_preview import after, plan_zarr
from shardedstore.tasks.task import Job


def mend(job: Job, plan: Plan) -> int:
    """Mark the shards of one ordinary Zarr of which something is gone, and return how many they are.

    By one listing. Documents that were published are put back at once, as a later job may not end that would write them.
    """
    records = {number: record for number, record in job.ledger.read().items() if record.is_done}
    if not records:
        return 0
    lost = frozenset(_lost(job, plan, records))
    if lost:
        job.ledger.mark(lost)
    return len(lost)


def _lost(job: Job, plan: Plan, records: Mapping[int, Record]) -> Iterator[int]:
    sink, waiting = job.chain.sink, {name for name, _ in job.place.sizes(WAITING)}
    assert sink is not None
    assert job.folder is not None
    zarr = open_folder(job.folder.removesuffix(BESIDE), job.options)
    sizes = list(zarr.sizes())
    put_back(job.place, zarr, job.options, {key for key, _ in sizes})
    found = tally_shards(plan_zarr(plan, sink, after(job.chain, plan.nodes)), sizes)
    for run in plan.runs:
        for number, shard in run.shards():
            record = records.get(number)
            if record is None:
                continue
            has_lost = found.get(number, Listed()).has_lost(Listed.written([record]))
            if has_lost or (run.blocks is None and waiting_name(shard) not in waiting):
                yield number
