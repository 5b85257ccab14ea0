"""The callback that writes the report of a run: JSON for programs, and one HTML file for people."""

from __future__ import annotations

import heapq
import logging
import os
import platform
import socket
import time
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from operator import attrgetter
from typing import TYPE_CHECKING

import msgspec

from shardedstore.callbacks.timeline import TimelineBuilder
from shardedstore.errors import JobStopped, ShardedStoreError, ShardsFailed
from shardedstore.jobs.callbacks import Callback, JobEnd, TaskEnd
from shardedstore.jobs.fingerprint import described
from shardedstore.jobs.growth import Growth
from shardedstore.jobs.job import Job
from shardedstore.jobs.ledger import FOLDER, Record
from shardedstore.jobs.manifest import ledger_of, read_manifest
from shardedstore.jobs.report import (
    MOST_CAUSES,
    MOST_TEXT,
    ArrayReport,
    Report,
    ShardReport,
    State,
    cause_reports,
    html_name,
    report_names,
)
from shardedstore.jobs.summary import STAGES, ShardEnd, Summary
from shardedstore.storage.errors import explain
from shardedstore.storage.folders import STORAGE_ERRORS, Folder, open_folder
from shardedstore.storage.options import StorageOptions, take_options
from shardedstore.storage.urls import join_url, normalize
from shardedstore.stores.locations import url_of

if TYPE_CHECKING:
    from shardedstore.jobs.job_plan import JobPlan

PACKAGES = ("shardedstore", "zarr", "numcodecs", "numpy", "dask", "distributed", "obstore")
MOST_ARRAYS = 200
MOST_SLOWEST = 20
MOST_RETRIED = 50
ENDINGS = (".html", ".json")
logger = logging.getLogger("shardedstore")


