"""How arrays are divided where the user only says a size."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from shardedstore.grid import Blocks
from shardedstore.metadata import ArrayMeta


def automatic(meta: ArrayMeta, size: int) -> Blocks | None:
    """Return blocks of about `size` decoded bytes, of whole chunks; None for an array that is no larger.

    Leading dimensions are divided first, so that a block is one run of chunks in C order.

    >>> from shardedstore.grid import ChunkKeys
    >>> meta = ArrayMeta(3, (100, 40), (10, 10), ChunkKeys("default", "/"), None, 1)
    >>> automatic(meta, 900).chunks, automatic(meta, 250).chunks, automatic(meta, 10_000)
    ((2,), (1, 2), None)
    """
    if meta.chunks is None or meta.keys is None or not meta.shape or meta.nbytes <= size:
        return None
    chunks: list[int] = []
    for axis, count in enumerate(meta.chunk_grid):
        row = meta.chunk_nbytes * math.prod(meta.chunk_grid[axis + 1 :])
        chunks.append(max(1, min(count, size // row)) if row else count)
        if row <= size:
            break
    return Blocks(meta.chunk_grid, tuple(chunks), meta.keys)


def overflowing(sizes: Mapping[str, int], others: int, most: int) -> Iterator[str]:
    """Yield the arrays that are to be shards of their own, the largest first, so that the base holds no more than `most` bytes.

    `sizes` are those of the arrays that may be, and `others` of what stays in the base in any case: where that is more already, none
    are.

    >>> list(overflowing({"a": 5, "b": 8, "c": 1}, 2, 8))
    ['b']
    """
    left = others + sum(sizes.values())
    for path in sorted(sizes, key=lambda path: (-sizes[path], path)):
        if left <= most or others > most:
            break
        left -= sizes[path]
        yield path
