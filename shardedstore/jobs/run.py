"""The Dask graph: tasks either as one lazy tree, or in a bounded window on a cluster or this machine.

Only public Dask is used.
"""

from __future__ import annotations

import itertools
import logging
import secrets
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import dask
from dask.delayed import Delayed, delayed
from toolz import partition_all

from shardedstore.errors import DestinationError, ShardsFailed, UsageError
from shardedstore.jobs.credentials import access, lend, prove
from shardedstore.jobs.executors.distributed import ClusterWindow, Window, attended, is_killed
from shardedstore.jobs.executors.local import LocalWindow, local_threads
from shardedstore.jobs.executors.task_sizes import TaskQueue, cut_evenly
from shardedstore.jobs.executors.tasks import do_task
from shardedstore.jobs.partial import show_partial
from shardedstore.jobs.prepare import Remaining, identity, remaining, start
from shardedstore.jobs.result import finish
from shardedstore.jobs.shards import Plan, Segment, Task
from shardedstore.jobs.summary import Summary
from shardedstore.jobs.worker import IN_A_ROW, Job
from shardedstore.notices import merge_notices
from shardedstore.storage.errors import explain
from shardedstore.storage.folders import STORAGE_ERRORS
from shardedstore.stores.locations import Config

if TYPE_CHECKING:
    from distributed import Client

T = TypeVar("T")
logger = logging.getLogger("shardedstore")
Item = TypeVar("Item")
Watch = Callable[[Summary], None]
BRANCHES = 32  # of the tree that adds outcomes up
AGAIN = "call map_shards with the same arguments again, and it goes on from there"


def lazy(job: Job, plan: Plan, overwrite: bool, wrap: Callable[[Config, Summary], T]) -> Delayed:
    """Return the whole job as one lazy object: computed, it gives what `wrap` makes of the config, or raises.

    It holds no secret options: the workers of the cluster that is active now are given them.
    """
    if (client := _default_client()) is not None:
        lend(client, plan, job.layout.written_urls)
    token = secrets.token_hex(4)
    started = delayed(start)(job, plan, identity(plan, job), overwrite, dask_key_name=f"start-{token}")
    # An asynchronous client would have to be awaited.
    threads = local_threads() if client is None or client.asynchronous else sum(client.nthreads().values())  # type: ignore[no-untyped-call]
    tasks, key = map(Task, cut_evenly(job.segments(plan), threads)), _namer(job, token)
    level = [delayed(do_task)(started, task, dask_key_name=key(task)) for task in tasks]
    depth = 0
    while len(level) > 1:
        level = [
            delayed(Summary.total)(list(some), dask_key_name=f"add-{depth}-{i}-{token}")
            for i, some in enumerate(partition_all(BRANCHES, level))
        ]
        depth += 1
    last: Delayed = delayed(_end)(started, plan, level[0], wrap, dask_key_name=f"finish-{token}")
    return last


def _end(job: Job, plan: Plan, outcome: Summary, wrap: Callable[[Config, Summary], T]) -> T:
    try:
        config = finish(job, plan, outcome)
    except ShardsFailed as failed:
        if not job.partial:
            raise
        config, outcome = show_partial(job, plan, outcome, failed)
    except STORAGE_ERRORS as error:
        raise DestinationError(
            f"the shards are done, but not the result at {job.layout.folder!r}: {explain(error)}; {AGAIN}"
        ) from error
    for notice in outcome.notices:
        logger.warning("%s", notice)
    notices = merge_notices([*plan.notices, *outcome.notices])
    return wrap(
        config,
        replace(
            outcome,
            changed=min(job.stale, outcome.done),
            missing=min(outcome.missing + job.lost, outcome.done),
            notices=notices,
            records={},
        ),
    )


def _namer(job: Job, token: str) -> Callable[[Task], str]:
    """Return a function that names each task anew.

    The dashboard cuts a key at the first word that is no plain text, and so shows chain and path.
    """
    numbers = itertools.count()
    return lambda task: f"{job.chain.name} {task.segment.label.replace('-', '_')}-{next(numbers)}-{token}"


def run(job: Job, plan: Plan, overwrite: bool, wrap: Callable[[Config, Summary], T], watch: Watch | None = None) -> T:
    """Run the job now, on the Dask scheduler that is active, and return what `wrap` makes of the config.

    Parameters
    ----------
    watch : callable, optional
        Called with what became of shards: first of those that were done before, then of those of each task.

    Raises
    ------
    DestinationError
        When another job is at work there.
    UsageError
        For an asynchronous client.
    """
    client = active_client()
    try:
        with job.layout.held() as lost:
            return _run(client, job, plan, overwrite, wrap, watch, lost)
    except KeyboardInterrupt as stopped:
        if job.layout.again:
            stopped.add_note(f"what is done at {job.layout.folder!r} stays{job.layout.again}")
        raise


def _run(
    client: Client | None,
    job: Job,
    plan: Plan,
    overwrite: bool,
    wrap: Callable[[Config, Summary], T],
    watch: Watch | None,
    lost: threading.Event,
) -> T:
    look = partial(each, name="look", plans=[plan])
    job = start(job, plan, identity(plan, job), overwrite, look)
    if client is None:
        return _follow(None, job, plan, wrap, watch, lost)
    with access(client, plan, job.layout.written_urls):
        prove(client, job, plan)
        return _follow(client, job, plan, wrap, watch, lost)


