"""Divide an array into blocks, by a size in bytes or by a shape in elements."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from shardedstore.errors import PartitionError
from shardedstore.zarr.grid import Blocks, Coords
from shardedstore.zarr.metadata import ArrayMeta

DEFAULT_SIZE = "1 GiB"  # size of shards if no rule applies


def automatic(meta: ArrayMeta, size: int) -> Blocks | None:
    """Return blocks of about `size` decoded bytes, made of whole chunks.

    Leading dimensions are divided first, so that a block is one run of chunks in C order. Return None if the array is
    not larger than `size`.

    >>> from shardedstore.zarr.grid import ChunkKeys
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
    """Yield the arrays to take out of the base, so that it holds at most `most` bytes.

    Parameters
    ----------
    sizes : mapping of str to int
        The sizes in bytes of the arrays that may be taken out. The largest are taken first.
    others : int
        The size in bytes of the other arrays in the base. If it is larger than `most`, no array is taken out.
    most : int
        The limit in bytes.

    >>> list(overflowing({"a": 5, "b": 8, "c": 1}, 2, 8))
    ['b']
    """
    left = others + sum(sizes.values())
    for path in sorted(sizes, key=lambda path: (-sizes[path], path)):
        if left <= most or others > most:
            break
        left -= sizes[path]
        yield path


def shape_of(meta: ArrayMeta, rule: Mapping[str, int] | Sequence[int], path: str) -> Coords:
    """Return the shape of shards that a rule asks for, in elements; -1 for a whole dimension."""
    ndim = len(meta.shape)
    if isinstance(rule, Mapping):
        names = meta.dimension_names or ()
        unknown = [name for name in rule if name not in names]
        if unknown:
            has = ", ".join(map(repr, names)) if any(names) else "no named dimensions"
            raise PartitionError(f"{path!r} has no dimension {unknown[0]!r}: it has {has}")
        shape = tuple(rule.get(name, -1) if name is not None else -1 for name in names)
    else:
        shape = tuple(rule)
        if len(shape) != ndim:
            raise PartitionError(f"shards[{path!r}] has {len(shape)} sizes, but the array has {ndim} dimensions")
    for axis, size in enumerate(shape):
        chunk = meta.chunks[axis] if meta.chunks else 1
        if size == -1 or size >= meta.shape[axis] or size % chunk == 0:
            continue
        below, above = size // chunk * chunk, (size // chunk + 1) * chunk
        named = meta.dimension_names[axis] if meta.dimension_names else None
        near = f"{below} or {above}" if below else f"{above}"
        raise PartitionError(
            f"shards of {path!r} have {size} elements along dimension {named if named is not None else axis!r}, which is not a "
            f"multiple of its chunk size {chunk}: use {near}"
        )
    return shape


SMALL = 100  # an array this many times smaller than the largest one is not worth an object for each block


def is_too_small(meta: ArrayMeta, rule: Mapping[str, int], largest: int) -> bool:
    """Tell whether an array, such as a coordinate, is too small for a rule that divides others.

    A one-dimensional array that would be one block is too small. So is an array whose chunks do not fit the rule, if it has
    one dimension, has one chunk along a dimension of the rule, or is much smaller than the largest array.
    """
    sizes = dict(zip(meta.dimension_names or (), zip(meta.shape, meta.chunks or meta.shape, strict=True), strict=False))
    asked = [(size, *sizes[name]) for name, size in rule.items()]
    if all(size == -1 or size >= length for size, length, _ in asked):
        return len(meta.shape) == 1
    misfits = [(length, chunk) for size, length, chunk in asked if -1 != size < length and size % chunk]
    is_minor = len(meta.shape) == 1 or meta.nbytes * SMALL <= largest
    return bool(misfits) and (is_minor or any(length <= chunk for length, chunk in misfits))


def to_blocks(meta: ArrayMeta, shape: Sequence[int]) -> Blocks:
    """Return the blocks of a shape in elements; -1 stands for a whole dimension.

    Dimensions after the last divided one are not part of a block's index.
    """
    assert meta.chunks is not None
    assert meta.keys is not None
    grid = meta.chunk_grid
    lead = max((i for i, size in enumerate(shape) if size != -1), default=0) + 1
    chunks = tuple(n if s == -1 else min(n, -(-s // c)) for n, s, c in zip(grid, shape, meta.chunks, strict=True))
    return Blocks(grid, chunks[:lead], meta.keys)


def is_kept(old: Blocks, new: Blocks) -> bool:
    """Tell whether chunks that are in both grids have the same positions.

    >>> from shardedstore.zarr.grid import ChunkKeys
    >>> keys = ChunkKeys("default", "/")
    >>> (
    ...     is_kept(Blocks((7,), (2,), keys), Blocks((9,), (2,), keys)),
    ...     is_kept(Blocks((7,), (2,), keys), Blocks((7,), (3,), keys)),
    ... )
    (True, False)
    >>> is_kept(Blocks((2,), (2,), keys), Blocks((9,), (3,), keys))  # the only block was not full
    True
    """
    if old.keys != new.keys or len(old.chunks) != len(new.chunks) or len(old.chunk_grid) != len(new.chunk_grid):
        return False
    sizes = zip(old.chunks, new.chunks, old.chunk_grid, new.chunk_grid, strict=False)
    return all(n == m or min(grid, other) <= min(n, m) for n, m, grid, other in sizes)