class ReportWriter(Callback):
    """Writes ``report-<n>.json`` and ``report-<n>.html`` at the end of a run.

    A job that is refused before it opens its destination writes no report there. An error of the storage is logged and
    does not fail the job.

    Parameters
    ----------
    url : str or path, optional
        The folder of the files, or the name of the HTML file if it ends in ``.html``. The default is the folder of the ledger.
    storage_options : mapping or str, optional
        Options of the object store of `url`; see `ShardedStore.partition`.
    command : str, optional
        The command line, without secrets.
    job_file : str, optional
        The digest of the job file.

    Attributes
    ----------
    report : Report or None
        The report, when the job has ended.
    html_url : str or None
        The HTML file, when it has been written.

    Examples
    --------
    >>> ReportWriter("s3://logs/nightly/era5.html", command="shardedstore run nightly.toml").report is None
    True
    """

    def __init__(
        self,
        url: str | os.PathLike[str] = "",
        *,
        storage_options: StorageOptions = None,
        command: str = "",
        job_file: str = "",
    ) -> None:
        self.url, self.storage_options = normalize(url) if url else "", storage_options
        self.command, self.job_file = command, job_file
        self.report: Report | None = None
        self.html_url: str | None = None

    def on_job_start(self, plan: JobPlan) -> None:
        # docstring inherited
        self._plan, self._begun, self._clock = plan, datetime.now(UTC), time.monotonic()
        self._timeline = TimelineBuilder()
        self._arrays, self._growth = _Arrays(plan), Growth(plan._plan, plan._job.chain)
        self._is_open = False  # whether the job has opened its destination
        self._slowest: list[ShardEnd] = []
        self._retried: list[ShardEnd] = []
        self._workers: dict[int, str] = {}  # for the slowest and the retried shards
        self._stages = dict.fromkeys((*STAGES, "other"), 0.0)

    def on_task_end(self, event: TaskEnd) -> None:
        # docstring inherited
        task, self._is_open = event.task, True
        if not task.worker:
            return
        self._timeline.add(task, time.monotonic() - self._clock)
        self._arrays.add(task.shards)
        self._growth.add(task.shards)
        self._add_stages(task)
        least = self._slowest[-1].seconds if len(self._slowest) == MOST_SLOWEST else -1.0
        slow = [shard for shard in task.shards if shard.seconds > least]
        self._slowest = heapq.nlargest(MOST_SLOWEST, [*self._slowest, *slow], key=attrgetter("seconds"))
        retried = [shard for shard in task.shards if shard.attempts > 1][: MOST_RETRIED - len(self._retried)]
        self._retried += retried
        self._workers.update((shard.number, task.worker) for shard in (*slow, *retried))

    def _add_stages(self, task: Summary) -> None:
        stages = task.stages
        for name, seconds in {**stages, "other": max(0.0, task.seconds - sum(stages.values()))}.items():
            self._stages[name] += seconds

    def on_job_end(self, event: JobEnd) -> None:
        # docstring inherited
        report = self._build(event)
        try:
            self.report = self._write(report)
        except STORAGE_ERRORS as error:
            self.report = report
            logger.warning("the report of this run can't be written: %s", explain(error))

    def _build(self, event: JobEnd) -> Report:
        plan, job, seconds = self._plan, event.job, time.monotonic() - self._clock
        manifest = read_manifest(plan._job.layout.place) if plan.destination else None
        if manifest is not None and job.skipped and (event.error is None or job.failures):
            self._arrays.count_recorded(ledger_of(plan._job.layout.place, manifest).read())
        rows, origin = self._arrays.rows(), plan._plan.config.base.origin
        return Report(
            state=_state(event),
            error=_error_text(event.error),
            code=next((error.code for error in job.failures), ""),
            chain=plan.chain,
            steps=described(plan._job.chain),
            source=url_of(origin) or origin.show(),
            destination=plan.destination,
            opened_url=plan.opened_url,
            generation=0 if manifest is None else manifest.generation,
            command=self.command,
            job_file=self.job_file,
            versions=dict(_versions()),
            host=socket.gethostname(),
            options=_options(plan._job),
            begun=_text(self._begun),
            ended=_text(datetime.now(UTC)),
            seconds=round(seconds, 3),
            total=plan.shard_count,
            done=job.done,
            skipped=job.skipped,
            failed=len(job.failures),
            retries=job.retries,
            throttled=job.throttled,
            throttled_seconds=round(job.throttled_seconds, 3),
            requests=job.requests,
            again=job.again,
            files=plan.files,
            decoded_nbytes=plan.nbytes,
            source_nbytes=sum(row.source_nbytes for row in rows),
            entries=sum(row.entries for row in rows),
            nbytes=sum(row.nbytes for row in rows),
            arrays=tuple(_largest(rows)),
            stages={name: round(some, 6) for name, some in self._stages.items() if some},
            slowest=tuple(map(self._shard, self._slowest)),
            retried=tuple(map(self._shard, self._retried)),
            failures=cause_reports(job.failures),
            workers=self._timeline.workers,
            timeline=self._timeline.build(seconds),
            notices=tuple(str(notice)[:MOST_TEXT] for notice in (*self._growth.notices(), *plan.notices[:MOST_CAUSES])),
        )

    def _shard(self, end: ShardEnd) -> ShardReport:
        return ShardReport(
            end.shard,
            end.seconds,
            self._workers[end.number],
            end.nbytes,
            end.attempts,
            end.retried[:MOST_TEXT],
            round(end.read_seconds, 3),
            round(end.transform_seconds, 3),
            round(end.write_seconds, 3),
        )

    def _write(self, report: Report) -> Report:
        if not self.url:
            layout = self._plan._job.layout
            return self._write_next(layout.place, FOLDER, report) if layout.destination and self._is_open else report
        options = take_options(self.url, self.storage_options)
        parent, _, name = self.url.rpartition("/")
        if not name.endswith(ENDINGS):
            return self._write_next(open_folder(self.url, options), "", report)
        stem = name.rpartition(".")[0]
        _put(open_folder(parent or "/", options), stem, report)
        self.html_url = join_url(parent or "/", f"{stem}.html")
        return report

    def _write_next(self, folder: Folder, path: str, report: Report) -> Report:
        numbered = write_report(folder, path, report)
        self.html_url = join_url(folder.url, html_name(path, numbered.number))
        return numbered


def find_report(callbacks: Iterable[Callback]) -> ReportWriter | None:
    """Return the callback that writes the report."""
    return next((callback for callback in callbacks if isinstance(callback, ReportWriter)), None)


def write_report(folder: Folder, path: str, report: Report) -> Report:
    """Write a report under the next free number, and return it with this number."""
    for number in range(max(report_names(folder.names(path)), default=0) + 1, 1 << 62):
        numbered = msgspec.structs.replace(report, number=number)
        stem = f"{path}/report-{number}" if path else f"report-{number}"
        try:
            folder.write(f"{stem}.json", numbered.to_json(), create=True)
        except FileExistsError:  # another run has just written its report
            continue
        folder.write(f"{stem}.html", numbered.to_html().encode())
        return numbered
    raise AssertionError


