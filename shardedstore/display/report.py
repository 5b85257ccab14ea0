"""Show the report of a run: as text for a terminal, as HTML for a notebook, and as a document of its own."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from dask.utils import format_bytes, format_time

from shardedstore.display.charts import (
    Bar,
    Interval,
    bar_chart,
    failure_marks,
    heat_row,
    interval_chart,
    rate_chart,
    time_axis,
)
from shardedstore.display.html import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    RED,
    Html,
    html_bar,
    html_code,
    html_fold,
    html_frame,
    html_lines,
    html_list,
    html_muted,
    html_page,
    html_section,
    html_table,
    html_text,
)
from shardedstore.display.tables import filled
from shardedstore.text import count, shown, significant

if TYPE_CHECKING:
    from shardedstore.jobs.report import ArrayReport, CauseReport, Report, ShardReport, Timeline
    from shardedstore.storage.request_metrics import RequestSum

WIDTH = "75em"
MOST_OPEN_BARS = 4  # arrays with bars in other views
MOST_BARS = 6  # arrays with bars of their own
MOST_OPEN_CAUSES = 4  # that are visible at first
MOST_CAUSES = 5  # failures that are told in text
COLORS = {"done": GREEN, "unchanged": GREEN, "holes": ORANGE, "partial": ORANGE, "failed": RED, "stopped": ORANGE}
WORDS = {
    "done": "done",
    "unchanged": "nothing was to do",
    "holes": "done, with accepted holes",
    "partial": "not done: some shards failed",
    "failed": "failed",
    "stopped": "stopped before its end",
}
AGAIN = {
    "changed": "the source has changed",
    "lost": "the result was lost or is of another size",
    "marked": "verify has marked them as damaged",
    "failed": "they failed in an earlier run",
}
STAGES = {
    "read": "reading",
    "decode": "decoding",
    "steps": "steps",
    "encode": "encoding",
    "write": "writing",
    "throttled": "waiting for storage",
    "other": "other",
}


def report_lines(report: Report) -> Iterator[str]:
    """Yield a report as lines for a terminal."""
    yield title_line(report)
    yield f"  {counts(report)}"
    yield from (f"  {fact}" for fact in _facts(report))
    yield f"  {sizes(report)}"
    if report.retries or report.throttled or report.throttled_seconds:
        yield f"  {_waits(report)}"
    if report.requests:
        yield f"  requests: {', '.join(f'{made.count:,} {kind}' for kind, made in _by_count(report))}"
    yield from (f"  made again, as {text}: {number:,}" for text, number in _again(report))
    for cause in report.failures[:MOST_CAUSES]:
        yield f"  {cause.code}: {count(cause.count, 'shard')}, such as {cause.shards[0]!r}: {shown(cause.cause, 200)}"
    more = len(report.failures) - MOST_CAUSES
    if more > 0:
        yield f"  and {count(more, 'other cause')}"


def report_page(report: Report) -> str:
    """Return a report as a whole HTML document."""
    return html_page(f"{report.chain}: {WORDS[report.state]}", report_view(report))


def report_view(report: Report) -> Html:
    """Return a report as HTML for a notebook."""
    mark = Html(f'<span style="color:{COLORS[report.state]}">&#9679;</span> ')
    return html_frame(
        html_text(mark, title_line(report)),
        [counts(report), *_facts(report)],
        _failures(report),
        _again_view(report),
        _section("Before and after", _sizes(report)),
        _section("Time", _time(report)),
        _requests(report),
        html_section("Slowest shards", _shards(report.slowest)),
        html_section("Shards that were tried again", _shards(report.retried)),
        html_section("Warnings", html_list(report.notices)) if report.notices else Html(""),
        _details(report),
        width=WIDTH,
    )


def _section(title: str, body: Html) -> Html:
    return html_section(title, Html("<br>"), body) if body else body


def report_folds(report: Report, *, is_open: bool) -> Iterator[Html]:
    """Yield the sizes, the time and the slow shards of a report, which fold out; the first may be open."""
    parts = {
        "Sizes before and after, by array": _sizes(report, is_short=len(report.arrays) > MOST_OPEN_BARS),
        "Shards over time, by worker": _time(report),
        "Slowest shards": _shards(report.slowest),
        "Shards that were tried again": _shards(report.retried),
    }
    yield from (
        html_fold(name, part, is_open=is_open and not i) for i, (name, part) in enumerate(parts.items()) if part
    )


def title_line(report: Report) -> str:
    """Return the name and the state of a run as one line."""
    number = f" {report.number}" if report.number else ""
    return f"Report{number} of {report.chain or 'a job'}: {WORDS[report.state]}"


def counts(report: Report) -> str:
    """Return the numbers of shards as one line."""
    left = report.total - report.done - report.skipped - report.failed
    parts = [
        f"{report.done:,} made",
        *([f"{report.skipped:,} done before"] if report.skipped else []),
        *([f"{report.failed:,} failed"] if report.failed else []),
        *([f"{left:,} not tried"] if left > 0 else []),
    ]
    workers = f" by {count(report.workers, 'worker')}" if report.workers else ""
    return f"{count(report.total, 'shard')}: {', '.join(parts)}; in {format_time(report.seconds)}{workers}"


def sizes(report: Report) -> str:
    """Return the sizes before and after as one line."""
    before = f", {format_bytes(report.source_nbytes)} stored" if report.source_nbytes else ""
    there = report.done + report.skipped
    after = f"{count(there, 'shard')}, {format_bytes(report.nbytes)}"
    return f"at most {report.files:,} files, {format_bytes(report.decoded_nbytes)} decoded{before} -> {after}"


def _facts(report: Report) -> Iterator[str]:
    if report.error:
        yield report.error
    if report.source:
        yield f"from {report.source}"
    if report.destination:
        yield f"to {report.destination}"
    if report.begun:
        yield f"{report.begun} to {report.ended} on {report.host}"
    if report.command:
        yield report.command


def _again(report: Report) -> Iterator[tuple[str, int]]:
    return ((AGAIN.get(reason, reason), number) for reason, number in report.again.items() if number)


def _again_view(report: Report) -> Html:
    items = [f"{count(number, 'shard')}: {text}" for text, number in _again(report)]
    return html_section("Made again", html_list(items)) if items else Html("")


def _failures(report: Report) -> Html:
    if not report.failures:
        return Html("")
    rows = ((f"{cause.count:,}", html_code(cause.code), _cause(cause)) for cause in report.failures)
    title = f"{count(report.failed, 'failed shard')}, {count(len(report.failures), 'cause')}"
    return html_section(title, html_table((">shards", "code", "cause"), rows, len(report.failures), MOST_OPEN_CAUSES))


def _cause(cause: CauseReport) -> Html:
    about = [
        *([cause.remedy] if cause.remedy else []),
        *([f"key {cause.key!r} in the source"] if cause.key else []),
        *([cause.url] if cause.url else []),
        *([count(cause.attempts, "attempt")] if cause.attempts > 1 else []),
    ]
    told = html_text(cause.cause, *(html_text(Html("<br>"), html_muted(text)) for text in about))
    trace = html_fold("traceback", html_lines(cause.traceback)) if cause.traceback else Html("")
    return html_text(told, _names(cause), trace)


def _names(cause: CauseReport) -> Html:
    """Return the names of the shards: the first one, which folds out to others."""
    first, *others = map(html_code, cause.shards)
    more = f" and {cause.count - 1:,} more" if cause.count > 1 else ""
    head = html_text("shard ", first, more)
    left = cause.count - len(cause.shards)
    items = [*others, *([f"... and {left:,} more"] if left > 0 else [])]
    return html_fold(head, html_list(items)) if others else Html(f"<div>{head}</div>")


def _sizes(report: Report, *, is_short: bool = False) -> Html:
    """Return bars of the largest arrays, and a table of all, which is folded to be short."""
    largest = [
        row for row in sorted(report.arrays, key=lambda row: -(row.decoded_nbytes or row.nbytes)) if not row.others
    ]
    shown_rows = [
        row for row in largest[: MOST_OPEN_BARS if is_short else MOST_BARS] if row.decoded_nbytes or row.nbytes
    ]
    groups = [
        (
            _name(row),
            (
                Bar(row.decoded_nbytes, GREY, f"{format_bytes(row.decoded_nbytes)} decoded"),
                Bar(
                    row.source_nbytes, ORANGE, f"{format_bytes(row.source_nbytes)} in the source{_of(row.source_ratio)}"
                ),
                Bar(row.nbytes, BLUE, f"{format_bytes(row.nbytes)} in the result{_of(row.ratio)}"),
            ),
        )
        for row in shown_rows
    ]
    total = [sizes(report)] if report.decoded_nbytes else []
    heads = ("path", ">shards", ">files", ">decoded", ">source", ">result", ">ratio", ">seconds")
    names, rows = filled(heads, map(_cells, report.arrays))
    table = html_table(names, rows, len(report.arrays))
    return html_text(*total, bar_chart(groups), html_fold("all arrays", table) if is_short else table)


def _of(ratio: float | None) -> str:
    return f", ratio {significant(ratio)}" if ratio else ""


def _name(row: ArrayReport) -> str:
    name = "(base)" if row.path is None else f"/{row.path}"
    return f"{name} and {row.others:,} others" if row.others else name


def _cells(row: ArrayReport) -> tuple[str, ...]:
    ratios = [significant(ratio) if ratio else "" for ratio in (row.source_ratio, row.ratio)]
    return (
        html_code(_name(row)),
        f"{row.shards:,}" if row.done == row.shards else f"{row.done:,} of {row.shards:,}",
        f"{row.files:,}",
        format_bytes(row.decoded_nbytes) if row.decoded_nbytes else "",
        format_bytes(row.source_nbytes) if row.source_nbytes else "",
        format_bytes(row.nbytes),
        " to ".join(filter(None, ratios)),
        significant(row.seconds) if row.seconds else "",
    )


def _time(report: Report) -> Html:
    line = report.timeline
    if not line.busy:
        return Html("")
    parts = max(report.seconds / line.seconds, 1e-3)
    rates = (
        rate_chart(
            "written", [some / line.seconds for some in line.nbytes], parts, lambda n: f"{format_bytes(int(n))}/s", BLUE
        ),
        rate_chart("shards", [some / line.seconds for some in line.shards], parts, _a_second, GREEN),
        rate_chart("refused requests", line.throttled, parts, lambda n: f"{n:,.0f} at a time", ORANGE),
        failure_marks(line.failed, parts, "failed shards"),
    )
    rows = _span_rows(line, report.seconds) if line.spans else _heat_rows(line, parts)
    axis = time_axis(report.seconds)
    workers = f"{count(report.workers, 'worker')}, {'one bar for each shard' if line.spans else 'darker for more threads at work'}"
    folded = list(rows)
    shown_rows = html_text(
        *folded[:8], *([html_fold(f"{len(folded) - 8} more", *folded[8:])] if len(folded) > 8 else [])
    )
    return html_text(_stages(report), *rates, axis, html_muted(workers), shown_rows, axis)


def _a_second(number: float) -> str:
    return f"{number:,.0f} a second" if number >= 10 else f"{number:.2g} a second"


def _stages(report: Report) -> Html:
    total = sum(report.stages.values())
    if not total:
        return Html("")
    rows = (
        (STAGES.get(name, name), html_bar(seconds / total, f"{seconds / total:.0%}"), format_time(seconds))
        for name, seconds in report.stages.items()
    )
    return html_text(
        html_table(("stage", "share", ">time"), rows, len(report.stages), widths={"share": 16}),
        html_muted(_waits(report)) if report.retries or report.throttled or report.throttled_seconds else Html(""),
    )


def _waits(report: Report) -> str:
    waited = f", {format_time(report.throttled_seconds)} waited" if report.throttled_seconds else ""
    return f"{count(report.retries, 'repeated attempt')}, {count(report.throttled, 'refused request')}{waited}"


def _by_count(report: Report) -> list[tuple[str, RequestSum]]:
    return sorted(report.requests.items(), key=lambda item: -item[1].count)


def _requests(report: Report) -> Html:
    if not report.requests:
        return Html("")
    rows = (
        (kind, f"{made.count:,}", format_bytes(made.nbytes), format_time(made.latency), f"{made.errors:,}")
        for kind, made in _by_count(report)
    )
    heads = ("request", ">number", ">bytes", ">mean latency", ">errors")
    return html_section("Storage requests", html_table(heads, rows, len(report.requests)))


def _span_rows(line: Timeline, seconds: float) -> Iterator[Html]:
    for worker in line.busy:
        intervals = [
            Interval(
                span.begun, span.seconds, RED if span.failed else BLUE, f"{span.shard}, {format_time(span.seconds)}"
            )
            for span in line.spans
            if span.worker == worker
        ]
        if intervals:
            yield interval_chart(worker, intervals, seconds)


def _heat_rows(line: Timeline, parts: float) -> Iterator[Html]:
    for worker, busy in line.busy.items():
        threads = max(1, math.ceil(max(busy, default=0.0) / line.seconds - 0.1))
        label = f"{worker} ({line.others + 1:,} workers)" if line.others and worker == "others" else worker
        yield heat_row(f"{label}, {count(threads, 'thread')}", [some / line.seconds / threads for some in busy], parts)


def _shards(shards: Sequence[ShardReport]) -> Html:
    if not shards:
        return Html("")
    heads = ("shard", ">seconds", ">read", ">steps", ">write", ">stored", "worker", ">attempts", "cause of the retry")
    names, rows = filled(heads, map(_shard_cells, shards))
    return html_table(names, rows, len(shards), 5)


def _shard_cells(shard: ShardReport) -> tuple[str, ...]:
    stages = shard.read_seconds, shard.transform_seconds, shard.write_seconds
    return (
        html_code(shard.shard),
        f"{shard.seconds:,.3f}",
        *(f"{some:,.3f}" if any(stages) else "" for some in stages),
        format_bytes(shard.nbytes),
        html_code(shard.worker),
        str(shard.attempts),
        shown(shard.cause, 200),
    )


def _details(report: Report) -> Html:
    steps = [
        html_code(f"{name}({', '.join(f'{key}={value}' for key, value in options.items())})")
        for name, options in report.steps
    ]
    options = [f"{name}: {value}" for name, value in report.options.items()]
    file = [f"job file: {report.job_file}"] if report.job_file else []
    parts = (
        html_section("Chain", html_list(steps)) if steps else Html(""),
        html_section("Options", html_list([*options, *file])) if options or file else Html(""),
        html_section(
            "Versions", html_muted(html_text(Html("<br>"), ", ".join(f"{k} {v}" for k, v in report.versions.items())))
        ),
    )
    return html_fold("Chain, options and versions", *parts)
