"""Show the summary of a job in a notebook."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from dask.utils import format_bytes, format_time

from shardedstore.display.html import Html, html_code, html_frame, html_list, html_section, html_table, html_text
from shardedstore.errors import by_cause
from shardedstore.text import count, shown

if TYPE_CHECKING:
    from shardedstore.jobs.summary import Summary

MOST_CAUSES = 8


def summary_view(summary: Summary) -> Html:
    """Return the HTML of a summary: its counts, its failures by cause, and its warnings."""
    causes = by_cause(summary.failures)
    rows = ((html_code(some[0].code), f"{len(some):,}", shown(some[0].cause, 300)) for some in causes[:MOST_CAUSES])
    failed = html_table(("code", ">shards", "cause"), rows, len(causes)) if causes else Html("")
    notices = html_list(map(str, summary.notices))
    return html_frame(
        f"{count(summary.done, 'shard')} done by the job",
        _facts(summary),
        html_section(count(len(summary.failures), "failed shard"), failed) if causes else Html(""),
        html_section("Warnings", notices) if notices else html_text(),
    )


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
