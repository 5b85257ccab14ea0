"""Tasks on a Dask cluster, with a bounded number in flight.

Tasks that kill their workers are found, and do not stop the other tasks.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import AbstractContextManager
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Generic, Self

import dask
import distributed
from dask.utils import parse_timedelta
from toolz import groupby

from shardedstore.errors import ClusterError
from shardedstore.jobs.executors.base import Check, Item, KilledWorker, Result, Tasks, unique_names
from shardedstore.jobs.executors.cancellable import end_soon, run_cancellable
from shardedstore.jobs.executors.credentials import credentials_on
from shardedstore.jobs.executors.scheduler_bucket import scheduler_bucket
from shardedstore.jobs.executors.spans import Spans, run_metered
from shardedstore.jobs.executors.stopping import passing_on
from shardedstore.jobs.executors.worker_monitor import check_memory, check_workers, warn_without_workers
from shardedstore.jobs.executors.worker_packages import check_packages
from shardedstore.jobs.stop_signal import StopSignal, is_over, is_requested
from shardedstore.jobs.token_bucket import Bucket, Rates

if TYPE_CHECKING:
    from dask.typing import Key
    from distributed import Client, Future

PER_THREAD = 2  # tasks in flight for each thread of the cluster, at least
MOST_PER_THREAD = 10
THREADS_SECONDS = 1.0  # between two counts of the cluster's threads


class DistributedExecutor:
    """Runs tasks on the workers of a cluster.

    A task that kills its workers gives `KilledWorker` as its result; the other tasks run on.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    def map_unordered(
        self,
        work: Callable[[Item], Result],
        tasks: Tasks[Item, Result],
        urls: Iterable[str] = (),
        check: Check | None = None,
        stop: StopSignal | None = None,
    ) -> Generator[tuple[Item, Result | BaseException]]:
        """Run a function on tasks; see `Executor.map_unordered`."""
        with credentials_on(self._client, urls), warn_without_workers(self._client):
            if check is not None:
                check_packages(self._client)
                check_workers(self._client, check)
                check_memory(self._client, tasks.memory)
            token = secrets.token_hex(4)
            tell = partial(self._client.run, end_soon, token, on_error="ignore")
            with (
                _Window(self._client, partial(run_metered, partial(run_cancellable, work, token)), tasks) as window,
                passing_on(stop, tell),
            ):
                yield from _run(window, tasks, stop)

    def bucket(self, rates: Rates) -> AbstractContextManager[Bucket]:
        """Return a bucket at the scheduler; see `Executor.bucket`."""
        return scheduler_bucket(self._client, rates)


def _run(
    window: _Window[Item, Result], tasks: Tasks[Item, Result], stop: StopSignal | None
) -> Generator[tuple[Item, Result | BaseException]]:
    """Run tasks until each has a result, or until the stop; tasks whose workers died run again."""
    queue = _Retries(tasks)
    while (queue and not is_requested(stop)) or window:
        if is_over(stop):
            return
        if not is_requested(stop):
            window.launch(queue.take(window.room(tasks.seconds), window))
        for task, result in window.ended():
            if isinstance(result, distributed.KilledWorker):
                if queue.convicts(task):
                    yield task, _killed(result)
                continue
            if not isinstance(result, BaseException):
                tasks.learn(task, result)
            yield task, result


class _Retries(Generic[Item, Result]):
    """The tasks of a call, and the tasks that run again because their workers died.

    A task of several shards is split. When a worker dies, Dask blames all tasks assigned to it, so a task is only blamed
    here if it was alone on the cluster.
    """

    def __init__(self, tasks: Tasks[Item, Result]) -> None:
        self._tasks = tasks
        self._parts: list[Item] = []
        self._suspects: list[Item] = []
        self._alone: Item | None = None

    def __bool__(self) -> bool:
        return bool(self._tasks or self._parts or self._suspects)

    def take(self, room: int, window: _Window[Item, Result]) -> list[Item]:
        """Return the tasks to launch now; a suspect runs only when no other tasks are left."""
        taken: list[Item] = []
        while len(taken) < room and (self._parts or self._tasks):
            taken.append(self._parts.pop() if self._parts else self._tasks.take(window.threads))
        if taken or window:
            return taken
        self._alone = self._suspects.pop()
        return [self._alone]

    def convicts(self, task: Item) -> bool:
        """Tell whether a task surely killed its workers; otherwise keep it for another run."""
        parts = self._tasks.split(task)
        if len(parts) == 1 and task is self._alone:
            return True
        (self._parts if len(parts) > 1 else self._suspects).extend(parts)
        return False


