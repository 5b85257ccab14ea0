"""Run a job: lock the destination, run the tasks, and finish the result."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from shardedstore.errors import DestinationError, LockedError, ShardsFailed, UsageError
from shardedstore.jobs.estimates.memory import shard_memory
from shardedstore.jobs.events import Events
from shardedstore.jobs.executors.active import active_executor
from shardedstore.jobs.executors.base import Executor, KilledWorker
from shardedstore.jobs.executors.delayed import delay
from shardedstore.jobs.executors.local import LocalExecutor, SerialExecutor
from shardedstore.jobs.executors.task_sizes import TaskQueue
from shardedstore.jobs.failures_file import write_failures
from shardedstore.jobs.growth import Growth
from shardedstore.jobs.job import Job
from shardedstore.jobs.layouts.base import AGAIN
from shardedstore.jobs.limits import forget
from shardedstore.jobs.manifest import read_manifest
from shardedstore.jobs.meter import Meter
from shardedstore.jobs.move.checks import check_source
from shardedstore.jobs.move.finish import end_move
from shardedstore.jobs.move.scratch import queue_of
from shardedstore.jobs.move.state import begin_move
from shardedstore.jobs.move.task import move_task
from shardedstore.jobs.partial import show_partial
from shardedstore.jobs.preflight import places_of, source_urls
from shardedstore.jobs.prepare import manifest_of
from shardedstore.jobs.remaining import Remaining, remaining
from shardedstore.jobs.result import finish, slice_failed, stopped
from shardedstore.jobs.shards import Plan, Segment, Task
from shardedstore.jobs.slices import Slice, check_sliceable
from shardedstore.jobs.start import start, start_slice
from shardedstore.jobs.stop_signal import StopSignal
from shardedstore.jobs.summary import Summary
from shardedstore.jobs.worker import IN_A_ROW, run_task
from shardedstore.notices import merge_notices
from shardedstore.storage.errors import explain
from shardedstore.storage.folders import STORAGE_ERRORS
from shardedstore.stores.locations import Config

if TYPE_CHECKING:
    from dask.delayed import Delayed

T = TypeVar("T")
Wrap = Callable[[Config, Summary], T]
logger = logging.getLogger("shardedstore")


def run_job(job: Job, plan: Plan, overwrite: bool, wrap: Wrap[T], events: Events, stop: StopSignal) -> T:
    """Run a job on the active Dask scheduler, and return the result of `wrap`.

    Parameters
    ----------
    job : Job
        The job, as prepared for the plan.
    plan : Plan
        The shards.
    overwrite : bool
        Whether to replace an earlier result.
    wrap : callable
        Makes the result from the config and the summary of the job.
    events : Events
        Gets first the summary of the shards of earlier runs, then the summary of each task.
    stop : StopSignal
        The request to stop the job before its end.

    Raises
    ------
    JobStopped
        If the stop was requested and shards are left; finished shards stay.
    DestinationError
        If another job uses the destination or takes it over, or if the result can't be written; finished shards stay.
    ShardsFailed
        If shards failed, unless this was allowed. No config is written, and finished shards stay.
    UsageError
        If the active client is asynchronous.
    """
    executor = active_executor()
    stop.check()
    with _locked(job, events.meter) as lost:
        is_new = job.move is None or read_manifest(job.layout.place) is None
        job = start(job, plan, manifest_of(plan, job), overwrite, executor)
        if job.move is not None:
            begin_move(job.ledger, check_source(plan.config), is_new=is_new)
        summary = _run_shards(executor, job, plan, remaining(job, plan), lost, events, stop)
        if job.layout.destination is not None:
            write_failures(job.layout.place, summary.failures)
        if stop.is_requested and summary.tried < plan.shard_count:
            raise stopped(job, plan, summary, stop, plan.shard_count)
        return _finish(plan, wrap, job, summary)


def run_slice(job: Job, plan: Plan, overwrite: bool, part: Slice, events: Events, stop: StopSignal) -> Summary:
    """Run the shards of a slice in this process, and return their summary; no config is written.

    Raises
    ------
    UsageError
        If the job can't run in slices.
    JobStopped
        If the stop was requested and shards of the slice are left; finished shards stay.
    LockedError
        If a whole job, or a slice of another job, uses the destination.
    ShardsFailed
        If shards failed; finished shards stay.
    """
    wanted, executor = manifest_of(plan, job), LocalExecutor()
    check_sliceable(job, wanted, overwrite)
    stop.check()
    with job.layout.held_by_slice(f"{wanted.source} {wanted.chain}", str(part), events.meter.now) as lost:
        job = start_slice(job, plan, wanted, executor)
        segments = part.of(job.segments(plan))
        total = sum(segment.count for segment in segments)
        summary = _run_shards(executor, job, plan, remaining(job, plan, segments), lost, events, stop)
        if stop.is_requested and summary.tried < total:
            raise stopped(job, plan, summary, stop, total)
        if summary.failures:
            raise slice_failed(job, plan, summary, total)
        return replace(summary, records={})


def _run_shards(
    executor: Executor,
    job: Job,
    plan: Plan,
    left: Remaining,
    lost: threading.Event,
    events: Events,
    stop: StopSignal,
) -> Summary:
    """Run the remaining shards, and return the sum of their summaries."""
    summaries, growth = list[Summary](), Growth(plan, job.chain)
    with stop.deferred(), closing(_summaries(executor, job, plan, left, events.meter, stop)) as found:
        for summary in _until_hopeless(job, found):
            summaries.append(replace(summary, shards=()))
            growth.add(summary.shards)
            events.add(summary)
            _check_lock(job, lost)
    _check_lock(job, lost)
    total = Summary.total(summaries)
    return replace(total, notices=merge_notices([*total.notices, *growth.notices()]))


def delay_job(job: Job, plan: Plan, overwrite: bool, wrap: Wrap[T]) -> Delayed:
    """Return a job as one lazy object, which computes the result; see `run_job`."""
    if job.limits.rates is not None:
        raise UsageError(
            "a lazy job can't limit requests and bytes, as it does not know the workers that will share them: leave out these "
            "limits, or run the job"
        )
    return delay(
        partial(start, job, plan, manifest_of(plan, job), overwrite, SerialExecutor()),
        run_task,
        TaskQueue(job.segments(plan), name=job.chain.name),
        Summary.total,
        partial(_finish, plan, wrap),
        _urls(job, plan),
    )


@contextmanager
def _locked(job: Job, meter: Meter) -> Iterator[threading.Event]:
    """Hold the lock of a job's destination; the event signals that it was lost."""
    try:
        with job.layout.held(meter.now) as lost:
            yield lost
    except KeyboardInterrupt as stopped:
        if job.layout.again:
            stopped.add_note(f"the finished shards at {job.layout.folder!r} stay{job.layout.again}")
        raise


