"""`MapChunks`: a NumPy function of every chunk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from shardedstore.transforms.base.array_function import ArrayFunction
from shardedstore.transforms.base.recode import Recoder
from shardedstore.zarr.grid import Coords


@dataclass(frozen=True, repr=False)
class MapChunks(ArrayFunction):
    """Change the values of arrays by a NumPy function of one decoded chunk.

    A missing chunk stays missing, and then holds the array's fill value, new or old: the function is not called for it.

    Parameters
    ----------
    func : callable
        ``func(chunk, position) -> chunk``: an array that may be changed in place, which ends where the whole array
        ends, and the coordinates of its first element in the whole array; to an array of the same shape. It is called in
        several threads at a time, and once before anything runs, with a chunk of fill values, to see its data type. It
        must pickle.
    dtype : data type, optional
        What the function gives, where it is another type than it got.
    fill_value : scalar, optional
        The array's new fill value; the old one if not given.
    name : str
        What tells this function from another, so that a job can be resumed by another process: take another name when
        its results change. Without it, another process starts anew.
    arrays, threads
        See `ArrayStep`.

    Examples
    --------
    Rounding to some bits, so that floats are compressed better:

    >>> from numcodecs import BitRound
    >>> def round_bits(chunk, position):
    ...     return BitRound(keepbits=8).encode(chunk).view(chunk.dtype)
    >>> MapChunks(round_bits, name="8 bits", arrays="temperature")
    MapChunks(round_bits, name='8 bits', arrays='temperature')

    Masking a region, by the place in the whole array:

    >>> import numpy as np
    >>> def mask_north(chunk, position):
    ...     rows = position[0] + np.arange(chunk.shape[0])
    ...     chunk[rows < 90] = np.nan
    ...     return chunk
    >>> mask_north(np.ones((2, 2)), (89, 0)).tolist()
    [[nan, nan], [1.0, 1.0]]

    Packing floats into integers:

    >>> packed = MapChunks(lambda chunk, position: np.rint(chunk * 10), dtype="f4", fill_value=-9999)
    """

    needs_empty = False

    def chunk(self, data: Any, position: Coords) -> Any:
        # docstring inherited
        return self.func(data, position)

    def check_array(self, recoder: Recoder) -> None:
        # docstring inherited
        super().check_array(recoder)
        shape = tuple(map(min, recoder.old.chunks, recoder.old.shape))
        self.check_function(recoder, shape, shape)
