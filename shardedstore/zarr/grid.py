"""Chunk keys, chunk coordinates and blocks of chunks: pure arithmetic.

There are three kinds of coordinates: a chunk's in the whole array's grid, a block's (a shard's) in the grid of blocks,
and a chunk's local coordinates inside its block, which start at zero.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from operator import getitem, le
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import Meta

from shardedstore.fields import Ranges, Sizes

MOST_NUMBERS = 1 << 16  # entries that a table of parts of keys keeps
Coords = tuple[int, ...]
KeyName = Literal["default", "v2"]
Separator = Literal[".", "/"]


class ChunkKeys(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Encoding of chunk coordinates as keys: Zarr v3's ``chunk_key_encoding``, which also covers Zarr v2.

    >>> ChunkKeys("default", "/").encode((1, 20)), ChunkKeys("v2", ".").encode((1, 20))
    ('c/1/20', '1.20')
    >>> ChunkKeys("default", "/").encode(()), ChunkKeys("v2", ".").encode(())
    ('c', '0')
    """

    name: Annotated[KeyName, Meta(description="`default` for keys such as `c/1/20`; `v2` for keys such as `1.20`.")]
    separator: Annotated[Separator, Meta(description="The character between two coordinates.")]

    def encode(self, coords: Coords) -> str:
        """Return the key of a chunk, relative to its array."""
        numbers = self.separator.join(map(str, coords))
        if self.name == "default":
            return f"c{self.separator}{numbers}" if coords else "c"
        return numbers or "0"

    def encode_box(self, ranges: Sequence[range]) -> Iterator[str]:
        """Yield the keys of all chunks of a box, in C order.

        >>> list(ChunkKeys("default", "/").encode_box([range(1, 3), range(2)]))
        ['c/1/0', 'c/1/1', 'c/2/0', 'c/2/1']
        """
        if not ranges:
            return iter([self.encode(())])
        start = f"c{self.separator}" if self.name == "default" else ""
        first, *rest = ([str(i) for i in box] for box in ranges)
        return map(self.separator.join, itertools.product([start + number for number in first], *rest))

    def decode(self, key: str, grid: Coords) -> Coords | None:
        """Return the coordinates of a chunk, or None if the key is not a chunk of this grid.

        >>> keys = ChunkKeys("default", "/")
        >>> keys.decode("c/1/20", (2, 21)), keys.decode("c/1/20", (2, 20)), keys.decode("c/01/20", (2, 21))
        ((1, 20), None, None)
        """
        parts = key.split(self.separator)
        if self.name == "default":
            del parts[0]
        elif not grid:
            parts.clear()
        try:
            coords = tuple([int(part) for part in parts])
        except ValueError:
            return None
        if (
            len(coords) != len(grid) or self.encode(coords) != key
        ):  # int also accepts forms that zarr never writes: 01, +1, 1_0
            return None
        for c, n in zip(coords, grid, strict=True):
            if not 0 <= c < n:
                return None
        return coords

    def misfit(self, key: str, grid: Coords) -> ChunkKeys | None:
        """Return another encoding for which the key is a chunk of this grid, or None.

        >>> ChunkKeys("v2", ".").misfit("1/20", (2, 21)), ChunkKeys("v2", ".").misfit("1/x", (2, 21))
        (ChunkKeys(name='v2', separator='/'), None)
        """
        return next((keys for keys in ENCODINGS if keys != self and keys.decode(key, grid) is not None), None)


class KeyParser:
    """Decodes many chunk keys of one grid: five times as fast as `ChunkKeys.decode`, by tables of numbers.

    >>> parse = KeyParser(ChunkKeys("default", "/"), (2, 21))
    >>> parse("c/1/20"), parse("c/2/20"), parse("c/01/20"), parse("1/20")
    ((1, 20), None, None, None)
    >>> KeyParser(ChunkKeys("v2", "."), ())("0"), KeyParser(ChunkKeys("v2", "."), ())("1")
    ((), None)
    """

    def __init__(self, keys: ChunkKeys, grid: Coords) -> None:
        self._separator = keys.separator
        self._start = [{"c": ()}] if keys.name == "default" else [] if grid else [{"0": ()}]
        self._tables: list[Mapping[str, Any]] = [*self._start, *map(_Numbers, grid)]

    def __call__(self, key: str) -> Coords | None:
        """Return the coordinates of a chunk, or None if the key is not a chunk of the grid."""
        parts = key.split(self._separator)
        if len(parts) != len(self._tables):
            return None
        try:
            coords = tuple(map(getitem, self._tables, parts))
        except KeyError:
            return None
        return coords[1:] if self._start else coords


