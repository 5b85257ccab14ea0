"""A thread that passes a stop signal on to the tasks of an executor."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from shardedstore.jobs.stop_signal import StopSignal

LOOK = 0.1  # seconds between two checks of the signal
REPEAT = 1.0  # seconds between two calls of `tell`, for workers that join later
logger = logging.getLogger("shardedstore")


def _nothing() -> None:
    return


@contextmanager
def passing_on(
    stop: StopSignal | None, tell: Callable[[], None], abandon: Callable[[], None] = _nothing
) -> Iterator[None]:
    """Watch a stop signal until the block ends.

    Parameters
    ----------
    stop : StopSignal or None
        The signal; None to watch nothing.
    tell : callable
        Called when the stop is requested, and again every `REPEAT` seconds.
    abandon : callable
        Called once when the grace period has passed.
    """
    if stop is None:
        yield
        return
    ended = threading.Event()
    thread = threading.Thread(target=_watch, args=(stop, tell, abandon, ended), name="shardedstore-stop", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()


def _watch(stop: StopSignal, tell: Callable[[], None], abandon: Callable[[], None], ended: threading.Event) -> None:
    while not ended.wait(LOOK):
        if stop.is_over:
            abandon()
            return
        if stop.is_requested:
            try:
                tell()
            except Exception as error:  # noqa: BLE001 (the running tasks are abandoned after the grace period)
                logger.debug("the tasks can't be told to end: %s: %s", type(error).__name__, error)
            ended.wait(min(REPEAT, stop.grace))
