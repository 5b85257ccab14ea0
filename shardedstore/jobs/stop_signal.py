"""`StopSignal`: a request to stop a job before its end."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from shardedstore.errors import JobStopped, UsageError
from shardedstore.text import parse_seconds

GRACE = "20s"  # Kubernetes kills a process 30 s after SIGTERM, Slurm after 30 s, systemd after 90 s
Duration = str | float | timedelta


class StopSignal:
    """A request to stop a job before its end, because of a time limit or a call of `request`.

    The job starts no new shard. Running shards have a grace period to finish; after it they are abandoned. Finished shards
    stay done. The job then raises `JobStopped`.

    Parameters
    ----------
    max_duration : str, float, timedelta, optional
        The time from now to the stop, such as ``"5h50m"``, or seconds. By default there is no limit.
    grace : str, float or timedelta
        The time that running shards have to finish after the stop.

    Attributes
    ----------
    grace : float
        The grace period, in seconds.
    is_requested : bool
        Whether the job should stop.
    is_over : bool
        Whether the grace period has passed.
    reason : str
        ``"time"`` after the time limit, or the argument of `request`.

    Raises
    ------
    UsageError
        If a duration is not valid.

    See Also
    --------
    JobPlan.run : Takes a signal as `stop`.

    Examples
    --------
    A service stops its job when it is told to:

    >>> stop = StopSignal(grace="5s")
    >>> stop.is_requested
    False
    >>> stop.request("maintenance")
    >>> stop.is_requested, stop.reason, stop.is_over
    (True, 'maintenance', False)
    """

    def __init__(self, max_duration: Duration | None = None, grace: Duration = GRACE) -> None:
        limit = math.inf if max_duration is None else seconds_of(max_duration, "max_duration")
        self.grace = seconds_of(grace, "grace")
        self.reason = "time"
        self._deferred = list[None]()  # as long as the number of jobs that look at the signal
        self._end = time.monotonic() + limit

    @property
    def is_requested(self) -> bool:
        """Whether the job should stop."""
        return time.monotonic() >= self._end

    @property
    def is_deferred(self) -> bool:
        """Whether a job looks at the signal."""
        return bool(self._deferred)

    @property
    def is_over(self) -> bool:
        """Whether the grace period has passed."""
        return time.monotonic() >= self._end + self.grace

    def request(self, reason: str) -> None:
        """Ask the job to stop. Only the first request counts. It is safe in a signal handler.

        Parameters
        ----------
        reason : str
            The reason, for messages, such as the name of a signal.
        """
        if not self.is_requested:
            self.reason = reason
            self._end = time.monotonic()

    def check(self) -> None:
        """Raise JobStopped if the job should stop.

        Raises
        ------
        JobStopped
        """
        if self.is_requested:
            raise JobStopped(f"{self.told} before the job began", self.reason)

    @property
    def told(self) -> str:
        """The reason as the beginning of a sentence."""
        return "the time is up" if self.reason == "time" else f"stopped by {self.reason}"

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Mark the time in which the job itself looks at the signal, so that no handler needs to raise an exception."""
        self._deferred.append(None)
        try:
            yield
        finally:
            self._deferred.pop()


def seconds_of(duration: Duration, name: str) -> float:
    """Return a duration in seconds.

    Raises
    ------
    UsageError
        If it is not a duration.

    Examples
    --------
    >>> seconds_of("5h50m", "max_duration"), seconds_of(20, "grace")
    (21000.0, 20.0)
    """
    if isinstance(duration, timedelta):
        duration = duration.total_seconds()
    found = parse_seconds(duration) if isinstance(duration, str) else float(duration)
    if found is None or not 0 <= found < math.inf:
        raise UsageError(f"{name}={duration!r} is not a duration: write it like '5h50m', '90s' or '2 days'")
    return found


def is_requested(stop: StopSignal | None) -> bool:
    """Tell whether there is a signal, and the job should stop."""
    return stop is not None and stop.is_requested


def is_over(stop: StopSignal | None) -> bool:
    """Tell whether there is a signal, and its grace period has passed."""
    return stop is not None and stop.is_over
