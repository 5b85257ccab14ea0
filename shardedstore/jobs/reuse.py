"""How a job goes on from an earlier one whose source has changed: what it takes over, by records in its own ledger."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial

import msgspec
from toolz import merge

from shardedstore.config.document import from_dict
from shardedstore.errors import DestinationError
from shardedstore.tasks.change_detection import Changed, Recorded, find_changed
from shardedstore.tasks.generations import Identity, last_begun, ledger_of, read_generation
from shardedstore.tasks.ledger import Ledger, Record
from shardedstore.tasks.plan import Plan, Segment
from shardedstore.tasks.source_comparison import divided_otherwise, unchanged
from shardedstore.tasks.task import Job

logger = logging.getLogger("shardedstore")
MOST_NAMED = 8
FEW = 8  # segments that are read one by one, where a ledger may have thousands
Found = tuple[Recorded, frozenset[int] | BaseException]
Each = Callable[[Callable[[Recorded], frozenset[int]], list[Recorded]], Iterable[Found]]


def take_over(job: Job, plan: Plan, identity: Identity, stale: frozenset[int] = frozenset()) -> int:
    """Record in a job's ledger what it takes over, and return how many shards of the one before it does not.

    Those in `stale` are left out. It can be done again, and does the same.
    """
    before = last_begun(job.place, read_generation(job.place, identity.after))
    old = ledger_of(job.place, before).read()
    earlier = from_dict(before.config)
    if otherwise := list(divided_otherwise(earlier, plan.config, before.marks, identity.marks)):
        logger.warning(
            "divided otherwise than before, and so made again: %s",
            ", ".join(map(repr, otherwise[:MOST_NAMED]))
            + (f" and {len(otherwise) - MOST_NAMED} more" if len(otherwise) > MOST_NAMED else ""),
        )
    taken: dict[int, Record] = {}
    for then, now in unchanged(earlier, plan.config, before.marks, identity.marks):
        record = old.get(then)
        if record is not None and not record.failed and now not in stale:
            generation = record.generation or before.generation
            taken[now] = msgspec.structs.replace(record, shard=now, generation=generation)
    ledger_of(job.place, identity).inherit(
        (segment.number, records) for segment, records in by_segment(job.segments(plan), taken)
    )
    return sum(not record.failed for record in old.values()) - len(taken)


def by_segment(segments: list[Segment], records: Mapping[int, Record]) -> Iterator[tuple[Segment, list[Record]]]:
    """Yield records with the segments that their shards are in."""
    for segment in segments:
        found = [records[number] for run in segment.runs for number in run.numbers if number in records]
        if found:
            yield segment, found


def find_stale(changed: Changed, plan: Plan, records: Mapping[int, Record], each: Each) -> frozenset[int]:
    """Return the numbers of the recorded shards whose source is not what it was.

    One that was not looked at so closely when it was made is taken to have changed.

    Raises
    ------
    DestinationError
        When a source can't be looked at.
    """
    records = {number: record for number, record in records.items() if not record.failed}
    numbers = ((number, record.source) for number, record in records.items())
    stale = {number for number, source in numbers if not source.startswith(f"{changed} ")}
    tasks: list[Recorded] = []
    for segment, found in by_segment(plan.segments(), {n: r for n, r in records.items() if n not in stale}):
        tasks.append(Recorded(segment, {record.shard: record.source for record in found}))
    for task, result in each(partial(find_changed, changed), tasks):
        if isinstance(result, BaseException):
            raise DestinationError(
                f"whether the source of the shards at {task.segment.label!r} has changed can't be told: {result}; "
                "nothing was written: run the job again, or look at metadata only (changed='metadata')"
            ) from result
        stale |= result
    return frozenset(stale)


def find_unwanted(job: Job, plan: Plan, ledger: Ledger) -> frozenset[int]:
    """Return the numbers of the recorded shards that hold consolidated metadata of groups that are to have none."""
    wanted = {run.number: run.rebuilt.keys() for run in plan.runs if run.division is None}  # no block holds any
    segments = [segment.number for segment in job.segments(plan) if any(run.division is None for run in segment.runs)]
    records = dict[int, Record]()
    with suppress(NotADirectoryError):  # which is told when a record is to be kept
        records = merge(map(ledger.read_segment, segments)) if len(segments) <= FEW else ledger.read()
    return frozenset(number for number in wanted.keys() & records.keys() if not _wants(wanted[number], records[number]))


def _wants(groups: Collection[str], record: Record) -> bool:
    return all(group in groups for group in record.consolidated)


def one_by_one(work: Callable[[Recorded], frozenset[int]], tasks: list[Recorded]) -> Iterator[Found]:
    """Do the tasks here, one after another."""
    for task in tasks:
        yield task, work(task)
