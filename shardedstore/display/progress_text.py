"""The numbers of a running job as text, for bars, log lines and ``status``."""

from __future__ import annotations

from collections.abc import Iterator

from dask.utils import format_bytes

from shardedstore.jobs.progress import Progress
from shardedstore.text import count, duration

STARTING = "starting the workers"


def summary_line(progress: Progress, *, is_last: bool = False) -> str:
    """Return the numbers of a job as one line.

    >>> now = Progress(total=120, done=29, failed=1, decoded_nbytes=1 << 30, total_decoded_nbytes=4 << 30, workers=8)
    >>> summary_line(now)
    '25%, 30 of 120 shards, 1.00 of 4.00 GiB, 8 workers, 1 failed'
    >>> summary_line(Progress(total=120))
    'starting the workers, 0 of 120 shards'
    """
    return ", ".join(
        [
            STARTING if progress.is_starting and not is_last else percent(progress),
            *shards(progress),
            *speed(progress),
            *troubles(progress),
        ]
    )


def percent(progress: Progress) -> str:
    """Return the part of a job that has ended; 100% only if all shards have ended."""
    whole = 100 if progress.ended >= progress.total else min(99, int(100 * progress.fraction))
    return f"{whole}%"


def shards(progress: Progress) -> Iterator[str]:
    """Yield the number of shards that have ended, and their decoded bytes."""
    yield f"{progress.ended:,} of {count(progress.total, 'shard')}"
    if progress.total_decoded_nbytes:
        yield part_of(progress.decoded_nbytes, progress.total_decoded_nbytes)


def speed(progress: Progress) -> Iterator[str]:
    """Yield the rate, the time left and the workers, if they are known."""
    if progress.rate:
        yield f"{format_bytes(int(progress.rate))}/s"
    if progress.seconds_left:
        yield f"{duration(progress.seconds_left)} left"
    if progress.workers:
        yield count(progress.workers, "worker")


def troubles(progress: Progress) -> Iterator[str]:
    """Yield the failures, retries and refused requests, if there are any."""
    if progress.failed:
        yield f"{progress.failed:,} failed"
    if progress.retries:
        yield f"{progress.retries:,} repeated"
    if progress.throttled:
        yield f"{count(progress.throttled, 'request')} refused by a busy server"
    if progress.stalled:
        yield f"nothing has ended for {duration(progress.idle_seconds)}"


def part_of(part: int, whole: int) -> str:
    """Return two sizes in the unit of the larger.

    >>> part_of(512 << 20, 4 << 30), part_of(0, 100)
    ('0.50 of 4.00 GiB', '0 of 100 B')
    """
    total = format_bytes(whole)
    number, unit = total.split(" ")
    if unit == "B":
        return f"{part:,} of {total}"
    return f"{part * float(number) / whole:.2f} of {total}"
