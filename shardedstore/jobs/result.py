"""The end of a job: check that every shard is done, accept failures, and publish the config.

Failed shards can be accepted as holes in the result. They are recorded, and the next run tries them again.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from shardedstore.errors import JobStopped, ShardError, ShardsFailed, SourceChangedError, UsageError
from shardedstore.jobs.guards import check_missing_chunks
from shardedstore.jobs.job import Job
from shardedstore.jobs.layouts.base import ResultLayout
from shardedstore.jobs.ledger import Record, try_compact
from shardedstore.jobs.make_plan import changed_chunks
from shardedstore.jobs.reuse import by_segment
from shardedstore.jobs.shards import Plan
from shardedstore.jobs.stop_signal import StopSignal
from shardedstore.jobs.summary import Summary
from shardedstore.storage.errors import explain
from shardedstore.storage.folders import STORAGE_ERRORS
from shardedstore.stores.hierarchy import digest, read_nodes
from shardedstore.stores.locations import Config

logger = logging.getLogger("shardedstore")


def find_accepted(plan: Plan, layout: ResultLayout, names: Iterable[str], most: int) -> frozenset[int]:
    """Find the numbers of the shards that may fail.

    Parameters
    ----------
    plan : Plan
        The shards.
    layout : ResultLayout
        The layout of the result.
    names : iterable of str
        The names of the shards that may fail.
    most : int
        The number of other shards that may fail.

    Raises
    ------
    UsageError
        If a name is not the name of a shard, `most` is not a count, or the result can't have holes.
    """
    wanted = frozenset(names)
    if type(most) is not int or most < 0:
        raise UsageError(f"max_missing={most!r} is not a number of shards: write 0 or more")
    if not wanted and not most:
        return frozenset()
    layout.check_holes()
    found = {shard.name: shard.number for run in plan.runs for shard in run.shards() if shard.name in wanted}
    for name in sorted(wanted - found.keys()):
        raise UsageError(f"accept_failed has {name!r}, which is not a shard: the shards are {_some(plan)}")
    if "(base)" in wanted:
        raise UsageError(
            "the base can't be a hole, as it holds the metadata of divided arrays: remove it from accept_failed"
        )
    return frozenset(found.values())


def _some(plan: Plan) -> str:
    run = plan.runs[-1]
    shard = next(run.shards())
    return f"named like {shard.name!r}" if run.mounted is None else "none but the base, as nothing is divided"


def accept(job: Job, plan: Plan, outcome: Summary) -> dict[int, Record]:
    """Return the records of the failed shards, which become holes in the result.

    The failures are recorded in the ledger in any case.

    Raises
    ------
    ShardsFailed
        If a failure is not accepted, or if shards were not tried.
    """
    count = len(outcome.failures)
    untried = plan.shard_count - outcome.done - outcome.skipped - count
    found = _keep(job, plan, outcome.failures)
    others = found.keys() - job.accepted
    if untried or not (job.accepted or job.max_missing) or 0 in others or len(others) > job.max_missing:
        raise shards_failed(job, outcome.failures, plan.shard_count, untried)
    return found


def _keep(job: Job, plan: Plan, failures: Iterable[ShardError]) -> dict[int, Record]:
    """Record failures in the ledger, so that users can look at them later, and return the records."""
    errors = {error.shard: error for error in failures}
    failed = {
        shard.number: _failed(shard.number, errors[shard.name])
        for run in plan.runs
        for shard in run.shards()
        if shard.name in errors
    }
    try:
        for segment, records in by_segment(job.segments(plan), failed):
            with job.ledger.writer(segment.number) as append:
                for record in records:
                    append(record)
    except STORAGE_ERRORS as error:  # the storage error that failed the shards may also prevent this write
        logger.warning("the failures can't be recorded at %s: %s", job.layout.folder, explain(error))
    return failed


def _failed(number: int, error: ShardError) -> Record:
    return Record(0, 0, "", shard=number, failed=error.cause.partition("\n")[0], code=error.code)


def stopped(job: Job, plan: Plan, outcome: Summary, stop: StopSignal, total: int) -> JobStopped:
    """Record the failures of a job or a slice that stops before its end, and return its error.

    `total` is the number of its shards.
    """
    if outcome.failures:
        _keep(job, plan, outcome.failures)
    done, failed = outcome.done + outcome.skipped, len(outcome.failures)
    counts = f"{done:,} of {total:,} shards are done{f', {failed:,} failed' if failed else ''}"
    text = f"{stop.told}; {counts} and {total - outcome.tried:,} are left{job.layout.again}"
    return JobStopped(text, stop.reason, replace(outcome, records={}))


def slice_failed(job: Job, plan: Plan, outcome: Summary, total: int) -> ShardsFailed:
    """Record the failures of a slice, and return its error; `total` is the number of its shards."""
    _keep(job, plan, outcome.failures)
    return shards_failed(job, outcome.failures, total, total - outcome.tried)


def shards_failed(job: Job, failures: tuple[ShardError, ...], count: int, untried: int = 0) -> ShardsFailed:
    """Return the error for a job with failed shards.

    Parameters
    ----------
    job : Job
        The job.
    failures : tuple of ShardError
        The errors of the failed shards.
    count : int
        The number of all shards.
    untried : int
        The number of shards that were not tried.
    """
    counts = f"{untried:,} were not tried, and " if untried else ""
    text = f"{len(failures):,} of {count:,} shards failed and no config was written; {counts}{count - untried - len(failures):,} are done"
    remedies = Counter(error.remedy for error in failures if error.remedy)
    if untried and remedies:
        text += f"; the job stopped, as the other shards would fail as well: {remedies.most_common(1)[0][0]}"
    elif untried and 1 < job.max_failures <= len(failures):
        text += f"; the job stopped at max_failures={job.max_failures} (--max-failures)"
    return ShardsFailed(f"{text}{job.layout.again}", failures)


GONE = "the written object is missing, or has another size"


def finish(job: Job, plan: Plan, outcome: Summary) -> Config:
    """Check every shard, rebuild consolidated metadata, and write the config.

    This is the last step of a job. If it fails before the layout is published, no config is written, and the shards that are
    done stay done.

    Raises
    ------
    ShardsFailed
        If shards failed. It has an error for each of them.
    SourceChangedError
        If the source's metadata changed since the job was planned, or if chunks appeared or disappeared.
    DestinationError
        If a later job has taken over the destination.
    GuardsFailed
        If the share of missing chunks rose beyond the limit of a guard.
    """
    gone = accept(job, plan, outcome) if outcome.failures else {}
    if digest(read_nodes(plan.config)) != plan.source:
        raise SourceChangedError(
            "the source's metadata changed while the job ran, so its shards may hold different versions of it; "
            "no config was written: partition the source again, and map it to another destination"
        )
    if job.move is None and (changed := changed_chunks(plan)):
        job.ledger.mark(frozenset().union(*changed.values()))
        raise SourceChangedError(
            f"chunks of {', '.join(map(repr, changed))} appeared or disappeared while the job ran, so their shards may hold "
            "different versions of the source; no config was written: run the job again with the same arguments, and it makes these shards again"
        )
    records = _records(job, plan, outcome, gone)
    check_missing_chunks(job, plan, records)
    config = job.layout.publish(job, plan, records)
    try_compact(job.ledger)
    return config


def _records(job: Job, plan: Plan, outcome: Summary, gone: dict[int, Record]) -> dict[int, Record]:
    """Return the record of every shard, after a comparison with the files at the destination.

    The records in `gone` are holes, and are not compared.
    """
    records = job.layout.records(job.ledger, outcome)
    done = job.done(plan.runs, records, job.layout.inventory())
    if len(done) + len(gone) == plan.shard_count:
        return records | gone
    missing = tuple(
        ShardError(
            shard.name,
            GONE if shard.number in records else "it was not recorded as done",
            code="lost-result",
            path=shard.path,
            block=shard.block,
        )
        for run in plan.runs
        for shard in run.shards()
        if shard.number not in done and shard.number not in gone
    )
    raise shards_failed(job, missing, plan.shard_count)
