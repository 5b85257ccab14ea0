"""Find the shards of a job that are left, by its ledger and the objects at the destination."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from shardedstore.jobs.job import Job
from shardedstore.jobs.ledger import MOVED, Record
from shardedstore.jobs.shards import Plan, Segment, decoded_nbytes
from shardedstore.jobs.summary import Summary


class Remaining(NamedTuple):
    """The segments with the shards that are left, and the summary of all other shards.

    `again` are the generations of shards that are recorded, and are damaged or not there any more.
    """

    segments: list[Segment]
    before: Summary
    again: dict[int, int]


def _reason(record: Record) -> str:
    """Return the reason why a recorded shard is made again, as in `Summary.again`."""
    if record.failed:
        return "failed"
    return "marked" if record.marked else "lost"


def remaining(job: Job, plan: Plan, segments: list[Segment] | None = None) -> Remaining:
    """Return the remaining shards of a job, or of some of its segments."""
    segments = job.segments(plan) if segments is None else segments
    runs = [run for segment in segments for run in segment.runs]
    records = job.ledger.read()
    if not records:
        return Remaining(segments, Summary(again={"changed": job.stale} if job.stale else {}), {})
    done = job.done(runs, records, job.layout.inventory())
    if job.move is not None:  # a published shard is not done before its source is deleted
        done = frozenset(number for number in done if records[number].moved == MOVED[-1])
    left = [segment.without(done) for segment in segments]
    again = {n: records[n].generation for run in runs for n in run.numbers if n in records and n not in done}
    gone = again if job.move is None else {}  # a move continues with the published shards
    reasons = Counter(_reason(records[number]) for number in gone)
    reasons.update(changed=job.stale, lost=job.lost, marked=-job.lost)
    before = Summary(
        skipped=len(done),
        missing=sum(records[number].is_done for number in gone),
        decoded_nbytes=decoded_nbytes(runs, done),
        again={reason: number for reason, number in reasons.items() if number > 0},
    )
    return Remaining([segment for segment in left if segment.runs], before, again)
