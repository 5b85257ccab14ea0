"""How the chunks of one array are gathered in objects of Zarr v3's sharding codec: pure arithmetic, and its document."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from operator import mul
from typing import Any

from shardedstore.codecs.arraydoc import SHARDING, ArrayDoc, name_of, parse
from shardedstore.codecs.shardindex import Data, ShardIndex
from shardedstore.dividing.automatic import automatic
from shardedstore.errors import ChainError, CorruptError
from shardedstore.grid import Blocks, ChunkKeys, Coords
from shardedstore.metadata import ArrayMeta, dump_json, parse_json, parse_node

KEYS = ChunkKeys("default", "/")
PER_CHUNK = 1 << 10  # bytes that an encoded chunk may have more than its elements
_CODED_INDEX = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]


@dataclass(frozen=True)
class Packing:
    """One object for each block of an array's chunk grid.

    Parameters
    ----------
    blocks : Blocks
        Of the chunks as they are stored now.
    stored : tuple of int
        The shape of such a chunk.
    chunks : tuple of int
        The shape of the chunks in the new objects: of inner chunks, where the array uses the sharding codec already.
    codecs : list
        The codecs of these, as they stand in a document.
    itemsize : int
        The bytes of an element.
    index : ShardIndex, optional
        How to take the stored objects apart, where they are to be.

    Examples
    --------
    >>> packing = Packing(Blocks((7, 5), (3,), KEYS), (10, 10), (10, 10), ["bytes"], 4)
    >>> packing.shape, packing.count, packing.key((2,))
    ((30, 50), 15, 'c/2/0')
    >>> list(packing.split((6, 4), b"a chunk"))
    [(4, b'a chunk')]
    """

    blocks: Blocks
    stored: Coords
    chunks: Coords
    codecs: list[Any]
    itemsize: int
    index: ShardIndex | None = None

    @cached_property
    def shape(self) -> Coords:
        """The shape of an object: of all alike, also where the array's edge cuts a block."""
        lead = len(self.blocks.chunks)
        return tuple(map(mul, self.blocks.chunks + self.blocks.chunk_grid[lead:], self.stored))

    @cached_property
    def count(self) -> int:
        """The number of chunks in an object, stored or missing."""
        return math.prod(self._grid)

    @property
    def most(self) -> int:
        """The most bytes that an object should have."""
        return 2 * math.prod(self.shape) * self.itemsize + PER_CHUNK * self.count

    def key(self, block: Coords) -> str:
        """Return the key of a block's object in its array."""
        return KEYS.encode(block + (0,) * (len(self.shape) - len(block)))

    def split(self, coords: Coords, data: Data) -> Iterator[tuple[int, Data]]:
        """Yield the chunks of what is stored at a place of the chunk grid, with their numbers in the new object.

        Raises
        ------
        ValueError
            For an object that is cut or damaged.
        """
        _, local = self.blocks.split(coords)
        first = sum(map(mul, local, self._strides))
        if self.index is None:
            yield first, data
            return
        for number, chunk in zip(self._numbers, self.index.split(data), strict=True):
            if chunk is not None:
                yield first + number, chunk

    @cached_property
    def _grid(self) -> Coords:
        return tuple(n // c for n, c in zip(self.shape, self.chunks, strict=True))

    @cached_property
    def _steps(self) -> Coords:
        """How far apart neighbours along each dimension are in the new object."""
        return tuple(math.prod(self._grid[axis + 1 :]) for axis in range(len(self._grid)))

    @cached_property
    def _strides(self) -> Coords:
        """The same for neighbours among the chunks that are stored now."""
        return tuple(n // c * s for n, c, s in zip(self.stored, self.chunks, self._steps, strict=True))

    @cached_property
    def _numbers(self) -> list[int]:
        """The numbers in the new object of the inner chunks of its first stored one."""
        spans = [range(0, n // c * s, s) for n, c, s in zip(self.stored, self.chunks, self._steps, strict=True)]
        return list(map(sum, itertools.product(*spans)))

    def document(self, data: bytes, path: str) -> bytes:
        """Return the array's document as zarr writes it for ``create_array(shards=...)``.

        The objects are new and in a grid of their own, so they get zarr's keys for new arrays, whatever the old ones were.
        """
        configuration = {
            "chunk_shape": list(self.chunks),
            "codecs": self.codecs,
            "index_codecs": _CODED_INDEX,
            "index_location": "end",
        }
        return dump_json(
            {
                **parse_json(data, path, "zarr.json"),
                "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(self.shape)}},
                "chunk_key_encoding": {"name": KEYS.name, "configuration": {"separator": KEYS.separator}},
                "codecs": [{"name": SHARDING, "configuration": configuration}],
            }
        )


def find_packing(data: bytes, path: str, blocks: Blocks | None, size: int) -> Packing | None:
    """Return how the array that a ``zarr.json`` describes is to be packed; None where its chunks are copied as they are.

    Parameters
    ----------
    blocks : Blocks, optional
        How the array is divided into shards. One that is not gets objects of about `size` decoded bytes, unless it uses
        the sharding codec already, or the objects would hold one chunk each.
    """
    meta = parse_array(data, path)
    if meta is None or meta.chunks is None:
        return None
    document = parse_json(data, path, "zarr.json")
    uses_codec = any(name_of(codec) == SHARDING for codec in document["codecs"])
    if blocks is None:
        blocks = None if uses_codec else automatic(meta, size)
        if blocks is None or math.prod(blocks.chunks + meta.chunk_grid[len(blocks.chunks) :]) == 1:
            return None
    doc = _apart(document, path) if uses_codec else None
    if doc is None or not isinstance(doc.index, ShardIndex):
        return Packing(blocks, meta.chunks, meta.chunks, document["codecs"], meta.itemsize)
    codecs = [*doc.filters, doc.serializer, *doc.compressors]
    return Packing(blocks, doc.stored, doc.chunks, codecs, meta.itemsize, doc.index)


def parse_array(data: bytes, path: str) -> ArrayMeta | None:
    """Return what a ``zarr.json`` says of an array; None where it is another's, or no metadata."""
    try:
        meta = parse_node({"zarr.json": data}, path)
    except CorruptError:
        return None
    return meta if isinstance(meta, ArrayMeta) else None


def _apart(document: dict[str, Any], path: str) -> ArrayDoc | None:
    """Return a document that uses the sharding codec; None where it does so in a form that is packed as it is."""
    try:
        return parse(document, path)
    except ChainError:
        return None
