"""Ways to read arrays: the part of each dimension that a reader asks for, and its cost after a division into shards."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from shardedstore.errors import PartitionError
from shardedstore.zarr.grid import Coords
from shardedstore.zarr.metadata import ArrayMeta

SERIES, STEP = "series", "step"
Extent = str | int
Access = Mapping[str, Extent]
Accesses = Access | Iterable[Access]


class AccessCost(msgspec.Struct, frozen=True):
    """The cost of one read by an access pattern.

    Attributes
    ----------
    files : int
        The files or objects that are opened.
    requests : int
        The requests to an object store: one for each index, and one for each chunk.
    nbytes : int
        The decoded size of the chunks that are read, and the size of the indexes, in bytes.

    See Also
    --------
    ArraySuggestion : Its `costs`, `by_size` and `now` are such costs.

    Examples
    --------
    >>> cost = AccessCost(files=2, requests=367, nbytes=649_000_000)
    >>> f"{cost.requests} requests to {cost.files} files"
    '367 requests to 2 files'
    """

    files: int
    requests: int
    nbytes: int


class Units(NamedTuple):
    """The sizes that the cost of a read depends on, in elements along each dimension, and in bytes.

    Attributes
    ----------
    shape, chunks : tuple of int
        The shape of the array, and of the chunks that are read: of inner chunks if it uses the sharding codec.
    chunk_nbytes : int
        The decoded size of such a chunk.
    entry_nbytes : int
        The size of one entry in the index of a shard.
    """

    shape: Coords
    chunks: Coords
    chunk_nbytes: int
    entry_nbytes: int


def parse_accesses(access: Accesses | None, names: Iterable[str | None]) -> list[dict[str, Extent]]:
    """Return the access patterns of a user; `names` are the dimensions of all arrays.

    >>> parse_accesses({"time": "series"}, ["time", "x"]), parse_accesses(None, [])
    ([{'time': 'series'}], [])

    Raises
    ------
    PartitionError
        If a pattern has an unknown dimension or value.
    """
    known = sorted({name for name in names if name is not None})
    found = [] if access is None else [access] if isinstance(access, Mapping | str) else list(access)
    for pattern in found:
        if not pattern or not hasattr(pattern, "items"):
            raise PartitionError(f"access={pattern!r} names no dimension: write it like {{'time': 'series'}}")
        for name, extent in pattern.items():
            if name not in known:
                has = ", ".join(map(repr, known)) or "no names"
                raise PartitionError(
                    f"access names the dimension {name!r}, but the dimensions of the arrays have the names: {has}"
                )
            _check(name, extent)
    return [dict(pattern) for pattern in found]


def _check(name: str, extent: Any) -> None:
    if extent in (SERIES, STEP) or (type(extent) is int and extent > 0):
        return
    raise PartitionError(
        f"access[{name!r}] is {extent!r}: write 'series' for all elements along it, 'step' for one, or a number of elements"
    )


def window(pattern: Mapping[str, Extent], meta: ArrayMeta) -> Coords | None:
    """Return the shape that a reader asks for, in elements; None if the array lacks a dimension of the pattern.

    Beside a series, a dimension without a value of its own is read at one place; otherwise it is read as a whole.
    """
    names = meta.dimension_names or ()
    if not set(pattern) <= set(names):
        return None
    others = 1 if SERIES in pattern.values() else None
    return tuple(
        _extent(pattern.get(name, others) if name is not None else others, size)
        for name, size in zip(names, meta.shape, strict=True)
    )


def _extent(extent: Extent | None, size: int) -> int:
    if extent is None or extent == SERIES:
        return size
    return min(size, 1 if isinstance(extent, str) else extent)


def touched(extent: Coords, sizes: Coords, shape: Coords) -> int:
    """Return the number of parts of a size that a read meets, if it begins at the start of a part.

    >>> touched((366, 1), (100, 10), (366, 90)), touched((1, 90), (100, 10), (366, 90))
    (4, 9)
    """
    return math.prod(min(-(-e // s), -(-n // s)) for e, s, n in zip(extent, sizes, shape, strict=True))


def cost_of_read(extent: Coords, shard: Coords, units: Units) -> AccessCost:
    """Return the cost of a read from shards of a shape in elements."""
    files, chunks = touched(extent, shard, units.shape), touched(extent, units.chunks, units.shape)
    entries = math.prod(-(-s // c) for s, c in zip(shard, units.chunks, strict=True))
    return AccessCost(files, files + chunks, chunks * units.chunk_nbytes + files * entries * units.entry_nbytes)


def cost_of_chunk_files(extent: Coords, stored: Coords, units: Units) -> AccessCost:
    """Return the cost of a read from the source, with a file for each stored chunk."""
    files, chunks = touched(extent, stored, units.shape), touched(extent, units.chunks, units.shape)
    index = 0 if stored == units.chunks else files
    return AccessCost(files, index + chunks, chunks * units.chunk_nbytes)


def access_text(pattern: Mapping[str, Extent]) -> str:
    """Return an access pattern in words.

    >>> access_text({"time": "series"}), access_text({"time": "step"}), access_text({"y": 100, "x": 100})
    ('a series along time', 'one step of time', '100 of y, 100 of x')
    """
    series = [name for name, extent in pattern.items() if extent == SERIES]
    steps = [name for name, extent in pattern.items() if extent == STEP]
    parts = [f"a series along {' and '.join(series)}"] if series else []
    parts += [f"one step of {' and '.join(steps)}"] if steps else []
    return ", ".join(
        [*parts, *(f"{extent:,} of {name}" for name, extent in pattern.items() if name not in {*series, *steps})]
    )