def _check_lock(job: Job, lost: threading.Event) -> None:
    if lost.is_set():
        raise LockedError(
            f"another job has taken over the destination {job.layout.folder!r}, as this one was not seen to live: it goes on "
            "from the finished shards"
        )


@contextmanager
def _limited(job: Job, executor: Executor, is_needed: bool) -> Iterator[Job]:
    """Give the job with the token bucket that its workers share, if it is limited and has tasks."""
    rates = job.limits.rates
    if rates is None or not is_needed:
        yield job
        return
    with executor.bucket(rates) as bucket:
        try:
            yield replace(job, bucket=bucket)
        finally:
            forget(bucket)


def _summaries(
    executor: Executor, job: Job, plan: Plan, left: Remaining, meter: Meter, stop: StopSignal
) -> Generator[Summary]:
    """Yield the summary of the shards of earlier runs, then the summary of each task."""
    yield left.before
    with _limited(job, executor, bool(left.segments)) as limited:
        results = executor.map_unordered(
            partial(run_task if job.move is None else move_task, limited),
            _MeteredTasks(meter, _queue(job, plan, left), max(shard_memory(job, plan).values())),
            _urls(job, plan),
            partial(job.find_missing, places_of(location for _, location in plan.config.locations())),
            stop,
        )
        with closing(results):
            for task, result in results:
                meter.taken_back(task)
                yield _failed(task.segment, result) if isinstance(result, BaseException) else result


