"""Warns when a cluster has had no workers for a minute: a job would wait for them in silence."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Generic, Protocol, Self, TypeVar

import dask
from dask.utils import parse_timedelta

from shardedstore.errors import ShardedStoreError

if TYPE_CHECKING:
    from dask.typing import Key
    from distributed import Client, Future

logger = logging.getLogger("shardedstore")

LOOK = 5.0  # seconds between two looks

ABSENT = 60.0  # seconds without any worker after which it is told


@contextmanager
def attended(client: Client) -> Iterator[None]:
    """Warn while the block runs, once each time, when the cluster has had no worker for a minute."""
    ended = threading.Event()
    thread = threading.Thread(target=_watch, args=(client, ended), name="shardedstore-attendance", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()


def _watch(client: Client, ended: threading.Event) -> None:
    gone: float | None = None
    told = False
    while not ended.wait(LOOK):
        with suppress(Exception):  # a scheduler that is gone is told by the job itself
            if client.nthreads():  # type: ignore[no-untyped-call]
                if told:
                    logger.warning("the cluster has workers again, and the job goes on")
                gone, told = None, False
                continue
            gone = gone or time.monotonic()
            if not told and time.monotonic() - gone >= ABSENT:
                logger.warning(
                    "the cluster at %s has had no workers for %d s, and the job waits for them: start some, or see in "
                    "their logs why they ended. The job can also be stopped: it goes on later from what is done",
                    client.scheduler.address if client.scheduler else "",
                    ABSENT,
                )
                told = True


Item = TypeVar("Item")

T = TypeVar("T")

Made_co = TypeVar("Made_co", covariant=True)

PER_THREAD = 2  # tasks in flight for each thread of the cluster, at least

MOST_PER_THREAD = 10

THREADS_SECONDS = 1.0  # between looking how many threads the cluster has


class Window(Protocol[Item, Made_co]):
    """A bounded number of tasks, wherever they run.

    Attributes
    ----------
    threads : int
        How many tasks run at a time, now.
    """

    @property
    def threads(self) -> int: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...

    def __len__(self) -> int:
        """Return how many tasks are in flight."""

    def room(self, seconds: float | None = None) -> int:
        """Return how many tasks may be launched now, when a task takes so long."""

    def launch(self, tasks: list[tuple[Item, str]]) -> None:
        """Submit some tasks under their names."""

    def ended(self) -> Iterator[tuple[str, Item, Made_co | BaseException]]:
        """Wait for some tasks, and yield their names, items and results; nothing after a while in which none ended."""


class ClusterWindow(Generic[Item, T]):
    """A bounded number of tasks on a cluster; each call to the scheduler is for all tasks that it can be for.

    An adaptive cluster grows by the seconds of work that its scheduler knows of for each thread. So of short tasks more
    are in flight, up to twice those seconds.
    """

    def __init__(self, client: Client, function: Callable[[Item], T]) -> None:
        self.client, self.function = client, function
        self.flying: dict[Key, tuple[Future[T], str, Item]] = {}
        self._completed: SimpleQueue[Future[T]] = SimpleQueue()
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
        """The number of threads of the cluster, at least 1: workers come and go."""
        if time.monotonic() - self._counted > THREADS_SECONDS:
            try:
                self._threads = max(1, sum(self.client.nthreads().values()))  # type: ignore[no-untyped-call]
            except OSError as error:
                raise _lost() from error
            self._counted = time.monotonic()
        return self._threads

    def room(self, seconds: float | None = None) -> int:
        """Return how many tasks may be launched now, when a task takes so long."""
        wanted = PER_THREAD if seconds is None else math.ceil(self._ahead / max(seconds, 1e-3))
        return min(MOST_PER_THREAD, max(PER_THREAD, wanted)) * self.threads - len(self.flying)

    def launch(self, tasks: list[tuple[Item, str]]) -> None:
        """Submit some tasks under their names."""
        if tasks:
            items, keys = (list(some) for some in zip(*tasks, strict=True))
            futures = self.client.map(self.function, items, key=keys, pure=False)
            for key, future, item in zip(keys, futures, items, strict=True):
                self.flying[key] = future, key, item
                future.add_done_callback(self._completed.put)  # type: ignore[no-untyped-call]

    def ended(self) -> Iterator[tuple[str, Item, T | BaseException]]:
        """Wait for some tasks, release them, and yield their names, items and results.

        It gives up after a while, so that workers which have come meanwhile get tasks.
        """
        batch = self._batch()
        for future, result in zip(batch, self._results(batch), strict=True):
            _, key, item = self.flying.pop(future.key)
            future.release()  # type: ignore[no-untyped-call]
            yield key, item, result

    def _batch(self) -> list[Future[T]]:
        batch: list[Future[T]] = []
        try:
            batch.append(self._completed.get(timeout=THREADS_SECONDS))
            while True:
                batch.append(self._completed.get_nowait())
        except Empty:
            return batch

    def _results(self, batch: list[Future[T]]) -> list[T | BaseException]:
        """Return what tasks gave, or their exceptions.

        They are asked for here, as `as_completed(with_results=True)` never gives one whose scheduler dies on its way.
        """
        try:
            found = self.client.gather({future.key: future for future in batch}, errors="skip")  # type: ignore[no-untyped-call]
            missing = [future for future in batch if found[future.key] is None]
            for future in missing:
                found[future.key] = future.exception() or CancelledError(future.key)  # type: ignore[no-untyped-call]
        except Exception as error:
            raise _lost() from error
        if self.client.status in ("closing", "closed"):  # so that all results are cancellations, which blame no shard
            raise _lost()
        return [found[future.key] for future in batch]


def is_killed(error: BaseException) -> bool:
    """Tell whether an error is that of a task which each worker that ran it died of."""
    return type(error).__name__ == "KilledWorker"


def _lost() -> ShardedStoreError:
    return ShardedStoreError(
        "the connection to the Dask scheduler is lost: call map_shards with the same arguments again on another cluster, and "
        "it goes on from there"
    )
