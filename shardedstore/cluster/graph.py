"""The Dask graph: the same tasks, either as one lazy tree or, on a cluster, in a bounded window of futures.

Only public Dask is used.
"""

from __future__ import annotations

import os
import secrets
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import dask
from dask.delayed import Delayed, delayed
from toolz import partition_all

from shardedstore.chain import Chain
from shardedstore.cluster.attendance import attended
from shardedstore.cluster.lending import access, lend, prove
from shardedstore.cluster.wanted import do_segment, interruptible
from shardedstore.cluster.window import Window
from shardedstore.components.kinds import Config
from shardedstore.errors import DestinationError, ShardsFailed
from shardedstore.jobs.job import identity, remaining, start
from shardedstore.jobs.lock import held
from shardedstore.jobs.partial import show_partial
from shardedstore.jobs.result import finish
from shardedstore.notices import merge_notices
from shardedstore.storage.folders import STORAGE_ERRORS
from shardedstore.storage.remote_errors import explain
from shardedstore.tasks.outcome import Outcome
from shardedstore.tasks.plan import Plan, Segment
from shardedstore.tasks.task import Job

if TYPE_CHECKING:
    from distributed import Client

T = TypeVar("T")
Item = TypeVar("Item")
Progress = Callable[[int, int], None]
BRANCHES = 32  # of the tree that adds outcomes up
AGAIN = "call map_shards with the same arguments again, and it goes on from there"


def lazy(job: Job, plan: Plan, overwrite: bool, wrap: Callable[[Config, Outcome], T]) -> Delayed:
    """Return the whole job as one lazy object: computed, it gives what `wrap` makes of the config, or raises.

    It holds no secret options: the workers of the cluster that is active now are given them.
    """
    if (client := active_client()) is not None:
        lend(client, job, plan)
    token = secrets.token_hex(4)
    started = delayed(start)(job, plan, identity(plan, job.chain), overwrite, dask_key_name=f"start-{token}")
    segments = job.segments(plan)
    level = [
        delayed(do_segment)(started, segment, dask_key_name=key)
        for segment, key in zip(segments, _keys(job, segments, token), strict=True)
    ]
    depth = 0
    while len(level) > 1:
        level = [
            delayed(Outcome.total)(list(some), dask_key_name=f"add-{depth}-{i}-{token}")
            for i, some in enumerate(partition_all(BRANCHES, level))
        ]
        depth += 1
    last: Delayed = delayed(_end)(started, plan, level[0], wrap, dask_key_name=f"finish-{token}")
    return last


def _end(job: Job, plan: Plan, outcome: Outcome, wrap: Callable[[Config, Outcome], T]) -> T:
    try:
        config = finish(job, plan, outcome)
    except ShardsFailed as failed:
        if not job.partial:
            raise
        config, outcome = show_partial(job, plan, outcome, failed)
    except STORAGE_ERRORS as error:
        raise DestinationError(
            f"the shards are done, but not the result at {job.folder!r}: {explain(error)}; {AGAIN}"
        ) from error
    notices = merge_notices([*plan.notices, *outcome.notices])
    return wrap(config, replace(outcome, changed=job.stale, missing=outcome.missing + job.lost, notices=notices))


def _keys(job: Job, segments: list[Segment], token: str) -> Iterator[str]:
    """Name tasks so that the dashboard, which cuts a key at the first word that is no plain text, shows chain and path."""
    for i, segment in enumerate(segments):
        yield f"{job.chain.name} {segment.label.replace('-', '_')}-{i}-{token}"


def run(
    job: Job, plan: Plan, overwrite: bool, wrap: Callable[[Config, Outcome], T], progress: Progress | None = None
) -> T:
    """Run the job now, on the Dask scheduler that is active, and return what `wrap` makes of the config.

    Parameters
    ----------
    progress : callable, optional
        Called with the number of shards that have ended, and of all.

    Raises
    ------
    DestinationError
        When another job is at work there.
    """
    if job.folder is None:
        return _run(job, plan, overwrite, wrap, progress, threading.Event())
    try:
        with held(job.place) as lost:
            return _run(job, plan, overwrite, wrap, progress, lost)
    except KeyboardInterrupt as stopped:
        stopped.add_note(f"what is done at {job.folder!r} stays: {AGAIN}")
        raise


def _run(
    job: Job,
    plan: Plan,
    overwrite: bool,
    wrap: Callable[[Config, Outcome], T],
    progress: Progress | None,
    lost: threading.Event,
) -> T:
    client = active_client()
    look = partial(each, name="look", plans=[plan])
    job = start(job, plan, identity(plan, job.chain), overwrite, look)
    if client is None:
        return _follow(None, job, plan, wrap, progress, lost)
    with access(client, job, plan):
        prove(client, job, plan)
        return _follow(client, job, plan, wrap, progress, lost)


