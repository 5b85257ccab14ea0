"""Tasks in the threads or processes of this machine, as many at a time as Dask is configured to use."""

from __future__ import annotations

import multiprocessing.pool
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures import ThreadPoolExecutor as Threads
from contextvars import copy_context
from functools import partial
from typing import Any, Generic, Self, TypeVar

import cloudpickle  # type: ignore[import-untyped]
import dask
import dask.multiprocessing
import dask.threaded
from dask.delayed import Delayed, delayed
from dask.local import MultiprocessingPoolExecutor, get_sync
from dask.system import CPU_COUNT

from shardedstore.errors import ShardedStoreError
from shardedstore.jobs.executors.tasks import interrupt

Item = TypeVar("Item")
T = TypeVar("T")
SHORT = 0.05  # seconds; of shorter tasks each thread has a second one waiting


class LocalWindow(Generic[Item, T]):
    """A bounded number of tasks on the local scheduler that Dask is configured to use.

    A thread or process gets its next task as soon as it has ended one.

    Parameters
    ----------
    function : callable
        Makes the result of an item; what it raises, `ended` raises.
    token : str
        Names the job to `interrupt`, so that its running tasks end soon when the window is left by an exception.
    """

    def __init__(self, function: Callable[[Item], T], token: str) -> None:
        self._token = token
        self._pool, self._is_own, self._work = _scheduler(function)
        self.threads = _threads_of(self._pool)
        self.flying: dict[Future[T], tuple[str, Item]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is not None:
            interrupt(self._token)
        for future in self.flying:
            future.cancel()
        if self._is_own:
            self._pool.shutdown(wait=error[0] is not KeyboardInterrupt, cancel_futures=True)

    def __len__(self) -> int:
        return len(self.flying)

    def room(self, seconds: float | None = None) -> int:
        """Return how many tasks may be launched now, when a task takes so long."""
        ahead = seconds is not None and seconds < SHORT and not isinstance(self._pool, _Here)
        return (1 + ahead) * self.threads - len(self.flying)

    def launch(self, tasks: list[tuple[Item, str]]) -> None:
        """Submit some tasks under their names."""
        for item, key in tasks:
            self.flying[self._work(self._pool, item)] = key, item

    def ended(self) -> Iterator[tuple[str, Item, T]]:
        """Wait for a task to end, and yield the names, items and results of those that have."""
        done, _ = wait(self.flying, return_when=FIRST_COMPLETED)
        for future in done:
            key, item = self.flying.pop(future)
            try:
                result = future.result()
            except BrokenExecutor as error:
                raise ShardedStoreError(
                    "a process of the local Dask scheduler died; is it out of memory, or does a transform end it? Run the job "
                    "on a distributed client, which loses only the shard that does it: what is done stays"
                ) from error
            yield key, item, result


class _Here(Executor):
    """Runs what is submitted at once, in the calling thread."""

    _max_workers = 1

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(function(*args, **kwargs))
        return future


Submit = Callable[[Executor, Any], "Future[Any]"]


def _scheduler(function: Callable[[Any], Any]) -> tuple[Executor, bool, Submit]:
    """Return where tasks run, whether that ends with the job, and how an item is submitted there."""
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
    """Return how many tasks Dask runs at a time on this machine, unless it is told otherwise later."""
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


def _submit(function: Callable[[Item], T], pool: Executor, item: Item) -> Future[T]:
    return pool.submit(function, item)


def _submit_in_context(function: Callable[[Item], T], pool: Executor, item: Item) -> Future[T]:
    return pool.submit(copy_context().run, function, item)


def _submit_pickled(payload: bytes, pool: Executor, item: object) -> Future[Any]:
    return pool.submit(_call, payload, cloudpickle.dumps(item))


def _call(function: bytes, item: bytes) -> Any:
    return cloudpickle.loads(function)(cloudpickle.loads(item))


def _compute(function: Callable[[Item], T], item: Item) -> T:
    """Run a function on a scheduler that is neither threads nor processes."""
    (made,) = dask.base.compute(delayed(function)(item))  # type: ignore[no-untyped-call]
    return made  # type: ignore[no-any-return]
