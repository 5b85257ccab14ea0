"""Callbacks: objects that a job tells of its progress while it runs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shardedstore.errors import ShardError, UsageError

if TYPE_CHECKING:
    from shardedstore.jobs.job_plan import JobPlan


@dataclass(frozen=True)
class TaskEnd:
    """The end of a task. A task makes some shards of a job.

    The first event of a job counts the shards that were done before. Its `worker` is empty.

    Attributes
    ----------
    ended : int
        The number of shards of the job that have ended so far: done now, done before, or failed.
    total : int
        The number of shards of the job.
    done, skipped : int
        The number of shards that the task did, and that it found done.
    entries, nbytes : int
        The number of entries and of stored bytes that the task wrote.
    failures : tuple of ShardError
        The errors of the shards that failed.
    retries, throttled : int
        The number of attempts that were repeated, and of requests that a busy server refused.
    seconds : float
        The time that the task took in its worker.
    worker : str
        The host and the process of the worker, such as ``"node7:4711"``.

    See Also
    --------
    Callback : Receives these events.

    Examples
    --------
    >>> event = TaskEnd(ended=30, total=120, done=10, nbytes=4096, seconds=2.0, worker="node7:4711")
    >>> f"{event.ended / event.total:.0%}, {event.nbytes / event.seconds:.0f} bytes per second"
    '25%, 2048 bytes per second'
    """

    ended: int
    total: int
    done: int = 0
    skipped: int = 0
    entries: int = 0
    nbytes: int = 0
    failures: tuple[ShardError, ...] = ()
    retries: int = 0
    throttled: int = 0
    seconds: float = 0.0
    worker: str = ""


@dataclass(frozen=True)
class JobEnd:
    """The end of a job.

    Attributes
    ----------
    ended, total, done, skipped, entries, nbytes, retries, throttled : int
        As in `TaskEnd`, for the whole job.
    failures : tuple of ShardError
        The errors of the shards that failed.
    seconds : float
        The time that the job took.
    error : BaseException or None
        The exception that the job ends with, such as `ShardsFailed` or KeyboardInterrupt.

    See Also
    --------
    Callback : Receives this event.

    Examples
    --------
    >>> class Report(Callback):
    ...     def on_job_end(self, event):
    ...         state = "done" if event.error is None else f"failed: {event.error}"
    ...         print(f"{event.ended} of {event.total} shards, {event.nbytes} bytes, {state}")
    >>> Report().on_job_end(JobEnd(8, 8, 8, 0, 24, 4096, (), 0, 0, seconds=1.5))
    8 of 8 shards, 4096 bytes, done
    """

    ended: int
    total: int
    done: int
    skipped: int
    entries: int
    nbytes: int
    failures: tuple[ShardError, ...]
    retries: int
    throttled: int
    seconds: float
    error: BaseException | None = None


class Callback:
    """Base of objects that a job tells of its progress; each method does nothing unless it is overridden.

    The methods are called in the process and the thread that runs the job, one at a time. An exception in one ends the job; shards
    that are done stay done.

    Examples
    --------
    >>> class Loud(Callback):
    ...     def on_task_end(self, event):
    ...         for error in event.failures:
    ...             print(error.code, error.shard)
    >>> failure = ShardError("t[5]", "OSError: disk full", code="no-space")
    >>> Loud().on_task_end(TaskEnd(ended=6, total=9, failures=(failure,)))
    no-space t[5]

    A job calls it with ``store.map_shards(ToZip("out"), callbacks=[Loud()])``.
    """

    def on_job_start(self, plan: JobPlan) -> None:
        """Look at the job before anything runs.

        Parameters
        ----------
        plan : JobPlan
            The plan of the job.
        """

    def on_task_end(self, event: TaskEnd) -> None:
        """Look at the shards that have ended.

        Parameters
        ----------
        event : TaskEnd
            The counts of one task, and of the job so far.
        """

    def on_job_end(self, event: JobEnd) -> None:
        """Look at the result of the job.

        It is called also after an error or an interrupt, if `on_job_start` was called.

        Parameters
        ----------
        event : JobEnd
            The counts of the whole job, and its error.
        """


def check_callbacks(callbacks: Iterable[Callback]) -> list[Callback]:
    """Return callbacks, or refuse what is none.

    Raises
    ------
    UsageError
    """
    if isinstance(callbacks, type | Callback):
        raise UsageError(
            f"callbacks is {callbacks!r}: write a list, [{getattr(callbacks, '__name__', type(callbacks).__name__)}()]"
        )
    found = list(callbacks)
    for one in found:
        if not isinstance(one, Callback):
            raise UsageError(
                f"callbacks holds {one!r}, which is no Callback: make objects of subclasses of shardedstore.abc.Callback"
            )
    return found
