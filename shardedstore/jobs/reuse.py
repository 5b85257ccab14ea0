"""Find the shards of an earlier job that can be reused, and the shards whose source has changed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial

import msgspec
from toolz import merge

from shardedstore.errors import DestinationError
from shardedstore.jobs.change_detection import Changed, Recorded, find_changed
from shardedstore.jobs.executors.base import Executor, TaskList
from shardedstore.jobs.job import Job
from shardedstore.jobs.ledger import Ledger, Record
from shardedstore.jobs.manifest import JobManifest
from shardedstore.jobs.preflight import source_urls
from shardedstore.jobs.shards import Plan, Segment
from shardedstore.jobs.source_comparison import unchanged

FEW = 8  # segments that are read one by one, where a ledger may have thousands


def find_reusable(
    plan: Plan, before: JobManifest, manifest: JobManifest, old: Mapping[int, Record]
) -> dict[int, Record]:
    """Return the records of an earlier job whose shards are right for this job by their metadata, by number in this job."""
    reusable: dict[int, Record] = {}
    pairs: Iterable[tuple[int, int]]
    if manifest.has_moved_from(before):
        pairs = zip(old, old, strict=True)
    else:
        pairs = unchanged(manifest.source_of(before), plan.config, before.marks, manifest.marks)
    for then, now in pairs:
        record = old.get(then)
        if record is not None and not record.failed:
            generation = record.generation or before.generation
            reusable[now] = msgspec.structs.replace(record, shard=now, generation=generation)
    return reusable


def by_segment(segments: list[Segment], records: Mapping[int, Record]) -> Iterator[tuple[Segment, list[Record]]]:
    """Yield segments with the records of their shards."""
    for segment in segments:
        found = [records[number] for run in segment.runs for number in run.numbers if number in records]
        if found:
            yield segment, found


def find_stale(changed: Changed, plan: Plan, records: Mapping[int, Record], executor: Executor) -> frozenset[int]:
    """Return the numbers of the recorded shards whose source has changed.

    A shard whose record has a weaker comparison counts as changed.

    Raises
    ------
    DestinationError
        If a source can't be read.
    """
    records = {number: record for number, record in records.items() if not record.failed}
    numbers = ((number, record.source) for number, record in records.items())
    stale = {number for number, source in numbers if not source.startswith(f"{changed} ")}
    tasks: list[Recorded] = []
    for segment, found in by_segment(plan.segments(), {n: r for n, r in records.items() if n not in stale}):
        tasks.append(Recorded(segment, {record.shard: record.source for record in found}))
    looked = executor.map_unordered(
        partial(find_changed, changed), TaskList("look", tasks, is_light=changed == "listing"), source_urls(plan.config)
    )
    for task, result in looked:
        if isinstance(result, BaseException):
            raise DestinationError(
                f"the source of the shards at {task.segment.label!r} can't be compared with the source of the earlier run: {result}; "
                "nothing was written: run the job again, or look at metadata only (changed='metadata')"
            ) from result
        stale |= result
    return frozenset(stale)


def find_unwanted(job: Job, plan: Plan, ledger: Ledger) -> frozenset[int]:
    """Return the numbers of the recorded shards with consolidated metadata of groups that must have none now."""
    segments = [segment.number for segment in job.segments(plan) if any(run.division is None for run in segment.runs)]
    records = dict[int, Record]()
    with suppress(NotADirectoryError):  # a later write of a record reports it
        records = merge(map(ledger.read_segment, segments)) if len(segments) <= FEW else ledger.read()
    return unwanted_among(plan, records)


def unwanted_among(plan: Plan, records: Mapping[int, Record]) -> frozenset[int]:
    """Return the numbers of the records whose shards hold consolidated metadata of groups that must have none now."""
    wanted = {run.number: run.rebuilt.keys() for run in plan.runs if run.division is None}  # no block holds any
    return frozenset(number for number in wanted.keys() & records.keys() if not _wants(wanted[number], records[number]))


def _wants(groups: Collection[str], record: Record) -> bool:
    return all(group in groups for group in record.consolidated)
