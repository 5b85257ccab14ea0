"""The events of a job's log as lines of text."""

from __future__ import annotations

from functools import singledispatch

from dask.utils import format_bytes

from shardedstore.callbacks.log_events import End, Failure, LogEvent, Numbers, Retry, Start, Throttle
from shardedstore.display.progress_text import summary_line
from shardedstore.text import count, duration


def log_line(event: LogEvent) -> str:
    """Return an event as a line; empty for batches of shards, since the progress lines include them.

    >>> log_line(Throttle(time="2026-11-29T08:00:00.000Z", requests=3, worker="node7:4711"))
    '2026-11-29T08:00:00.000Z note: a busy server refused 3 requests of node7:4711; they were repeated'
    """
    text = _text(event)
    job = f"{event.job}: " if event.job else ""
    return f"{event.time} {job}{text}" if text else ""


@singledispatch
def _text(event: LogEvent) -> str:  # noqa: ARG001 (the event of a type without text)
    return ""


@_text.register
def _(event: Start) -> str:
    to = f" to {event.destination}" if event.destination else ""
    size = format_bytes(event.decoded_nbytes)
    return f"start: {event.chain}{to}: {count(event.total, 'shard')}, {size} decoded"


@_text.register
def _(event: Retry) -> str:
    return f"note: {event.shard} took {event.attempts} attempts: {event.cause}"


@_text.register
def _(event: Throttle) -> str:
    requests = count(event.requests, "request")
    return f"note: a busy server refused {requests} of {event.worker}; they were repeated"


@_text.register
def _(event: Failure) -> str:
    times = "" if event.count == 1 else f" ({event.count:,} shards so far)"
    return f"error: {event.shard} failed: {event.cause}{times}"


@_text.register
def _(event: Numbers) -> str:
    return summary_line(event.progress)


@_text.register
def _(event: End) -> str:
    numbers = "" if event.progress is None else f" after {duration(event.progress.seconds)}: {_numbers(event)}"
    return f"end: {event.state}{numbers}{f': {event.message}' if event.message else ''}"


def _numbers(event: End) -> str:
    now = event.progress
    assert now is not None
    before = f", {now.skipped:,} done before" if now.skipped else ""
    failed = f", {now.failed:,} failed" if now.failed else ""
    return f"{now.done:,} of {count(now.total, 'shard')} done{before}{failed}, {format_bytes(now.nbytes)} written"
