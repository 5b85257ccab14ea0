"""The executor protocol: run tasks, and yield their results in the order of completion."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager
from typing import Generic, Protocol, TypeVar

from shardedstore.jobs.stop_signal import StopSignal
from shardedstore.jobs.token_bucket import Bucket, Rates

Item = TypeVar("Item")
Result = TypeVar("Result")
Result_contra = TypeVar("Result_contra", contravariant=True)
Check = Callable[[], "str | None"]


class KilledWorker(Exception):
    """Each worker that ran a task died."""


class Tasks(Protocol[Item, Result_contra]):
    """The tasks of one call of `Executor.map_unordered`; an executor takes them one by one.

    Attributes
    ----------
    seconds : float or None
        The measured duration of a task, in seconds; None before the first measurement.
    is_light : bool
        Whether the tasks take so little time that no cluster is started for them.
    memory : int
        The memory that a task takes in a thread, in bytes; 0 if unknown.
    """

    seconds: float | None
    is_light: bool
    memory: int

    def __bool__(self) -> bool:
        """Return whether tasks are left."""

    def take(self, threads: int) -> Item:
        """Return the next task, of a size that keeps `threads` threads busy."""

    def learn(self, task: Item, result: Result_contra) -> None:
        """Measure a task that has ended, so that the next tasks get a better size."""

    def split(self, task: Item) -> list[Item]:
        """Return the smallest parts of a task, to find the part that kills its workers."""

    def label(self, task: Item) -> str:
        """Return the name of a task on the dashboard, without a unique number."""

    def spans(self, task: Item) -> tuple[str, ...]:
        """Return the names of the spans of a task on a cluster, from the job to its part."""


class Executor(Protocol):
    """Runs tasks with a few in flight for each thread, so that no job is held as one graph."""

    def map_unordered(
        self,
        work: Callable[[Item], Result],
        tasks: Tasks[Item, Result],
        urls: Iterable[str] = (),
        check: Check | None = None,
        stop: StopSignal | None = None,
    ) -> Generator[tuple[Item, Result | BaseException]]:
        """Run a function on tasks, and yield each task with its result in the order of completion.

        Closing the generator cancels the tasks that have not ended. An executor with remote workers yields an exception in
        place of a result: `KilledWorker`, or the exception of the function. An executor on this machine raises the
        exception.

        Parameters
        ----------
        work : callable
            The function. It runs again on a task whose worker died.
        tasks : Tasks
            The tasks. Each taken task runs, unless the generator is closed or the stop is requested.
        urls : iterable of str
            The URLs of the stores that the function opens. Workers hold their secret options until the generator ends.
        check : callable, optional
            Returns the reason why a process can't run the function, or None. Remote workers call it before the first task.
        stop : StopSignal, optional
            When it is requested, no more tasks are taken, and tasks that run are told to end after their current shard. After
            its grace period, the generator ends without the results of the running tasks, which are cancelled.

        Raises
        ------
        DestinationError
            If remote workers fail the check.
        UsageError
            If remote workers lack packages, or have another version of shardedstore.
        ClusterError
            If the connection to the cluster is lost, or a local process dies.
        """

    def bucket(self, rates: Rates) -> AbstractContextManager[Bucket]:
        """Return a context manager that gives a token bucket, which all tasks share in the block.

        Raises
        ------
        ClusterError
            If the cluster can't hold it.
        """


class TaskList(Generic[Item, Result]):
    """A fixed list of tasks."""

    seconds: float | None = None
    memory: int = 0

    def __init__(self, name: str, tasks: Iterable[Item], *, is_light: bool = False) -> None:
        self._name, self._tasks, self.is_light = name, list(tasks)[::-1], is_light

    def __bool__(self) -> bool:
        return bool(self._tasks)

    def take(self, threads: int) -> Item:
        """Return the next task; its size does not depend on the number of threads."""
        return self._tasks.pop()

    def learn(self, task: Item, result: Result) -> None:
        """Do nothing: the sizes are fixed."""

    def split(self, task: Item) -> list[Item]:
        """Return only the task itself, because its parts are not known."""
        return [task]

    def label(self, task: Item) -> str:
        """Return the common name of the tasks."""
        return self._name

    def spans(self, task: Item) -> tuple[str, ...]:
        """Return the common name of the tasks."""
        return (self._name,)


def unique_names(label: Callable[[Item], str]) -> Callable[[Item], str]:
    """Return a function that gives each task a unique name.

    The name ends in a number and a token, which the dashboard cuts off.

    >>> name = unique_names(str.upper)
    >>> name("a").startswith("A-0-"), name("a").startswith("A-1-")
    (True, True)
    """
    numbers, token = itertools.count(), secrets.token_hex(4)
    return lambda task: f"{label(task)}-{next(numbers)}-{token}"
