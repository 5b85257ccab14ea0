"""Token buckets that the processes of a job share: requests and bytes, at a rate for all of them together.

A process reserves tokens, and gets the time until it may use them. So nobody waits at the bucket, and the rate holds however many
processes there are.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

BURST = 0.05  # seconds; tokens that were not used earlier are kept for this time
_STATE = struct.Struct("<2d")  # the times at which the next request and the next byte may go


class Rates(NamedTuple):
    """The rates of a bucket; None is no limit.

    Attributes
    ----------
    requests, nbytes : float or None
        Requests and bytes in a second.
    """

    requests: float | None = None
    nbytes: float | None = None


class Bucket(Protocol):
    """A token bucket of a job. It is pickled to the processes that use it."""

    name: str
    rates: Rates

    def reserve(self, requests: int, nbytes: int) -> float:
        """Reserve tokens, and return the seconds until they may be used."""


def reserve(free: tuple[float, float], rates: Rates, now: float, amounts: tuple[int, int]) -> tuple[float, float]:
    """Return the times at which the next request and byte may go, after amounts of them were reserved.

    The reserved ones may go at the times before: `wait_until`.

    >>> reserve((0.0, 0.0), Rates(10, None), 100.0, (5, 0))
    (100.45, 0.0)
    """
    after = list(free)
    for i, (rate, amount) in enumerate(zip(rates, amounts, strict=True)):
        if rate is not None and amount:
            after[i] = max(free[i], now - BURST) + amount / rate
    return after[0], after[1]


def wait_until(free: tuple[float, float], rates: Rates, amounts: tuple[int, int]) -> float:
    """Return the time from which reserved tokens may be used.

    >>> wait_until((7.0, 9.0), Rates(10, None), (5, 2))
    7.0
    """
    used = zip(free, rates, amounts, strict=True)
    return max((time for time, rate, amount in used if rate is not None and amount), default=0.0)


class FileBucket:
    """A bucket for the threads and processes of this machine, in a small file with a lock.

    Parameters
    ----------
    path : str
        The file.
    rates : Rates
        The rates.
    clock : callable
        Returns the time in seconds, the same in all processes.
    """

    def __init__(self, path: str, rates: Rates, clock: Callable[[], float] = time.monotonic) -> None:
        self.name, self.rates, self._clock = path, rates, clock

    def reserve(self, requests: int, nbytes: int) -> float:
        """Reserve tokens; see `Bucket.reserve`."""
        amounts = requests, nbytes
        with open(self.name, "r+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            before: tuple[float, float] = _STATE.unpack(file.read(_STATE.size))
            now = self._clock()
            file.seek(0)
            file.write(_STATE.pack(*reserve(before, self.rates, now, amounts)))
        return max(0.0, wait_until(before, self.rates, amounts) - now)


@contextlib.contextmanager
def file_bucket(rates: Rates) -> Iterator[FileBucket]:
    """Make a bucket for this machine, and remove it at the end of the block."""
    descriptor, path = tempfile.mkstemp(prefix="shardedstore-", suffix=".bucket")
    try:
        os.write(descriptor, _STATE.pack(0.0, 0.0))
        os.close(descriptor)
        yield FileBucket(path, rates)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
