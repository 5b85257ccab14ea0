"""Show a planned job: one line or table row for each group and array that is mounted."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from dask.utils import format_bytes

from shardedstore.display.tables import terminal_table
from shardedstore.jobs.shards import Plan
from shardedstore.text import count
from shardedstore.zarr.grid import block_name

if TYPE_CHECKING:
    from rich.table import Table

MOST_OPEN = 12  # rows that are visible at first in a notebook; the rest is folded
MOST_ROWS = 200  # rows in a notebook, including folded rows
CELL = 'style="text-align:right;padding:1px 0 1px 1.5em;white-space:nowrap"'
PATH = 'style="text-align:left;font-family:var(--jp-code-font-family,monospace);overflow-wrap:anywhere"'
LINE = "rgba(128,128,128,.35)"


class PlanRow(NamedTuple):
    """A mounted group or array, or the base, whose path is None."""

    path: str | None
    files: int
    shards: int
    grid: tuple[int, ...] | None
    nbytes: int

    @property
    def name(self) -> str:
        """The path as it is shown."""
        return "(base)" if self.path is None else f"/{self.path}"

    @property
    def grid_text(self) -> str:
        """The grid of blocks as text; empty for a single shard."""
        return "" if self.grid is None or self.shards == 1 else block_name(self.grid).replace("/", " x ")


def rows(plan: Plan) -> Iterator[PlanRow]:
    """Yield a row for the base, and one for each mount."""
    for run, load in zip(plan.runs, plan.loads, strict=True):
        path = None if run.mounted is not None else run.path
        yield PlanRow(
            path, load.files, run.stop - run.first, None if run.blocks is None else run.blocks.grid, load.nbytes
        )


def headline(plan: Plan) -> str:
    """Return the totals of a planned job as one line."""
    base = next(rows(plan))
    return f"at most {plan.files:,} files -> {count(plan.shard_count, 'shard')}; {format_bytes(plan.nbytes)} decoded; base {format_bytes(base.nbytes)}"


def to_lines(plan: Plan) -> list[str]:
    """Return a planned job as lines, computed from metadata: missing chunks are counted too, and sizes are decoded."""
    lines = [headline(plan)]
    for row in islice(rows(plan), 1, None):
        grid = f" ({row.grid_text})" if row.grid_text else ""
        lines.append(
            f"  /{row.path}: {row.files:,} files -> {count(row.shards, 'shard')}{grid}; {format_bytes(row.nbytes)}"
        )
    return lines


def to_table(plan: Plan) -> Table:
    """Return a planned job as a table for a terminal."""
    cells = (
        (row.name, f"{row.files:,}", f"{row.shards:,}", row.grid_text, format_bytes(row.nbytes)) for row in rows(plan)
    )
    return terminal_table(("path", ">files", ">shards", ">grid", ">decoded"), cells, len(plan.runs))


def plan_to_html(title: str, plan: Plan) -> str:
    """Return the HTML of a planned job for a notebook. All text from data is escaped."""
    found = list(rows(plan))
    head = f"at most {plan.files:,} files to {count(plan.shard_count, 'shard')}; {format_bytes(plan.nbytes)} decoded"
    folded = "".join(map(_row, found[MOST_OPEN:MOST_ROWS]))
    more = f"<tr><td {PATH}>... and {len(found) - MOST_ROWS:,} more</td></tr>" if len(found) > MOST_ROWS else ""
    rest = (
        f'<details><summary style="cursor:pointer">{len(found) - MOST_OPEN:,} more</summary>{_table(folded + more)}</details>'
        if folded
        else ""
    )
    notices = "".join(f"<li>{escape(str(notice))}</li>" for notice in plan.notices)
    listed = f'<ul style="margin:.5em 0 0 1.2em;padding:0">{notices}</ul>' if notices else ""
    return (
        f'<div style="max-width:60em;line-height:1.5"><div style="padding-bottom:.3em;border-bottom:1px solid {LINE}">'
        f'<strong>{escape(title)}</strong><div style="opacity:.7">{head}</div></div>'
        f"{_table(''.join(map(_row, found[:MOST_OPEN])))}{rest}{listed}</div>"
    )


def _table(body: str) -> str:
    names = "".join(f"<th {CELL}>{name}</th>" for name in ("files", "shards", "grid", "decoded"))
    return f'<table style="border-collapse:collapse;width:100%;color:inherit;font-size:inherit"><thead><tr><th {PATH}>path</th>{names}</tr></thead><tbody>{body}</tbody></table>'


def _row(row: PlanRow) -> str:
    cells = (f"{row.files:,}", f"{row.shards:,}", row.grid_text, format_bytes(row.nbytes))
    return f"<tr><td {PATH}>{escape(row.name)}</td>{''.join(f'<td {CELL}>{escape(cell)}</td>' for cell in cells)}</tr>"
