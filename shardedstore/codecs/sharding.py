"""The sharding codec's objects: apart into inner chunks by their index, and together again in C order."""

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
    """How the index of an object stands in it: as a list of offsets and lengths at one end, with CRC-32Cs behind it or none.

    Parameters
    ----------
    count : int
        The number of inner chunks, stored or missing.
    at_end : bool
        Whether it stands behind the chunks.
    order : "<" or ">"
        The order of the bytes of a number.
    checksums : int
        How many CRC-32Cs follow, each of all before it.

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
        """The size of the index."""
        return 16 * self.count + 4 * self.checksums

    def split(self, data: Data) -> list[memoryview | None]:
        """Return the encoded inner chunks in C order, None for those that are missing.

        Raises
        ------
        ValueError
            For an object that is cut or damaged.
        """
        view = memoryview(data).cast("B")
        if len(view) < self.nbytes:
            raise ValueError(f"the object has {len(view)} bytes, less than its index of {self.nbytes}")
        stored = bytes(view[len(view) - self.nbytes :] if self.at_end else view[: self.nbytes])
        for _ in range(self.checksums):
            stored, checksum = stored[:-4], stored[-4:]
            if google_crc32c.value(stored) != int.from_bytes(checksum, "little"):
                raise ValueError("the checksum of the object's index does not agree")
        pairs = np.frombuffer(stored, f"{self.order}u8").tolist()
        body = range(len(view) - self.nbytes) if self.at_end else range(self.nbytes, len(view))
        return [_inner(view, body, start, size) for start, size in zip(pairs[::2], pairs[1::2], strict=True)]

    def join(self, chunks: Sequence[Data | None]) -> bytes:
        """Return the object of some encoded inner chunks, given in C order; None stands for a missing one."""
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
    """An object whose inner chunks are objects themselves; its chunks are those of the innermost, in C order of the whole.

    Parameters
    ----------
    outer : ShardIndex
    inner : ShardIndex or NestedIndex
        Of each of the outer one's chunks.
    outer_grid, inner_grid : tuple of int
        The number of inner objects in the outer one, and of chunks in each of these.

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
        """The numbers in C order of the whole of the chunks of each inner object."""
        grid = [o * i for o, i in zip(self.outer_grid, self.inner_grid, strict=True)]
        numbers: Any = np.arange(math.prod(grid)).reshape(
            [*itertools.chain(*zip(self.outer_grid, self.inner_grid, strict=True))]
        )
        axes = [*range(0, 2 * len(grid), 2), *range(1, 2 * len(grid), 2)]
        listed: list[list[int]] = numbers.transpose(axes).reshape(math.prod(self.outer_grid), -1).tolist()
        return listed

    def split(self, data: Data) -> list[memoryview | None]:
        """Return the encoded chunks in C order, None for those that are missing; ValueError for an object that is damaged."""
        chunks: list[memoryview | None] = [None] * math.prod((*self.outer_grid, *self.inner_grid))
        for stored, numbers in zip(self.outer.split(data), self._numbers, strict=True):
            for number, chunk in zip(numbers, self.inner.split(stored), strict=True) if stored is not None else ():
                chunks[number] = chunk
        return chunks

    def join(self, chunks: Sequence[Data | None]) -> bytes:
        """Return the object of some encoded chunks, given in C order; an inner object without chunks is missing."""
        inner = [[chunks[number] for number in numbers] for numbers in self._numbers]
        return self.outer.join([None if some == [None] * len(some) else self.inner.join(some) for some in inner])


def encode_index(pairs: np.ndarray[Any, np.dtype[np.uint64]], checksums: int = 1) -> bytes:
    """Return the index as it is stored, from the offset and the length of each inner chunk, both `MISSING` for one that is."""
    stored = pairs.tobytes()
    for _ in range(checksums):
        checksum: int = google_crc32c.value(stored)
        stored += checksum.to_bytes(4, "little")
    return stored


def _inner(view: memoryview, body: range, start: int, size: int) -> memoryview | None:
    if start == size == MISSING:
        return None
    if start < body.start or start + size > body.stop:
        raise ValueError(f"an inner chunk stands at {start} to {start + size}, outside of {body.start} to {body.stop}")
    return view[start : start + size]


class ShardWriter:
    """Appends encoded inner chunks to an object whose index stands at its end, and keeps nothing but the index.

    Parameters
    ----------
    write
        Called, seldom, with a list of buffers to be written one after another, such as `writev_all(fd)`.
    count : int
        The number of inner chunks in C order, stored or missing.

    Attributes
    ----------
    nbytes, crc : int
        The size, and the CRC-32 of all that was given to `write` or waits for it.

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
        """Append the inner chunk with this number; `data` may be changed once this has returned.

        Raises
        ------
        UsageError
            For a number that was there already.
        CorruptError
            For a chunk of no bytes, which readers of a part would take for a missing one.
        """
        if self._index[2 * number] != MISSING:
            raise UsageError(f"the object has an inner chunk {number} already")
        if not isinstance(data, bytes):
            data = flat(data)
        if not data:
            raise CorruptError(
                "a chunk of no bytes can't be in an object of the sharding codec: is its file cut short?"
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
