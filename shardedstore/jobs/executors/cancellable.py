"""Tasks that end soon after they are cancelled, although their threads can't be killed."""

from __future__ import annotations

import sys
from collections.abc import Callable

from shardedstore.jobs.cancellation import Stopped, cancellable
from shardedstore.jobs.executors.base import Item, Result

_interrupted: set[str] = set()  # tokens of calls in this process whose tasks end at once
_ending: set[str] = set()  # tokens of calls in this process whose tasks end after the current shard


def run_cancellable(work: Callable[[Item], Result], token: str, task: Item) -> Result:
    """Run a function on a task, and end soon after a cancellation.

    Dask cancels the task, or `interrupt` or `end_soon` is called with the token in this process. A cancelled task returns
    None, and the executor discards it.
    """
    is_cancelled = _of_this_task()
    try:
        with cancellable(lambda: token in _interrupted or is_cancelled(), lambda: token in _ending):
            return work(task)
    except Stopped:
        return None  # type: ignore[return-value]


def interrupt(token: str) -> None:
    """Make the tasks of a token in this process end at once."""
    _interrupted.add(token)


def end_soon(token: str) -> None:
    """Make the tasks of a token in this process end after their current shards."""
    _ending.add(token)


def _of_this_task() -> Callable[[], bool]:
    """Return a function that tells whether this Dask task was cancelled.

    Dask cancels a task also when its client is gone.
    """
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
