"""Concurrent requests to object stores, with fewer in flight while a server is too busy.

All threads of the process share one limit for reads and one for writes. The limit is halved when a server replies 429 or
503 and obstore's own retries are exhausted (by default ten in about a minute, see `retry_config`). It grows by one
whenever as many requests succeed as the limit allows. Refused requests are repeated after growing pauses.

`in_flight` gets many keys at once, and returns their values in order.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import TypeVar

from obstore.exceptions import BaseError

from shardedstore.storage.errors import status_of
from shardedstore.storage.request_metrics import in_context, paused
from shardedstore.storage.retry import Backoff, retry

T = TypeVar("T")

Item = TypeVar("Item")

MOST = 64  # requests in flight; 10,000 small puts took longer with 24, and as long with 96

PATIENCE = 600.0  # seconds without any successful request, after which a refusal is raised

BACKOFF = Backoff(1.0, 30.0)

AT_ONCE = 1.0  # seconds; refusals within this time count as one, because the requests were in flight together

TOO_BUSY = (429, 503)


def is_throttling(error: BaseException) -> bool:
    """Tell whether an error means that a server asks for fewer requests.

    >>> is_throttling(BaseError("Server returned non-2xx status code: 503 Slow Down: <Code>SlowDown</Code>"))
    True
    """
    return isinstance(error, BaseError | OSError) and status_of(error) in TOO_BUSY


class Limiter:
    """Limit the requests in flight, and repeat requests that a busy server refuses.

    Attributes
    ----------
    most : int
        The highest limit.
    bound : float
        The current limit.
    """

    def __init__(
        self,
        most: int = MOST,
        *,
        backoff: Backoff = BACKOFF,
        patience: float = PATIENCE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.most, self.bound = most, float(most)
        self.backoff, self.patience, self.clock = backoff, patience, clock
        self._flying, self._refused = 0, 0
        self._since: float | None = None  # time of the first refusal since the last success
        self._last = 0.0  # time of the last refusal
        self._lowered = -AT_ONCE
        self._changed = threading.Condition()

    def call(self, request: Callable[[], T], ended: threading.Event) -> T:
        """Make a request when the limit allows it.

        The request is repeated while the server is too busy, until `ended` is set.
        """

        def attempt() -> T:
            with self._room(ended):
                result = request()
                self.went_well()
                return result

        return retry(attempt, Throttled(self), (BaseError, OSError), ended.wait)

    @contextmanager
    def _room(self, ended: threading.Event) -> Iterator[None]:
        with self._changed:
            while self._flying >= max(1, int(self.bound)) and not ended.is_set():
                self._changed.wait(1)
            self._flying += 1
        try:
            yield
        finally:
            with self._changed:
                self._flying -= 1
                self._changed.notify()

    def refused(self, error: BaseException, first: float) -> bool:
        """Lower the limit if the server is too busy, and tell whether to repeat the request.

        Parameters
        ----------
        error : BaseException
            The error of the request.
        first : float
            The time of this request's first error, in seconds of the monotonic clock.
        """
        if not is_throttling(error):
            return False
        now = self.clock()
        with self._changed:
            self._refused += 1
            if self._since is None or now - self._last > 2 * self.backoff.longest:  # an old refusal has another cause
                self._since = now
            self._last = now
            if now - self._lowered >= AT_ONCE:
                self.bound, self._lowered = max(1.0, self.bound / 2), now
            return now - min(self._since, first) < self.patience

    def went_well(self) -> None:
        """Count a success, and raise the limit a little."""
        with self._changed:
            self._since = None
            if self.bound < self.most:
                self.bound = min(self.most, self.bound + 1 / self.bound)
                self._changed.notify()

    def take_refused(self) -> int:
        """Return the number of refusals since the last call."""
        with self._changed:
            refused, self._refused = self._refused, 0
        return refused


class Throttled:
    """Policy that retries one piece of work while a server is too busy, as long as a limiter is patient."""

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter
        self._first: float | None = None
        self.count = 0

    def pause(self, error: BaseException) -> float | None:
        # docstring inherited
        self._first = self._first or self._limiter.clock()
        if not self._limiter.refused(error, self._first):
            return None
        self.count += 1
        seconds = self._limiter.backoff.pause(self.count - 1)
        paused(seconds)
        return seconds


READS, WRITES = Limiter(), Limiter()


@contextmanager
def requests(limiter: Limiter, threads: int) -> Iterator[Callable[[Callable[[Item], T], Item], Future[T]]]:
    """Give a function that makes a request for an item in a thread.

    At the end of the block, requests that have not started are cancelled.
    """
    ended = threading.Event()

    def submit(request: Callable[[Item], T], item: Item) -> Future[T]:
        return pool.submit(in_context(limiter.call), lambda: request(item), ended)

    pool: Executor
    with ThreadPoolExecutor(threads, "shardedstore-request") as pool:
        try:
            yield submit
        finally:
            ended.set()
            pool.shutdown(cancel_futures=True)


IN_FLIGHT = 32  # requests of one stream; `READS` limits all streams together

BYTES_IN_FLIGHT = 64 << 20


def read_ahead(get: Callable[[Item], T], items: Iterable[Item], most: int) -> Iterator[tuple[Item, T]]:
    """Call `get` for at most `most` items at once, and yield the items with their results in order."""
    return _in_order(get, items, most, lambda: most)


def in_flight(
    get: Callable[[Item], T],
    items: Iterable[Item],
    nbytes: Callable[[T], int] = lambda found: len(found or b""),  # type: ignore[arg-type]
) -> Iterator[T]:
    """Call `get` for many items at once, and yield the results in order.

    Fewer requests wait if values are large: together they take about `BYTES_IN_FLIGHT`, estimated by the largest value
    so far. `nbytes` returns the size of a result.
    """
    largest: int | None = None

    def room() -> int:
        return 4 if largest is None else max(2, min(2 * IN_FLIGHT, BYTES_IN_FLIGHT // largest))

    with closing(_in_order(get, items, IN_FLIGHT, room)) as results:
        for _, found in results:
            if size := nbytes(found):
                largest = max(largest or 1, size)
            yield found


def _in_order(
    get: Callable[[Item], T], items: Iterable[Item], threads: int, room: Callable[[], int]
) -> Generator[tuple[Item, T]]:
    """Call `get` in threads, and yield the items with their results in order; `room` returns the most that wait."""
    waiting: deque[tuple[Item, Future[T]]] = deque()

    def first() -> tuple[Item, T]:
        item, future = waiting.popleft()
        return item, future.result()

    with requests(READS, threads) as submit:
        for item in items:
            waiting.append((item, submit(get, item)))
            while len(waiting) >= room():
                yield first()
        while waiting:
            yield first()