def _queue(job: Job, plan: Plan, left: Remaining) -> TaskQueue:
    if job.move is not None:
        return queue_of(job.move, job, plan, left)
    return TaskQueue(left.segments, left.again, job.chain.name)


class _MeteredTasks:
    """Tasks of a job, whose meter notes the tasks that the executor gets."""

    def __init__(self, meter: Meter, tasks: TaskQueue, memory: int) -> None:
        self._meter, self._tasks, self.memory = meter, tasks, memory
        self.seconds: float | None = None
        self.is_light = tasks.is_light

    def __bool__(self) -> bool:
        return bool(self._tasks)

    def take(self, threads: int) -> Task:
        # docstring inherited
        task = self._tasks.take(threads)
        self._meter.handed_out([task])
        return task

    def learn(self, task: Task, outcome: Summary) -> None:
        # docstring inherited
        self._tasks.learn(task, outcome)
        self.seconds = self._tasks.seconds

    def split(self, task: Task) -> list[Task]:
        # docstring inherited
        parts = self._tasks.split(task)
        self._meter.taken_back(task)
        self._meter.handed_out(parts)
        return parts

    def label(self, task: Task) -> str:
        # docstring inherited
        return self._tasks.label(task)

    def spans(self, task: Task) -> tuple[str, ...]:
        # docstring inherited
        return self._tasks.spans(task)


def _urls(job: Job, plan: Plan) -> list[str]:
    """Return the URLs that a job reads from and writes to."""
    return [*source_urls(plan.config), *job.layout.written_urls]


def _failed(segment: Segment, error: BaseException) -> Summary:
    """Return the summary of a task that raised an error or killed its workers."""
    cause = f"{type(error).__name__}: {error}"
    if isinstance(error, KilledWorker):
        return Summary.failed(segment, cause, "killed")
    hint = "is the same shardedstore, with all that the transforms import, installed on the workers?"
    return Summary.failed(segment, f"{cause}; {hint}", "unprepared-worker")


def _until_hopeless(job: Job, summaries: Iterator[Summary]) -> Iterator[Summary]:
    """Yield summaries until too many shards have failed.

    `IN_A_ROW` failures in a row are too many if their cause affects all shards.
    """
    failed, row = 0, 0
    for summary in summaries:
        yield summary
        failed += len(summary.failures)
        row = summary.row if summary.done else row + summary.row
        if failed >= job.max_failures or row >= IN_A_ROW:
            return


def _finish(plan: Plan, wrap: Wrap[T], job: Job, summary: Summary) -> T:
    """Publish the config and return the result; a partial one shows the source for failed shards."""
    is_unchanged = not summary.done and not summary.failures and job.ledger.is_compacted()
    try:
        config = finish(job, plan, summary)
        if job.move is not None:
            kept = end_move(job.ledger, plan.config.base, config, is_exact=not job.chain.steps)
            summary = replace(summary, notices=merge_notices([*summary.notices, *kept]))
    except ShardsFailed as failed:
        if not job.partial:
            raise
        config, summary = show_partial(job, plan, summary, failed)
    except STORAGE_ERRORS as error:
        raise DestinationError(
            f"the shards are done, but not the result at {job.layout.folder!r}: {explain(error)}; {AGAIN}"
        ) from error
    for notice in summary.notices:
        logger.warning("%s", notice)
    return wrap(
        config,
        replace(
            summary,
            changed=min(job.stale, summary.done),
            missing=min(summary.missing + job.lost, summary.done),
            unchanged=is_unchanged,
            notices=merge_notices([*plan.notices, *summary.notices]),
            records={},
        ),
    )
