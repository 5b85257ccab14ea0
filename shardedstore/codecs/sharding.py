"""Objects of the sharding codec: split into inner chunks, joined from them, and written chunk by chunk.

`ShardIndex` and `NestedIndex` split and join whole objects in C order. `ShardWriter` appends chunks in any order, and
keeps only the index in memory.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import google_crc32c
import numpy as np

from shardedstore.errors import CorruptError, UsageError
from shardedstore.storage.crc import crc32
from shardedstore.storage.outputs import BATCH_BYTES, BATCH_PARTS, flat

if TYPE_CHECKING:
    from typing_extensions import Buffer

MISSING = 2**64 - 1

Data = bytes | bytearray | memoryview


@dataclass(frozen=True)
class ShardIndex:
    """Format of an object's index: offsets and lengths at one end, with or without checksums.

    Parameters
    ----------
    count : int
        The number of inner chunks, including missing ones.
    at_end : bool
        Whether the index is after the chunks.
    order : "<" or ">"
        The byte order of the numbers.
    checksums : int
        The number of CRC-32Cs after the index, each of all bytes before it.

    Examples
    --------
    >>> index = ShardIndex(count=3, at_end=True)
    >>> stored = index.join([b"ab", None, b"c"])
    >>> [None if chunk is None else bytes(chunk) for chunk in index.split(stored)]
    [b'ab', None, b'c']
    """

    count: int
    at_end: bool
    order: Literal["<", ">"] = "<"
    checksums: int = 1

    @property
    def nbytes(self) -> int:
        """The size of the index in bytes."""
        return 16 * self.count + 4 * self.checksums

    def split(self, data: Data) -> list[memoryview | None]:
        """Return the encoded inner chunks in C order, with None for missing ones.

        Raises
        ------
        ValueError
            If the object is truncated or damaged.
        """
        view = memoryview(data).cast("B")
        if len(view) < self.nbytes:
            raise ValueError(f"the object has {len(view)} bytes, fewer than its index of {self.nbytes}")
        stored = bytes(view[len(view) - self.nbytes :] if self.at_end else view[: self.nbytes])
        for _ in range(self.checksums):
            stored, checksum = stored[:-4], stored[-4:]
            if google_crc32c.value(stored) != int.from_bytes(checksum, "little"):
                raise ValueError("the checksum of the object's index does not match")
        pairs = np.frombuffer(stored, f"{self.order}u8").tolist()
        body = range(len(view) - self.nbytes) if self.at_end else range(self.nbytes, len(view))
        return [_inner(view, body, start, size) for start, size in zip(pairs[::2], pairs[1::2], strict=True)]

    def join(self, chunks: Sequence[Data | None]) -> bytes:
        """Return the object of encoded inner chunks in C order; None stands for a missing one."""
        start = 0 if self.at_end else self.nbytes
        pairs: list[int] = []
        for chunk in chunks:
            size = MISSING if chunk is None else len(chunk)
            pairs += (MISSING, MISSING) if chunk is None else (start, size)
            start += 0 if chunk is None else size
        index = encode_index(np.array(pairs, f"{self.order}u8"), self.checksums)
        body = [chunk for chunk in chunks if chunk is not None]
        return b"".join([*body, index] if self.at_end else [index, *body])


@dataclass(frozen=True)
class NestedIndex:
    """Index of an object whose inner chunks are themselves objects of the sharding codec.

    Its chunks are the innermost ones, in C order of the whole object.

    Parameters
    ----------
    outer : ShardIndex
        The index of the whole object.
    inner : ShardIndex or NestedIndex
        The index of each inner object.
    outer_grid, inner_grid : tuple of int
        The number of inner objects in the whole object, and of chunks in each inner object, along each dimension.

    Examples
    --------
    >>> line = ShardIndex(2, at_end=True)
    >>> nested = NestedIndex(line, line, (1, 2), (2, 1))
    >>> [None if chunk is None else bytes(chunk) for chunk in nested.split(nested.join([b"a", None, b"b", None]))]
    [b'a', None, b'b', None]
    """

    outer: ShardIndex
    inner: ShardIndex | NestedIndex
    outer_grid: tuple[int, ...]
    inner_grid: tuple[int, ...]

    @cached_property
    def _numbers(self) -> list[list[int]]:
        """The numbers of each inner object's chunks, in C order of the whole object."""
        grid = [o * i for o, i in zip(self.outer_grid, self.inner_grid, strict=True)]
        numbers: Any = np.arange(math.prod(grid)).reshape(
            [*itertools.chain(*zip(self.outer_grid, self.inner_grid, strict=True))]
        )
        axes = [*range(0, 2 * len(grid), 2), *range(1, 2 * len(grid), 2)]
        listed: list[list[int]] = numbers.transpose(axes).reshape(math.prod(self.outer_grid), -1).tolist()
        return listed

    def split(self, data: Data) -> list[memoryview | None]:
        """Return the encoded chunks in C order, with None for missing ones.

        Raises
        ------
        ValueError
            If the object is truncated or damaged.
        """
        chunks: list[memoryview | None] = [None] * math.prod((*self.outer_grid, *self.inner_grid))
        for stored, numbers in zip(self.outer.split(data), self._numbers, strict=True):
            for number, chunk in zip(numbers, self.inner.split(stored), strict=True) if stored is not None else ():
                chunks[number] = chunk
        return chunks

    def join(self, chunks: Sequence[Data | None]) -> bytes:
        """Return the object of encoded chunks in C order.

        An inner object without chunks is missing.
        """
        inner = [[chunks[number] for number in numbers] for numbers in self._numbers]
        return self.outer.join([None if some == [None] * len(some) else self.inner.join(some) for some in inner])


