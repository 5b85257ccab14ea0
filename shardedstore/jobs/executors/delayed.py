"""A job as one lazy tree of tasks, which any Dask scheduler can compute later."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from functools import partial
from typing import Protocol, TypeVar

from dask.delayed import Delayed, delayed
from toolz import partition_all

from shardedstore.jobs.executors.active import default_client
from shardedstore.jobs.executors.base import Item, Result, unique_names
from shardedstore.jobs.executors.cancellable import run_cancellable
from shardedstore.jobs.executors.local import local_threads

Started = TypeVar("Started")
Item_co = TypeVar("Item_co", covariant=True)
BRANCHES = 32  # results in one node of the tree that adds them up


class _CutTasks(Protocol[Item]):
    """Tasks that can be cut before anything is measured."""

    def cut_evenly(self, threads: int) -> Iterable[Item]:
        """Return all tasks, enough of them for `threads` threads."""

    def label(self, task: Item) -> str:
        """Return the name of a task on the dashboard, without a unique number."""


def delay(
    start: Callable[[], Started],
    work: Callable[[Started, Item], Result],
    tasks: _CutTasks[Item],
    add: Callable[[list[Result]], Result],
    finish: Callable[[Started, Result], object],
    urls: Iterable[str] = (),
) -> Delayed:
    """Return a lazy object that runs a job as a tree of tasks.

    The object holds no secret options. The workers of the active cluster get the secret options for `urls` now.

    Parameters
    ----------
    start : callable
        Called first; returns the first argument of `work` and `finish`.
    work : callable
        Called for each task.
    tasks : _CutTasks
        The tasks, which are cut now.
    add : callable
        Adds up a list of results, in a tree with `BRANCHES` branches.
    finish : callable
        Called last with the sum; returns the value of the lazy object.
    urls : iterable of str
        The URLs of the stores that `work` opens.

    Raises
    ------
    UsageError
        If there are secret options, and the active client is asynchronous.
    """
    parts, token = list(tasks.cut_evenly(_threads(urls))), secrets.token_hex(4)
    name = unique_names(tasks.label)
    started = delayed(start)(dask_key_name=f"start-{token}")
    level = [delayed(_work)(work, started, part, dask_key_name=name(part)) for part in parts]
    depth = 0
    while len(level) > 1:
        level = [
            delayed(add)(list(some), dask_key_name=f"add-{depth}-{i}-{token}")
            for i, some in enumerate(partition_all(BRANCHES, level))
        ]
        depth += 1
    last: Delayed = delayed(finish)(started, level[0], dask_key_name=f"finish-{token}")
    return last


def _work(work: Callable[[Started, Item], Result], started: Started, task: Item) -> Result:
    return run_cancellable(partial(work, started), "", task)


def _threads(urls: Iterable[str]) -> int:
    """Give credentials to the workers of the active scheduler, and return its number of threads."""
    client = default_client()
    if client is None:
        return local_threads()
    from shardedstore.jobs.executors.credentials import give_credentials  # imports distributed

    give_credentials(client, urls)
    if client.asynchronous:  # nthreads() would have to be awaited
        return local_threads()
    return sum(client.nthreads().values())  # type: ignore[no-untyped-call]
