"""Show failed shards as a table, in which equal causes stand once."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from traceback import FrameSummary, extract_tb, format_list
from typing import TYPE_CHECKING

from shardedstore.display.html import (
    RED,
    Html,
    html_code,
    html_fold,
    html_frame,
    html_lines,
    html_muted,
    html_table,
    html_text,
)
from shardedstore.display.tables import aligned, filled
from shardedstore.errors import ShardError, by_frequency
from shardedstore.text import count, shown

if TYPE_CHECKING:
    from shardedstore.errors import ShardedStoreError, ShardsFailed

MOST_CAUSES = 5  # in text
MOST_ROWS = 15  # shards in text, for all causes together
MOST_OPEN = 6  # causes that are visible at first in a notebook
MOST_HTML = 20  # with the folded causes
MOST_FOLDED = 40  # shards in a notebook, for all causes together
MOST_TRACEBACKS = 5
MOST_TEXT = 1000  # characters of a message
MOST_FRAMES = 3  # of the caller
HEADS = ("array", "shard", "chunk", "key in the source", "worker", "attempts")
OWN = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "")
INSTALLED = f"{os.sep}site-packages{os.sep}", f"{os.sep}IPython{os.sep}"
ADVICE = "its `failures` are this table as data, and `failures[0].traceback` is the traceback in the worker"


def failures_to_text(failures: Sequence[ShardError]) -> list[str]:
    r"""Return a line for each cause, and below it a table of its shards.

    >>> errors = [ShardError(f"t[{i}]", "KeyError: 'x'", path="t", key=f"t/c/{i}", attempts=1) for i in range(2)]
    >>> print("\n".join(failures_to_text(errors)))
    shard 't[0]' failed: KeyError: 'x' [failed] (2 shards)
      array  shard  key in the source  attempts
      t      t[0]   t/c/0              1
      t      t[1]   t/c/1              1
    """
    causes = by_frequency(failures)
    most = max(1, MOST_ROWS // max(1, min(MOST_CAUSES, len(causes))))
    lines = [line for some in causes[:MOST_CAUSES] for line in _cause_lines(some, most)]
    more = len(causes) - MOST_CAUSES
    return [*lines, *([f"and {count(more, 'other cause')}"] if more > 0 else [])]


def _cause_lines(some: Sequence[ShardError], most: int) -> Iterator[str]:
    yield _head(some)
    if some[0].remedy:
        yield f"  {some[0].remedy}"
    names, rows = filled(HEADS, map(_cells, some[:most]))
    if len(names) > 1:
        yield from (f"  {line}" for line in aligned([names, *rows]))
    if len(some) > most:
        yield f"  ... and {count(len(some) - most, 'shard')} more"


def _head(some: Sequence[ShardError]) -> str:
    several = f" ({count(len(some), 'shard')})" if len(some) > 1 else ""
    return f"{shown(str(some[0]), MOST_TEXT)} [{some[0].code}]{several}"


def _cells(error: ShardError) -> tuple[str, ...]:
    return (
        shown(error.path or "", 30),
        shown(error.shard, 40),
        "" if error.chunk is None else "/".join(map(str, error.chunk)),
        shown(error.key or "", 40),
        error.worker,
        str(error.attempts) if error.attempts else "",
    )


def failures_to_html(failures: Sequence[ShardError], title: str = "") -> Html:
    """Return a table of causes, which fold out to their shards and to the traceback in the worker."""
    causes = by_frequency(failures)
    most = max(2, MOST_FOLDED // max(1, min(MOST_HTML, len(causes))))
    rows = (_html_row(some, most, with_traceback=i < MOST_TRACEBACKS) for i, some in enumerate(causes[:MOST_HTML]))
    table = html_table((">shards", "code", "cause"), rows, len(causes), MOST_OPEN)
    mark = Html(f'<span style="color:{RED}">&#9679;</span> ')
    name = title or f"{count(len(failures), 'failed shard')}, {count(len(causes), 'cause')}"
    return html_frame(html_text(mark, name), [], table, width="75em")


def _html_row(some: Sequence[ShardError], most: int, *, with_traceback: bool) -> tuple[str, ...]:
    first = some[0]
    about = html_text(*(html_text(Html("<br>"), html_muted(text)) for text in _about(first)))
    trace = html_fold("traceback", html_lines(first.traceback)) if with_traceback and first.traceback else Html("")
    heads, rows = filled(HEADS, map(_cells, some[:most]))
    table = html_table(heads, (tuple(map(html_code, row)) for row in rows), len(some))
    more = f" and {len(some) - 1:,} more" if len(some) > 1 else ""
    head = html_text("shard ", html_code(shown(first.shard, 40)), more)
    return (
        f"{len(some):,}",
        html_code(first.code),
        html_text(shown(first.cause, MOST_TEXT), about, html_fold(head, table), trace),
    )


def _about(error: ShardError) -> Iterator[str]:
    if error.remedy:
        yield error.remedy
    if error.key:
        yield f"key {error.key!r} in {error.url or 'the source'}"


def error_to_text(error: ShardsFailed) -> str:
    """Return the message of an error, the table of its failures, and the way to their tracebacks."""
    return "\n".join([error.message, *failures_to_text(error.failures), *([ADVICE] if _has_traceback(error) else [])])


def _has_traceback(error: ShardsFailed) -> bool:
    return any(failure.traceback for failure in error.failures)


def error_to_lines(error: ShardsFailed) -> list[str]:
    """Return the text of an error for IPython: the lines of the caller, without the frames of this package."""
    name = f"{type(error).__name__}: {error.message}"
    advice = "import sys; print(sys.last_value.failures[0].traceback)  # the traceback in the worker"
    return [
        *_caller_lines(error),
        name,
        *failures_to_text(error.failures),
        *([advice] if _has_traceback(error) else []),
    ]


def usage_error_to_lines(error: ShardedStoreError) -> list[str]:
    """Return the text of an error that the caller caused, for IPython."""
    return [*_caller_lines(error), f"{type(error).__name__}: {error}"]


def _caller_lines(error: BaseException) -> list[str]:
    """Return the last frames of the caller, without this package, the frames below it, and installed packages."""
    frames = extract_tb(error.__traceback__)
    own = next((i for i, frame in enumerate(frames) if frame.filename.startswith(OWN)), len(frames))
    callers = [frame for frame in frames[:own] if not any(part in frame.filename for part in INSTALLED)]
    return ["Traceback (most recent call last):", *_lines(callers[-MOST_FRAMES:])]


def _lines(frames: list[FrameSummary]) -> Iterator[str]:
    for frame, text in zip(frames, format_list(frames), strict=True):
        first, *others = text.rstrip().splitlines()
        yield first.replace(f'File "{frame.filename}"', _cell(frame.filename) or f'File "{frame.filename}"')
        yield from others


def _cell(filename: str) -> str:
    """Return the name of a cell of IPython, such as ``Cell In[3]``; empty for another file."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return "" if shell is None else " ".join(shell.compile.format_code_name(filename) or ())


def error_to_html(error: ShardsFailed) -> Html:
    """Return the message of an error and the table of its failures."""
    return failures_to_html(error.failures, error.message)
