"""Show which readers can read the arrays that a job will write."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

from shardedstore.codecs.readers import READERS
from shardedstore.display.html import GREEN, RED, Html, html_code, html_fold, html_muted, html_table, html_text
from shardedstore.text import count, shown

if TYPE_CHECKING:
    from shardedstore.codecs.readers import Obstacle
    from shardedstore.jobs.estimates.portability import Portability

MOST_KINDS = 3  # causes that a line names


def portability_facts(portability: Portability) -> Iterator[str]:
    """Yield the readers of all arrays in one line, and a line for each other reader with its obstacles."""
    if not portability.arrays:
        return
    unread = {reader.name: portability.unread(reader.name) for reader in READERS}
    way = "references (export), or zip by zip: " if portability.by_references else ""
    yield f"{way}{', '.join(name for name, some in unread.items() if not some) or 'no reader of the table'}"
    total = len(portability.arrays)
    for name, some in unread.items():
        if some:
            yield f"{name}: {total - len(some):,} of {count(total, 'array')}; not {_causes(some)}"


def _causes(unread: dict[str, tuple[Obstacle, ...]]) -> str:
    found: dict[str, list[str]] = {}
    for path, obstacles in unread.items():
        for one in obstacles:
            found.setdefault(f"{'(misread) ' if one.lack.misreads else ''}{one}", []).append(path)
    told = [f"{cause} ({_names(paths)})" for cause, paths in islice(found.items(), MOST_KINDS)]
    more = len(found) - MOST_KINDS
    return ", ".join(told) + (f" and {count(more, 'other cause')}" if more > 0 else "")


def _names(paths: list[str]) -> str:
    more = f" and {len(paths) - 1:,} more" if len(paths) > 1 else ""
    return f"/{shown(paths[0], 30)}{more}"


def portability_table(portability: Portability) -> Html:
    """Return a folded table of arrays and readers, with a row for arrays of equal answers; empty without arrays."""
    if not portability.arrays:
        return Html("")
    heads = ("arrays", *(reader.name for reader in READERS))
    alike = dict[tuple[Html, ...], list[str]]()
    for path, obstacles in portability.arrays.items():
        alike.setdefault(_cells(obstacles), []).append(path)
    rows = ((html_code(_names(paths)), *cells) for cells, paths in alike.items())
    note = html_muted("The versions are those that were tested. Each no names the first obstacle.")
    return html_fold("readers", html_table(heads, rows, len(alike)), note)


def _cells(obstacles: tuple[Obstacle, ...]) -> tuple[Html, ...]:
    return tuple(_cell([one for one in obstacles if one.reader is reader]) for reader in READERS)


def _cell(obstacles: list[Obstacle]) -> Html:
    if not obstacles:
        return Html(f'<span style="color:{GREEN}">yes</span>')
    first = obstacles[0]
    mark = "misreads" if first.lack.misreads else "no"
    prefix = "Zarr " if first.lack.feature == "format" else ""
    names = html_muted(f" {prefix}{', '.join(first.names)}")
    return Html(f'<span style="color:{RED}">{mark}</span>{html_text(names)}')
