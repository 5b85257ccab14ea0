"""Callbacks: objects that receive the events of a running job."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from shardedstore.errors import UsageError
from shardedstore.jobs.progress import Progress
from shardedstore.jobs.summary import Summary
from shardedstore.storage.request_metrics import RequestSum

if TYPE_CHECKING:
    from shardedstore.jobs.job_plan import JobPlan


@dataclass(frozen=True)
class TaskEnd:
    """The end of a task. A task makes some shards of a job.

    The first event of a job counts the shards that were done before. The `worker` of its task is empty.

    Attributes
    ----------
    task : Summary
        The summary of the task: its shards, entries, bytes, failures, seconds and worker.
    progress : Progress
        The numbers of the job so far.

    See Also
    --------
    Callback : Receives these events.

    Examples
    --------
    >>> from shardedstore import Summary
    >>> from shardedstore.abc import Progress
    >>> task = Summary(done=10, nbytes=4096, seconds=2.0, worker="node7:4711")
    >>> event = TaskEnd(task, Progress(total=120, done=30))
    >>> f"{event.progress.ended / event.progress.total:.0%}, {task.nbytes / task.seconds:.0f} bytes per second"
    '25%, 2048 bytes per second'
    """

    task: Summary
    progress: Progress


@dataclass(frozen=True)
class JobEnd:
    """The end of a job.

    Attributes
    ----------
    job : Summary
        The summary of the job, with the errors of all failed shards and the requests of all processes.
    progress : Progress
        The last numbers of the job.
    error : BaseException or None
        The exception that the job ends with, such as `ShardsFailed` or KeyboardInterrupt.
    requests : dict of str to RequestSum
        The requests that no task made: those of the process that runs the job, such as for the ledger and the config.
    failures_url : str or None
        The file with a line for each failed shard; None without failures and after a part of a job.

    See Also
    --------
    Callback : Receives this event.

    Examples
    --------
    >>> from shardedstore import Summary
    >>> from shardedstore.abc import Progress
    >>> class Report(Callback):
    ...     def on_job_end(self, event):
    ...         state = "done" if event.error is None else f"failed: {event.error}"
    ...         print(f"{event.progress.ended} of {event.progress.total} shards, {event.job.nbytes} bytes, {state}")
    >>> Report().on_job_end(JobEnd(Summary(done=8, nbytes=4096), Progress(total=8, done=8)))
    8 of 8 shards, 4096 bytes, done
    """

    job: Summary
    progress: Progress
    error: BaseException | None = None
    requests: dict[str, RequestSum] = field(default_factory=dict)
    failures_url: str | None = None


class Callback:
    """Base class of callbacks, which receive the events of a job; each method does nothing by default.

    The methods are called in the process that runs the job, one at a time: `on_progress` in a thread of its own, the others
    in the thread that runs the job. An exception in `on_progress` is logged, and the method is not called again. An
    exception in another method ends the job; shards that are done stay done.

    Examples
    --------
    >>> from shardedstore import ShardError, Summary
    >>> from shardedstore.abc import Progress
    >>> class Loud(Callback):
    ...     def on_task_end(self, event):
    ...         for error in event.task.failures:
    ...             print(error.code, error.shard)
    >>> failure = ShardError("t[5]", "OSError: disk full", code="no-space")
    >>> Loud().on_task_end(TaskEnd(Summary(failures=(failure,)), Progress(total=9, failed=1)))
    no-space t[5]

    A job calls it with ``store.map_shards(ToZip("out"), callbacks=[Loud()])``.
    """

    def on_job_start(self, plan: JobPlan) -> None:
        """Handle the start of the job, before anything runs.

        Parameters
        ----------
        plan : JobPlan
            The plan of the job.
        """

    def on_task_end(self, event: TaskEnd) -> None:
        """Handle the end of a task.

        Parameters
        ----------
        event : TaskEnd
            The summary of the task, and the numbers of the job so far.
        """

    def on_progress(self, progress: Progress) -> None:
        """Handle the current numbers of the job; called about once a second, also while no task ends.

        Parameters
        ----------
        progress : Progress
            The current numbers.
        """

    def on_job_end(self, event: JobEnd) -> None:
        """Handle the end of the job.

        It is called also after an error or an interrupt, if `on_job_start` was called.

        Parameters
        ----------
        event : JobEnd
            The summary of the whole job, its last numbers, and its error.
        """


def check_callbacks(callbacks: Iterable[Callback]) -> list[Callback]:
    """Check that all objects are callbacks, and return them.

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
                f"callbacks holds {one!r}, which is not a Callback: use instances of subclasses of shardedstore.abc.Callback"
            )
    return found
