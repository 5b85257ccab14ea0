"""Show the report of `check`: as a table for a terminal, for a notebook, and as an HTML document."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from dask.utils import format_bytes

from shardedstore.display.html import (
    GREEN,
    RED,
    Html,
    html_code,
    html_frame,
    html_list,
    html_page,
    html_section,
    html_table,
    html_text,
)
from shardedstore.display.tables import filled, terminal_table
from shardedstore.text import shown

if TYPE_CHECKING:
    from rich.table import Table

    from shardedstore.checks.report import CheckReport

WIDTH = "75em"
MOST_LINES = 12  # findings of text
MOST_ARRAYS = 6  # that are visible at first
HEADS = ("array", "shape", ">stored", ">missing", ">size", ">findings")


def check_table(report: CheckReport) -> Table:
    """Return the arrays of a report as a table."""
    return terminal_table(HEADS, _rows(report), len(report.arrays))


def check_lines(report: CheckReport) -> Iterator[str]:
    """Yield the result, the first findings, the next steps and the notes, which fit a screen."""
    yield report.summary
    yield from (f"  {shown(finding.what, 200)} [{finding.code}]" for finding in report.findings[:MOST_LINES])
    if len(report.findings) > MOST_LINES:
        yield f"  ... and {len(report.findings) - MOST_LINES:,} more"
    yield from (f"next step: {code}: {advice}" for code, advice in _advice(report).items())
    yield from (f"note: {text}" for text in report.notes)


def check_to_html(report: CheckReport) -> Html:
    """Return the result and the tables of findings and of arrays for a notebook."""
    mark = Html(f'<span style="color:{GREEN if report.ok else RED}">{"&#10004;" if report.ok else "&#10008;"}</span> ')
    kinds = html_table(("kind of damage", ">places", "next step"), _kinds(report), len(report.codes))
    found = ((html_code(finding.code), finding.what) for finding in report.findings)
    findings = html_table(("kind", "damage"), found, len(report.findings))
    heads, rows = filled(HEADS, _rows(report))
    arrays = html_table(heads, ((html_code(path), *others) for path, *others in rows), len(rows), MOST_ARRAYS)
    return html_frame(
        html_text(mark, f"Check of {report.name}"),
        [report.summary],
        *([html_section("Kinds", kinds), html_section("Findings", findings)] if report.findings else []),
        html_section("Arrays", arrays) if report.arrays else Html(""),
        html_section("Notes", html_list(report.notes)) if report.notes else Html(""),
        width=WIDTH,
    )


def check_page(report: CheckReport) -> Html:
    """Return a report as an HTML document."""
    return html_page(f"Check of {report.name}", check_to_html(report))


def _kinds(report: CheckReport) -> Iterator[tuple[str, ...]]:
    advice = _advice(report)
    return ((html_code(code), f"{number:,}", advice[code]) for code, number in report.codes.items())


def _advice(report: CheckReport) -> dict[str, str]:
    return {finding.code: finding.advice for finding in report.findings}


def _rows(report: CheckReport) -> Iterator[tuple[str, ...]]:
    """Yield the cells of the arrays, those with findings first."""
    for array in sorted(report.arrays, key=lambda array: -array.findings):
        shape = " x ".join(map(str, array.shape)) or "scalar"
        size = "" if array.nbytes is None else format_bytes(array.nbytes)
        counts = ("" if number is None else f"{number:,}" for number in (array.objects, array.missing))
        yield (array.path or "(root)", shape, *counts, size, f"{array.findings:,}" if array.findings else "")
