"""Open the destination of a job for writing, and take over the records of an earlier job."""

from __future__ import annotations

import logging
from dataclasses import replace

import msgspec

from shardedstore.errors import DestinationError
from shardedstore.jobs.executors.base import Executor
from shardedstore.jobs.job import Job
from shardedstore.jobs.ledger import Ledger
from shardedstore.jobs.manifest import JobManifest, last_begun, ledger_of, read_generation
from shardedstore.jobs.moved_source import keep_moved
from shardedstore.jobs.open_destination import OvertakenError, claim
from shardedstore.jobs.prepare import check_moved
from shardedstore.jobs.reuse import by_segment, find_reusable, find_stale, find_unwanted
from shardedstore.jobs.shards import Plan
from shardedstore.jobs.source_comparison import divided_otherwise
from shardedstore.storage.outputs import UNFINISHED, bucket_rule

logger = logging.getLogger("shardedstore")
MOST_NAMED = 8


def take_over(
    job: Job, plan: Plan, manifest: JobManifest, executor: Executor, stale: frozenset[int] = frozenset()
) -> int:
    """Take over records of an earlier job, and return the number of its shards that are not taken over.

    The shards in `stale` are left out. A repeated call has the same effect.
    """
    before = last_begun(job.layout.place, read_generation(job.layout.place, manifest.after))
    old = ledger_of(job.layout.place, before).read()
    earlier = manifest.source_of(before)
    if otherwise := list(divided_otherwise(earlier, plan.config, before.marks, manifest.marks)):
        logger.warning(
            "divided in another way than before, so all of their shards are made again: %s",
            ", ".join(map(repr, otherwise[:MOST_NAMED]))
            + (f" and {len(otherwise) - MOST_NAMED} more" if len(otherwise) > MOST_NAMED else ""),
        )
    taken = find_reusable(plan, before, manifest, old)
    taken = {number: record for number, record in taken.items() if number not in stale}
    if manifest.was_moved_since(before):
        taken = keep_moved(job, plan, manifest, taken, executor)
    ledger_of(job.layout.place, manifest).inherit(
        (segment.number, records) for segment, records in by_segment(job.segments(plan), taken)
    )
    return sum(not record.failed for record in old.values()) - len(taken)


def start_slice(job: Job, plan: Plan, wanted: JobManifest, executor: Executor) -> Job:
    """Open the destination for a slice, and return the job with its generation there.

    Several slices may do this at the same time. The first one begins the job. If it continues a finished job, it also looks
    for changes of the source; later slices and an ordinary run continue from its records.
    """
    while True:
        try:
            return _begin_slice(job, plan, wanted, executor)
        except OvertakenError:
            continue


def _begin_slice(job: Job, plan: Plan, wanted: JobManifest, executor: Executor) -> Job:
    check_moved(job, wanted)
    found = job.layout.open(wanted, overwrite=False)
    ledger = job.layout.ledger(found.generation, found.nonce)
    is_first = ledger.is_compacted()
    if found.after and not ledger.has_inherited():
        take_over(job, plan, found, executor)
        is_first = True
    if is_first and (changed := _find_changed(job, plan, ledger, executor)):
        found = _begin_again(job, wanted, found, ledger, changed)
        take_over(job, plan, found, executor, changed)
    return replace(job, generation=found.generation, nonce=found.nonce)


def start(job: Job, plan: Plan, wanted: JobManifest, overwrite: bool, executor: Executor) -> Job:
    """Open the destination for writing, and return the job with its generation there.

    The destination is checked again, because a lazy job may run much later than `prepare`. Shards of an earlier job are taken
    over if their source is unchanged; the executor runs the tasks that compare the source.
    The plan's notices are logged.
    """
    for notice in plan.notices:
        logger.warning("%s", notice)
    layout = job.layout
    check_moved(job, wanted)
    found, stale = layout.open(wanted, overwrite), 0
    ledger = layout.ledger(found.generation, found.nonce)
    if found.after and not ledger.has_inherited():
        stale = take_over(job, plan, found, executor)
    if changed := _find_changed(job, plan, ledger, executor):
        found = _begin_again(job, wanted, found, ledger, changed)
        ledger = layout.ledger(found.generation, found.nonce)
        stale += take_over(job, plan, found, executor, changed)
    if layout.is_remote and ledger.unfinished():
        logger.warning(UNFINISHED, layout.folder, bucket_rule(layout.url))
    job = replace(job, generation=found.generation, nonce=found.nonce, stale=stale)
    return replace(job, lost=layout.mend(job, plan))


def _find_changed(job: Job, plan: Plan, ledger: Ledger, executor: Executor) -> frozenset[int]:
    """Return the numbers of the recorded shards that must be made again."""
    changed = (
        find_unwanted(job, plan, ledger) if job.layout.has_objects else frozenset[int]()
    )  # others hold no such metadata
    if job.changed != "metadata" and (records := ledger.read()):
        changed |= find_stale(job.changed, plan, records, executor)
    return changed


def _begin_again(
    job: Job, wanted: JobManifest, found: JobManifest, ledger: Ledger, changed: frozenset[int]
) -> JobManifest:
    """Begin a new generation that continues a job whose source has changed."""
    _check_none_moved(ledger, changed)
    code = found.code or wanted.code
    wanted = msgspec.structs.replace(wanted, after=found.generation, code=code)
    return claim(job.layout.place, wanted, found.generation)


def _check_none_moved(ledger: Ledger, changed: frozenset[int]) -> None:
    """Refuse to make shards again in a new version if shards were moved."""
    if any(record.moved for record in ledger.read().values()):
        raise DestinationError(
            f"{len(changed):,} shards at {ledger.folder.url!r} are to be made again, but a move has begun, and their source may be deleted: give the "
            "same options as before"
        )
