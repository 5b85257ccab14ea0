"""Map a function over a stream in a few threads, in order and with bounded memory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")
BATCH = 256 << 10  # bytes of work in one call, as a call costs about 30 microseconds
UNDER_WAY = 32 << 20  # bytes


def default_threads() -> int:
    """Return the number of threads for one shard: four, or the number of processors if that is less."""
    if hasattr(os, "sched_getaffinity"):
        return min(4, len(os.sched_getaffinity(0)))
    return min(4, os.cpu_count() or 1)


def map_in_order(
    work: Callable[[T], R], items: Iterable[T], weigh: Callable[[T], int], threads: int | None = None
) -> Iterator[R]:
    """Yield the results of a function, in the order of the items.

    The calling thread iterates the items and gets the results; instead of waiting, it also calls the function. An exception
    is raised at the position of its item, and cancels the remaining work.

    Parameters
    ----------
    work : callable
        The function, which is called in the threads.
    weigh : callable
        Returns the number of bytes that an item's call processes; 0 if the item is not worth a thread.
    threads : int, optional
        The number of threads, including the calling thread.

    Examples
    --------
    >>> list(map_in_order(str.upper, ["a", "bc", ""], len, threads=2))
    ['A', 'BC', '']
    """
    count = threads or default_threads()
    return map(work, items) if count == 1 else _in_threads(work, items, weigh, count)


def _in_threads(work: Callable[[T], R], items: Iterable[T], weigh: Callable[[T], int], threads: int) -> Iterator[R]:
    pool = ThreadPoolExecutor(threads - 1, "shardedstore-codec")
    window: deque[_Batch[T, R]] = deque()
    total = 0
    try:
        for some, weight in _batches(items, weigh):
            window.append(_Batch(work, some, weight, pool))
            total += weight
            while window and _is_full(window, total, threads):
                total -= window[0].weight
                yield from _next(window)
        while window:
            yield from _next(window)
    finally:
        pool.shutdown(cancel_futures=True)


class _Batch(Generic[T, R]):
    """Some items, processed by the first free thread."""

    def __init__(self, work: Callable[[T], R], items: list[T], weight: int, pool: ThreadPoolExecutor) -> None:
        self.work, self.items, self.weight = work, items, weight
        self.future: Future[list[R]] = pool.submit(self._run) if weight else Future()

    def _run(self) -> list[R]:
        return [*map(self.work, self.items)]

    def run_here(self) -> bool:
        """Process the batch in the calling thread, unless another thread has started it; return whether it did."""
        if not self.future.cancel():
            return False
        self.future = Future()
        try:
            self.future.set_result(self._run())
        except Exception as error:  # noqa: BLE001 (raised later, at the position of the batch)
            self.future.set_exception(error)
        return True


def _next(window: deque[_Batch[T, R]]) -> list[R]:
    """Return the results of the first batch; while another thread works on it, process batches that are not started."""
    first = window.popleft()
    if not first.run_here():
        while not first.future.done() and any(batch.run_here() for batch in window):
            pass
    return first.future.result()


def _is_full(window: deque[_Batch[T, R]], total: int, threads: int) -> bool:
    count = len(window)
    return not window[0].weight or count > 8 * threads or (count > threads and total > UNDER_WAY)


def _batches(items: Iterable[T], weigh: Callable[[T], int]) -> Iterator[tuple[list[T], int]]:
    """Yield items in batches that are worth a call, with their weight; items of weight 0 are separate batches.

    A small last batch gets the weight 0: the calling thread processes it, so that a few small items start no thread.
    """
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
        yield batch, 0
