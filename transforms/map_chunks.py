"""`MapChunks`: a NumPy function of each chunk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from shardedstore.transforms.base.array_function import ArrayFunction
from shardedstore.transforms.base.recode import Recoder
from shardedstore.zarr.grid import Coords


@dataclass(frozen=True, repr=False)
class MapChunks(ArrayFunction):
    """Change the values of arrays by a NumPy function of one decoded chunk.

    The function is not called for a missing chunk. The chunk stays missing, and reads as the array's fill value, new or
    old.

    Parameters
    ----------
    func : callable
        ``func(chunk, position) -> chunk``. `chunk` is an array that may be changed in place; at the array's edge it is
        cut to the part inside the array. `position` has the coordinates of its first element in the whole array. The
        function returns an array of the same shape. It is called in several threads at a time. Before anything runs, it
        is called once with a chunk of fill values, to find the data type of its result. It must pickle.
    dtype : data type, optional
        The data type of the function's result, if it is not that of its argument.
    fill_value : scalar, optional
        The array's new fill value; by default the old one.
    name : str
        Identifies this function, so that another process can resume the job. Use another name when the function's results
        change. Without a name, another process starts again.
    arrays : str or sequence of str
        See `ArrayStep`.
    threads : int, optional
        See `ArrayStep`.

    Examples
    --------
    Round to fewer bits, so that floats compress better:

    >>> from numcodecs import BitRound
    >>> def round_bits(chunk, position):
    ...     return BitRound(keepbits=8).encode(chunk).view(chunk.dtype)
    >>> MapChunks(round_bits, name="8 bits", arrays="temperature")
    MapChunks(round_bits, name='8 bits', arrays='temperature')

    Mask a region, given by its position in the whole array:

    >>> import numpy as np
    >>> def mask_north(chunk, position):
    ...     rows = position[0] + np.arange(chunk.shape[0])
    ...     chunk[rows < 90] = np.nan
    ...     return chunk
    >>> mask_north(np.ones((2, 2)), (89, 0)).tolist()
    [[nan, nan], [1.0, 1.0]]

    Pack floats into integers:

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
