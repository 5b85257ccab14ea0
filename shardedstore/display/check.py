"""The report of `check` as a table for a terminal, and as an HTML document."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from dask.utils import format_bytes

from shardedstore.display.html import Html, html_code, html_frame, html_list, html_page, html_section, html_table
from shardedstore.display.tables import terminal_table

if TYPE_CHECKING:
    from rich.table import Table

    from shardedstore.checks.report import CheckReport

HEADS = ("array", "shape", ">stored", ">missing", ">size", ">findings")


def check_table(report: CheckReport) -> Table:
    """Return the arrays of a report as a table."""
    return terminal_table(HEADS, _rows(report), len(report.arrays))


def check_page(report: CheckReport) -> Html:
    """Return a report as an HTML document."""
    kinds = html_table(("kind of damage", ">places", "next step"), _kinds(report), len(report.codes))
    found = [(html_code(finding.code), finding.what) for finding in report.findings]
    arrays = html_table(HEADS, _rows(report), len(report.arrays))
    body = html_frame(
        "Check",
        [report.summary],
        html_section("Kinds", kinds) if found else Html(""),
        html_section("Findings", html_table(("kind", "damage"), found, len(found))) if found else Html(""),
        html_section("Arrays", arrays),
        html_section("Notes", html_list(report.notes)),
    )
    return html_page(f"Check of {report.name}", body)


def _kinds(report: CheckReport) -> Iterator[tuple[str, ...]]:
    advice = {finding.code: finding.advice for finding in report.findings}
    return ((html_code(code), f"{number:,}", advice[code]) for code, number in report.codes.items())


def _rows(report: CheckReport) -> Iterator[tuple[str, ...]]:
    for array in report.arrays:
        shape = " x ".join(map(str, array.shape)) or "scalar"
        size = "" if array.nbytes is None else format_bytes(array.nbytes)
        counts = ("" if number is None else f"{number:,}" for number in (array.objects, array.missing))
        yield (array.path or "(root)", shape, *counts, size, f"{array.findings:,}" if array.findings else "")
