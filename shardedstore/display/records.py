"""Show the records of a job's shards."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

from dask.utils import format_bytes

from shardedstore.display.html import (
    GREEN,
    ORANGE,
    Html,
    html_code,
    html_fold,
    html_frame,
    html_muted,
    html_section,
    html_table,
    html_text,
)
from shardedstore.display.report import WIDTH, report_folds
from shardedstore.text import count, shown

if TYPE_CHECKING:
    from shardedstore.jobs.records import Records
    from shardedstore.jobs.records_report import ShardRecord
    from shardedstore.jobs.report import Report

MOST_SHOWN = 10  # of text
MOST_ROWS = 60  # in a notebook
HEADS = ("shard", ">entries", ">stored", ">seconds", ">attempts", "worker")


def records_lines(records: Records, url: str) -> Iterator[str]:
    """Yield the number of records, and a line for each of the first."""
    yield f"{len(records):,} records at {url!r}"
    shown_records = list(islice(records, MOST_SHOWN))
    for one in shown_records:
        text = one.cause or f"{one.nbytes:,} bytes in {one.seconds:,.3f} s by {one.worker}"
        yield f"  {shown(one.shard)}: {shown(text, 200)}"
    if len(records) > len(shown_records):
        yield f"  ... and {len(records) - len(shown_records):,} more"


def records_to_html(records: Records, url: str) -> Html:
    """Return the sizes by array, the timeline, the slowest shards and the failures for a notebook."""
    report = records.to_report()
    mark = Html(f'<span style="color:{ORANGE if report.failed else GREEN}">&#9679;</span> ')
    return html_frame(
        html_text(mark, f"{count(len(records), 'record')} of shards at {url}"),
        _facts(report),
        _failures(report),
        *report_folds(report, is_open=not report.failures),
        html_fold("Shards", html_table(HEADS, map(_cells, islice(records, MOST_ROWS)), len(records))),
        html_muted("to_dataframe() returns a row for each shard; the timeline is that of the last run"),
        width=WIDTH,
    )


def _facts(report: Report) -> Iterator[str]:
    failed = f", {report.failed:,} not done" if report.failed else ""
    before = f"{format_bytes(report.source_nbytes)} read -> " if report.source_nbytes else ""
    yield f"{report.done:,} done{failed}; {before}{format_bytes(report.nbytes)} written in {report.entries:,} entries"


def _failures(report: Report) -> Html:
    if not report.failures:
        return Html("")
    rows = ((f"{one.count:,}", shown(one.cause, 300), shown(", ".join(one.shards), 100)) for one in report.failures)
    table = html_table((">shards", "cause", "such as"), rows, len(report.failures), 6)
    return html_section("Not done", table)


def _cells(record: ShardRecord) -> tuple[str, ...]:
    return (
        html_code(record.shard),
        f"{record.entries:,}",
        format_bytes(record.nbytes) if record.done else "not done",
        f"{record.seconds:,.3f}",
        f"{record.attempts:,}",
        html_code(record.worker),
    )
