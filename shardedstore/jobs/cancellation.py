"""Cancellation of work in threads. A thread can't be killed, so the work itself checks now and then."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
LOOK = 0.5  # seconds between two checks
_here = threading.local()


class Stopped(BaseException):
    """The work of this thread was cancelled."""


def _never() -> bool:
    return False


@contextmanager
def cancellable(is_cancelled: Callable[[], bool], is_ending: Callable[[], bool] = _never) -> Iterator[None]:
    """Let two functions tell the work of this thread to end.

    Parameters
    ----------
    is_cancelled : callable
        Returns True if the work should raise `Stopped` soon.
    is_ending : callable
        Returns True if the work should return after the current shard.
    """
    before = getattr(_here, "checks", (_never, _never))
    _here.checks = is_cancelled, is_ending
    try:
        yield
    finally:
        _here.checks = before


def check_cancelled() -> None:
    """Raise Stopped if the work of this thread was cancelled."""
    if getattr(_here, "checks", (_never, _never))[0]():
        raise Stopped


def is_ending() -> bool:
    """Tell whether the work of this thread should start no new shard."""
    return bool(getattr(_here, "checks", (_never, _never))[1]())


def until_cancelled(items: Iterable[T]) -> Iterator[T]:
    """Yield items, and raise Stopped between two of them after a cancellation.

    >>> with cancellable(lambda: True):
    ...     next(until_cancelled("abc"))
    Traceback (most recent call last):
    shardedstore.jobs.cancellation.Stopped
    """
    checked = -LOOK
    for item in items:
        now = time.monotonic()
        if now - checked >= LOOK:
            check_cancelled()
            checked = now
        yield item


def sleep(seconds: float) -> None:
    """Wait, and raise Stopped soon after a cancellation."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        check_cancelled()
        time.sleep(min(left, LOOK))
