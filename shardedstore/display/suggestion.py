"""Show suggested shards: a row and the reason for each array, for a terminal and for a notebook."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

from dask.utils import format_bytes

from shardedstore.display.html import Html, html_code, html_frame, html_muted, html_table, html_text
from shardedstore.display.tables import aligned, terminal_table
from shardedstore.partition.access import access_text
from shardedstore.text import count, shown

if TYPE_CHECKING:
    from rich.console import RenderableType

    from shardedstore.partition.access import AccessCost
    from shardedstore.partition.suggest import ArraySuggestion, Suggestion

FEW = 6  # arrays in a repr
MOST_OPEN = 8  # arrays that are visible at first in a notebook
MOST = 200  # arrays in HTML
WIDTH = 80
HEADS = ("array", "shape of a shard", ">shards", ">decoded", ">files", ">requests", ">bytes")
NOTE = "files, requests and bytes: of one read now -> from the shards; bytes are decoded"


def _title(suggestion: Suggestion) -> str:
    target = {"zip": "zips", "sharding": "objects of the sharding codec"}[suggestion.target]
    return f"Suggestion of {target} of at most {suggestion.size} decoded"


def _summary(suggestion: Suggestion) -> str:
    files = sum(one.files for one in suggestion.arrays)
    read = " or ".join(map(access_text, suggestion.access)) or "whole shards"
    return f"at most {count(files, 'chunk file')} -> {count(suggestion.shard_count, 'shard')}; read by {read}"


def _sorted(suggestion: Suggestion) -> list[ArraySuggestion]:
    """Return the arrays: divided arrays first, the largest first."""
    return sorted(suggestion.arrays, key=lambda one: (-one.shards, -one.files, one.path))


def _shape(one: ArraySuggestion) -> str:
    return "base" if not one.shards else " x ".join(map(str, one.shape)) or "scalar"


def _cost_cells(one: ArraySuggestion) -> tuple[str, str, str]:
    """Return the cells of one read by all patterns, before and after."""
    pairs = [(now, cost) for now, cost in zip(one.now, one.costs, strict=True) if now is not None and cost is not None]
    return (
        ", ".join(_change(f"{now.files:,}", f"{cost.files:,}") for now, cost in pairs),
        ", ".join(_change(f"{now.requests:,}", f"{cost.requests:,}") for now, cost in pairs),
        ", ".join(_bytes(cost) for _, cost in pairs),
    )


def _change(before: str, after: str) -> str:
    return f"{before} -> {after}"


def _bytes(cost: AccessCost) -> str:
    return format_bytes(cost.nbytes)


def _cells(one: ArraySuggestion) -> tuple[str, ...]:
    shards = f"{one.shards:,}" if one.shards else "-"
    return (f"/{one.path}", _shape(one), shards, format_bytes(one.nbytes), *_cost_cells(one))


def suggestion_to_text(suggestion: Suggestion, most: int | None = None) -> str:
    """Return a suggestion as lines of at most 80 columns, as far as names allow it; `most` limits the arrays."""
    arrays = _sorted(suggestion)
    lines = [_title(suggestion), *_wrapped(_summary(suggestion), "  "), "", *_rows(arrays[:most])]
    if most is not None and len(arrays) > most:
        lines.append(f"  ... and {len(arrays) - most:,} more")
    return "\n".join(lines)


def _rows(arrays: list[ArraySuggestion]) -> Iterator[str]:
    heads = aligned(
        (f"/{shown(one.path, 30)}", count(one.shards, "shard") if one.shards else "base", _shape_text(one))
        for one in arrays
    )
    for head, one in zip(heads, arrays, strict=True):
        yield f"  {head}"
        yield from _wrapped(one.reason, "      ")
        for now, cost in zip(one.now, one.costs, strict=True):
            if now is not None and cost is not None:
                yield f"      files {now.files:,} -> {cost.files:,}, requests {now.requests:,} -> {cost.requests:,}, {_bytes(cost)}"


def _shape_text(one: ArraySuggestion) -> str:
    return f"{_shape(one)} ({format_bytes(one.nbytes)})" if one.shards else format_bytes(one.nbytes)


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def suggestion_to_rich(suggestion: Suggestion) -> RenderableType:
    """Return a suggestion for a terminal: its summary, and the rows of the arrays with their reasons."""
    from rich.console import Group
    from rich.text import Text

    arrays = _sorted(suggestion)
    table = terminal_table(HEADS[:4], (_cells(one)[:4] for one in arrays), len(arrays))
    reasons = [Text(line) for one in arrays[:MOST] if one.shards for line in _rows([one])]
    return Group(Text(_title(suggestion), style="bold"), Text(_summary(suggestion)), table, *reasons)


def suggestion_to_html(suggestion: Suggestion) -> Html:
    """Return a suggestion for a notebook; of many arrays some are folded."""
    arrays = _sorted(suggestion)
    is_read = any(one.costs for one in arrays)
    heads = (*HEADS, "reason") if is_read else (*HEADS[:4], "reason")
    table = html_table(
        heads, (_html_cells(one, len(heads) - 1) for one in islice(arrays, MOST)), len(arrays), MOST_OPEN
    )
    note = html_muted(NOTE) if is_read else html_text()
    return html_frame(_title(suggestion), [_summary(suggestion)], table, note, width="75em")


def _html_cells(one: ArraySuggestion, columns: int) -> tuple[str, ...]:
    path, *others = _cells(one)[:columns]
    return (html_code(path), *map(_html_lines, others), one.reason)


def _html_lines(cell: str) -> Html:
    """Return the numbers of several ways to read, one below the other."""
    return Html("<br>".join(map(html_text, cell.split(", "))))
