"""Charts as HTML and inline SVG, which fit the width of the page and take its text colour."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from dask.utils import format_time

from shardedstore.display.html import BLUE, FAINT, RED, Html, html_text
from shardedstore.text import shown

TEXT = 'fill="currentColor" font-size="12"'
LINE_HEIGHT = 18
BAR, GAP = 10, 4
LONGEST = "min(66%, 100% - 21em)"  # of the longest bar; the number stands behind it
MOST_LABEL = 64  # characters, which fit a line of a narrow window
LABEL = "font-size:12px;overflow-wrap:anywhere"
LEVELS = (0.25, 0.5, 0.75, 1.0)  # of the opacity, by the share of busy threads
NARROWEST = 0.002  # of the width of a chart, so that a short shard is visible


class Bar(NamedTuple):
    """One bar: the value, its colour, and its text."""

    value: float
    color: str
    text: str


class Interval(NamedTuple):
    """A bar on a time axis, with the text of its tooltip."""

    begun: float
    seconds: float
    color: str
    text: str


def bar_chart(groups: Iterable[tuple[str, Sequence[Bar]]]) -> Html:
    """Return horizontal bars in groups, each below its label; all have one scale."""
    found = [(label, [bar for bar in bars if bar.value]) for label, bars in groups]
    most = max((bar.value for _, bars in found for bar in bars), default=1.0)
    return html_text(*(_group(label, bars, most) for label, bars in found))


def _group(label: str, bars: Sequence[Bar], most: float) -> Html:
    lines = (
        f'<div style="display:flex;align-items:center;gap:5px;line-height:1.2">'
        f'<span style="flex:none;height:{BAR}px;width:calc({LONGEST} * {bar.value / most:.4f});min-width:3px;'
        f'border-radius:2px;background:{bar.color}"></span><span style="opacity:.75">{html_text(bar.text)}</span></div>'
        for bar in bars
    )
    return Html(
        f'<div style="{LABEL};margin-bottom:{GAP}px">{html_text(shown(label, MOST_LABEL))}{"".join(lines)}</div>'
    )


def time_axis(seconds: float) -> Html:
    """Return the labels of a time axis: its start, its middle and its end."""
    places = (("0", "start", 0.0), ("50%", "middle", seconds / 2), ("100%", "end", seconds))
    texts = (
        f'<text x="{x}" y="12" text-anchor="{anchor}" {TEXT} opacity=".75">{format_time(at) if at else "0"}</text>'
        for x, anchor, at in places
    )
    return _svg(LINE_HEIGHT + 1, texts)


def interval_chart(label: str, intervals: Sequence[Interval], seconds: float) -> Html:
    """Return intervals on a time axis; those that overlap are below each other."""
    lanes = _lanes(intervals)
    drawn: list[str] = []
    for y, lane in enumerate(lanes):
        for one in lane:
            width = max(one.seconds, NARROWEST * seconds)
            drawn.append(
                f'<rect x="{one.begun:.3f}" y="{y}.06" width="{width:.3f}" height=".88" fill="{one.color}" '
                f'stroke="#fff" stroke-opacity=".7" stroke-width="1" vector-effect="non-scaling-stroke"><title>{html_text(one.text)}</title></rect>'
            )
    return _row(label, drawn, seconds, len(lanes))


def _lanes(intervals: Sequence[Interval]) -> list[list[Interval]]:
    lanes: list[list[Interval]] = []
    for one in sorted(intervals):
        free = (lane for lane in lanes if lane[-1].begun + lane[-1].seconds <= one.begun + 1e-3)
        lane = next(free, None)
        if lane is None:
            lanes.append([one])
        else:
            lane.append(one)
    return lanes


def heat_row(label: str, values: Sequence[float], parts: float) -> Html:
    """Return a row of equal parts, each of an opacity by its share of 1; `parts` is the length of the axis in parts."""
    levels: dict[float, list[str]] = {}
    for i, value in enumerate(values):
        if value > 0:
            level = next(level for level in (*LEVELS[:-1], 1.0) if value <= level or level == 1.0)
            levels.setdefault(level, []).append(f"M{i} .06h1v.88h-1z")
    drawn = (f'<path d="{"".join(some)}" fill="{BLUE}" opacity="{level}"/>' for level, some in levels.items())
    return _row(label, drawn, parts, 1)


def rate_chart(label: str, values: Sequence[float], parts: float, show: Callable[[float], str], color: str) -> Html:
    """Return columns for a quantity over time; the label tells the highest."""
    most = max(values, default=0.0)
    if most <= 0:
        return Html("")
    columns = "".join(f"M{i} 3h1v-{3 * value / most:.3f}h-1z" for i, value in enumerate(values) if value > 0)
    return _row(f"{label}: at most {show(most)}", [f'<path d="{columns}" fill="{color}"/>'], parts, 3)


def failure_marks(values: Sequence[int], parts: float, label: str) -> Html:
    """Return a row with a mark for each part in which something failed; empty if nothing did."""
    marks = "".join(f"M{i} .06h1v.88h-1z" for i, value in enumerate(values) if value)
    return _row(label, [f'<path d="{marks}" fill="{RED}"/>'], parts, 1) if marks else Html("")


def _row(label: str, drawn: Iterable[str], length: float, lanes: int) -> Html:
    """Return a label, and below it a strip with its own coordinates: `length` wide, and 1 high for each lane."""
    strip = (
        f'<rect width="100%" height="100%" fill="{FAINT}"/>'
        f'<svg width="100%" height="100%" viewBox="0 0 {max(length, 1e-3):.3f} {lanes}" preserveAspectRatio="none">{"".join(drawn)}</svg>'
    )
    picture = _svg(lanes * (BAR + 2), [strip])
    return Html(
        f'<div style="{LABEL};line-height:1.3;margin-bottom:{GAP}px">{html_text(shown(label, MOST_LABEL))}{picture}</div>'
    )


def _svg(height: float, parts: Iterable[str]) -> Html:
    style = "display:block;font-family:inherit;overflow:visible"
    return Html(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="100%" height="{height}" style="{style}">{"".join(parts)}</svg>'
    )
