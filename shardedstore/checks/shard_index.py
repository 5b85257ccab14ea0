"""Check the index of an object of the sharding codec: checksum, ranges and overlaps."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from operator import add, mul
from typing import Any, NamedTuple

import google_crc32c
import numpy as np

from shardedstore.codecs.sharding import MISSING, NestedIndex, ShardIndex
from shardedstore.zarr.grid import Coords

Read = Callable[[int, int], bytes | memoryview]  # returns the bytes of a range
MOST_INDEX = 1 << 28  # bytes


class InnerPart(NamedTuple):
    """The bytes of an inner chunk in an object, and its place in the object's grid; or an error in place of them."""

    place: Coords
    start: int = 0
    nbytes: int = 0
    error: str = ""


def parts_of(
    index: ShardIndex | NestedIndex, grid: Coords, nbytes: int, read: Read, start: int = 0
) -> Iterator[InnerPart]:
    """Yield the inner chunks of an object, and its errors.

    Parameters
    ----------
    index : ShardIndex or NestedIndex
        The format of the index.
    grid : tuple of int
        The number of innermost chunks along each dimension.
    nbytes : int
        The size of the object.
    read : callable
        Returns the bytes of a range.
    start : int
        The offset of the object, if it lies inside another one.
    """
    outer, outer_grid = (index.outer, index.outer_grid) if isinstance(index, NestedIndex) else (index, grid)
    pairs = _pairs(outer, nbytes, lambda first, stop: read(start + first, start + stop))
    if isinstance(pairs, str):
        yield InnerPart((0,) * len(grid), error=pairs)
        return
    body = range(nbytes - outer.nbytes) if outer.at_end else range(outer.nbytes, nbytes)
    yield from _overlaps(outer_grid, pairs, body.stop)
    for place, (offset, length) in zip(itertools.product(*map(range, outer_grid)), pairs.tolist(), strict=True):
        if offset == length == MISSING:
            continue
        if offset < body.start or offset + length > body.stop:
            where = f"bytes {offset:,} to {offset + length:,}, outside of {body.start:,} to {body.stop:,}"
            yield InnerPart(_first(index, place), error=f"its index has an inner chunk at {where}")
        elif isinstance(index, NestedIndex):
            inner_start = _first(index, place)
            for part in parts_of(index.inner, index.inner_grid, length, read, start + offset):
                yield part._replace(place=tuple(map(add, inner_start, part.place)))
        else:
            yield InnerPart(place, start + offset, length)


def _first(index: ShardIndex | NestedIndex, place: Coords) -> Coords:
    return tuple(map(mul, place, index.inner_grid)) if isinstance(index, NestedIndex) else place


def _pairs(index: ShardIndex, nbytes: int, read: Read) -> np.ndarray[Any, Any] | str:
    """Return the offsets and lengths, or an error."""
    if nbytes < index.nbytes:
        return f"it has {nbytes:,} bytes, fewer than its index of {index.nbytes:,}"
    if index.nbytes > MOST_INDEX:
        return f"its index has {index.nbytes:,} bytes, more than {MOST_INDEX:,}"
    stored = bytes(read(nbytes - index.nbytes, nbytes) if index.at_end else read(0, index.nbytes))
    for _ in range(index.checksums):
        stored, checksum = stored[:-4], stored[-4:]
        if google_crc32c.value(stored) != int.from_bytes(checksum, "little"):
            return "the checksum of its index does not match"
    return np.frombuffer(stored, f"{index.order}u8").reshape(-1, 2)


def _overlaps(grid: Coords, pairs: np.ndarray[Any, Any], stop: int) -> Iterator[InnerPart]:
    """Yield an error for the first inner chunks inside the object that share bytes."""
    inside = np.flatnonzero((pairs[:, 0] <= stop) & (pairs[:, 1] <= stop) & (pairs[:, 1] > 0))
    order = inside[np.argsort(pairs[inside, 0], kind="stable")]
    starts, lengths = pairs[order, 0], pairs[order, 1]
    wrong = np.flatnonzero((starts[1:] - starts[:-1] < lengths[:-1]) & (starts[1:] + lengths[1:] <= stop))
    if len(wrong):
        one, other = (tuple(map(int, np.unravel_index(int(order[i]), grid))) for i in (wrong[0], wrong[0] + 1))
        yield InnerPart(other, error=f"its index gives the inner chunks {one} and {other} the same bytes")
