"""Blocks as NumPy arrays: read and write their chunks, and compute their place in a resized array."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from operator import add, mul

import numpy as np
from zarr.core.buffer import cpu

from shardedstore.codecs.array_codecs import Array
from shardedstore.errors import ChainError, ShardedStoreError
from shardedstore.stores.entries import Data, Entry
from shardedstore.transforms.base.parallel import map_in_order
from shardedstore.transforms.base.recode import Recoder, boxed
from shardedstore.transforms.base.shard import Entries
from shardedstore.zarr.grid import Blocks, Coords
from shardedstore.zarr.paths import join


def read_array(recoder: Recoder, chunks: Iterable[Entry], threads: int | None) -> Array:
    """Return some chunks as one array; missing chunks have the fill value."""
    array = np.full(recoder.doc.shape, recoder.decoder.padding, recoder.old.dtype)
    nbytes = math.prod(recoder.doc.stored) * array.itemsize

    def place(entry: Entry) -> None:
        for data, number in _inner(recoder, entry):
            start = recoder.local_position(entry.key, number)
            part = array[boxed(start, map(add, start, recoder.doc.chunks))]
            part[...] = recoder.read(data, entry)[boxed((0,) * part.ndim, part.shape)]

    for _ in map_in_order(place, chunks, lambda entry: max(nbytes, len(entry.data)), threads):
        pass
    return array


def _inner(recoder: Recoder, entry: Entry) -> Iterator[tuple[Data, int | None]]:
    """Yield the existing chunks of a stored object, still encoded, with their numbers under the sharding codec."""
    if recoder.doc.index is None:
        yield entry.data, None
    else:
        pieces = recoder.inner_pieces(entry)
        yield from ((piece.data, piece.number) for piece in pieces if piece.data is not None)


def write_array(recoder: Recoder, array: Array, first: Coords, threads: int | None) -> Entries:
    """Yield the encoded chunks of an array, without chunks of fill values only, as zarr does.

    Parameters
    ----------
    first : tuple of int
        The coordinates of the first chunk in the chunk grid of the whole array.
    """
    meta = recoder.array
    assert meta.keys is not None
    grid = meta.chunk_grid
    places = itertools.product(*map(range, grid))
    nbytes = math.prod(recoder.new_doc.stored) * array.itemsize
    stored = map_in_order(partial(_encoded, recoder, array), places, lambda _: nbytes, threads)
    for local, data in zip(itertools.product(*map(range, grid)), stored, strict=True):
        if data is not None:
            yield Entry(join(recoder.folder, meta.keys.encode(local)), data, meta, tuple(map(add, first, local)))


def _encoded(recoder: Recoder, array: Array, place: Coords) -> Data | None:
    doc = recoder.new_doc
    start = tuple(map(mul, place, doc.stored))
    try:
        if doc.index is None:
            return _chunk(recoder, array, start)
        inner = itertools.product(*(range(s, s + n, c) for s, n, c in zip(start, doc.stored, doc.chunks, strict=True)))
        chunks = [_chunk(recoder, array, position) for position in inner]
        return doc.index.join(chunks) if any(chunk is not None for chunk in chunks) else None
    except Exception as error:
        raise ShardedStoreError(
            f"shard {recoder.shard.name!r}: {recoder.path!r} can't be encoded at {start} of the block: "
            f"{type(error).__name__}: {error}"
        ) from error


def _chunk(recoder: Recoder, array: Array, start: Coords) -> bytes | None:
    part = array[boxed(start, map(add, start, recoder.new_doc.chunks))]
    if not part.size or cpu.NDBuffer.from_numpy_array(part).all_equal(recoder.encoder.padding):
        return None
    return recoder.encode(part)


ShapeOf = Callable[[Coords], Coords]

MOST_TRIED = 10_000  # candidates in the search for a block size that fits

MANY = 1 << 20  # blocks: with so many, an error of rounding in each block is visible in the sum


@dataclass(frozen=True)
class Regrid:
    """A divided array whose blocks get another shape, which depends on their old shape only.

    Parameters
    ----------
    blocks : Blocks
        The present division.
    shape, chunks : tuple of int
        The shapes of the array and of its chunks. For `first_chunk`, the shape of one block is enough.
    new_chunks : tuple of int
        The shape of the new chunks.
    shape_of : callable
        Maps the shape of a block, or of the whole array, to its new shape.

    Examples
    --------
    >>> from shardedstore.zarr.grid import ChunkKeys
    >>> halved = Regrid(Blocks((7,), (4,), ChunkKeys("v2", ".")), (70,), (10,), (10,), lambda shape: (shape[0] // 2,))
    >>> halved.blocks_after(), halved.first_chunk((1,))
    (Blocks(chunk_grid=(4,), chunks=(2,), keys=ChunkKeys(name='v2', separator='.'), stored=None), (2,))
    """

    blocks: Blocks
    shape: Coords
    chunks: Coords
    new_chunks: Coords
    shape_of: ShapeOf

    @property
    def block_shape(self) -> Coords:
        """The shape of a block that the array's edge does not cut."""
        leading = zip(self.blocks.grid, self.blocks.chunks, self.chunks, self.shape, strict=False)
        sizes = tuple(size if n == 1 else count * chunk for n, count, chunk, size in leading)
        return sizes + self.shape[len(sizes) :]

    def first_chunk(self, block: Coords) -> Coords:
        """Return the coordinates of a block's first chunk in the new chunk grid."""
        after = self.shape_of(self.block_shape)
        grid = zip(self.blocks.grid, after, self.new_chunks, strict=False)
        if any(n > 1 and size % chunk for n, size, chunk in grid):
            raise ChainError(
                f"blocks of {self.block_shape} become {after}, which is not a multiple of the chunks {self.new_chunks}"
            )
        leading = (i * (size // chunk) for i, size, chunk in zip(block, after, self.new_chunks, strict=False))
        return (*leading, *(0,) * (len(after) - len(block)))

    def blocks_after(self) -> Blocks:
        """Return the new division."""
        after, whole = self.shape_of(self.block_shape), self.shape_of(self.shape)
        grid = tuple(-(-size // chunk) for size, chunk in zip(whole, self.new_chunks, strict=True))
        leading = zip(self.blocks.grid, after, self.new_chunks, grid, strict=False)
        chunks = tuple(g if n == 1 else s // c for n, s, c, g in leading)
        return Blocks(grid, chunks, self.blocks.keys, self.blocks.stored)

    def check(self, who: str, dimensions: tuple[str, ...]) -> None:
        """Check that blocks become whole chunks, and that they add up to the array.

        Raises
        ------
        ChainError
            If they don't. The message names the dimension, and block sizes that work.
        """
        if 0 in self.shape_of(self.shape):
            raise ChainError(
                f"{who} gives the shape {self.shape_of(self.shape)}, which has no elements and can't be divided into blocks"
            )
        for axis, count in enumerate(self.blocks.grid):
            size = self.block_shape[axis]
            if count > 1 and not self._fits(axis, size):
                chunk = self.chunks[axis]
                smaller, larger = range(size - chunk, 0, -chunk), range(size + chunk, self.shape[axis], chunk)
                fitting = [*self._first_fitting(axis, smaller), *self._first_fitting(axis, larger)]
                advice = f" with {' or '.join(map(str, fitting))} elements" if fitting else ", whole"
                raise ChainError(
                    f"{who} makes {self._along(axis, size)} elements of a block's {size} along {dimensions[axis]!r}, but "
                    f"each block must become whole chunks of {self.new_chunks[axis]}, without rounding: partition it{advice} "
                    f"along {dimensions[axis]!r}, or give other chunks="
                )
        self._check_commuting(who)

    def _along(self, axis: int, size: int) -> int:
        shape = self.block_shape
        return self.shape_of((*shape[:axis], size, *shape[axis + 1 :]))[axis]

    def _fits(self, axis: int, size: int) -> bool:
        count, rest = divmod(self.shape[axis], size)
        after = self._along(axis, size)
        edge = self._along(axis, rest) if rest else 0
        total = self._along(axis, self.shape[axis])
        is_exact = self._along(axis, MANY * size) == MANY * after and count * after + edge == total
        return after > 0 and after % self.new_chunks[axis] == 0 and is_exact

    def _first_fitting(self, axis: int, sizes: range) -> list[int]:
        return [*itertools.islice((size for size in sizes[:MOST_TRIED] if self._fits(axis, size)), 1)]

    def _check_commuting(self, who: str) -> None:
        """Check that the new size along one dimension does not depend on the sizes along the others."""
        last = self.blocks.crop(self.shape, self.chunks, tuple(n - 1 for n in self.blocks.grid))
        for shape in [*itertools.product(*map(set, zip(self.block_shape, last, strict=True))), self.shape]:
            expected = tuple(self._along(axis, size) for axis, size in enumerate(shape))
            if (got := self.shape_of(shape)) != expected:
                raise ChainError(
                    f"{who} makes {got} of {shape}, but {expected} is needed: the new size of one dimension "
                    "must not depend on the size of another"
                )
