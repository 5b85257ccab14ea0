"""Tasks as Dask runs them: what goes on in a thread, which nobody can end, ends soon when its task is cancelled."""

from __future__ import annotations

import sys
from collections.abc import Callable

from shardedstore.jobs.cancellation import Stopped, stopping
from shardedstore.jobs.shards import Task
from shardedstore.jobs.summary import Summary
from shardedstore.jobs.worker import Job, run_task

_interrupted: set[str] = set()  # the tokens of jobs in this process that were interrupted


def do_task(job: Job, task: Task, token: str = "") -> Summary:
    """Do a task, see `run_task`, until it is cancelled or the job of a token in this process is interrupted.

    The outcome that it returns then is discarded.
    """
    is_cancelled = _of_this_task()
    try:
        with stopping(lambda: token in _interrupted or is_cancelled()):
            return run_task(job, task)
    except Stopped:
        return Summary()


def interrupt(token: str) -> None:
    """Have the tasks of a token that run in threads of this process end soon."""
    _interrupted.add(token)


def _of_this_task() -> Callable[[], bool]:
    """Return a function that tells whether the Dask task that runs here was cancelled, as when its client is gone."""
    if "distributed" not in sys.modules:
        return bool
    from distributed import get_worker

    try:
        worker = get_worker()
        key = worker.get_current_task()
    except (ValueError, AttributeError):  # not on a worker
        return bool
    tasks = worker.state.tasks

    def is_cancelled() -> bool:
        task = tasks.get(key)
        return task is None or task.state == "cancelled"

    return is_cancelled
