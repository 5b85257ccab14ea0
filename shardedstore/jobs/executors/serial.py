"""Tasks one by one in the calling thread, for use inside a task of a lazy job."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager

from shardedstore.jobs.executors.base import Check, Item, Result, Tasks
from shardedstore.jobs.stop_signal import StopSignal, is_requested
from shardedstore.jobs.token_bucket import Bucket, Rates, file_bucket


class SerialExecutor:
    """Runs tasks in the calling thread."""

    def map_unordered(
        self,
        work: Callable[[Item], Result],
        tasks: Tasks[Item, Result],
        urls: Iterable[str] = (),
        check: Check | None = None,
        stop: StopSignal | None = None,
    ) -> Generator[tuple[Item, Result | BaseException]]:
        """Run a function on tasks; see `Executor.map_unordered`."""
        while tasks and not is_requested(stop):
            task = tasks.take(1)
            result = work(task)
            tasks.learn(task, result)
            yield task, result

    def bucket(self, rates: Rates) -> AbstractContextManager[Bucket]:
        """Return a bucket in a file of this machine; see `Executor.bucket`."""
        return file_bucket(rates)
