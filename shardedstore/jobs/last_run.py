"""The files of the last run of a job at its destination: the causes of its failures, and its report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import datetime

import msgspec

from shardedstore.config.document import from_dict
from shardedstore.errors import ShardError, UsageError
from shardedstore.jobs.failures_file import failures_url, read_failures
from shardedstore.jobs.ledger import FOLDER, Record
from shardedstore.jobs.manifest import JobManifest, ledger_of
from shardedstore.jobs.report import CauseReport, cause_reports, html_name, read_report
from shardedstore.jobs.shards import shard_runs
from shardedstore.storage.folders import STORAGE_ERRORS, Folder
from shardedstore.storage.urls import join_url


class LastRun(msgspec.Struct, frozen=True, kw_only=True):
    """The failures and the report of the last run.

    Attributes
    ----------
    message : str
        The error that ended the run; empty if there is none, or no report.
    causes : tuple of CauseReport
        The failures by cause, without tracebacks.
    failures_url, report_url : str or None
        The file with a line for each failed shard, and the HTML file of the report.
    """

    message: str = ""
    causes: tuple[CauseReport, ...] = ()
    failures_url: str | None = None
    report_url: str | None = None


def read_last_run(
    place: Folder, manifest: JobManifest, since: str, *, has_failures: bool, records: Mapping[int, Record] | None = None
) -> LastRun:
    """Read the files of the last run, which took the lock at the time `since`.

    Slices leave no files of failures; theirs are in the records of the ledger.
    """
    found = LastRun()
    if has_failures:
        listed = read_failures(place)
        failures = listed or list(
            _recorded(manifest, ledger_of(place, manifest).read() if records is None else records)
        )
        found = LastRun(causes=cause_reports(failures), failures_url=failures_url(place.url) if listed else None)
    with suppress(UsageError, *STORAGE_ERRORS):
        report = read_report(place)
        if _time(report.ended) >= _time(since):
            url = join_url(place.url, html_name(FOLDER, report.number))
            found = msgspec.structs.replace(found, message=report.error, report_url=url)
    return found


def _recorded(manifest: JobManifest, records: Mapping[int, Record]) -> Iterator[ShardError]:
    """Yield the failures in the records of a ledger."""
    failed = {number: record for number, record in records.items() if record.failed}
    for run in shard_runs(from_dict(manifest.config)) if failed else ():
        if any(number in run.numbers for number in failed):
            for shard in run.shards():
                if (record := failed.get(shard.number)) is not None:
                    yield ShardError(shard.name, record.failed, code=record.code, path=shard.path, block=shard.block)


def _time(text: str) -> datetime:
    """Return a time, to the second; the earliest one for an empty text."""
    return datetime.fromisoformat(text or "0001-01-01T00:00:00Z").replace(microsecond=0)
