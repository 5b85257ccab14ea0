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
BRANCHES = 32  # of the tree that adds results up


class _CutTasks(Protocol[Item]):
    """Tasks that can be cut before anything is measured."""

    def cut_evenly(self, threads: int) -> Iterable[Item]:
        """Return all tasks, in a number for so many threads."""

    def label(self, task: Item) -> str:
        """Return the name of a task on the dashboard, without the number that makes it unique."""


def delay(
    start: Callable[[], Started],
    work: Callable[[Started, Item], Result],
    tasks: _CutTasks[Item],
    add: Callable[[list[Result]], Result],
    finish: Callable[[Started, Result], object],
    urls: Iterable[str] = (),
) -> Delayed:
    """Return a lazy object: it starts, works on each task, adds the results up in a tree, and gives the finished result.

    The object holds no secret options: the workers of the cluster that is active now are given those for the URLs.

    Raises
    ------
    UsageError
        For secret options and an asynchronous client.
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
    """Return the number of threads of the active scheduler, after its workers got the credentials for some URLs."""
    client = default_client()
    if client is None:
        return local_threads()
    from shardedstore.jobs.executors.credentials import give_credentials  # imports distributed

    give_credentials(client, urls)
    if client.asynchronous:  # it would have to be awaited
        return local_threads()
    return sum(client.nthreads().values())  # type: ignore[no-untyped-call]
