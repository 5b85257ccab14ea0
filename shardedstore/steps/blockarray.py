"""All chunks of an array in a shard as one NumPy array, and such an array as chunks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from functools import partial
from operator import add, mul

import numpy as np
from zarr.core.buffer import cpu

from shardedstore.chain import Entries
from shardedstore.codecs.arraycodecs import Array
from shardedstore.errors import ShardedStoreError
from shardedstore.grid import Coords
from shardedstore.mounts import join
from shardedstore.parallel import map_in_order
from shardedstore.reading.entries import Data, Entry
from shardedstore.steps.recode import Recoder, boxed


def read_array(recoder: Recoder, chunks: Iterable[Entry], threads: int | None) -> Array:
    """Return the array of some chunks, with the fill value where one is missing."""
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
    """Yield the encoded chunks of a stored object that are not missing, with their numbers under the sharding codec."""
    if recoder.doc.index is None:
        yield entry.data, None
    else:
        pieces = recoder.inner_pieces(entry)
        yield from ((piece.data, piece.number) for piece in pieces if piece.data is not None)


def write_array(recoder: Recoder, array: Array, first: Coords, threads: int | None) -> Entries:
    """Yield the chunks of an array that hold anything but the fill value, as zarr does.

    Parameters
    ----------
    first : tuple of int
        The coordinates of the array's first chunk in the whole.
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
    return recoder.encoder.encode(part)
