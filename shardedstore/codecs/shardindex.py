"""The sharding codec's objects: apart into inner chunks by their index, and together again in C order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import google_crc32c
import numpy as np

MISSING = 2**64 - 1
Data = bytes | bytearray | memoryview


@dataclass(frozen=True)
class ShardIndex:
    """How the index of an object stands in it: as a list of offsets and lengths with a CRC-32C, at one end.

    >>> index = ShardIndex(count=3, at_end=True)
    >>> stored = index.join([b"ab", None, b"c"])
    >>> [None if chunk is None else bytes(chunk) for chunk in index.split(stored)]
    [b'ab', None, b'c']
    """

    count: int
    at_end: bool

    @property
    def nbytes(self) -> int:
        """The size of the index."""
        return 16 * self.count + 4

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
        stored = bytes(view[-self.nbytes :] if self.at_end else view[: self.nbytes])
        if google_crc32c.value(stored[:-4]) != int.from_bytes(stored[-4:], "little"):
            raise ValueError("the checksum of the object's index does not agree")
        pairs = np.frombuffer(stored, "<u8", 2 * self.count).tolist()
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
        index = encode_index(np.array(pairs, "<u8"))
        body = [chunk for chunk in chunks if chunk is not None]
        return b"".join([*body, index] if self.at_end else [index, *body])


def encode_index(pairs: np.ndarray[Any, np.dtype[np.uint64]]) -> bytes:
    """Return the index as it is stored, from the offset and the length of each inner chunk, both `MISSING` for one that is."""
    stored = pairs.tobytes()
    checksum: int = google_crc32c.value(stored)
    return stored + checksum.to_bytes(4, "little")


def _inner(view: memoryview, body: range, start: int, size: int) -> memoryview | None:
    if start == size == MISSING:
        return None
    if start < body.start or start + size > body.stop:
        raise ValueError(f"an inner chunk stands at {start} to {start + size}, outside of {body.start} to {body.stop}")
    return view[start : start + size]
