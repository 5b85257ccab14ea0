"""Work that ends soon when it is not wanted any more: each thread asks what it was given to ask, now and then."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
LOOK = 0.5  # seconds between two looks
_here = threading.local()


class Stopped(BaseException):
    """The work of this thread is not wanted any more."""


@contextmanager
def stopping(is_unwanted: Callable[[], bool]) -> Iterator[None]:
    """Have the work of this thread end soon, by `Stopped`, when a function says that it is not wanted any more."""
    before = getattr(_here, "is_unwanted", None)
    _here.is_unwanted = is_unwanted
    try:
        yield
    finally:
        _here.is_unwanted = before


def check() -> None:
    """Raise Stopped where this thread's work is not wanted any more."""
    is_unwanted = getattr(_here, "is_unwanted", None)
    if is_unwanted is not None and is_unwanted():
        raise Stopped


def while_wanted(items: Iterable[T]) -> Iterator[T]:
    """Yield items, and raise Stopped between two when they are not wanted any more.

    >>> with stopping(lambda: True):
    ...     next(while_wanted("abc"))
    Traceback (most recent call last):
    shardedstore.jobs.cancellation.Stopped
    """
    looked = -LOOK
    for item in items:
        now = time.monotonic()
        if now - looked >= LOOK:
            check()
            looked = now
        yield item


def sleep(seconds: float) -> None:
    """Wait, and raise Stopped when what comes after it is not wanted any more."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        check()
        time.sleep(min(left, LOOK))
