"""The numbers of a running job: the one source for bars, log lines, reports, metrics and ``status``."""

from __future__ import annotations

import msgspec


class Running(msgspec.Struct, frozen=True):
    """A shard that was handed to the executor and has not ended.

    Attributes
    ----------
    shard : str
        The name of the shard, such as ``"t2m[5]"``: the first one of its task.
    seconds : float
        The time since it was handed out.

    Examples
    --------
    >>> Running("t2m[5]", 12.5).shard
    't2m[5]'
    """

    shard: str
    seconds: float


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers of a job at one moment.

    Attributes
    ----------
    total : int
        The number of shards of the job.
    done, skipped, failed : int
        The number of shards that were made by this run, that were found done, and that failed.
    entries, nbytes : int
        The number of entries and of stored bytes that this run wrote.
    decoded_nbytes, total_decoded_nbytes : int
        The decoded bytes of the shards that have ended, and of all shards; nominal for types of variable length.
    retries, throttled : int
        The number of attempts that were repeated, and of requests that a busy server refused.
    workers : int
        The number of workers that have ended a task lately.
    running : int
        The number of shards that were handed out and have not ended.
    seconds : float
        The time since the start of this run.
    idle_seconds : float
        The time since a shard ended, or since the start.
    rate : float or None
        The decoded bytes a second in the last minute, or in the last quarter of the run if that is longer. It is None
        until a shard has been made.
    seconds_left : float or None
        The time left by `rate`; None if it is not known.
    oldest : Running or None
        The shard that has been running for the longest time.
    stalled : bool
        Whether no shard has ended for five minutes, and for five times the longest task.

    See Also
    --------
    TaskEnd : An event with these numbers.

    Examples
    --------
    >>> now = Progress(total=8, done=3, skipped=1, decoded_nbytes=512, total_decoded_nbytes=1024, seconds=4.0)
    >>> now.ended, now.left, now.fraction
    (4, 4, 0.5)
    """

    total: int
    done: int = 0
    skipped: int = 0
    failed: int = 0
    entries: int = 0
    nbytes: int = 0
    decoded_nbytes: int = 0
    total_decoded_nbytes: int = 0
    retries: int = 0
    throttled: int = 0
    workers: int = 0
    running: int = 0
    seconds: float = 0.0
    idle_seconds: float = 0.0
    rate: float | None = None
    seconds_left: float | None = None
    oldest: Running | None = None
    stalled: bool = False

    @property
    def ended(self) -> int:
        """The number of shards that have ended: done now, done before, or failed."""
        return self.done + self.skipped + self.failed

    @property
    def left(self) -> int:
        """The number of shards that have not ended."""
        return self.total - self.ended

    @property
    def is_starting(self) -> bool:
        """Whether shards are left and none has been handed to a worker yet, as while a cluster starts."""
        return bool(self.left) and not (self.running or self.done or self.failed)

    @property
    def fraction(self) -> float:
        """The part of the job that has ended, by decoded bytes, from 0 to 1."""
        if self.ended >= self.total:
            return 1.0
        if not self.total_decoded_nbytes:
            return self.ended / self.total
        return min(1.0, self.decoded_nbytes / self.total_decoded_nbytes)
