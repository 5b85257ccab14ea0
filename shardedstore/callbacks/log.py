"""A callback that writes the log of a job: JSON lines for machines, or lines of text."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from functools import singledispatch
from importlib.metadata import version
from typing import IO, TYPE_CHECKING, Annotated, Literal

import msgspec
from dask.utils import format_bytes
from msgspec import Meta, Struct

from shardedstore.callbacks.log_events import (
    End,
    Failure,
    LogEvent,
    Numbers,
    Retry,
    ShardBatch,
    Start,
    Throttle,
    timestamp,
)
from shardedstore.callbacks.outcome import job_end
from shardedstore.callbacks.progress import Shown
from shardedstore.display.progress_text import summary_line
from shardedstore.errors import UsageError, by_cause, generic_cause
from shardedstore.jobs.callbacks import Callback, JobEnd, TaskEnd
from shardedstore.jobs.progress import Progress
from shardedstore.jobs.repeats import Repeats, is_told
from shardedstore.text import count, duration

if TYPE_CHECKING:
    from shardedstore.jobs.job_plan import JobPlan

LogFormat = Literal["text", "json"]
PROGRESS_SECONDS = 60.0  # between two events with the numbers of the job


class JobLog(Callback):
    """Writes a line for each event of a job.

    Parameters
    ----------
    file : str, path or None
        The file, to which lines are appended; None for standard error.
    format : "json" or "text"
        JSON objects by the schema in ``shardedstore/log.schema.json``, or text.
    job : str
        The name of the job, which each line gets.
    clock : callable
        Returns the time in seconds.

    Raises
    ------
    UsageError
        If the file can't be opened.

    Examples
    --------
    >>> import json, tempfile, dask, zarr
    >>> from shardedstore import ShardedStore
    >>> from shardedstore.abc import JobLog
    >>> from shardedstore.transforms import ToZip
    >>> with tempfile.TemporaryDirectory() as folder, dask.config.set(scheduler="sync"):
    ...     _ = zarr.create_array(f"{folder}/era5.zarr", name="t", shape=(8,), chunks=(2,), dtype="i4")
    ...     store = ShardedStore.partition(f"{folder}/era5.zarr", {"t": (4,)})
    ...     _ = store.map_shards(ToZip(f"{folder}/zips"), callbacks=[JobLog(f"{folder}/job.log")])
    ...     with open(f"{folder}/job.log") as file:
    ...         [json.loads(line)["event"] for line in file]
    ['start', 'shards', 'shards', 'shards', 'shards', 'end']
    """

    def __init__(
        self,
        file: str | os.PathLike[str] | None = None,
        format: LogFormat = "json",  # noqa: A002 (the name of the option)
        job: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name, self._format, self._clock = None if file is None else os.fspath(file), format, clock
        self._job = job
        self._plan: JobPlan | None = None
        self._repeats, self._next = Repeats(), 0.0
        self._file: IO[bytes] | None = None
        if self._name is not None:
            _open(self._name).close()

    def on_job_start(self, plan: JobPlan) -> None:
        # docstring inherited
        self._plan, self._next = plan, self._clock() + PROGRESS_SECONDS
        self._file = None if self._name is None else _open(self._name)
        self._write(
            Start(
                time=timestamp(),
                version=version("shardedstore"),
                chain=plan.chain,
                destination=plan.destination,
                total=plan.shard_count,
                decoded_nbytes=plan.nbytes,
                notices=list(map(str, plan.notices)),
            )
        )

    def on_task_end(self, event: TaskEnd) -> None:
        # docstring inherited
        for one in (*_of_task(event), *self._failures(event)):
            self._write(one)

    def on_progress(self, progress: Progress) -> None:
        # docstring inherited
        if self._clock() >= self._next:
            self._next += PROGRESS_SECONDS
            self._write(Numbers(time=timestamp(), progress=progress))

    def on_job_end(self, event: JobEnd) -> None:
        # docstring inherited
        self._write(job_end(self._plan, event))
        if self._file is not None:
            self._file.close()

    def _failures(self, event: TaskEnd) -> Iterator[Failure]:
        for errors in by_cause(event.task.failures):
            last = errors[-1]
            count = self._repeats.add(generic_cause(last), len(errors))
            if is_told(count, len(errors)):
                yield Failure(
                    time=timestamp(),
                    code=last.code,
                    cause=last.cause,
                    count=count,
                    shard=last.shard,
                    key=last.key,
                    url=last.url,
                    attempts=last.attempts,
                    worker=event.task.worker,
                )

    def _write(self, event: LogEvent) -> None:
        event = msgspec.structs.replace(event, job=self._job)
        line = msgspec.json.encode(event).decode() if self._format == "json" else log_line(event)
        if not line:
            return
        if self._file is None:
            sys.stderr.write(f"{line}\n")
        else:
            self._file.write(f"{line}\n".encode())  # in one call, as other jobs may append to the same file


def _open(name: str) -> IO[bytes]:
    try:
        return open(name, "ab", buffering=0)
    except OSError as error:
        raise UsageError(f"the log {name!r} can't be written: {error.strerror}; name another file") from error


def _of_task(event: TaskEnd) -> Iterator[LogEvent]:
    task, now = event.task, timestamp()
    yield ShardBatch(
        time=now,
        worker=task.worker,
        done=task.done,
        skipped=task.skipped,
        failed=len(task.failures),
        entries=task.entries,
        nbytes=task.nbytes,
        decoded_nbytes=task.decoded_nbytes,
        seconds=round(task.seconds, 3),
    )
    for shard in task.shards:
        if shard.attempts > 1:
            cause = shard.retried
            yield Retry(time=now, shard=shard.shard, attempts=shard.attempts, cause=cause, worker=task.worker)
    if task.throttled:
        yield Throttle(time=now, requests=task.throttled, worker=task.worker)


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


class LogOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The log and the progress of a run."""

    format: Annotated[
        LogFormat | None,
        Meta(
            description="Write a log with a line for each event, as text or as JSON.", extra={"option": "--log-format"}
        ),
    ] = None
    file: Annotated[
        str | None,
        Meta(
            description="Append the log to this file. The default is standard error, in place of the progress bar.",
            extra={"option": "--log-file", "metavar": "FILE"},
        ),
    ] = None
    quiet: Annotated[
        bool,
        Meta(description="Print only errors: no progress, no notes and no results.", extra={"option": "--quiet"}),
    ] = False

    def callbacks(self, job: str = "") -> list[Callback]:
        """Return the callbacks that write the log; each line names the job.

        Raises
        ------
        UsageError
            If the file can't be written.
        """
        if self.format is None and self.file is None:
            return []
        return [JobLog(self.file, self.format or "text", job)]

    def progress(self) -> Shown:
        """Return the value of ``progress=``: nothing if the log goes to standard error."""
        return not self.quiet and (self.format is None or self.file is not None)
