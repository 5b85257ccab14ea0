"""Metrics of the requests of a task: counts, bytes, errors and seconds by kind of request.

Each place that makes a request to an object store or a web server does it in a block of `request` or `timed`. Local files need no requests.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, Literal, ParamSpec, Self, TypeVar

import msgspec
from toolz import merge_with

from shardedstore.storage.throttle import PAGE, current_throttle, spend, throttled

if TYPE_CHECKING:
    from typing_extensions import Buffer

T = TypeVar("T")
P = ParamSpec("P")
RequestKind = Literal["GET", "HEAD", "LIST", "PUT", "DELETE"]


class RequestSum(msgspec.Struct, frozen=True, gc=False):
    """The requests of one kind.

    Attributes
    ----------
    count : int
        The number of requests. A listing counts as one for each 1000 objects, and an upload in parts as one for each part.
    nbytes : int
        The bytes of the values that were read or written.
    seconds : float
        The sum of the latencies, with the repeated attempts inside obstore.
    errors : int
        The number of requests that ended with an error; a missing object is none.

    Examples
    --------
    >>> RequestSum(count=4, seconds=2.0).latency
    0.5
    """

    count: int = 0
    nbytes: int = 0
    seconds: float = 0.0
    errors: int = 0

    @property
    def latency(self) -> float:
        """The mean latency in seconds; 0 without requests."""
        return self.seconds / self.count if self.count else 0.0


def add_requests(parts: Iterable[Mapping[str, RequestSum]]) -> dict[str, RequestSum]:
    """Add up requests by kind.

    >>> add_requests([{"GET": RequestSum(1, 10)}, {"GET": RequestSum(2, 5), "PUT": RequestSum(1)}])["GET"]
    RequestSum(count=3, nbytes=15, seconds=0.0, errors=0)
    """
    sums: dict[str, RequestSum] = merge_with(_add, *parts)
    return sums


def _add(sums: Sequence[RequestSum]) -> RequestSum:
    return RequestSum(*map(sum, zip(*map(msgspec.structs.astuple, sums), strict=True)))


class RequestMeter:
    """Adds up the requests and the pauses of one task. Several threads may use it.

    Attributes
    ----------
    throttled_seconds : float
        The time in which at least one request waited, as the server was too busy or a limit of the job was reached.
    """

    def __init__(self) -> None:
        self.throttled_seconds = 0.0
        self._sums: dict[str, list[float]] = {}
        self._until = 0.0  # the end of the last pause
        self._lock = threading.Lock()

    def add(self, kind: RequestKind, count: int, nbytes: int, seconds: float, *, failed: bool) -> None:
        """Add requests that have ended."""
        with self._lock:
            sums = self._sums.setdefault(kind, [0, 0, 0.0, 0])
            sums[0] += count
            sums[1] += nbytes
            sums[2] += seconds
            sums[3] += failed

    def pause(self, seconds: float) -> None:
        """Add a pause that begins now; pauses at the same time count once."""
        with self._lock:
            now = time.monotonic()
            self.throttled_seconds += max(0.0, now + seconds - max(now, self._until))
            self._until = max(self._until, now + seconds)

    @property
    def sums(self) -> dict[str, RequestSum]:
        """The requests so far, by kind."""
        with self._lock:
            return {
                kind: RequestSum(int(count), int(nbytes), round(seconds, 6), int(errors))
                for kind, (count, nbytes, seconds, errors) in self._sums.items()
            }


_current: ContextVar[RequestMeter | None] = ContextVar("shardedstore-requests", default=None)


@contextmanager
def metered(meter: RequestMeter | None) -> Iterator[None]:
    """Let a meter count the requests of this thread in the block; None does not count them."""
    token = _current.set(meter)
    try:
        yield
    finally:
        _current.reset(token)


def in_context(work: Callable[P, T]) -> Callable[P, T]:
    """Return a function that does the work in other threads, with the limits and the meter of this thread."""
    throttle, meter = current_throttle(), _current.get()

    def call(*args: P.args, **keywords: P.kwargs) -> T:
        with throttled(throttle), metered(meter):
            return work(*args, **keywords)

    return call


def paused(seconds: float) -> None:
    """Count a pause of this thread that begins now."""
    if (meter := _current.get()) is not None:
        meter.pause(seconds)


class timed:  # noqa: N801 (used as a function)
    """Measure a request in the block.

    >>> meter = RequestMeter()
    >>> with metered(meter), timed("GET") as got:
    ...     got.nbytes = len(b"1234")
    >>> meter.sums["GET"].count, meter.sums["GET"].nbytes
    (1, 4)
    """

    __slots__ = ("_begun", "_count", "_kind", "nbytes")

    def __init__(self, kind: RequestKind, nbytes: int = 0, count: int = 1) -> None:
        self._kind, self.nbytes, self._count = kind, nbytes, count

    def __enter__(self) -> Self:
        self._begun = time.perf_counter()
        return self

    def __exit__(
        self, _: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        meter = _current.get()
        if meter is not None:
            failed = error is not None and not isinstance(error, FileNotFoundError | FileExistsError | GeneratorExit)
            meter.add(self._kind, self._count, self.nbytes, time.perf_counter() - self._begun, failed=failed)


def request(kind: RequestKind, nbytes: int = 0, count: int = 1) -> timed:
    """Wait until the limits of the job allow a request, and measure it in the block.

    Parameters
    ----------
    kind : str
        The kind of the request.
    nbytes : int
        The bytes that it moves, if they are known before. Otherwise spend them afterwards, and set the attribute `nbytes`.
    count : int
        The number of requests.
    """
    spend(count, nbytes)
    return timed(kind, nbytes, count)


def read_whole(get: Callable[[], Buffer]) -> bytes:
    """Return the bytes of an object whose size is not known before, and count them."""
    with request("GET") as got:
        data = bytes(get())
        got.nbytes = len(data)
    spend(0, len(data))
    return data


def list_pages(batches: Iterable[Sequence[T]]) -> Iterator[Sequence[T]]:
    """Yield the batches of a listing, and measure each page of it as one request.

    >>> list(list_pages([["a", "b"], ["c"]]))
    [['a', 'b'], ['c']]
    """
    paid = found = 0
    ahead = iter(batches)
    spend()
    count = 1
    while True:
        with timed("LIST", count=count):
            batch = next(ahead, None)
        count = 0
        if batch is None:
            return
        found += len(batch)
        while found > paid + PAGE:
            paid += PAGE
            spend()
            count += 1
        yield batch
