"""Show the summary of a job, in a notebook and as text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from dask.utils import format_bytes, format_time

from shardedstore.display.failures import failures_to_html
from shardedstore.display.html import WIDTH, Html, html_frame, html_list, html_section, html_text
from shardedstore.display.partial import partial_table
from shardedstore.display.report import WIDTH as REPORT_WIDTH
from shardedstore.display.report import report_folds
from shardedstore.text import count

if TYPE_CHECKING:
    from shardedstore.jobs.summary import Summary


def summary_view(summary: Summary) -> Html:
    """Return the HTML of a summary: its counts, its failures by cause, and the sizes and times of its report."""
    failed = failures_to_html(summary.failures) if summary.failures else Html("")
    report, notices = summary.report, html_list(map(str, summary.notices))
    return html_frame(
        f"{count(summary.done, 'shard')} done by the job",
        _facts(summary),
        partial_table(summary.partial) if summary.partial is not None else Html(""),
        html_section("", failed) if failed else Html(""),
        *([] if report is None else report_folds(report, is_open=not summary.failures)),
        html_section("Warnings", notices) if notices else html_text(),
        width=WIDTH if report is None else REPORT_WIDTH,
    )


def summary_to_text(summary: Summary) -> str:
    """Return a summary as lines: its counts, its failures by cause, and its warnings."""
    failed = [str(summary.failures)] if summary.failures else []
    facts = "; ".join(_facts(summary))
    return "\n".join([f"{count(summary.done, 'shard')} done by the job; {facts}", *failed, *map(str, summary.notices)])


def _facts(summary: Summary) -> Iterator[str]:
    if summary.partial is not None:
        yield str(summary.partial)
    if summary.skipped:
        yield f"{summary.skipped:,} were done before"
    again = {"the source has changed": summary.changed, "their result was lost": summary.missing}
    yield from (f"{number:,} of them again, as {why}" for why, number in again.items() if number)
    yield f"{count(summary.entries, 'entry').replace('entrys', 'entries')}, {format_bytes(summary.nbytes)} written"
    if summary.seconds:
        yield f"{format_time(summary.seconds)} in the threads of the workers"
    if summary.retries or summary.throttled:
        yield f"{count(summary.retries, 'repeated attempt')}, {count(summary.throttled, 'refused request')}"