def _put(folder: Folder, stem: str, report: Report) -> None:
    folder.write(f"{stem}.json", report.to_json())
    folder.write(f"{stem}.html", report.to_html().encode())


class _Arrays:
    """Adds up the sizes of shards by mounted array or group."""

    def __init__(self, plan: JobPlan) -> None:
        runs = plan._plan.runs
        self._firsts = [run.number for run in runs]
        self._rows = [
            _Row(
                run.number, None if run.mounted is not None else run.path, run.stop - run.first, load.files, load.nbytes
            )
            for run, load in zip(runs, plan._plan.loads, strict=True)
        ]

    def _row(self, number: int) -> _Row:
        return self._rows[bisect_right(self._firsts, number) - 1]

    def add(self, shards: Iterable[ShardEnd]) -> None:
        """Add shards that this run has made."""
        first, end = -1, -1  # the numbers of the shards of `row`
        for shard in shards:
            if not first <= shard.number < end:
                row = self._row(shard.number)
                first, end = row.first, row.first + row.shards
            row.seconds += shard.seconds
            if not shard.code:
                row.done += 1
                row.entries += shard.entries
                row.nbytes += shard.nbytes
                row.source_nbytes += shard.source_nbytes

    def count_recorded(self, records: Mapping[int, Record]) -> None:
        """Count the shards in the ledger instead, since earlier runs made some of them."""
        for row in self._rows:
            row.done = row.entries = row.nbytes = row.source_nbytes = 0
        for number, record in records.items():
            if record.is_done:
                row = self._row(number)
                row.done += 1
                row.entries += record.entries
                row.nbytes += record.nbytes
                row.source_nbytes += record.source_nbytes

    def rows(self) -> list[ArrayReport]:
        """Return the sizes, in the order of the plan."""
        return [row.report() for row in self._rows]


@dataclass
class _Row:
    first: int
    path: str | None
    shards: int
    files: int
    decoded_nbytes: int
    done: int = 0
    entries: int = 0
    nbytes: int = 0
    source_nbytes: int = 0
    seconds: float = 0.0

    def report(self) -> ArrayReport:
        values = {**vars(self), "seconds": round(self.seconds, 3)}
        del values["first"]
        return ArrayReport(**values)


SUMS = ("shards", "done", "files", "decoded_nbytes", "source_nbytes", "nbytes", "entries", "seconds")


def _largest(rows: list[ArrayReport]) -> list[ArrayReport]:
    """Return the rows of the largest arrays, and one row for the others."""
    if len(rows) <= MOST_ARRAYS:
        return rows
    ordered = sorted(rows, key=lambda row: (row.path is not None, -row.decoded_nbytes))
    kept, others = ordered[: MOST_ARRAYS - 1], ordered[MOST_ARRAYS - 1 :]
    sums = {name: sum(getattr(row, name) for row in others) for name in SUMS}
    return [*kept, ArrayReport(path=others[0].path, others=len(others) - 1, **sums)]


def _state(event: JobEnd) -> State:
    if isinstance(event.error, ShardsFailed):
        return "failed"
    if event.error is not None:
        is_failure = isinstance(event.error, Exception) and not isinstance(event.error, JobStopped)
        return "failed" if is_failure else "stopped"
    if event.job.failures:
        return "partial" if event.job.partial else "holes"
    return "done" if event.job.done else "unchanged"


def _error_text(error: BaseException | None) -> str:
    """Return the first line of an error, without the failed shards, which the report lists elsewhere."""
    if error is None:
        return ""
    if isinstance(error, ShardsFailed):
        return str(error.message)
    text = explain(error)
    return text if isinstance(error, ShardedStoreError) else f"{type(error).__name__}: {text}"[:MOST_TEXT]


def _options(job: Job) -> dict[str, str]:
    """Return the options of a job that differ from their defaults."""
    names = ("retries", "max_failures", "changed", "partial", "max_missing")
    return {name: str(value) for name in names if (value := getattr(job, name)) != getattr(Job, name)}


@cache
def _versions() -> Mapping[str, str]:
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def _text(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
