"""`MapBlocks`: a NumPy function of whole blocks, which may change their shape."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from operator import mul
from typing import Any, ClassVar

from shardedstore.codecs.array_document import leave_out
from shardedstore.codecs.array_info import ArrayInfo
from shardedstore.errors import ChainError, ShardedStoreError
from shardedstore.stores.entries import Entry, array_folder
from shardedstore.stores.hierarchy import Node
from shardedstore.transforms.base.array_function import ArrayFunction
from shardedstore.transforms.base.array_step import is_chunk
from shardedstore.transforms.base.block_array import Regrid, read_array, write_array
from shardedstore.transforms.base.recode import Recoder
from shardedstore.transforms.base.shard import Entries, Shard
from shardedstore.zarr.grid import Blocks, Coords

SAMPLE = 64 << 20  # bytes
Shape = int | tuple[int, ...] | Mapping[str, int] | Callable[[Coords], Coords]


@dataclass(frozen=True, repr=False)
class MapBlocks(ArrayFunction):
    """Change arrays by a NumPy function of whole blocks, such as downsampling.

    A block is the part of an array that one shard holds: one block of an array that is partitioned into blocks, or else
    the whole array. The result does not depend on the partition if the function's result doesn't. For this, each block
    but the last one along a dimension must become whole chunks. Other blocks are refused before anything runs, with the
    block sizes that work.

    Missing chunks hold the fill value. The function is also called for blocks without any stored chunk. Chunks of the
    result that hold only the fill value are not written, as zarr does by default. A worker needs memory for one decoded
    block before the function, one after it, and for the function itself.

    Parameters
    ----------
    func : callable
        ``func(block, position) -> block``. `block` is an array that may be changed in place, and `position` the
        coordinates of its first element in the whole array. The function returns an array of the shape that `shape`
        gives. It must pickle.
    dtype : data type, optional
        See `MapChunks`.
    fill_value : scalar, optional
        See `MapChunks`.
    name : str
        See `MapChunks`. It also identifies `shape` if that is a function.
    arrays : str or sequence of str
        See `ArrayStep`.
    threads : int, optional
        See `ArrayStep`.
    shape : int, tuple of int, mapping of str to int, or callable
        Divisors of a block's shape: one for all dimensions, one for each dimension, or one for each named dimension. Sizes
        are rounded up. A callable maps a shape to a shape with as many dimensions. It is also called with the shape of the
        whole array, and must then return the sum of the sizes that it returns for the blocks.
    chunks : tuple of int, optional
        The shape of the result's chunks; by default that of the source's chunks. It can't change under the sharding codec.

    Examples
    --------
    Half the resolution along two dimensions, by the mean of up to four elements:

    >>> import numpy as np
    >>> def mean_of_four(block, position):
    ...     rows, columns = (np.arange(0, size, 2) for size in block.shape[-2:])
    ...     sums = np.add.reduceat(np.add.reduceat(block, rows, -2), columns, -1)
    ...     counts = np.add.reduceat(np.add.reduceat(np.ones_like(block), rows, -2), columns, -1)
    ...     return sums / counts
    >>> MapBlocks(mean_of_four, shape={"y": 2, "x": 2}, arrays="temperature")
    MapBlocks(mean_of_four, shape={'y': 2, 'x': 2}, arrays='temperature')
    >>> mean_of_four(np.arange(15.0).reshape(3, 5), (0, 0)).tolist()
    [[3.0, 5.0, 6.5], [10.5, 12.5, 14.0]]

    The coordinates of the new elements, in the same chain:

    >>> coordinates = MapBlocks(lambda block, position: block[::2], shape=2, arrays=("y", "x"))
    """

    changes_grid: ClassVar[bool] = True
    is_chunkwise: ClassVar[bool] = False
    shape: Any = field(default=1, kw_only=True, compare=False)
    chunks: tuple[int, ...] | None = field(default=None, kw_only=True)
    divisors: Any = field(init=False)  # a form of `shape` that can be compared

    def __post_init__(self) -> None:
        super().__post_init__()
        given = self.shape
        divisors = (
            tuple(sorted(given.items()))
            if isinstance(given, Mapping)
            else tuple(given)
            if _is_sequence(given)
            else given
        )
        sizes = [size for _, size in divisors] if isinstance(given, Mapping) else divisors
        if callable(given):
            divisors = self.name or repr(given)
        elif not all(type(size) is int and size > 0 for size in (sizes if _is_sequence(sizes) else [sizes])):
            raise ChainError(
                f"MapBlocks was given shape={given!r}: use a divisor, or one for each dimension, each an integer of 1 or more"
            )
        object.__setattr__(self, "divisors", divisors)
        if self.chunks is not None:
            object.__setattr__(self, "chunks", tuple(self.chunks))

    def shown(self) -> dict[str, Any]:
        # docstring inherited
        shape = getattr(self.shape, "__name__", self.shape)
        return {"shape": None if shape == 1 else shape, "chunks": self.chunks, **super().shown()}

    def metadata(self, meta: ArrayInfo) -> ArrayInfo:
        # docstring inherited
        chunks = meta.chunks if self.chunks is None else self.chunks
        if len(chunks) != len(meta.shape) or min(chunks, default=1) < 1:
            raise ChainError(f"MapBlocks was given chunks={chunks}, and {meta.path!r} has the shape {meta.shape}")
        return super().metadata(meta).replace(shape=self._shape_of(meta, meta.shape), chunks=chunks)

    def check(self, nodes: Mapping[str, Node]) -> None:
        # docstring inherited
        for path, node in nodes.items():
            if node.is_regridded and self.bound(nodes).means(path):
                raise ChainError(
                    f"another step before MapBlocks has changed the shape of the blocks of {path!r}: make one function of "
                    "the two, or two jobs"
                )
        super().check(nodes)

    def check_array(self, recoder: Recoder) -> None:
        # docstring inherited
        super().check_array(recoder)
        regrid = self._regrid(recoder)
        if regrid is not None:
            names = recoder.old.dimension_names or (None,) * len(recoder.doc.shape)
            dimensions = tuple(name or f"dimension {axis}" for axis, name in enumerate(names))
            regrid.check(f"{self!r} on {recoder.path!r}", dimensions)
        meta = recoder.old
        shape = meta.shape if regrid is None else tuple(map(min, regrid.block_shape, meta.shape))
        if (
            meta.dtype is not None and math.prod(shape) * meta.dtype.itemsize <= SAMPLE
        ):  # a larger block is not worth it
            self.check_function(recoder, shape, self._shape_of(meta, shape))

    def changed_blocks(self, recoder: Recoder) -> Blocks | None:
        # docstring inherited
        regrid = self._regrid(recoder)
        return None if regrid is None else regrid.blocks_after()

    def __call__(self, entries: Entries, shard: Shard) -> Entries:
        # docstring inherited
        recoders: dict[str, Recoder] = {}
        waiting: dict[str, Recoder] = {}  # arrays without a chunk so far; possibly none of their chunks is stored
        for are_chunks, some in itertools.groupby(entries, is_chunk):
            if not are_chunks:
                known = set(recoders)
                yield from _without_stray_chunks(self.documents(some, shard, recoders), recoders)
                new = ((folder, recoders[folder]) for folder in recoders.keys() - known)
                waiting |= {folder: recoder for folder, recoder in new if recoder.path not in shard.divided}
                continue
            for folder, chunks in itertools.groupby(some, array_folder):
                for missing in [other for other in sorted(waiting) if other < folder]:
                    yield from self._block(waiting.pop(missing), ())
                if folder in waiting:
                    yield from self._block(waiting.pop(folder), chunks)
                else:
                    yield from chunks
        for missing in sorted(waiting):
            yield from self._block(waiting[missing], ())

    def _block(self, recoder: Recoder, chunks: Iterable[Entry]) -> Entries:
        position = first = (0,) * len(recoder.doc.shape)
        block, regrid = recoder.shard.block, self._regrid(recoder)
        if regrid is not None and block is not None:
            position = tuple(map(mul, regrid.blocks.offset(block), recoder.doc.stored))
            first = regrid.first_chunk(block)
        array = read_array(recoder, chunks, self.threads)
        try:
            array = recoder.checked(self.func(array, position), recoder.new.shape)
        except Exception as error:
            raise ShardedStoreError(
                f"shard {recoder.shard.name!r}: MapBlocks fails on {recoder.path!r} at {position}: "
                f"{type(error).__name__}: {error}"
            ) from error
        yield from write_array(recoder, array, first, self.threads)

    def _regrid(self, recoder: Recoder) -> Regrid | None:
        """Return the new shapes of the blocks of a divided array; None for a whole array."""
        blocks, meta = recoder.shard.blocks, recoder.old
        if blocks is None or recoder.path != recoder.shard.path:
            return None
        shape_of = partial(self._shape_of, meta)
        return Regrid(blocks, meta.shape, recoder.doc.stored, recoder.new_doc.stored, shape_of)

    def _shape_of(self, meta: ArrayInfo, shape: Coords) -> Coords:
        given = self.shape
        if callable(given):
            after = tuple(given(shape))
            if len(after) != len(shape) or not all(isinstance(size, int) and size >= 0 for size in after):
                raise ChainError(
                    f"{self!r} changes the shape {shape} of {meta.path!r} to {after}: return one size for each dimension"
                )
            return after
        if isinstance(given, Mapping):
            names = meta.dimension_names or ()
            unknown = [name for name in given if name not in names]
            if unknown:
                raise ChainError(
                    f"{self!r} names the dimension {unknown[0]!r}, and {meta.path or 'the array at the root'!r} has "
                    f"{list(names) or 'no names'}: {leave_out(meta.path)}"
                )
            given = tuple(given.get(name, 1) for name in names)
        divisors = given if _is_sequence(given) else (given,) * len(shape)
        if len(divisors) != len(shape):
            raise ChainError(f"{self!r} has {len(divisors)} divisors, and {meta.path!r} {len(shape)} dimensions")
        return tuple(-(-size // divisor) for size, divisor in zip(shape, divisors, strict=True))


def _is_sequence(value: object) -> bool:
    return isinstance(value, list | tuple)


def _without_stray_chunks(entries: Entries, recoders: Mapping[str, Recoder]) -> Entries:
    """Yield all entries except files that would become chunks of the new array."""
    for entry in entries:
        if entry.array is not None or not any(_is_stray(entry.key, recoder) for recoder in recoders.values()):
            yield entry


def _is_stray(key: str, recoder: Recoder) -> bool:
    start = f"{recoder.folder}/" if recoder.folder else ""
    keys = recoder.array.keys
    return (
        keys is not None
        and key.startswith(start)
        and keys.decode(key[len(start) :], recoder.array.chunk_grid) is not None
    )
