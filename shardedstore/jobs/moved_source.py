"""A source that was moved to another URL: earlier shards are kept, after a few of them were made again and compared."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from tempfile import TemporaryDirectory

import msgspec

from shardedstore.errors import DestinationError
from shardedstore.jobs.change_detection import look_at_all
from shardedstore.jobs.executors.base import Executor, TaskList
from shardedstore.jobs.job import Job
from shardedstore.jobs.layouts.base import ResultLayout
from shardedstore.jobs.ledger import Record
from shardedstore.jobs.manifest import JobManifest
from shardedstore.jobs.preflight import source_urls
from shardedstore.jobs.shards import Plan
from shardedstore.jobs.stages import Stages
from shardedstore.jobs.worker import run_shard
from shardedstore.storage.attributes import NO_ATTRIBUTES
from shardedstore.storage.options import NONE

SAMPLES = 3  # shards that are made again and compared

logger = logging.getLogger("shardedstore")


def keep_moved(
    job: Job, plan: Plan, now: JobManifest, records: Mapping[int, Record], executor: Executor
) -> dict[int, Record]:
    """Return the records that are kept although the source was moved, with its listings at the new place.

    Modification times, inodes and ETags may differ in another place, so earlier listings can't be compared. Instead, a few shards
    are made again in a temporary folder. With ``changed="content"``, the job compares all bytes of the source.

    Raises
    ------
    DestinationError
        If a shard has other contents than before. Nothing was written.
    """
    if job.changed != "content":
        check_samples(job, plan, now, records)
    logger.warning("%s shards are kept, as their source was moved from %r", f"{len(records):,}", now.moved_from)
    if job.changed != "listing":
        return dict(records)
    listed = frozenset(number for number, record in records.items() if record.source.startswith(f"{job.changed} "))
    states = _states(job, plan, listed, executor)
    return {
        number: msgspec.structs.replace(record, source=states.get(number, record.source))
        for number, record in records.items()
    }


def check_samples(job: Job, plan: Plan, now: JobManifest, records: Mapping[int, Record]) -> None:
    """Make a few shards again in a temporary folder, and compare them with their records.

    Raises
    ------
    DestinationError
        If a shard differs.
    """
    numbers = sorted(records)
    chosen = (
        {numbers[len(numbers) * i // (SAMPLES - 1) - (i == SAMPLES - 1)] for i in range(SAMPLES)} if numbers else ()
    )
    with TemporaryDirectory(prefix="shardedstore-") as folder:
        sample = replace(
            job, layout=_at(job.layout, f"{folder}/sample"), generation=1, objects=NO_ATTRIBUTES, memory=None
        )
        for run in plan.runs:
            for number in chosen & set(run.numbers) if chosen else ():
                shard = next(shard for shard in run.shards() if shard.number == number)
                made = run_shard(sample, run, Stages(), shard, 1)
                if made.digest != records[number].digest:
                    raise DestinationError(
                        f"shard {shard.name!r} has other contents when it is made from {plan.config.base.show()} than from "
                        f"{now.moved_from!r}: the data differ, or the codecs have other versions: compare the result by "
                        "verify with against=, or name another destination"
                    )


def _at(layout: ResultLayout, folder: str) -> ResultLayout:
    """Return a layout in a local folder."""
    sink = copy.copy(layout.sink)
    for name, value in (("url", folder), ("options", NONE)):
        object.__setattr__(sink, name, value)
    return replace(layout, sink=sink, url=folder, options=NONE)


def _states(job: Job, plan: Plan, numbers: frozenset[int], executor: Executor) -> dict[int, str]:
    """Return the present states of the sources of some shards."""
    others = frozenset(number for run in plan.runs for number in run.numbers if number not in numbers)
    tasks = [segment.without(others) for segment in plan.segments()]
    found = executor.map_unordered(
        partial(look_at_all, job.changed),
        TaskList("look", [task for task in tasks if task.runs], is_light=True),
        source_urls(plan.config),
    )
    states = dict[int, str]()
    for task, result in found:
        if isinstance(result, BaseException):
            raise DestinationError(
                f"the source of the shards at {task.label!r} can't be listed: {result}; run the job again"
            ) from result
        states |= result
    return states
