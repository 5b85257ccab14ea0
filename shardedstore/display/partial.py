"""Show which shards of an unfinished job are there, and which are missing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from shardedstore.display.html import BLUE, FAINT, Html, html_code, html_frame, html_muted, html_table
from shardedstore.text import count, shown

if TYPE_CHECKING:
    from shardedstore.jobs.partial_state import Partial, PathState

MOST_LINES = 8  # of text
MOST_ROWS = 60  # in a notebook, with the folded rows


def partial_lines(partial: Partial) -> Iterator[str]:
    """Yield the state of a job, and a line for each unfinished path."""
    yield shown(str(partial), 300)
    paths = partial.unfinished
    yield from (f"  {_line(path)}" for path in paths[:MOST_LINES])
    if len(paths) > MOST_LINES:
        yield f"  ... and {count(len(paths) - MOST_LINES, 'unfinished path')} more"


def _line(path: PathState) -> str:
    names = f": {shown(path.missing)}" if path.total - path.done == 1 else f", the first is {shown(path.missing)}"
    return (
        f"{_name(path)}: {path.done:,} of {count(path.total, 'shard')} done; {path.total - path.done:,} missing{names}"
    )


def _name(path: PathState) -> str:
    return "(base)" if path.path is None else f"/{shown(path.path)}"


def partial_to_html(partial: Partial) -> Html:
    """Return the state of a job for a notebook."""
    return html_frame("Unfinished job", [str(partial)], partial_table(partial))


def partial_table(partial: Partial) -> Html:
    """Return a table of the paths, unfinished ones first; of each a strip that is filled where shards are done."""
    finished = [path for path in partial.paths if path.done == path.total]
    rows = (_cells(path) for path in islice((*partial.unfinished, *finished), MOST_ROWS))
    heads = ("path", ">done", "in the result", "first missing")
    return html_table(heads, rows, len(partial.paths), widths={"in the result": 17})


def _cells(path: PathState) -> Sequence[str]:
    return (
        html_code(_name(path)),
        f"{path.done:,} of {path.total:,}",
        _strip(path.parts),
        html_code(path.missing.removeprefix(path.path or "") or path.missing)
        if path.missing
        else html_muted("complete"),
    )


def _strip(parts: Sequence[float]) -> Html:
    """Return a strip of equal parts, each filled by its share."""
    paths = "".join(f"M{i} {1 - share:.2f}h1V1h-1z" for i, share in enumerate(parts) if share)
    style = f"width:100%;height:.8em;background:{FAINT};border-radius:2px;vertical-align:middle"
    return Html(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {len(parts)} 1" preserveAspectRatio="none" style="{style}">'
        f'<path d="{paths}" fill="{BLUE}"/></svg>'
    )