def _follow(
    client: Client | None,
    job: Job,
    plan: Plan,
    wrap: Callable[[Config, Summary], T],
    watch: Watch | None,
    lost: threading.Event,
) -> T:
    left = remaining(job, plan)
    outcomes = [left.before]
    if watch is not None:
        watch(left.before)
    failed, row = 0, 0
    with closing(_run_tasks(client, job, left)) as parts:
        for part in parts:
            outcomes.append(part)
            failed += len(part.failures)
            row = part.row if part.done else row + part.row
            if watch is not None:
                watch(part)
            if failed >= job.max_failures or row >= IN_A_ROW:
                break
            _check_held(job, lost)
    _check_held(job, lost)
    return _end(job, plan, Summary.total(outcomes), wrap)


def _check_held(job: Job, lost: threading.Event) -> None:
    if lost.is_set():
        raise DestinationError(
            f"another job has taken over the destination {job.layout.folder!r}, as this one was not seen to live: it goes on "
            "from what is done"
        )


def active_client() -> Client | None:
    """Return the distributed client that Dask would use now, without importing distributed.

    Raises
    ------
    UsageError
        For an asynchronous client.
    """
    client = _default_client()
    if client is not None and client.asynchronous:
        raise UsageError(
            "the active Dask client is asynchronous, and this call would block its event loop: make a synchronous client of the same "
            "scheduler in another thread, as in `await asyncio.to_thread(work)` with `with Client(address):` in `work`; or run a job as "
            "`await client.compute(store.map_shards(..., compute=False))`"
        )
    return client


def _default_client() -> Client | None:
    scheduler = dask.config.get("scheduler", None)
    if "distributed" not in sys.modules or scheduler not in (None, "distributed", "dask.distributed"):
        return None
    from distributed import default_client

    try:
        return default_client()  # type: ignore[no-any-return, no-untyped-call]
    except ValueError:
        return None


def _window(client: Client | None, work: Callable[[Item], T], token: str) -> Window[Item, T]:
    return LocalWindow(work, token) if client is None else ClusterWindow(client, work)


def each(
    work: Callable[[Item], T], items: list[Item], name: str, plans: Iterable[Plan]
) -> Iterator[tuple[Item, T | BaseException]]:
    """Yield items with what a function makes of each, or with what kept a worker from it, in the order in which they end.

    It only reads the stores that the plans are of, and runs on the Dask scheduler that is active.
    """
    client, token = active_client(), secrets.token_hex(4)
    waiting = [(item, f"{name}-{i}-{token}") for i, item in enumerate(items)][::-1]
    with ExitStack() as stack:
        if client is not None:
            for plan in plans:
                stack.enter_context(access(client, plan))
        stack.enter_context(_attended(client))
        window = stack.enter_context(_window(client, work, token))
        while waiting or window:
            window.launch([waiting.pop() for _ in range(min(window.room(), len(waiting)))])
            for _, item, result in window.ended():
                yield item, result


def _run_tasks(client: Client | None, job: Job, left: Remaining) -> Generator[Summary]:
    """Run what is left of a job in tasks, some at a time for each thread, and yield what becomes of each task.

    A task that kills its workers is data here: it is split, and its shards are tried one by one. Dask blames all tasks
    that wait for a worker when it dies, so a shard is only blamed when it was alone on the cluster.
    """
    token = secrets.token_hex(4)
    queue, again, suspects, alone = TaskQueue(left.segments, left.again), list[Task](), list[Task](), ""
    name = _namer(job, token)
    work = partial(do_task, job, token=token if client is None else "")
    with _attended(client), _window(client, work, token) as window:
        while queue or again or suspects or window:
            tasks = _next(queue, again, window)
            if not tasks and not window:
                tasks = [suspects.pop()]
                alone = name(tasks[0])
                window.launch([(tasks[0], alone)])
            else:
                window.launch([(task, name(task)) for task in tasks])
            for key, task, result in window.ended():
                if isinstance(result, Summary):
                    queue.learn(task, result)
                    yield result
                elif task.segment.count > 1 and is_killed(result):
                    again.extend(map(Task, task.segment.split()))
                elif is_killed(result) and key != alone:
                    suspects.append(Task(task.segment))
                else:
                    yield _failed(task.segment, result)


def _attended(client: Client | None) -> AbstractContextManager[None]:
    return nullcontext() if client is None else attended(client)


def _next(queue: TaskQueue, again: list[Task], window: Window[Task, Summary]) -> list[Task]:
    """Return the tasks to launch now."""
    tasks = list[Task]()
    for _ in range(window.room(queue.seconds)):
        if again:
            tasks.append(again.pop())
        elif queue:
            tasks.append(queue.take(window.threads))
    return tasks


def _failed(segment: Segment, error: BaseException) -> Summary:
    """Return the failures of a task that did not come back."""
    kind = type(error).__name__
    if is_killed(error):
        cause = (
            f"{kind}: each worker that ran it died; is it out of memory, or does a transform end the process? ({error})"
        )
    else:
        cause = (
            f"{kind}: {error}; is the same shardedstore, with all that the transforms import, installed on the workers?"
        )
    return Summary.failed(segment, cause, "killed" if is_killed(error) else "unprepared-worker")
