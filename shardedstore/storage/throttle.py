"""Limits of the requests and bytes of a job: each place that makes a request or moves bytes waits for its turn here."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

PAGE = 1000  # objects that one request lists


class RequestThrottle(Protocol):
    """Decides when requests and bytes may go."""

    def spend(self, requests: int, nbytes: int) -> None:
        """Wait until so many requests and bytes may go."""


_current: ContextVar[RequestThrottle | None] = ContextVar("shardedstore-throttle", default=None)


@contextmanager
def throttled(throttle: RequestThrottle | None) -> Iterator[None]:
    """Limit the requests and bytes of this thread in the block; None does not limit them."""
    token = _current.set(throttle)
    try:
        yield
    finally:
        _current.reset(token)


def current_throttle() -> RequestThrottle | None:
    """Return the throttle of this thread, to pass it on to another thread."""
    return _current.get()


def spend(requests: int = 1, nbytes: int = 0) -> None:
    """Wait until this thread may make requests and move bytes; without a throttle, return at once."""
    throttle = _current.get()
    if throttle is not None:
        throttle.spend(requests, nbytes)


async def spend_async(requests: int = 1, nbytes: int = 0) -> None:
    """Do the same as `spend`, without blocking the event loop."""
    throttle = _current.get()
    if throttle is not None:
        await asyncio.to_thread(throttle.spend, requests, nbytes)
