"""How many requests to object stores this process has in flight: fewer while a server says that it is too busy.

The bound holds for all threads of the process together: halved when a server says 429 or 503 for all that obstore tried
itself (ten times in about a minute, if it was not given another `retry_config`), and one more for each bound's worth of
requests that went well. What was refused so is asked again, after growing pauses.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from obstore.exceptions import BaseError

from shardedstore.storage.errors import status_of

T = TypeVar("T")

Item = TypeVar("Item")

MOST = 64  # in flight of each kind, gets and puts: 10,000 small puts took less time than with 24, and with 96 no less

PATIENCE = 600.0  # seconds without one request that went well, after which it is an error like others

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0  # seconds

AT_ONCE = 1.0  # seconds in which refusals count as one, as those of all that were in flight

TOO_BUSY = (429, 503)


def is_throttling(error: BaseException) -> bool:
    """Tell whether an error is a server's wish for fewer requests.

    >>> is_throttling(BaseError("Server returned non-2xx status code: 503 Slow Down: <Code>SlowDown</Code>"))
    True
    """
    return isinstance(error, BaseError | OSError) and status_of(error) in TOO_BUSY


def pause(attempt: int) -> float:
    """Return for how many seconds to wait before asking again, with jitter, so that not all come at once."""
    longest: float = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(attempt, 16))
    return longest * random.uniform(0.5, 1)


class Limiter:
    """Bounds what is in flight, and tells how long to be patient with a server."""

    def __init__(self, most: int = MOST) -> None:
        self.most, self.bound = most, float(most)
        self._flying, self._refused = 0, 0
        self._since: float | None = None  # when the server first refused, with nothing that went well since
        self._last = 0.0  # when it last did
        self._lowered = -AT_ONCE
        self._changed = threading.Condition()

    def call(self, request: Callable[[], T], ended: threading.Event) -> T:
        """Make a request when there is room for it, and again while the server is too busy and `ended` is not set."""
        first: float | None = None
        for attempt in itertools.count():
            with self._room(ended):
                try:
                    result = request()
                except (BaseError, OSError) as error:
                    first = first or time.monotonic()
                    if not self.refused(error, first):
                        raise
                    failed = error
                else:
                    self.went_well()
                    return result
            if ended.wait(pause(attempt)):
                raise failed
        raise AssertionError("unreachable")

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
        """Lower the bound when an error is a server's wish for that; tell whether to be patient, and ask again.

        `first` is when what was asked for was first refused, by the monotonic clock.
        """
        if not is_throttling(error):
            return False
        now = time.monotonic()
        with self._changed:
            self._refused += 1
            if self._since is None or now - self._last > 2 * LONGEST_PAUSE:  # what was long ago is another trouble
                self._since = now
            self._last = now
            if now - self._lowered >= AT_ONCE:
                self.bound, self._lowered = max(1.0, self.bound / 2), now
            return now - min(self._since, first) < PATIENCE

    def went_well(self) -> None:
        """Raise the bound a little."""
        with self._changed:
            self._since = None
            if self.bound < self.most:
                self.bound = min(self.most, self.bound + 1 / self.bound)
                self._changed.notify()

    def take_refused(self) -> int:
        """Return how often a server has refused since this was last asked."""
        with self._changed:
            refused, self._refused = self._refused, 0
        return refused


READS, WRITES = Limiter(), Limiter()


@contextmanager
def requests(limiter: Limiter, threads: int) -> Iterator[Callable[[Callable[[Item], T], Item], Future[T]]]:
    """Give a function that makes a request for an item in a thread; at the end, those that wait are given up."""
    ended = threading.Event()

    def submit(request: Callable[[Item], T], item: Item) -> Future[T]:
        return pool.submit(limiter.call, lambda: request(item), ended)

    pool: Executor
    with ThreadPoolExecutor(threads, "shardedstore-request") as pool:
        try:
            yield submit
        finally:
            ended.set()
            pool.shutdown(cancel_futures=True)


IN_FLIGHT = 32  # for one stream; `READS` bounds those of all

BYTES_IN_FLIGHT = 64 << 20


def in_flight(get: Callable[[str], bytes | None], keys: Iterable[str]) -> Iterator[bytes | None]:
    """Call `get` for many keys at once, and yield the results in the order of the keys.

    As many wait as `BYTES_IN_FLIGHT` has room for, if they are as large as the largest so far.
    """
    waiting: deque[Future[bytes | None]] = deque()
    largest: int | None = None

    def first() -> bytes | None:
        nonlocal largest
        data = waiting.popleft().result()
        if data is not None:
            largest = max(largest or 1, len(data))
        return data

    def room() -> int:
        return 4 if largest is None else max(2, min(2 * IN_FLIGHT, BYTES_IN_FLIGHT // largest))

    with requests(READS, IN_FLIGHT) as submit:
        for key in keys:
            waiting.append(submit(get, key))
            while len(waiting) >= room():
                yield first()
        while waiting:
            yield first()
