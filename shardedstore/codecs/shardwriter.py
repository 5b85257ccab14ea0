"""An object of the sharding codec, written as a stream: inner chunks as they come, then the index that tells where each is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from shardedstore.codecs.shardindex import MISSING, encode_index
from shardedstore.errors import CorruptError, UsageError
from shardedstore.storage.buffers import BATCH_BYTES, BATCH_PARTS, flat
from shardedstore.storage.crc import crc32

if TYPE_CHECKING:
    from typing_extensions import Buffer


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
    >>> from shardedstore.codecs.shardindex import ShardIndex
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