def _follow(
    client: Client | None,
    job: Job,
    plan: Plan,
    wrap: Callable[[Config, Outcome], T],
    progress: Progress | None,
    lost: threading.Event,
) -> T:
    segments, skipped = remaining(job, plan, job.segments(plan))
    outcomes = [Outcome(skipped=skipped)]
    total = plan.shard_count
    if progress is not None:
        progress(skipped, total)
    ended, failed = skipped, 0
    for part in _run_local(job, segments) if client is None else _run_window(client, job, segments):
        outcomes.append(part)
        ended += part.done + part.skipped + len(part.failures)
        failed += len(part.failures)
        if progress is not None:
            progress(ended, total)
        if failed >= job.max_failures:
            break
        _check_held(job, lost)
    _check_held(job, lost)
    return _end(job, plan, Outcome.total(outcomes), wrap)


def _check_held(job: Job, lost: threading.Event) -> None:
    if lost.is_set():
        raise DestinationError(
            f"another job has taken over the destination {job.folder!r}, as this one was not seen to live: it goes on "
            "from what is done"
        )


def active_client() -> Client | None:
    """Return the distributed client that Dask would use now, without importing distributed."""
    scheduler = dask.config.get("scheduler", None)
    if "distributed" not in sys.modules or scheduler not in (None, "distributed", "dask.distributed"):
        return None
    from distributed import default_client

    try:
        return default_client()  # type: ignore[no-any-return, no-untyped-call]
    except ValueError:
        return None


def _compute(*values: Delayed) -> tuple[Any, ...]:
    return tuple(dask.base.compute(*values))  # type: ignore[no-untyped-call]


def _run_local(job: Job, segments: list[Segment]) -> Iterator[Outcome]:
    """Run segments a few at a time on the local scheduler, to tell of progress between."""
    token = secrets.token_hex(4)
    for some in partition_all(min(BRANCHES, max(os.cpu_count() or 1, job.max_failures)), segments):
        with interruptible(token):
            outcomes = _compute(*(delayed(do_segment)(job, segment, token) for segment in some))
        yield from outcomes


def each(
    work: Callable[[Item], T], items: list[Item], name: str, plans: Iterable[Plan]
) -> Iterator[tuple[Item, T | BaseException]]:
    """Yield items with what a function makes of each, or with what kept a worker from it, in the order in which they end.

    It only reads the stores that the plans are of, and runs on the Dask scheduler that is active.
    """
    client = active_client()
    if client is None:
        for some in partition_all(BRANCHES, items):
            yield from zip(some, _compute(*(delayed(work)(item) for item in some)), strict=True)
        return
    token = secrets.token_hex(4)
    waiting: list[Any] = [(item, f"{name}-{i}-{token}") for i, item in enumerate(items)][::-1]
    with ExitStack() as stack:
        for plan in plans:
            stack.enter_context(access(client, Job(Chain((), None), None), plan))
        function: Any = work
        stack.enter_context(attended(client))
        window = stack.enter_context(Window(client, function))
        while waiting or window.flying:
            window.launch([waiting.pop() for _ in range(min(window.room(), len(waiting)))])
            for _, done, result in window.ended():
                item: Any = done
                made: Any = result
                yield item, made


def _run_window(client: Client, job: Job, segments: list[Segment]) -> Iterator[Outcome]:
    """Run segments on a cluster, some at a time for each of its threads, and release each future when it ends.

    A task that kills its workers is data here: its segment is split, and its shards are tried one by one. Dask blames
    all tasks that wait for a worker when it dies, so a shard is only blamed when it was alone on the cluster.
    """
    from distributed.scheduler import KilledWorker

    token = secrets.token_hex(4)
    waiting = list(zip(segments, _keys(job, segments, token), strict=True))[::-1]
    suspects: list[tuple[Segment, str]] = []
    alone: tuple[Segment, str] | None = None
    with attended(client), Window(client, partial(do_segment, job)) as window:
        while waiting or suspects or window.flying:
            if waiting or window.flying:
                window.launch([waiting.pop() for _ in range(min(window.room(), len(waiting)))])
            else:
                alone = suspects.pop()
                window.launch([alone])
            for key, segment, result in window.ended():
                if isinstance(result, Outcome):
                    yield result
                elif segment.count > 1 and isinstance(result, KilledWorker):
                    waiting.extend((part, f"{key}-{i}") for i, part in enumerate(segment.split()))
                elif isinstance(result, KilledWorker) and (alone is None or alone[1] != key):
                    suspects.append((segment, f"{key}-alone"))
                else:
                    yield _failed(segment, result)


def _failed(segment: Segment, error: BaseException) -> Outcome:
    """Return the failures of a task that did not come back."""
    kind = type(error).__name__
    if kind == "KilledWorker":
        cause = (
            f"{kind}: each worker that ran it died; is it out of memory, or does a transform end the process? ({error})"
        )
    else:
        cause = (
            f"{kind}: {error}; is the same shardedstore, with all that the transforms import, installed on the workers?"
        )
    return Outcome.failed(segment, cause)
