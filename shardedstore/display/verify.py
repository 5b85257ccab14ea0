"""Show the report of a verification: its verdict, and a table of arrays and differences. Digests are left out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby, islice
from operator import attrgetter
from typing import TYPE_CHECKING

from shardedstore.display.html import (
    GREEN,
    ORANGE,
    RED,
    Html,
    html_code,
    html_fold,
    html_frame,
    html_list,
    html_section,
    html_table,
    html_text,
)
from shardedstore.display.tables import aligned, filled
from shardedstore.text import count, shown

if TYPE_CHECKING:
    from shardedstore.jobs.differences import Difference
    from shardedstore.verify.report import VerifyReport

MOST_LINES = 12  # of a table in text
MOST_NOTES = 4
MOST_FOLDED = 60  # differences in a notebook
MOST_ADVICE = 5
HEADS = ("array", ">differences", "kinds", ">shards", "compared by")
WHOLE = "(the whole)"


def verify_lines(report: VerifyReport) -> Iterator[str]:
    """Yield the verdict, a table of arrays, and the next steps, which fit a screen."""
    yield _verdict(report)
    rows = [row for row in _rows(report) if row[1] != "0"] or list(_rows(report))
    names, cells = filled(HEADS, rows[:MOST_LINES])
    yield from (f"  {line}" for line in (aligned([[name.lstrip(">") for name in names], *cells]) if cells else ()))
    if len(rows) > MOST_LINES:
        yield f"  ... and {len(rows) - MOST_LINES:,} more"
    yield from (f"{label}: {text}" for label, text in _texts(report))


def _verdict(report: VerifyReport) -> str:
    if report.ok:
        return f"equal: {report.scope}"
    number = count(len(report.differences), "difference")
    return f"{'holes only' if report.has_holes_only else 'differs'}: {number} in {report.scope}"


def _rows(report: VerifyReport) -> Iterator[Sequence[str]]:
    """Yield a row for each array or path: arrays with differences first."""
    ordered = sorted(report.differences, key=_place)
    found = {place: list(some) for place, some in groupby(ordered, _place)}
    for place in (*found, *(path for path in report.compared_by if path not in found)):
        some = found.get(place, [])
        kinds = ", ".join(dict.fromkeys(difference.kind for difference in some))
        shards = len({name for difference in some for name in difference.shards or (difference.shard,) if name})
        yield _name(place), f"{len(some):,}", kinds, f"{shards:,}" if shards else "", report.compared_by.get(place, "")


def _place(difference: Difference) -> str:
    place = difference.array if difference.array is not None else difference.path
    return WHOLE if place is None else place


def _name(place: str) -> str:
    return place if place == WHOLE else f"/{shown(place, 40)}"


def _texts(report: VerifyReport) -> Iterator[tuple[str, str]]:
    """Yield the next steps and the notes."""
    left = (difference for difference in report.differences if difference.shard not in report.marked)
    advice = dict.fromkeys(difference.advice for difference in left if difference.advice)
    yield from (("next step", text) for text in islice(advice, MOST_ADVICE))
    if report.marked:
        yield "marked", f"{count(len(report.marked), 'shard')}: run the job again to make only these again"
    yield from (("note", text) for text in report.notes[:MOST_NOTES])
    if len(report.notes) > MOST_NOTES:
        yield "note", f"{len(report.notes) - MOST_NOTES:,} more in `notes`"


def verify_to_html(report: VerifyReport) -> Html:
    """Return the verdict and the tables for a notebook."""
    color = GREEN if report.ok else ORANGE if report.has_holes_only else RED
    mark = Html(f'<span style="color:{color}">{"&#10004;" if report.ok else "&#10008;"}</span> ')
    rows = list(_rows(report))
    heads, cells = filled(HEADS, rows)
    table = (
        html_table(heads, ((html_code(row[0]), *row[1:]) for row in cells[:MOST_FOLDED]), len(rows))
        if rows
        else Html("")
    )
    texts = html_list(f"{label}: {text}" for label, text in _texts(report))
    digests = [f"`digests` has the digests of {count(len(report.digests), 'array')}"] if report.digests else []
    return html_frame(html_text(mark, _verdict(report)), digests, texts, table, _differences(report))


def _differences(report: VerifyReport) -> Html:
    if not report.differences:
        return Html("")
    shown_ones = sorted(report.differences[:MOST_FOLDED], key=attrgetter("kind"))
    rows = ((html_code(one.kind), html_code(shown(one.shard or "", 40)), shown(one.what, 400)) for one in shown_ones)
    table = html_table(("kind", "shard", "difference"), rows, len(report.differences), MOST_FOLDED)
    return html_section("", html_fold(count(len(report.differences), "difference"), table))
