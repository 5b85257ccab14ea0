"""Layers: the stored arrays that together are one array of a store, each with its place in the grid of chunks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from shardedstore.storage.options import Options
from shardedstore.zarr.grid import Coords


class Layer(NamedTuple):
    """An ordinary Zarr array in a file or folder, and the chunks of a larger array that it holds.

    Attributes
    ----------
    url : str
        The URL pipeline of the array, such as ``file:///out/t/0.zip|zip:a/``.
    options : Options
        The public options of the object store.
    box : tuple of range or None
        The ranges of its chunks in the larger array; None if it is the whole array.
    origin : tuple of int
        The first of these chunks in the stored array.
    """

    url: str
    options: Options
    box: tuple[range, ...] | None = None
    origin: Coords = ()

    def moved(self, box: Sequence[range]) -> Layer:
        """Return the layer in an array in which this one is the block `box`.

        >>> layer = Layer("file:///a.zarr/", Options())
        >>> layer.moved([range(3, 6)]).moved([range(6, 12)])[2:]
        ((range(9, 12),), (0,))
        """
        if self.box is None:
            return self._replace(box=tuple(box), origin=(0,) * len(box))
        moved = (
            range(inner.start + outer.start, inner.stop + outer.start)
            for inner, outer in zip(self.box, box, strict=True)
        )
        return self._replace(box=tuple(moved))

    def cropped(self, box: Sequence[range]) -> Layer | None:
        """Return the layer in the block `box` of its array; None if it has no chunks there.

        >>> layer = Layer("file:///a.zarr/", Options(), (range(2, 8),), (0,))
        >>> layer.cropped([range(4, 12)])[2:], layer.cropped([range(8, 12)])
        (((range(0, 4),), (2,)), None)
        """
        own = tuple(box) if self.box is None else self.box
        both = [range(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(own, box, strict=True)]
        if not all(both):
            return None
        first = tuple(b.start for b in box) if self.box is None else self.origin
        origin = tuple(o + c.start - a.start for o, c, a in zip(first, both, own, strict=True))
        shifted = tuple(range(c.start - b.start, c.stop - b.start) for c, b in zip(both, box, strict=True))
        return self._replace(box=shifted, origin=origin)
