"""Show a comparison of codecs: a table for all arrays, a table for each array, and a plot."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from dask.utils import format_bytes

from shardedstore.display.charts import Bar, bar_chart
from shardedstore.display.html import (
    BLUE,
    GREEN,
    ORANGE,
    Html,
    html_fold,
    html_frame,
    html_list,
    html_table,
    html_text,
)
from shardedstore.display.tables import aligned, terminal_table
from shardedstore.errors import UsageError
from shardedstore.jobs.growth import LARGER
from shardedstore.text import count, shown

if TYPE_CHECKING:
    from rich.console import RenderableType

    from shardedstore.choose.codec_comparison import CodecComparison, CodecRow

FEW = 3  # arrays with a table of their own in a repr
MOST = 32
HEADS = ("codec", "codecs", ">ratio", ">size", ">of now", ">in MB/s", ">out MB/s")
TINY = 0.01  # share of all bytes below which an array is not named


def _title(found: CodecComparison) -> str:
    first = found.total[0]
    arrays = {row.array for row in found.rows} - {""}
    return f"Codecs on {format_bytes(first.nbytes)} of {count(len(arrays), 'array')}, with one thread"


def _cells(row: CodecRow, now: CodecRow) -> tuple[str, ...]:
    if row.error and row.array:
        return (row.codec, shown(row.error, 60))
    return (
        row.codec,
        shown(row.codecs, 28),
        f"{row.ratio:.2f}",
        format_bytes(row.whole),
        f"{row.whole / now.whole:,.0%}" if now.whole else "",
        f"{row.encode_rate / 1e6:,.0f}",
        f"{row.decode_rate / 1e6:,.0f}",
    )


def _tables(found: CodecComparison, most: int | None) -> Iterator[tuple[str, list[CodecRow]]]:
    """Yield the rows of all arrays, and of each array."""
    paths = list(dict.fromkeys(row.array for row in found.rows if row.array))
    yield "all arrays", list(found.total)
    if len(paths) > 1:
        for path in paths[:most]:
            yield f"/{path}", list(found.of_array(path))


def _notes(found: CodecComparison) -> list[str]:
    errors = (f"{row.codec}: {row.error}" for row in found.total if row.error)
    return [*errors, *_larger(found), *found.notes]


def _larger(found: CodecComparison) -> Iterator[str]:
    """Yield a note for each codec that makes arrays larger which are not tiny."""
    first = found.total[0]
    now = {row.array: row.whole for row in found.rows if row.codec == first.codec}
    for codec in (row.codec for row in found.total):
        grown = [
            f"/{row.array} by {row.whole / now[row.array] - 1:,.0%}"
            for row in found.rows
            if row.codec == codec and row.array and row.whole > LARGER * now[row.array] > TINY * first.whole
        ]
        if grown:
            more = f" and {count(len(grown) - FEW, 'more array')}" if len(grown) > FEW else ""
            yield f"{codec} makes larger: {', '.join(grown[:FEW])}{more}"


def codecs_to_text(found: CodecComparison) -> str:
    """Return a comparison as lines; the largest arrays have a table of their own."""
    lines = [_title(found)]
    heads = tuple(head.lstrip(">") for head in HEADS)
    for title, rows in _tables(found, FEW):
        lines += ["", title, *(f"  {line}" for line in aligned([heads, *(_cells(row, rows[0]) for row in rows)]))]
    left = len({row.array for row in found.rows}) - 1 - FEW
    if left > 0:
        lines += ["", f"... and {count(left, 'more array')}: see to_dataframe()"]
    return "\n".join([*lines, *([""] if _notes(found) else []), *(f"note: {note}" for note in _notes(found))])


def codecs_to_rich(found: CodecComparison) -> RenderableType:
    """Return a comparison for a terminal."""
    from rich.console import Group
    from rich.text import Text

    parts: list[Any] = [Text(_title(found), style="bold")]
    for title, rows in _tables(found, FEW):
        parts += [Text(title), terminal_table(HEADS, (_cells(row, rows[0]) for row in rows), len(rows))]
    return Group(*parts, *(Text(f"note: {note}", style="yellow") for note in _notes(found)))


def codecs_to_html(found: CodecComparison) -> Html:
    """Return a comparison for a notebook: the table of all arrays, bars, and a folded table of each array."""
    (_, total), *others = _tables(found, MOST)
    tables = [
        html_fold(title, _html_table(rows), is_open=number < FEW and len(others) <= FEW)
        for number, (title, rows) in enumerate(others)
    ]
    return html_frame(_title(found), [], _html_table(total), _chart(total), *tables, html_list(_notes(found)))


def _html_table(rows: Sequence[CodecRow]) -> Html:
    return html_table(HEADS, (_cells(row, rows[0]) for row in rows), len(rows))


def _chart(rows: Iterable[CodecRow]) -> Html:
    some = list(islice(rows, MOST))
    sizes = bar_chart((row.codec, [Bar(row.whole, BLUE, format_bytes(row.whole))]) for row in some)
    speeds = bar_chart((row.codec, list(_speeds(row))) for row in some)
    return html_text(html_fold("sizes", sizes, is_open=True), html_fold("speeds of one thread", speeds))


def _speeds(row: CodecRow) -> Iterator[Bar]:
    for rate, color, verb in ((row.encode_rate, ORANGE, "in"), (row.decode_rate, GREEN, "out")):
        yield Bar(rate, color, f"{rate / 1e6:,.0f} MB/s {verb}")


def plot_codecs(found: CodecComparison, array: str, axes: Any) -> Any:
    """Draw sizes against speeds with matplotlib; see `CodecComparison.plot`."""
    rows = found.of_array(array)
    if not rows:
        known = ", ".join(sorted(repr(path) for path in {row.array for row in found.rows} - {""}))
        raise UsageError(f"the comparison has no array {array!r}: it has {known}")
    try:
        import matplotlib.pyplot as plt  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        raise UsageError("a plot needs matplotlib, which is not installed: pip install matplotlib") from None
    if axes is None:
        axes = plt.subplots(layout="constrained")[1]
    for row in rows:
        if not row.error or not row.array:
            _draw(axes, row)
    axes.set_xscale("log")
    axes.set_xlabel("MB/s of one thread (circle: in, triangle: out)")
    axes.set_ylabel("decoded size / stored size")
    axes.set_ylim(0, 1.1 * max(row.ratio for row in rows))
    axes.set_title(f"/{array}" if array else "all arrays")
    axes.legend()
    return axes


def _draw(axes: Any, row: CodecRow) -> None:
    rates = [row.encode_rate / 1e6, row.decode_rate / 1e6]
    (line,) = axes.plot(rates, [row.ratio] * 2, label=row.codec)
    for rate, marker in zip(rates, "o>", strict=True):
        axes.plot([rate], [row.ratio], marker, color=line.get_color())
