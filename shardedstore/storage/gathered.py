"""Reads of one object that share requests: neighbouring ranges are read together, and some bytes are read ahead.

A request of an object store takes about as long as the transfer of `AHEAD` bytes. So ranges that wait at the same time, as
when zarr reads chunks, become one request if they are neighbours. The bytes behind them are read as well, as the next
reads probably need them. The end of an object, which holds the directory of a zip, is read with the bytes before it.

Bytes that were read ahead stay in memory until all objects together have `MOST_KEPT` bytes.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from typing import TYPE_CHECKING, NamedTuple, TypeVar
from weakref import finalize

from shardedstore.storage.blobs import INLINE, ByteSource

if TYPE_CHECKING:
    from typing_extensions import Buffer as Bytes

T = TypeVar("T")

AHEAD = 512 << 10  # bytes
MOST_TOGETHER = 8 << 20  # bytes of one request
MOST_GAP = 64 << 10  # bytes between two neighbours
MOST_KEPT = 64 << 20  # bytes that were read ahead, of all objects together
WINDOW = 0.001  # seconds in which reads are gathered; a request takes ten times as long and more


class ByteSpan(NamedTuple):
    """A range of bytes."""

    start: int
    stop: int


class Kept:
    """The bytes of many objects that were read ahead; the oldest are dropped.

    >>> kept = Kept(most=8)
    >>> kept.put(("a", "end"), 100, b"12345")
    >>> bytes(kept.find("a", 101, 103)), kept.find("a", 104, 106), kept.find("b", 101, 103)
    (b'23', None, None)
    >>> kept.put(("b", "end"), 0, b"6789")
    >>> kept.find("a", 101, 103)
    """

    def __init__(self, most: int = MOST_KEPT) -> None:
        self.most, self._nbytes = most, 0
        self._found: OrderedDict[tuple[object, str], tuple[int, memoryview]] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, key: tuple[object, str], start: int, data: Bytes) -> None:
        """Keep bytes of an object, in place of those with the same key."""
        view = memoryview(data)
        with self._lock:
            self._drop(key)
            self._found[key] = start, view
            self._nbytes += len(view)
            while self._nbytes > self.most:
                self._drop(next(iter(self._found)))

    def find(self, owner: object, start: int, stop: int) -> memoryview | None:
        """Return bytes of an object if all of them are kept; otherwise None."""
        for which in ("end", "ahead"):
            at, view = self._found.get((owner, which), (0, memoryview(b"")))
            if at <= start < stop <= at + len(view):
                return view[start - at : stop - at]
        return None

    def drop(self, owner: object) -> None:
        """Drop the bytes of an object."""
        with self._lock:
            self._drop((owner, "end"))
            self._drop((owner, "ahead"))

    def _drop(self, key: tuple[object, str]) -> None:
        found = self._found.pop(key, None)
        self._nbytes -= 0 if found is None else len(found[1])


KEPT = Kept()
_OWNERS = count()


class GatheredReads:
    """An object that is read with few requests.

    Parameters
    ----------
    source : ByteSource
        The object.
    """

    def __init__(self, source: ByteSource) -> None:
        self._source, self._owner = source, next(_OWNERS)
        self._waiting: dict[asyncio.AbstractEventLoop, list[tuple[ByteSpan, asyncio.Future[Bytes]]]] = {}
        self._tasks = set[asyncio.Task[None]]()
        self._size = 0  # unknown before `tail`
        finalize(self, KEPT.drop, self._owner)

    def tail(self, n: int) -> tuple[Bytes, int]:
        """Return the last bytes and the size of the object; keep the bytes before them."""
        found, size = self._source.tail(max(n, AHEAD))
        data, self._size = memoryview(found), size
        KEPT.put((self._owner, "end"), size - len(data), data)
        return data[max(0, len(data) - n) :], size

    def read(self, start: int, stop: int) -> Bytes:
        """Return kept bytes, or make one request."""
        found = KEPT.find(self._owner, start, stop)
        return self._source.read(start, stop) if found is None else found

    async def aread(self, start: int, stop: int) -> Bytes:
        """Return kept bytes, or make one request for all neighbouring ranges that wait."""
        found = KEPT.find(self._owner, start, stop)
        if found is not None:
            return found
        if stop - start > INLINE:
            return await self._source.aread(start, stop)
        loop = asyncio.get_running_loop()
        if loop not in self._waiting:
            self._waiting[loop] = []
            loop.call_later(WINDOW, self._start, loop)
        future: asyncio.Future[Bytes] = loop.create_future()
        self._waiting[loop].append((ByteSpan(start, stop), future))
        return await future

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        for some in together(sorted(self._waiting.pop(loop), key=lambda one: one[0])):
            task = asyncio.ensure_future(self._read_together(some))
            self._tasks.add(task)  # the loop holds no reference
            task.add_done_callback(self._tasks.discard)

    async def _read_together(self, some: Sequence[tuple[ByteSpan, asyncio.Future[Bytes]]]) -> None:
        """Read neighbouring ranges with one request, and pass each reader its bytes or the error."""
        start, stop = some[0][0].start, max(span.stop for span, _ in some)
        ahead = min(stop - start, AHEAD, max(0, self._size - stop)) if len(some) > 1 else 0
        try:
            data = memoryview(await self._source.aread(start, stop + ahead))
        except BaseException as error:
            for _, future in some:
                if not future.done():
                    future.set_exception(error)
            if isinstance(error, asyncio.CancelledError):
                raise
            return
        if len(data) > stop - start:
            KEPT.put((self._owner, "ahead"), stop, bytes(data[stop - start :]))  # a copy, to free the rest
        for span, future in some:
            if not future.done():
                future.set_result(data[span.start - start : span.stop - start])


def together(spans: Iterable[tuple[ByteSpan, T]]) -> Iterator[list[tuple[ByteSpan, T]]]:
    """Yield runs of neighbours, of at most `MOST_TOGETHER` bytes each; the ranges are sorted.

    >>> [
    ...     [name for _, name in run]
    ...     for run in together([(ByteSpan(0, 9), "a"), (ByteSpan(9, 20), "b"), (ByteSpan(1 << 20, 1 << 21), "c")])
    ... ]
    [['a', 'b'], ['c']]
    """
    run: list[tuple[ByteSpan, T]] = []
    for one in spans:
        span = one[0]
        if run and (span.start - run[-1][0].stop > MOST_GAP or span.stop - run[0][0].start > MOST_TOGETHER):
            yield run
            run = []
        run.append(one)
    if run:
        yield run
