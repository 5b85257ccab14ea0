"""The executor protocol: run tasks somewhere, and yield their results in the order of completion."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable, Generator, Iterable
from typing import Generic, Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
Result_contra = TypeVar("Result_contra", contravariant=True)
Check = Callable[[], "str | None"]


class KilledWorker(Exception):
    """Each worker that ran a task died."""


class Tasks(Protocol[Item, Result_contra]):
    """The tasks of one call of `Executor.map_unordered`, from which an executor takes one after another.

    Attributes
    ----------
    seconds : float or None
        The seconds that a task takes; None while nothing is known.
    """

    seconds: float | None

    def __bool__(self) -> bool:
        """Return whether there are tasks to take."""

    def take(self, threads: int) -> Item:
        """Return the next task, of a size that keeps so many threads busy."""

    def learn(self, task: Item, result: Result_contra) -> None:
        """Measure a task that has ended, so that the next ones get a better size."""

    def split(self, task: Item) -> list[Item]:
        """Return the smallest parts of a task, to find the part that kills its workers."""

    def label(self, task: Item) -> str:
        """Return the name of a task on the dashboard, without the number that makes it unique."""


class Executor(Protocol):
    """Runs tasks, some at a time for each thread, so that a job of any size is never held as one graph."""

    def map_unordered(
        self,
        work: Callable[[Item], Result],
        tasks: Tasks[Item, Result],
        urls: Iterable[str] = (),
        check: Check | None = None,
    ) -> Generator[tuple[Item, Result | BaseException]]:
        """Run a function on tasks, and yield each task with its result in the order of completion.

        Closing the generator cancels the tasks that have not ended. An executor with remote workers yields an exception in the
        place of a result: `KilledWorker`, or what the function raised there. One that runs in this process raises it.

        Parameters
        ----------
        work : callable
            The function. It runs again on a task whose worker died.
        tasks : Tasks
            The tasks; each that is taken runs, unless the generator is closed.
        urls : iterable of str
            The URLs of the stores that the function opens: workers hold their secret options until the generator ends.
        check : callable, optional
            Returns why a process can't run the function, or None. Remote workers are asked before the first task.

        Raises
        ------
        DestinationError
            For workers that fail the check.
        ShardedStoreError
            When all workers are lost at once.
        """


class TaskList(Generic[Item, Result]):
    """Tasks that are made before the call, and stay as they are."""

    seconds: float | None = None

    def __init__(self, name: str, tasks: Iterable[Item]) -> None:
        self._name, self._tasks = name, list(tasks)[::-1]

    def __bool__(self) -> bool:
        return bool(self._tasks)

    def take(self, threads: int) -> Item:
        """Return the next task, whatever the number of threads."""
        return self._tasks.pop()

    def learn(self, task: Item, result: Result) -> None:
        """Do nothing: the sizes are fixed."""

    def split(self, task: Item) -> list[Item]:
        """Return the task itself, as its parts are not known."""
        return [task]

    def label(self, task: Item) -> str:
        """Return the common name of the tasks."""
        return self._name


def unique_names(label: Callable[[Item], str]) -> Callable[[Item], str]:
    """Return a function that names each task anew: the dashboard cuts the number and the token off.

    >>> name = unique_names(str.upper)
    >>> name("a").startswith("A-0-"), name("a").startswith("A-1-")
    (True, True)
    """
    numbers, token = itertools.count(), secrets.token_hex(4)
    return lambda task: f"{label(task)}-{next(numbers)}-{token}"
