"""Sizes of Dask's chunks that fit the blocks of a divided array."""

from __future__ import annotations

import math

from shardedstore.zarr.grid import Coords


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
