"""Work on a stream in a few threads: in order, and with a bound on what is under way."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")
BATCH = 256 << 10  # bytes of work in one call: a call costs some 30 microseconds
UNDER_WAY = 32 << 20  # bytes


def default_threads() -> int:
    """Return the number of threads for one shard: at most four, and no more than there are processors."""
    if hasattr(os, "sched_getaffinity"):
        return min(4, len(os.sched_getaffinity(0)))
    return min(4, os.cpu_count() or 1)


def map_in_order(
    work: Callable[[T], R], items: Iterable[T], weigh: Callable[[T], int], threads: int | None = None
) -> Iterator[R]:
    """Yield the results of a function, in the order of the items.

    The items are taken from the calling thread, and the results given to it; instead of waiting, it works, too. An
    exception is raised in the place of its item, and ends what is under way.

    Parameters
    ----------
    work : callable
        Called in the threads.
    weigh : callable
        The bytes that an item's work goes through; 0 for an item that is not worth a thread.
    threads : int, optional
        How many work at a time, the calling one among them.

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
    """Some items, to be worked on by whichever thread takes them first."""

    def __init__(self, work: Callable[[T], R], items: list[T], weight: int, pool: ThreadPoolExecutor) -> None:
        self.work, self.items, self.weight = work, items, weight
        self.future: Future[list[R]] = pool.submit(self._run) if weight else Future()

    def _run(self) -> list[R]:
        return [*map(self.work, self.items)]

    def run_here(self) -> bool:
        """Work in the calling thread, unless another has begun; tell which."""
        if not self.future.cancel():
            return False
        self.future = Future()
        try:
            self.future.set_result(self._run())
        except Exception as error:  # noqa: BLE001 (it is raised in the place of the batch)
            self.future.set_exception(error)
        return True


def _next(window: deque[_Batch[T, R]]) -> list[R]:
    """Return the results of the first batch; until another thread has them, work on what none has begun."""
    first = window.popleft()
    if not first.run_here():
        while not first.future.done() and any(batch.run_here() for batch in window):
            pass
    return first.future.result()


def _is_full(window: deque[_Batch[T, R]], total: int, threads: int) -> bool:
    count = len(window)
    return not window[0].weight or count > 8 * threads or (count > threads and total > UNDER_WAY)


def _batches(items: Iterable[T], weigh: Callable[[T], int]) -> Iterator[tuple[list[T], int]]:
    """Yield items in groups that are worth a call; those without weight stand alone.

    The last has none if it is small, as it is the calling thread's turn: for a few small items no thread is started.
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
