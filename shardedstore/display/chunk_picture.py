"""A picture of the chunks of an array and of its division into shards, as SVG, in the manner of Dask.

Up to three dimensions are one box. More dimensions are several boxes beside each other, the leading dimensions first. Thin
lines are the edges of chunks and thick lines those of shards. The first shard and the first chunk are filled. Of many lines
only some are drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from shardedstore.display.html import BLUE, ORANGE, Html, html_text
from shardedstore.text import shown

SIZE = 110.0  # pixels of the longest side
APART = 6.0  # pixels between two lines of one kind; of more lines only some are drawn
MOST_BOXES = 3
DEEP = (0.55, -0.4)  # the direction of the first of three dimensions, to the right and up
MARGIN = 3.0
LETTER = 6.4  # pixels
FONT = 11

Point = tuple[float, float]


class Edge(NamedTuple):
    """A dimension of a box: its label, its length in pixels, and the size of chunks and shards as shares of it."""

    label: str
    pixels: float
    chunk: float
    shard: float


class Face(NamedTuple):
    """A visible face of a box: a corner, its two dimensions and their directions; `is_far` if it is at the end of the third."""

    corner: Point
    across: int
    along: int
    right: Point
    down: Point
    hidden: int | None = None  # a dimension at whose end the face lies


def chunk_picture(
    shape: Sequence[int],
    chunks: Sequence[int] | None,
    shard: Sequence[int] | None,
    dims: Sequence[str | None] | None = None,
) -> Html:
    """Return the picture of an array; empty for a scalar and for an array without elements.

    >>> picture = chunk_picture((720, 4), (24, 4), (240, 4), ("<time>", None))
    >>> picture.count("<svg"), "&lt;time&gt; 720" in picture
    (1, True)
    """
    if not shape or not all(shape):
        return Html("")
    sides = [
        (_label(n, None if dims is None else dims[i]), n, _share(chunks, i, n), _share(shard, i, n))
        for i, n in enumerate(shape)
    ]
    first = len(sides) % 3 or 3
    groups = [sides[:first], *(sides[i : i + 3] for i in range(first, len(sides), 3))]
    return Html("".join(_box(_sized(group), shard is not None) for group in groups[:MOST_BOXES]))


def _label(length: int, name: str | None) -> str:
    return f"{shown(name, 18)} {length:,}" if name else f"{length:,}"


def _share(sizes: Sequence[int] | None, i: int, length: int) -> float:
    return 1.0 if sizes is None else min(1.0, sizes[i] / length)


def _sized(group: Sequence[tuple[str, int, float, float]]) -> list[Edge]:
    """Return sides with lengths in pixels; short sides are drawn longer than they are."""
    longest = max(length for _, length, _, _ in group)
    return [Edge(label, SIZE / _response(longest / length), chunk, shard) for label, length, chunk, shard in group]


def _response(ratio: float) -> float:
    return ratio if ratio < math.e else math.log(min(ratio, 100) + 12.4)


def _box(sides: Sequence[Edge], is_divided: bool) -> str:
    """Return the picture of one to three dimensions: width and height, and the depth if there are three."""
    if len(sides) == 1:
        sides = [Edge("", 14.0, 1.0, 1.0), *sides]
    depth = sides[0].pixels if len(sides) == 3 else 0.0
    back = (DEEP[0] * depth, DEEP[1] * depth)
    height, width = sides[-2], sides[-1]
    left = MARGIN + (len(sides) == 3) * max(0.0, LETTER * len(sides[0].label) - back[0] / 2 + 4)
    top = MARGIN - back[1]
    faces = _faces((left, top), len(sides), width.pixels, height.pixels, back)
    body = "".join(
        (
            *(_polygon(_corners(face, 1, 1), 'fill="currentColor" fill-opacity=".05"') for face in faces),
            *(_first(face, sides, _shard_of, BLUE, 0.4) for face in faces if is_divided),
            *(_first(face, sides, _chunk_of, ORANGE, 0.75) for face in faces),
            _lines(faces, sides, _chunk_of, 'stroke="currentColor" stroke-opacity=".35" stroke-width=".7"'),
            _lines(faces, sides, _shard_of, f'stroke="{BLUE}" stroke-width="1.7"') if is_divided else "",
            *(_polygon(_corners(face, 1, 1), 'fill="none" stroke="currentColor" stroke-width="1.1"') for face in faces),
        )
    )
    bottom, right = top + height.pixels, left + width.pixels
    texts = [
        _text(left + width.pixels / 2, bottom + FONT + 3, "middle", width.label),
        _text(right + back[0] + 5, top + height.pixels / 2 + back[1] / 2 + 4, "start", height.label),
    ]
    if len(sides) == 3:
        texts.append(_text(left + back[0] / 2 - 5, top + back[1] / 2 + 2, "end", sides[0].label))
    whole = max(
        right + back[0] + 8 + LETTER * len(height.label), left + width.pixels / 2 + LETTER * len(width.label) / 2
    )
    style = "display:inline-block;vertical-align:middle;margin:.3em 1em .3em 0;max-width:100%;font-family:inherit"
    size = f'width="{whole:.0f}" height="{bottom + FONT + 7:.0f}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {whole:.0f} {bottom + FONT + 7:.0f}" style="{style}">'
        f"{body}{''.join(texts)}</svg>"
    )


def _faces(corner: Point, count: int, width: float, height: float, back: Point) -> list[Face]:
    x, y = corner
    front = Face((x, y), count - 1, count - 2, (width, 0), (0, height))
    if count < 3:
        return [front]
    return [front, Face((x, y), 2, 0, (width, 0), back), Face((x + width, y), 0, 1, back, (0, height), hidden=2)]


def _shard_of(side: Edge) -> float:
    return side.shard


def _chunk_of(side: Edge) -> float:
    return side.chunk


def _at(face: Face, across: float, along: float) -> Point:
    return (
        face.corner[0] + across * face.right[0] + along * face.down[0],
        face.corner[1] + across * face.right[1] + along * face.down[1],
    )


def _corners(face: Face, across: float, along: float) -> list[Point]:
    return [_at(face, 0, 0), _at(face, across, 0), _at(face, across, along), _at(face, 0, along)]


def _polygon(points: Sequence[Point], style: str) -> str:
    return f'<path d="M{"L".join(f"{x:.1f} {y:.1f}" for x, y in points)}z" {style}/>'


def _first(face: Face, sides: Sequence[Edge], share: Callable[[Edge], float], color: str, opacity: float) -> str:
    """Return the filled part of the first chunk or shard on a face; empty where it does not reach the face."""
    if face.hidden is not None and share(sides[face.hidden]) < 1:
        return ""
    corners = _corners(face, share(sides[face.across]), share(sides[face.along]))
    return _polygon(corners, f'fill="{color}" fill-opacity="{opacity}"')


def _lines(faces: Sequence[Face], sides: Sequence[Edge], share: Callable[[Edge], float], style: str) -> str:
    """Return the edges of chunks or shards on all faces as one path."""
    ends = [
        ends
        for face in faces
        for ends in (
            *((_at(face, cut, 0), _at(face, cut, 1)) for cut in _cuts(share(sides[face.across]), face.right)),
            *((_at(face, 0, cut), _at(face, 1, cut)) for cut in _cuts(share(sides[face.along]), face.down)),
        )
    ]
    path = "".join(f"M{a[0]:.1f} {a[1]:.1f}L{b[0]:.1f} {b[1]:.1f}" for a, b in ends)
    return f'<path d="{path}" fill="none" {style}/>' if path else ""


def _cuts(share: float, side: Point) -> Iterator[float]:
    """Yield the places of the inner edges of equal parts, as shares of a side; of many parts only some edges.

    >>> [round(cut, 2) for cut in _cuts(0.3, (90, 0))], len(list(_cuts(0.0001, (90, 0))))
    ([0.3, 0.6, 0.9], 14)
    """
    count = math.ceil(round(1 / share, 9)) - 1
    step = max(1, math.ceil(count * APART / math.hypot(*side)))
    return (share * i for i in range(step, count + 1, step))


def _text(x: float, y: float, anchor: str, text: str) -> str:
    if not text:
        return ""
    style = f'font-size="{FONT}" fill="currentColor" fill-opacity=".8"'
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {style}>{html_text(text)}</text>'
