"""Call functions again after errors that may go away: one loop, and policies that say how long to wait."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeVar

from obstore.exceptions import BaseError

from shardedstore.storage.errors import is_transient

T = TypeVar("T")
LOOKS = 4  # at a listing: obstore does not resume one whose answer breaks off
SOON = 10.0  # seconds; an error that comes later was already retried by obstore


class Backoff(NamedTuple):
    """Pauses that double from `first` to `longest`, in seconds, with jitter so that callers spread out.

    >>> pauses = [Backoff(1, 30).pause(count) for count in (0, 1, 2, 9)]
    >>> [0.5 * longest <= pause <= longest for pause, longest in zip(pauses, (1, 2, 4, 30), strict=True)]
    [True, True, True, True]
    """

    first: float
    longest: float = math.inf

    def pause(self, count: int) -> float:
        """Return the seconds to wait after `count` earlier pauses."""
        longest: float = min(self.longest, self.first * 2 ** min(count, 16))
        return longest * random.uniform(0.5, 1)


BACKOFF = Backoff(0.5)


class Policy(Protocol):
    """Decides after each error of one piece of work whether it is called again."""

    def pause(self, error: BaseException) -> float | None:
        """Return the seconds to wait before the next call; None to raise the error."""
        ...


class Retries:
    """Policy that retries transient errors.

    Parameters
    ----------
    most : int
        The number of retries.
    within : float
        The seconds since the policy was made after which an error is raised.
    clock : callable
        Returns the time in seconds.
    """

    def __init__(self, most: int, within: float = math.inf, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._clock, self._end = most, clock, clock() + within
        self.count = 0

    def pause(self, error: BaseException) -> float | None:
        # docstring inherited
        if self.count >= self._most or not is_transient(error) or self._clock() > self._end:
            return None
        self.count += 1
        return BACKOFF.pause(self.count - 1)


def retry(
    work: Callable[[], T],
    policy: Policy,
    errors: type[BaseException] | tuple[type[BaseException], ...] = Exception,
    wait: Callable[[float], object] = time.sleep,
) -> T:
    """Return the result of a function that may be called repeatedly.

    `wait` gets the seconds between two calls. It returns True when the result is not needed any more.

    Raises
    ------
    BaseException
        The error of the last call: one that is not in `errors`, or that the policy does not retry.

    Examples
    --------
    >>> answers, waits = [TimeoutError(), ConnectionResetError(), "done"], []
    >>> def work():
    ...     answer = answers.pop(0)
    ...     if isinstance(answer, str):
    ...         return answer
    ...     raise answer
    >>> retry(work, Retries(2), wait=waits.append), len(waits)
    ('done', 2)
    """
    while True:
        try:
            return work()
        except errors as error:
            seconds = policy.pause(error)
            if seconds is None or wait(seconds):
                raise


def patiently(look: Callable[[], T]) -> T:
    """Return the result of a read that is retried after transient errors of storage that come soon."""
    return retry(look, Retries(LOOKS - 1, SOON), (OSError, BaseError))
