"""The state of jobs as text and as a table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from dask.utils import format_bytes

from shardedstore.display.progress_text import part_of
from shardedstore.display.tables import aligned, filled, terminal_table
from shardedstore.jobs.status import JobStatus
from shardedstore.text import count, duration, shown

if TYPE_CHECKING:
    from rich.table import Table

    from shardedstore.jobs.report import CauseReport

HEADS = ("result", "state", "done", "failed", "left", "rate", "time left", "last event")
MOST_CAUSES = 5  # that are shown
COLORS = {"running": "cyan", "done": "green", "stalled": "red", "failed": "red", "died": "red"}


def status_lines(status: JobStatus) -> list[str]:
    r"""Return the state of a job as aligned lines.

    >>> print("\n".join(status_lines(JobStatus(url="out", state="died", chain="ToZip", total=9, done=7, left=2))))
    out    died
    chain  ToZip
    done   7 of 9 shards, 2 left
    """
    return aligned([(status.url, status.state), *_rows(status)])


def _rows(status: JobStatus) -> Iterator[tuple[str, str]]:
    if status.chain:
        yield "chain", status.chain
    yield "done", ", ".join(_done(status))
    if speed := ", ".join(_speed(status)):
        yield "speed", speed
    if status.oldest is not None:
        yield "oldest", f"{status.oldest.shard}, for {duration(status.oldest.seconds)}"
    if status.last_event:
        ago = "" if status.idle_seconds is None else f", {duration(status.idle_seconds)} ago"
        yield "last", f"shard ended {status.last_event}{ago}"
    if status.holder:
        yield "lock", f"{_lock(status)} {status.holder}"
    if status.heartbeat and status.state in ("running", "stalled", "died"):
        yield "heartbeat", status.heartbeat
    if status.error:
        yield "error", f"{status.error}: {status.message}" if status.message else status.error
    for cause in status.causes[:MOST_CAUSES]:
        yield "failed", _cause(cause)
    if len(status.causes) > MOST_CAUSES:
        yield "failed", f"and {count(len(status.causes) - MOST_CAUSES, 'other cause')}"
    if status.failures_url:
        yield "failures", status.failures_url
    if status.report_url:
        yield "report", status.report_url


def _cause(cause: CauseReport) -> str:
    more = f" and {cause.count - 1:,} more" if cause.count > 1 else ""
    remedy = f": {cause.remedy}" if cause.remedy else ""
    return f"{cause.shards[0]}{more}: {shown(cause.cause, 200)}{remedy} [{cause.code}]"


def _done(status: JobStatus) -> Iterator[str]:
    yield f"{status.done:,} of {count(status.total, 'shard')}"
    if status.decoded_nbytes is not None and status.total_decoded_nbytes:
        yield part_of(status.decoded_nbytes, status.total_decoded_nbytes)
    if status.failed:
        yield f"{status.failed:,} failed"
    if status.left:
        yield f"{status.left:,} left"


def _speed(status: JobStatus) -> Iterator[str]:
    if status.rate:
        yield f"{format_bytes(int(status.rate))}/s"
    if status.seconds_left:
        yield f"{duration(status.seconds_left)} left"
    if status.seconds is not None:
        yield f"{'running for' if status.state in ('running', 'stalled') else 'ran for'} {duration(status.seconds)}"
    if status.workers:
        yield count(status.workers, "worker")
    if status.retries:
        yield f"{status.retries:,} repeated"
    if status.throttled:
        yield f"{count(status.throttled, 'request')} refused by a busy server"


def _lock(status: JobStatus) -> str:
    if status.state in ("running", "stalled"):
        return f"held since {status.since} by"
    if status.state == "died":
        return f"taken {status.since} and not given back by"
    return f"free; taken {status.since} by"


def jobs_rows(found: Iterable[JobStatus]) -> Iterator[Sequence[str]]:
    """Yield the cells of a table of jobs."""
    for status in found:
        yield (
            status.url,
            status.state,
            f"{status.done:,}/{status.total:,}",
            f"{status.failed:,}" if status.failed else "",
            f"{status.left:,}" if status.left else "",
            f"{format_bytes(int(status.rate))}/s" if status.rate else "",
            duration(status.seconds_left) if status.seconds_left else "",
            status.last_event.removesuffix("+00:00"),
        )


def _filled(found: Sequence[JobStatus]) -> list[Sequence[str]]:
    """Return the heads and the rows of a table of jobs, without the columns in which no job has a value."""
    names, rows = filled(HEADS, jobs_rows(found))
    return [names, *rows]


def statuses_table(found: Sequence[JobStatus]) -> Table:
    """Return a table of jobs for a terminal."""
    names, *rows = _filled(found)
    heads = [f">{head}" if head in ("done", "failed", "left", "rate", "time left") else head for head in names]
    return terminal_table(heads, rows, len(found))


def statuses_lines(found: Sequence[JobStatus]) -> list[str]:
    """Return a line for each job, with a heading."""
    return aligned(_filled(found))
