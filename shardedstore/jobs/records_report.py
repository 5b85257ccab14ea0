"""The record of a shard for users, and a report from such records."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator
from operator import attrgetter

import msgspec

from shardedstore.jobs.report import (
    MOST_CAUSES,
    MOST_NAMES,
    ArrayReport,
    CauseReport,
    Report,
    ShardReport,
    Span,
    Timeline,
)

PARTS = 120  # of a timeline
MOST_WORKERS = 48  # all other workers share one row
MOST_SPANS = 400
MOST_SLOWEST = 20
PAUSE = 600.0  # seconds without a shard between two runs
OTHERS = "others"


class ShardRecord(msgspec.Struct, frozen=True):
    """One shard of a job, by the ledger.

    Attributes
    ----------
    shard : str
        The name of the shard, such as ``"t2m[5]"``.
    path : str
        The path of its array or group; ``""`` for the base.
    block : str
        The index of its block, such as ``"0/5"``; empty for an undivided array or group.
    number : int
        The number of the shard in the job.
    done : bool
        Whether the shard is done.
    cause : str
        The cause of its last failure; empty if it is done.
    entries, nbytes : int
        The number of entries and of stored bytes that were written.
    source_entries, source_nbytes : int
        The entries and the stored bytes that were read; 0 in the ledgers of version 0.4.
    seconds : float
        The time that the shard took.
    attempts : int
        The number of attempts.
    begun : float
        The time of the start, in seconds since 1970 by the clock of the worker.
    worker : str
        The host and the process of the worker.
    generation : int
        The number of the job that made the object.

    Examples
    --------
    >>> ShardRecord("t2m[5]", "t2m", "5", 6, done=True, nbytes=4096).nbytes
    4096
    """

    shard: str
    path: str
    block: str
    number: int
    done: bool
    cause: str = ""
    entries: int = 0
    nbytes: int = 0
    source_entries: int = 0
    source_nbytes: int = 0
    seconds: float = 0.0
    attempts: int = 0
    begun: float = 0.0
    worker: str = ""
    generation: int = 0


def report_of_records(records: Iterable[ShardRecord]) -> Report:
    """Return the sizes by array, the slowest shards, the failures, and the timeline of the last run."""
    found = list(records)
    done = [record for record in found if record.done]
    timeline, workers, seconds = _timeline([record for record in found if record.begun and record.worker])
    return Report(
        state="done" if len(done) == len(found) else "partial",
        seconds=seconds,
        total=len(found),
        done=len(done),
        failed=len(found) - len(done),
        source_nbytes=sum(record.source_nbytes for record in done),
        entries=sum(record.entries for record in done),
        nbytes=sum(record.nbytes for record in done),
        arrays=tuple(_arrays(found)),
        slowest=tuple(_slowest(found)),
        failures=tuple(_causes(found)),
        workers=workers,
        timeline=timeline,
    )


def _arrays(records: Iterable[ShardRecord]) -> Iterator[ArrayReport]:
    found: dict[str, list[ShardRecord]] = {}
    for record in records:
        found.setdefault(record.path, []).append(record)
    for path, some in found.items():
        done = [record for record in some if record.done]
        yield ArrayReport(
            path=path or None,
            shards=len(some),
            done=len(done),
            files=sum(record.source_entries for record in done),
            source_nbytes=sum(record.source_nbytes for record in done),
            nbytes=sum(record.nbytes for record in done),
            entries=sum(record.entries for record in done),
            seconds=round(sum(record.seconds for record in some), 3),
        )


def _slowest(records: Iterable[ShardRecord]) -> Iterator[ShardReport]:
    for one in heapq.nlargest(MOST_SLOWEST, records, key=attrgetter("seconds")):
        if one.seconds:
            yield ShardReport(one.shard, one.seconds, one.worker, one.nbytes, max(1, one.attempts))


def _causes(records: Iterable[ShardRecord]) -> list[CauseReport]:
    found: dict[str, list[str]] = {}
    for record in records:
        if not record.done:
            found.setdefault(record.cause.replace(repr(record.shard), "..."), []).append(record.shard)
    causes = [CauseReport("", cause, len(names), tuple(names[:MOST_NAMES])) for cause, names in found.items()]
    return sorted(causes, key=attrgetter("count"), reverse=True)[:MOST_CAUSES]


def _timeline(records: list[ShardRecord]) -> tuple[Timeline, int, float]:
    """Return the timeline of the last run, the number of its workers, and its duration in seconds."""
    last = _last_run(sorted(records, key=attrgetter("begun")))
    if not last:
        return Timeline(1.0), 0, 0.0
    start = last[0].begun
    seconds = max(record.begun + record.seconds for record in last) - start
    width = max(seconds / PARTS, 1e-3)
    workers = sorted({record.worker for record in last})
    names = {worker: worker if i < MOST_WORKERS else OTHERS for i, worker in enumerate(workers)}
    busy: dict[str, list[float]] = {}
    shards, nbytes = [0] * (PARTS + 1), [0] * (PARTS + 1)
    for record in last:
        begun, end = record.begun - start, record.begun - start + record.seconds
        row = busy.setdefault(names[record.worker], [0.0] * (PARTS + 1))
        for part in range(int(begun / width), min(PARTS, int(end / width)) + 1):
            row[part] += max(0.0, min(end, (part + 1) * width) - max(begun, part * width))
        shards[min(PARTS, int(end / width))] += 1
        nbytes[min(PARTS, int(end / width))] += record.nbytes
    spans = [_span(record, start) for record in last] if len(last) <= MOST_SPANS else []
    others = max(0, len(workers) - MOST_WORKERS - 1)
    return Timeline(width, shards=shards, nbytes=nbytes, busy=busy, others=others, spans=spans), len(workers), seconds


def _last_run(records: list[ShardRecord]) -> list[ShardRecord]:
    """Return the last records between which no worker paused for long; the records are in the order of their start."""
    first, end = 0, -math.inf
    for i, record in enumerate(records):
        if record.begun > end + PAUSE:
            first = i
        end = max(end, record.begun + record.seconds)
    return records[first:]


def _span(record: ShardRecord, start: float) -> Span:
    begun = round(record.begun - start, 3)
    return Span(record.worker, begun, round(record.seconds, 3), record.shard, not record.done)
