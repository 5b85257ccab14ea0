"""Shards that may fail: a result that is published with holes, which are recorded, and tried again by the next run."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping

from shardedstore.chain import Chain
from shardedstore.errors import ShardError, ShardsFailed, UsageError
from shardedstore.jobs.reuse import by_segment
from shardedstore.storage.folders import STORAGE_ERRORS
from shardedstore.storage.remote_errors import explain
from shardedstore.tasks.ledger import Record
from shardedstore.tasks.outcome import Outcome
from shardedstore.tasks.plan import Plan
from shardedstore.tasks.task import Job

logger = logging.getLogger("shardedstore")


def find_accepted(plan: Plan, chain: Chain, names: Iterable[str], most: int) -> frozenset[int]:
    """Return the numbers of the shards that may fail, by their names; `most` is how many others may.

    Raises
    ------
    UsageError
        For names of no shards, and where a result can't have holes.
    """
    wanted = frozenset(names)
    if type(most) is not int or most < 0:
        raise UsageError(f"max_missing={most!r} is not a number of shards: say 0 or more")
    if not wanted and not most:
        return frozenset()
    if chain.sink is None:
        raise UsageError(
            "accept_failed= and max_missing= are for a chain that ends in a sink: a function returns what it made"
        )
    if chain.is_one_zarr:
        raise UsageError(
            f"a shard that is missing from one ordinary Zarr would be read as fill values: {type(chain.sink).__name__} takes no "
            "accept_failed= and max_missing=. Write with ToZip or CopyTo(layout='shards'), whose config knows of holes"
        )
    found = {shard.name: number for run in plan.runs for number, shard in run.shards() if shard.name in wanted}
    for name in sorted(wanted - found.keys()):
        raise UsageError(f"accept_failed has {name!r}, and there is no such shard: they are {_some(plan)}")
    if "(base)" in wanted:
        raise UsageError(
            "the base can't be a hole, as it holds the metadata of what is divided: take it out of accept_failed"
        )
    return frozenset(found.values())


def _some(plan: Plan) -> str:
    run = plan.runs[-1]
    shard = next(shard for _, shard in run.shards())
    return f"named like {shard.name!r}" if run.mounted is None else "none but the base, as nothing is divided"


def accept(job: Job, plan: Plan, outcome: Outcome) -> dict[int, Record]:
    """Return the records of the shards that failed, where that was accepted: holes in the result.

    Raises
    ------
    ShardsFailed
        Where it was not.
    """
    count = len(outcome.failures)
    untried = plan.shard_count - outcome.done - outcome.skipped - count
    causes = {error.shard: error.cause for error in outcome.failures}
    found = {
        number: Record(number, 0, 0, "", failed=causes[shard.name].partition("\n")[0])
        for run in plan.runs
        for number, shard in run.shards()
        if shard.name in causes
    }
    if job.folder is not None:
        _keep(job, plan, found)
    others = found.keys() - job.accepted
    if untried or not (job.accepted or job.max_missing) or 0 in others or len(others) > job.max_missing:
        raise shards_failed(job, outcome.failures, plan.shard_count, untried)
    return found


def _keep(job: Job, plan: Plan, failed: Mapping[int, Record]) -> None:
    """Record what failed, for people who look at the job later."""
    try:
        for segment, records in by_segment(job.segments(plan), failed):
            with job.ledger.writer(segment.number) as append:
                for record in records:
                    append(record)
    except STORAGE_ERRORS as error:  # of which the failures are likely to tell as well
        logger.warning("what failed can't be recorded at %s: %s", job.folder, explain(error))


def shards_failed(job: Job, failures: tuple[ShardError, ...], count: int, untried: int = 0) -> ShardsFailed:
    """Return the error that tells of the shards that failed, of so many in all."""
    again = "" if job.folder is None else ": call map_shards with the same arguments again, and it goes on from there"
    counts = f"{untried:,} were not tried, and " if untried else ""
    text = f"{len(failures):,} of {count:,} shards failed and no config was written; {counts}{count - untried - len(failures):,} are done"
    remedies = Counter(error.remedy for error in failures if error.remedy)
    if untried and remedies:
        text += f"; the job stopped, as the others would fail as well: {remedies.most_common(1)[0][0]}"
    elif untried and 1 < job.max_failures <= len(failures):
        text += f"; the job stopped at max_failures={job.max_failures} (--max-failures)"
    return ShardsFailed(f"{text}{again}", failures)