def encode_index(pairs: np.ndarray[Any, np.dtype[np.uint64]], checksums: int = 1) -> bytes:
    """Return the stored bytes of an index from pairs of offset and length.

    Both are `MISSING` for a missing chunk.
    """
    stored = pairs.tobytes()
    for _ in range(checksums):
        checksum: int = google_crc32c.value(stored)
        stored += checksum.to_bytes(4, "little")
    return stored


def _inner(view: memoryview, body: range, start: int, size: int) -> memoryview | None:
    if start == size == MISSING:
        return None
    if start < body.start or start + size > body.stop:
        raise ValueError(
            f"an inner chunk is at bytes {start} to {start + size}, outside of {body.start} to {body.stop}"
        )
    return view[start : start + size]


class ShardWriter:
    """Append encoded inner chunks to an object with the index at its end.

    Only the index is kept in memory.

    Parameters
    ----------
    write
        Called with a list of buffers to write one after another, such as `writev_all(fd)`. Buffers are collected to
        make few calls.
    count : int
        The number of inner chunks, including missing ones.

    Attributes
    ----------
    nbytes, crc : int
        The size in bytes and the CRC-32 of all data that was written or waits to be written.

    Examples
    --------
    >>> from shardedstore.codecs.sharding import ShardIndex
    >>> stored = bytearray()
    >>> writer = ShardWriter(lambda parts: stored.extend(b"".join(parts)), 3)
    >>> writer.add(2, b"c")
    >>> writer.add(0, b"ab")
    >>> writer.close()
    >>> [None if chunk is None else bytes(chunk) for chunk in ShardIndex(3, at_end=True).split(stored)]
    [b'ab', None, b'c']
    """

    def __init__(self, write: Callable[[list[Buffer]], None], count: int) -> None:
        self._write = write
        self._index = np.full(2 * count, MISSING, "<u8")
        self._parts: list[Buffer] = []
        self._pending = 0
        self.nbytes = self.crc = 0

    def add(self, number: int, data: Buffer) -> None:
        """Append the inner chunk with this number; the caller may change `data` afterwards.

        Raises
        ------
        UsageError
            If the chunk was added already.
        CorruptError
            If the chunk has no bytes: readers of byte ranges would take it for a missing one.
        """
        if self._index[2 * number] != MISSING:
            raise UsageError(f"the object has an inner chunk {number} already")
        if not isinstance(data, bytes):
            data = flat(data)
        if not data:
            raise CorruptError(
                "an empty chunk can't be stored in an object of the sharding codec: is its file truncated?"
            )
        self._index[2 * number : 2 * number + 2] = self.nbytes, len(data)
        self._append(data)
        if self._pending >= BATCH_BYTES or len(self._parts) >= BATCH_PARTS or not isinstance(data, bytes):
            self._flush()

    def close(self) -> None:
        """Append the index."""
        self._append(encode_index(self._index))
        self._flush()

    def _append(self, data: bytes | memoryview) -> None:
        self._parts.append(data)
        self.crc = crc32(data, self.crc)
        self.nbytes += len(data)
        self._pending += len(data)

    def _flush(self) -> None:
        parts, self._parts, self._pending = self._parts, [], 0
        self._write(parts)
