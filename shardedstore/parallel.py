"""Work on a stream in a few threads: in order, and with a bound on what is under way."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
BATCH = 256 << 10  # bytes of work in one call: a call costs some 30 microseconds
UNDER_WAY = 32 << 20  # bytes


def default_threads() -> int:
    """Return the number of threads for one shard: at most four, and no more than there are processors."""
    count: Callable[[], int | None] = getattr(os, "process_cpu_count", os.cpu_count)
    return min(4, count() or 1)


def map_in_order(
    work: Callable[[T], T], items: Iterable[T], weigh: Callable[[T], int], threads: int | None = None
) -> Iterator[T]:
    """Yield the results of a function, in the order of the items.

    The items are taken from the calling thread, and the results given to it. An exception is raised in the place of
    its item, and ends what is under way.

    Parameters
    ----------
    work : callable
        Called in the threads, for items that weigh anything.
    weigh : callable
        The bytes that an item's work goes through; 0 for an item that passes on as it is.
    threads : int, optional
        1 works in the calling thread.

    Examples
    --------
    >>> list(map_in_order(str.upper, ["a", "bc", ""], len, threads=2))
    ['A', 'BC', '']
    """
    if (threads or default_threads()) == 1:
        for item in items:
            yield work(item) if weigh(item) else item
        return
    yield from _in_threads(work, items, weigh, threads or default_threads())


def _in_threads(work: Callable[[T], T], items: Iterable[T], weigh: Callable[[T], int], threads: int) -> Iterator[T]:
    pool = ThreadPoolExecutor(threads, "shardedstore-codec")
    window: deque[tuple[Future[list[T]] | None, list[T], int]] = deque()
    total = 0
    try:
        for batch, weight in _batches(items, weigh):
            future = pool.submit(_all, work, batch) if weight else None
            window.append((future, batch, weight))
            total += weight
            while _is_full(window[0][0], len(window), total, threads):
                first, done, gone = window.popleft()
                total -= gone
                yield from (done if first is None else first.result())
                if not window:
                    break
        for first, done, _ in window:
            yield from (done if first is None else first.result())
    finally:
        pool.shutdown(cancel_futures=True)


def _is_full(first: Future[list[T]] | None, count: int, total: int, threads: int) -> bool:
    return first is None or count > 8 * threads or (count > threads and total > UNDER_WAY)


def _all(work: Callable[[T], T], items: list[T]) -> list[T]:
    return [work(item) for item in items]


def _batches(items: Iterable[T], weigh: Callable[[T], int]) -> Iterator[tuple[list[T], int]]:
    """Yield items in groups that are worth a call; those without weight stand alone."""
    batch: list[T] = []
    total = 0
    for item in items:
        weight = weigh(item)
        if not weight and batch:
            yield batch, total
            batch, total = [], 0
        batch.append(item)
        total += weight
        if not weight or total >= BATCH:
            yield batch, total
            batch, total = [], 0
    if batch:
        yield batch, total
