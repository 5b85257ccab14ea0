"""The time that the chunks of a shard spend in codecs, in all threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_here = threading.local()


class CodecClock:
    """Adds up the seconds of decoding and encoding. Several threads may use it.

    Attributes
    ----------
    decode, encode : float
        The seconds so far.
    """

    def __init__(self) -> None:
        self.decode = self.encode = 0.0
        self._lock = threading.Lock()

    def decoded(self, begun: float) -> None:
        """Count a chunk whose decoding began at this time of `time.perf_counter`."""
        with self._lock:
            self.decode += time.perf_counter() - begun

    def encoded(self, begun: float) -> None:
        """Count a chunk whose encoding began at this time of `time.perf_counter`."""
        with self._lock:
            self.encode += time.perf_counter() - begun


def current_clock() -> CodecClock:
    """Return the clock of this thread; code that uses other threads passes it on."""
    clock: CodecClock | None = getattr(_here, "clock", None)
    return CodecClock() if clock is None else clock


@contextmanager
def using_clock(clock: CodecClock) -> Iterator[None]:
    """Make a clock the one of this thread until the block ends.

    >>> with using_clock(CodecClock()):
    ...     current_clock().decoded(time.perf_counter())
    """
    before = getattr(_here, "clock", None)
    _here.clock = clock
    try:
        yield
    finally:
        _here.clock = before
