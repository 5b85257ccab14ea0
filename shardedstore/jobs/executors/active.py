"""The executor for the active Dask scheduler."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

import dask

from shardedstore.errors import UsageError
from shardedstore.jobs.executors.base import Executor
from shardedstore.jobs.executors.local import LocalExecutor, local_threads

if TYPE_CHECKING:
    from distributed import Client


_CHOSEN: ContextVar[Executor | None] = ContextVar("shardedstore-executor", default=None)


@contextmanager
def use_executor(executor: Executor) -> Iterator[None]:
    """Run jobs of this context on an executor instead of the active Dask scheduler."""
    token = _CHOSEN.set(executor)
    try:
        yield
    finally:
        _CHOSEN.reset(token)


def active_executor() -> Executor:
    """Return the executor of `use_executor`, or else the one of the active Dask scheduler; see `scheduler_executor`."""
    return _CHOSEN.get() or scheduler_executor()


def scheduler_executor() -> Executor:
    """Return the executor for Dask's active distributed client, or for its local scheduler.

    Raises
    ------
    UsageError
        If the client is asynchronous.
    """
    client = active_client()
    if client is None:
        return LocalExecutor()
    from shardedstore.jobs.executors.distributed import DistributedExecutor  # imports distributed

    return DistributedExecutor(client)


def active_threads() -> int:
    """Return the number of threads of Dask's active distributed client, or of its local scheduler."""
    client = default_client()
    if client is None or client.asynchronous:  # nthreads() would have to be awaited
        return local_threads()
    return max(1, sum(client.nthreads().values()))  # type: ignore[no-untyped-call]


def active_client() -> Client | None:
    """Return Dask's active distributed client, without importing distributed; None if there is none.

    Raises
    ------
    UsageError
        If the client is asynchronous.
    """
    client = default_client()
    if client is not None and client.asynchronous:
        raise UsageError(
            "the active Dask client is asynchronous, and this call would block its event loop: make a synchronous client of the same "
            "scheduler in another thread, as in `await asyncio.to_thread(work)` with `with Client(address):` in `work`; or run a job as "
            "`await client.compute(store.map_shards(..., compute=False))`"
        )
    return client


def default_client() -> Client | None:
    """Return Dask's active distributed client, even an asynchronous one; None if there is none."""
    scheduler = dask.config.get("scheduler", None)
    if "distributed" not in sys.modules or scheduler not in (None, "distributed", "dask.distributed"):
        return None
    import distributed

    try:
        return distributed.default_client()  # type: ignore[no-any-return, no-untyped-call]
    except ValueError:
        return None