class _Numbers(dict[str, int]):
    """The numbers below a limit by their texts; it is emptied when it is full."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit

    def __missing__(self, text: str) -> int:
        if len(text) > 20 or not text.isdecimal() or str(number := int(text)) != text or number >= self._limit:
            raise KeyError(text)
        if len(self) >= MOST_NUMBERS:
            self.clear()
        self[text] = number
        return number


ENCODINGS = tuple(ChunkKeys(name, separator) for name in get_args(KeyName) for separator in get_args(Separator))


BELOW_C = ChunkKeys("default", "/")  # all its keys are below one folder, "c"


def place_of(index: Coords, grid: Coords) -> int:
    """Return the position of an index in a grid, counted in C order.

    >>> place_of((1, 2), (3, 5)), place_of((), ())
    (7, 0)
    """
    place = 0
    for i, n in zip(index, grid, strict=True):
        place = place * n + i
    return place


def index_of(place: int, grid: Coords) -> Coords:
    """Return the index at a position in a grid, counted in C order: the inverse of `place_of`.

    >>> index_of(7, (3, 5)), index_of(0, ())
    ((1, 2), ())
    """
    index: list[int] = []
    for n in reversed(grid):
        place, i = divmod(place, n)
        index.append(i)
    return tuple(reversed(index))


class Blocks(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, dict=True):
    """An array's chunk grid, divided into blocks along its leading dimensions.

    Examples
    --------
    >>> blocks = Blocks((7, 5), (3,), ChunkKeys("default", "/"))
    >>> blocks.grid, blocks.count, blocks.index(2), blocks.number((2,))
    ((3,), 3, (2,), 2)
    >>> blocks.split((6, 4)), blocks.join((2,), (0, 4))
    (((2,), (0, 4)), (6, 4))
    >>> some = Blocks((7, 5), (3,), ChunkKeys("default", "/"), ((0, 1), (2, 3)))
    >>> some.count, some.index(1), some.number((2,)), some.holds((1,))
    (2, (2,), 1, False)
    >>> blocks.local_grid((2,)), blocks.box((2,))
    ((1, 5), [range(6, 7), range(0, 5)])
    """

    chunk_grid: Annotated[Sizes, Meta(description="The number of chunks along each dimension of the whole array.")]
    chunks: Annotated[
        Sizes,
        Meta(
            description="The number of chunks in a block along each leading dimension. The remaining dimensions are not divided."
        ),
    ]
    keys: Annotated[ChunkKeys, Meta(description="The encoding of chunk keys, in the whole array and in its blocks.")]
    stored: Annotated[
        Ranges | None,
        Meta(
            description="The blocks that have chunks, if the others have none and are not stored. They are given as ranges [first, stop] of positions in the grid of blocks, in C order. Null means that all blocks are stored."
        ),
    ] = None

    def __post_init__(self) -> None:
        if len(self.chunks) > len(self.chunk_grid) or not self.chunks:
            raise ValueError(f"chunks {self.chunks} must name one to {len(self.chunk_grid)} dimensions")
        if min(self.chunks) < 1 or min(self.chunk_grid) < 1:
            raise ValueError(f"chunk_grid {self.chunk_grid} and chunks {self.chunks} must be positive")
        ends = [0, *itertools.chain.from_iterable(self.stored or ()), math.prod(self.grid)]
        is_in_order = all(map(le, ends, ends[1:])) and all(first < stop for first, stop in self.stored or ())
        if self.stored is not None and not (self.stored and is_in_order):
            raise ValueError(f"stored must be sorted ranges of block positions below {ends[-1]}, without overlap")

    @property
    def grid(self) -> Coords:
        """The number of blocks along each leading dimension."""
        return tuple(-(-n // c) for n, c in zip(self.chunk_grid, self.chunks, strict=False))

    @property
    def count(self) -> int:
        """The number of blocks, without those that are known to have no chunks."""
        return math.prod(self.grid) if self.stored is None else self._ranks[-1]

    @cached_property
    def _ranks(self) -> list[int]:
        """The number of stored blocks before each range, and their total."""
        return list(itertools.accumulate((stop - first for first, stop in self.stored or ()), initial=0))

    def holds(self, index: Coords) -> bool:
        """Tell whether a block of the grid may have chunks."""
        if self.stored is None:
            return True
        place = place_of(index, self.grid)
        nth = bisect_right(self.stored, (place, math.inf)) - 1
        return nth >= 0 and place < self.stored[nth][1]

    def index(self, number: int) -> Coords:
        """Return the index of the block with this number, counted in C order."""
        if self.stored is not None:
            nth = bisect_right(self._ranks, number) - 1
            number += self.stored[nth][0] - self._ranks[nth]
        return index_of(number, self.grid)

    def number(self, index: Coords) -> int:
        """Return the number of the block with this index, counted in C order."""
        place = place_of(index, self.grid)
        if self.stored is None:
            return place
        nth = bisect_right(self.stored, (place, math.inf)) - 1
        return place - self.stored[nth][0] + self._ranks[nth]

    def only(self, indices: Iterable[Coords]) -> Blocks:
        """Return the same division with only these blocks stored. The blocks must be sorted.

        >>> Blocks((7,), (1,), ChunkKeys("v2", ".")).only([(1,), (2,), (5,)]).stored
        ((1, 3), (5, 6))
        """
        ranges: list[tuple[int, int]] = []
        grid = self.grid
        for place in (place_of(index, grid) for index in indices):
            if ranges and ranges[-1][1] == place:
                ranges[-1] = ranges[-1][0], place + 1
            else:
                ranges.append((place, place + 1))
        return msgspec.structs.replace(self, stored=tuple(ranges))

    def split(self, coords: Coords) -> tuple[Coords, Coords]:
        """Return the block of a chunk, and the chunk's coordinates inside the block."""
        lead = len(self.chunks)
        block = tuple([c // n for c, n in zip(coords, self.chunks, strict=False)])
        local = tuple([c % n for c, n in zip(coords, self.chunks, strict=False)])
        return block, local + coords[lead:]

    def join(self, block: Coords, local: Coords) -> Coords:
        """Return a chunk's coordinates in the whole array from its block and local coordinates."""
        return tuple(map(sum, zip(self.offset(block), local, strict=True)))

    def offset(self, block: Coords) -> Coords:
        """Return the coordinates of a block's first chunk."""
        lead = tuple(b * n for b, n in zip(block, self.chunks, strict=True))
        return lead + (0,) * (len(self.chunk_grid) - len(lead))

    def local_grid(self, block: Coords) -> Coords:
        """Return the number of chunks of a block along each dimension.

        Blocks at the array's edge have fewer chunks.
        """
        lead = len(self.chunks)
        edge = zip(self.chunk_grid, self.chunks, block, strict=False)
        return tuple(min(n, total - b * n) for total, n, b in edge) + self.chunk_grid[lead:]

    def box(self, block: Coords) -> list[range]:
        """Return the coordinate ranges of a block's chunks in the whole array."""
        return [range(o, o + n) for o, n in zip(self.offset(block), self.local_grid(block), strict=True)]

    def crop(self, shape: Coords, chunk_shape: Coords, block: Coords) -> Coords:
        """Return the shape of a block in elements.

        `shape` and `chunk_shape` are the shapes of the whole array and of its chunks.

        >>> Blocks((4,), (3,), ChunkKeys("v2", ".")).crop((31,), (10,), (1,))
        (1,)
        """
        spans = zip(shape, chunk_shape, self.offset(block), self.local_grid(block), strict=True)
        return tuple(min(size, (first + n) * chunk) - first * chunk for size, chunk, first, n in spans)

    def within(self, block: Coords) -> bool:
        """Tell whether there is a block with this index."""
        return len(block) == len(self.chunks) and all(0 <= b < n for b, n in zip(block, self.grid, strict=True))


def block_name(block: Coords | None) -> str:
    """Return a block's index as text for names and URLs; empty if there is no block.

    >>> block_name((1, 20)), block_name(None)
    ('1/20', '')
    """
    return "/".join(map(str, block or ()))


def parse_block(name: str) -> Coords:
    """Return the index from the text that `block_name` returned.

    >>> parse_block("1/20")
    (1, 20)
    """
    return tuple(int(part) for part in name.split("/")) if name else ()


def preferred_chunks(shape: Coords, chunks: Coords, block: Coords, itemsize: int, most: int) -> Coords:
    """Return the shape of one block in elements, or of an equal part of it that has at most `most` bytes.

    A part is a whole number of chunks, and blocks are a whole number of parts. It is at least one chunk.

    Parameters
    ----------
    shape, chunks : tuple of int
        The shapes of the array and of its chunks, in elements.
    block : tuple of int
        The number of chunks of a block along each leading dimension; the other dimensions are not divided.
    itemsize : int
        The bytes of an element.
    most : int
        The largest size of a part in bytes.

    Examples
    --------
    >>> preferred_chunks((100, 8), (2, 4), (12,), 4, 1 << 20)
    (24, 8)
    >>> preferred_chunks((100, 8), (2, 4), (12,), 4, 200)
    (6, 8)
    """
    counts = [min(n, -(-size // step)) for n, size, step in zip(block, shape, chunks, strict=False)]
    counts += [-(-size // step) for size, step in zip(shape[len(block) :], chunks[len(block) :], strict=True)]
    for axis, whole in enumerate(counts):
        others = math.prod(counts[:axis] + counts[axis + 1 :]) * math.prod(chunks) * itemsize
        counts[axis] = _largest_part(whole, most // max(1, others))
    return tuple(min(count * step, size) for count, step, size in zip(counts, chunks, shape, strict=True))


def _largest_part(whole: int, most: int) -> int:
    """Return the largest divisor of a number that is at most `most`, and at least 1.

    >>> _largest_part(12, 100), _largest_part(12, 5), _largest_part(12, 0)
    (12, 4, 1)
    """
    return next(part for part in range(max(1, min(whole, most)), 0, -1) if whole % part == 0)
