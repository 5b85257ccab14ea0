"""Tasks that end soon when they are cancelled, although no one can end the thread that runs them."""

from __future__ import annotations

import sys
from collections.abc import Callable

from shardedstore.jobs.cancellation import Stopped, stopping
from shardedstore.jobs.executors.base import Item, Result

_interrupted: set[str] = set()  # the tokens of calls in this process that were interrupted


def run_cancellable(work: Callable[[Item], Result], token: str, task: Item) -> Result:
    """Run a function on a task until Dask cancels the task, or until the token is interrupted in this process.

    A cancelled task returns None, which is discarded.
    """
    is_cancelled = _of_this_task()
    try:
        with stopping(lambda: token in _interrupted or is_cancelled()):
            return work(task)
    except Stopped:
        return None  # type: ignore[return-value]


def interrupt(token: str) -> None:
    """End the tasks of a token that run in threads of this process soon."""
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
