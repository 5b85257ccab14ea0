"""Segments as Dask runs them: what goes on in a thread, which nobody can end, ends soon when its task is cancelled."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from shardedstore.stopping import Stopped, stopping
from shardedstore.tasks.outcome import Outcome
from shardedstore.tasks.plan import Segment
from shardedstore.tasks.task import Job, run_segment

_interrupted: set[str] = set()  # the tokens of jobs in this process that were interrupted


def do_segment(job: Job, segment: Segment, token: str = "") -> Outcome:
    """Do a segment, see `run_segment`, until its task is cancelled or the job of a token in this process is interrupted.

    The outcome that it returns then is discarded.
    """
    is_cancelled = _of_this_task()
    try:
        with stopping(lambda: token in _interrupted or is_cancelled()):
            return run_segment(job, segment)
    except Stopped:
        return Outcome()


@contextmanager
def interruptible(token: str) -> Iterator[None]:
    """Have the segments of a token that run in threads of this process end soon, when the block ends by an exception."""
    try:
        yield
    except BaseException:
        _interrupted.add(token)
        raise


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
