"""Tasks in threads or processes of this machine, by Dask's configuration."""

from __future__ import annotations

import multiprocessing.pool
import secrets
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures import ThreadPoolExecutor as Threads
from contextlib import AbstractContextManager
from contextvars import copy_context
from functools import partial
from typing import Any, Generic, Self

import cloudpickle  # type: ignore[import-untyped]
import dask
import dask.multiprocessing
import dask.threaded
from dask.delayed import Delayed, delayed
from dask.local import MultiprocessingPoolExecutor, get_sync
from dask.system import CPU_COUNT

from shardedstore.errors import ClusterError
from shardedstore.jobs.executors.base import Check, Item, Result, Tasks
from shardedstore.jobs.executors.cancellable import end_soon, interrupt, run_cancellable
from shardedstore.jobs.executors.stopping import passing_on
from shardedstore.jobs.stop_signal import StopSignal, is_over, is_requested
from shardedstore.jobs.token_bucket import Bucket, Rates, file_bucket

STOP_SECONDS = 0.1  # between two checks of a stop signal
ABANDON_SECONDS = 2.0  # that abandoned tasks have to notice it
SHORT = 0.05  # seconds; a thread with shorter tasks has a second task waiting


class LocalExecutor:
    """Runs tasks on Dask's configured local scheduler: threads, processes, or the calling thread."""

    def map_unordered(
        self,
        work: Callable[[Item], Result],
        tasks: Tasks[Item, Result],
        urls: Iterable[str] = (),
        check: Check | None = None,
        stop: StopSignal | None = None,
    ) -> Generator[tuple[Item, Result | BaseException]]:
        """Run a function on tasks; see `Executor.map_unordered`. Exceptions of the function are raised."""
        with _Window(work) as window, passing_on(stop, window.end_soon, window.abandon):
            while (tasks and not is_requested(stop)) or window:
                window.fill(tasks, stop)
                for task, result in window.ended(None if stop is None else STOP_SECONDS):
                    if is_over(stop):
                        return
                    tasks.learn(task, result)
                    yield task, result

    def bucket(self, rates: Rates) -> AbstractContextManager[Bucket]:
        """Return a bucket in a file of this machine; see `Executor.bucket`."""
        return file_bucket(rates)


class _Window(Generic[Item, Result]):
    """A bounded number of tasks in flight; a thread or process gets a new task when one ends."""

    def __init__(self, work: Callable[[Item], Result]) -> None:
        self._token = secrets.token_hex(4)
        self._pool, self._is_own, self._submit = _scheduler(partial(run_cancellable, work, self._token))
        self.threads = _threads_of(self._pool)
        self.flying: dict[Future[Result], Item] = {}
        self._is_abandoned = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is not None:
            interrupt(self._token)
        for future in self.flying:
            future.cancel()
        if self._is_abandoned:
            wait(self.flying, ABANDON_SECONDS)
        if self._is_own:
            is_awaited = error[0] is not KeyboardInterrupt and not self._is_abandoned
            self._pool.shutdown(wait=is_awaited, cancel_futures=True)

    def __len__(self) -> int:
        return len(self.flying)

    def end_soon(self) -> None:
        """Make the running tasks end after their current shards; tasks that wait do not start."""
        end_soon(self._token)
        for future in list(self.flying):
            future.cancel()

    def abandon(self) -> None:
        """Make the running tasks end at once."""
        self._is_abandoned = True
        interrupt(self._token)

    def fill(self, tasks: Tasks[Item, Result], stop: StopSignal | None) -> None:
        """Submit tasks up to the bound, unless the stop is requested."""
        for _ in range(self._room(tasks.seconds)):
            if not tasks or is_requested(stop):
                break
            task = tasks.take(self.threads)
            self.flying[self._submit(self._pool, task)] = task

    def _room(self, seconds: float | None) -> int:
        """Return the number of tasks to submit now if a task takes `seconds`."""
        ahead = seconds is not None and seconds < SHORT and not isinstance(self._pool, _Here)
        return (1 + ahead) * self.threads - len(self.flying)

    def ended(self, seconds: float | None) -> Iterator[tuple[Item, Result]]:
        """Wait until a task has ended or some seconds have passed, and yield all ended tasks with their results."""
        done, _ = wait(self.flying, seconds, return_when=FIRST_COMPLETED)
        for future in done:
            task = self.flying.pop(future)
            if future.cancelled():
                continue
            try:
                result = future.result()
            except BrokenExecutor as error:
                raise ClusterError(
                    "a process of the local Dask scheduler died; is it out of memory, or does a transform end it? Run the job "
                    "on a distributed client, which loses only the shard that does it: the finished shards stay"
                ) from error
            yield task, result


class _Here(Executor):
    """Runs each submitted function at once, in the calling thread."""

    _max_workers = 1

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(function(*args, **kwargs))
        return future


Submit = Callable[[Executor, Any], "Future[Any]"]


def _scheduler(function: Callable[[Any], Any]) -> tuple[Executor, bool, Submit]:
    """Return the pool for tasks, whether it ends with the job, and its submit function."""
    get = dask.base.get_scheduler(cls=Delayed)  # type: ignore[no-untyped-call]
    chosen, given = dask.config.get("scheduler", None), dask.config.get("pool", None)
    number = local_threads()
    if isinstance(given, multiprocessing.pool.Pool):
        given = MultiprocessingPoolExecutor(given)  # type: ignore[no-untyped-call]
    if isinstance(chosen, Executor):
        return chosen, False, partial(_submit, function)
    if get is get_sync:
        return _Here(), False, partial(_submit, function)
    if get is dask.threaded.get:
        return given or Threads(number, "shardedstore-task"), given is None, partial(_submit_in_context, function)
    if get is dask.multiprocessing.get:
        payload = cloudpickle.dumps(function)
        return given or _processes(number), given is None, partial(_submit_pickled, payload)
    return Threads(number, "shardedstore-task"), True, partial(_submit_in_context, partial(_compute, function))


def local_threads() -> int:
    """Return the number of tasks that Dask is configured to run at a time on this machine."""
    return int(dask.config.get("num_workers", None) or CPU_COUNT)


def _threads_of(pool: Executor) -> int:
    return int(getattr(pool, "_max_workers", None) or local_threads())


def _processes(number: int) -> Executor:
    initializer = partial(
        dask.multiprocessing.initialize_worker_process,
        user_initializer=dask.config.get("multiprocessing.initializer", None),
    )
    context = dask.multiprocessing.get_context()  # type: ignore[no-untyped-call]
    return ProcessPoolExecutor(number, mp_context=context, initializer=initializer)


def _submit(function: Callable[[Item], Result], pool: Executor, item: Item) -> Future[Result]:
    return pool.submit(function, item)


def _submit_in_context(function: Callable[[Item], Result], pool: Executor, item: Item) -> Future[Result]:
    return pool.submit(copy_context().run, function, item)


def _submit_pickled(payload: bytes, pool: Executor, item: object) -> Future[Any]:
    return pool.submit(_call, payload, cloudpickle.dumps(item))


def _call(function: bytes, item: bytes) -> Any:
    return cloudpickle.loads(function)(cloudpickle.loads(item))


def _compute(function: Callable[[Item], Result], item: Item) -> Result:
    """Run a function on a scheduler that is neither threads nor processes."""
    (made,) = dask.base.compute(delayed(function)(item))  # type: ignore[no-untyped-call]
    return made  # type: ignore[no-any-return]


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
