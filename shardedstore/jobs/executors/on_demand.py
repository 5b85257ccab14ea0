"""An executor that starts its cluster when the first task needs it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager

from shardedstore.jobs.executors.base import Check, Executor, Item, Result, Tasks
from shardedstore.jobs.executors.local import LocalExecutor
from shardedstore.jobs.stop_signal import StopSignal
from shardedstore.jobs.token_bucket import Bucket, Rates


class OnDemandExecutor:
    """Runs tasks on an executor that is made for the first task, and light tasks in threads until then.

    Parameters
    ----------
    connect : callable
        Starts a cluster, and returns its executor. It is called once, and again only after an error.
    """

    def __init__(self, connect: Callable[[], Executor]) -> None:
        self._connect = connect
        self._executor: Executor | None = None
        self._lock = threading.Lock()

    def map_unordered(
        self,
        work: Callable[[Item], Result],
        tasks: Tasks[Item, Result],
        urls: Iterable[str] = (),
        check: Check | None = None,
        stop: StopSignal | None = None,
    ) -> Generator[tuple[Item, Result | BaseException]]:
        """Run a function on tasks; see `Executor.map_unordered`. Nothing is started if there are no tasks."""
        if tasks:
            yield from self._for(tasks.is_light).map_unordered(work, tasks, urls, check, stop)

    def bucket(self, rates: Rates) -> AbstractContextManager[Bucket]:
        """Return a bucket of the executor that runs the tasks; see `Executor.bucket`."""
        return self._for(is_light=False).bucket(rates)

    def _for(self, is_light: bool) -> Executor:
        with self._lock:
            if self._executor is None:
                if is_light:
                    return LocalExecutor()
                self._executor = self._connect()
            return self._executor