def _killed(error: BaseException) -> KilledWorker:
    return KilledWorker(
        f"each worker that ran it died; is it out of memory, or does a transform end the process? ({error})"
    )


class _Window(Generic[Item, Result]):
    """A bounded number of tasks in flight on a cluster.

    Each call to the scheduler is for as many tasks as possible. An adaptive cluster grows if its scheduler has more
    than the target duration of work for each thread. Therefore more short tasks are in flight, up to twice the target
    duration for each thread.
    """

    def __init__(self, client: Client, work: Callable[[Item], Result], tasks: Tasks[Item, Result]) -> None:
        self.client, self.work, self.name = client, work, unique_names(tasks.label)
        self._spans_of, self._spans = tasks.spans, Spans()
        self.flying: dict[Key, tuple[Future[Result], Item]] = {}
        self._completed: SimpleQueue[Future[Result]] = SimpleQueue()
        self._threads, self._counted = 1, -math.inf
        self._ahead = 2 * parse_timedelta(dask.config.get("distributed.adaptive.target-duration", "5s"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.client.cancel([future for future, *_ in self.flying.values()])  # type: ignore[no-untyped-call]

    def __len__(self) -> int:
        return len(self.flying)

    @property
    def threads(self) -> int:
        """The current number of threads of the cluster, at least 1."""
        if time.monotonic() - self._counted > THREADS_SECONDS:
            try:
                self._threads = max(1, sum(self.client.nthreads().values()))  # type: ignore[no-untyped-call]
            except OSError as error:
                raise _lost() from error
            self._counted = time.monotonic()
        return self._threads

    def room(self, seconds: float | None) -> int:
        """Return the number of tasks to launch now if a task takes `seconds`."""
        wanted = PER_THREAD if seconds is None else math.ceil(self._ahead / max(seconds, 1e-3))
        return min(MOST_PER_THREAD, max(PER_THREAD, wanted)) * self.threads - len(self.flying)

    def launch(self, tasks: list[Item]) -> None:
        """Submit tasks to the cluster."""
        for names, some in groupby(self._spans_of, tasks).items():
            keys = list(map(self.name, some))
            with self._spans.of(names):
                futures = self.client.map(self.work, some, key=keys, pure=False)
            for key, future, task in zip(keys, futures, some, strict=True):
                self.flying[key] = future, task
                future.add_done_callback(self._completed.put)  # type: ignore[no-untyped-call]

    def ended(self) -> Iterator[tuple[Item, Result | BaseException]]:
        """Wait for some tasks, release them, and yield them with their results.

        After `THREADS_SECONDS` without a result it yields nothing, so that new workers can get tasks.
        """
        batch = self._batch()
        for future, result in zip(batch, self._results(batch), strict=True):
            _, task = self.flying.pop(future.key)
            future.release()  # type: ignore[no-untyped-call]
            yield task, result

    def _batch(self) -> list[Future[Result]]:
        batch: list[Future[Result]] = []
        try:
            batch.append(self._completed.get(timeout=THREADS_SECONDS))
            while True:
                batch.append(self._completed.get_nowait())
        except Empty:
            return batch

    def _results(self, batch: list[Future[Result]]) -> list[Result | BaseException]:
        """Return the results of tasks, or their exceptions.

        They are gathered here because `as_completed(with_results=True)` hangs if the scheduler dies meanwhile.
        """
        try:
            found = self.client.gather({future.key: future for future in batch}, errors="skip")  # type: ignore[no-untyped-call]
            missing = [future for future in batch if found[future.key] is None]
            for future in missing:
                found[future.key] = future.exception() or CancelledError(future.key)  # type: ignore[no-untyped-call]
        except Exception as error:
            raise _lost() from error
        if self.client.status in ("closing", "closed"):  # all results are cancellations, not failures of shards
            raise _lost()
        return [found[future.key] for future in batch]


def _lost() -> ClusterError:
    return ClusterError(
        "the connection to the Dask scheduler is lost: run the same job again on another cluster, and "
        "it goes on from there"
    )
