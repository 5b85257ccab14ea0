"""The digest of decoded data, version 1: equal for equal values and chunk grids.

It does not depend on codecs, format or shards. `docs/data-digest.md` specifies every byte. Digests of parts of an array
can be added in any order.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np

from shardedstore.zarr.grid import Coords

VERSION = 1
MODULUS = 1 << 256
Array = np.ndarray[Any, Any]
ElementType = np.dtype[Any] | Literal["string", "bytes"]


class Layout(NamedTuple):
    """Properties of an array that must be equal for its digests to be comparable.

    Attributes
    ----------
    shape : tuple of int
        The array's shape.
    chunks : tuple of int
        The shape of a chunk; of an inner chunk if the array uses the sharding codec.
    dtype : str
        The data type's canonical name as JSON.
    fill : str
        The canonical bytes of the fill value, in hexadecimal digits.
    """

    shape: Coords
    chunks: Coords
    dtype: str
    fill: str

    @property
    def grid(self) -> Coords:
        """The number of chunks along each dimension."""
        return tuple(-(-n // c) for n, c in zip(self.shape, self.chunks, strict=True))

    @property
    def header(self) -> bytes:
        r"""The bytes with which the hash of every chunk begins.

        >>> Layout((7, 5), (2, 2), '"f4"', "00000000").header
        b'[1,[7,5],[2,2],"f4"]\n'
        """
        return f"[{VERSION},{_dumps(self.shape)},{_dumps(self.chunks)},{self.dtype}]\n".encode()

    @property
    def token(self) -> str:
        """A short hash of all properties except the shape."""
        return hashlib.blake2b(_dumps([VERSION, *self[1:]]).encode(), digest_size=8).hexdigest()


class DataSum(msgspec.Struct, frozen=True, array_like=True):
    """The digest of some chunks of an array in the form of a ledger record.

    `shape` is the shape of the whole array when the chunks were written, and `layout` is the token of the other
    properties. Numbers are in hexadecimal digits.
    """

    shape: Coords
    layout: str
    value: str
    stored: int
    presence: str


class ChunkDigest(NamedTuple):
    """The numbers that one stored chunk adds to its array's `value` and `presence`."""

    value: int
    presence: int


@dataclass(frozen=True)
class DataDigest:
    """The digest of an array, or of some of its chunks.

    `value` is the digest of the data. `stored` is the number of stored chunks, and `presence` is a digest of their
    positions.

    Examples
    --------
    >>> digester = Digester((3,), (2,), np.dtype("i4"), 0)
    >>> first, last = (digester.of([i], np.array(part, "i4")) for i, part in enumerate([[1, 2], [3, 0]]))
    >>> first + last == last + first, str(first + last)
    (True, '1:a1ba25633e808a0c50611471107f1551e3d118779a8c44eba6a351c8bdcb9288')
    """

    layout: Layout
    value: int = 0
    stored: int = 0
    presence: int = 0

    def __add__(self, other: DataDigest) -> DataDigest:
        if self.layout != other.layout:
            raise ValueError(
                f"digests of {self.layout} and of {other.layout} can't be added: they belong to different arrays"
            )
        return DataDigest(
            self.layout,
            (self.value + other.value) % MODULUS,
            self.stored + other.stored,
            (self.presence + other.presence) % MODULUS,
        )

    @property
    def sum(self) -> DataSum:
        """The digest in the form of a ledger record."""
        value, presence = (f"{number:064x}" for number in (self.value, self.presence))
        return DataSum(self.layout.shape, self.layout.token, value, self.stored, presence)

    def __str__(self) -> str:
        return f"{VERSION}:{self.value:064x}"


class Hasher:
    """Hash the canonical bytes of an array's chunks."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._start = hashlib.blake2b(layout.header, digest_size=32)
        self._index = struct.Struct(f"<{len(layout.shape)}Q")

    def hash(self, index: Coords, data: Any) -> ChunkDigest:
        """Return the digest of a chunk that has values other than the fill value."""
        state, presence = self._place(index)
        state.update(data)
        return ChunkDigest(int.from_bytes(state.digest(), "little"), presence)

    def hash_nothing(self, index: Coords) -> ChunkDigest:
        """Return the digest of a chunk that has only the fill value."""
        return ChunkDigest(0, self._place(index)[1])

    def _place(self, index: Coords) -> tuple[Any, int]:
        state = self._start.copy()
        state.update(self._index.pack(*index))
        return state, int.from_bytes(state.digest(), "little")


class Digester(Hasher):
    """Compute digests of the decoded chunks of one array.

    Parameters
    ----------
    shape, chunks : tuple of int
        The array's shape, and the shape of its chunks; of the inner chunks if it uses the sharding codec.
    dtype : numpy.dtype, or "string" or "bytes"
        The type of the elements; the names stand for types of variable length.
    fill_value : scalar
        The array's fill value.

    Raises
    ------
    TypeError
        If the digest is not defined for the type.
    """

    def __init__(self, shape: Coords, chunks: Coords, dtype: ElementType, fill_value: Any) -> None:
        filled: Array = np.empty(1, object if isinstance(dtype, str) else dtype)
        filled[0] = fill_value
        element = bytes(canonical_bytes(filled, dtype))
        super().__init__(Layout(shape, chunks, _dumps(dtype_name(dtype)), element.hex()))
        self.dtype = dtype
        self._fill = element * math.prod(map(min, chunks, shape))  # for the largest part of a chunk inside the array

    def chunk(self, index: Coords, array: Array) -> ChunkDigest | None:
        """Return the digest of a stored chunk; None if it lies outside the array."""
        shape, chunks, _, _ = self.layout
        size = tuple([min(c, n - i * c) for n, c, i in zip(shape, chunks, index, strict=True)])
        if size != array.shape:
            if min(size) <= 0:
                return None
            array = array[tuple(map(slice, size))]
        data = canonical_bytes(array, self.dtype)
        return self.hash_nothing(index) if self._fill.startswith(data) else self.hash(index, data)

    def of(self, index: Coords, array: Array) -> DataDigest:
        """Return the digest of one chunk."""
        found = self.chunk(tuple(index), array)
        return DataDigest(self.layout) if found is None else DataDigest(self.layout, found.value, 1, found.presence)


def dtype_name(dtype: ElementType) -> Any:
    """Return the canonical name of a data type as JSON, without byte order and padding.

    >>> dtype_name(np.dtype(">f4")), dtype_name(np.dtype("M8[10s]")), dtype_name("string")
    ('f4', 'M8[10s]', 'string')
    >>> dtype_name(np.dtype([("a", "<i4"), ("b", ">f8", (2,))]))
    [['a', 'i4'], ['b', {'of': 'f8', 'shape': [2]}]]
    """
    if isinstance(dtype, str):
        return dtype
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return {"of": dtype_name(base), "shape": list(shape)}
    if dtype.names is not None and dtype.fields is not None:
        return [[name, dtype_name(dtype.fields[name][0])] for name in dtype.names]
    if dtype.kind not in "biufcmMSUV" or (dtype.kind in "fc" and dtype.itemsize > (8 if dtype.kind == "f" else 16)):
        raise TypeError(f"the digest of decoded data is not defined for elements of {dtype}")
    return dtype.newbyteorder("<").str[1:]


def canonical_bytes(array: Array, dtype: ElementType) -> Any:
    r"""Return the canonical bytes of elements in C order, as a buffer.

    >>> bytes(canonical_bytes(np.array([1, 2], ">i2"), np.dtype(">i2")))
    b'\x01\x00\x02\x00'
    >>> bytes(canonical_bytes(np.array(["ä"], object), "string"))
    b'\x02\x00\x00\x00\x00\x00\x00\x00\xc3\xa4'
    """
    if isinstance(dtype, str):
        return _with_lengths(array, dtype)
    if not dtype.itemsize:
        return b""
    plain: Array = np.ascontiguousarray(array, _packed(dtype)).reshape(-1)
    if dtype.names is not None or dtype.kind == "b" or (dtype.kind in "fc" and np.isnan(plain).any()):
        plain = plain.copy()
        _settle(plain)
    return plain.view("u1")


def _packed(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the little-endian form of a type, without padding between fields."""
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return np.dtype((_packed(base), shape))
    if dtype.names is not None and dtype.fields is not None:
        return np.dtype([(name, _packed(dtype.fields[name][0])) for name in dtype.names])
    return dtype.newbyteorder("<")


def _settle(array: Array) -> None:
    """Normalise values that have several representations, in place.

    Every NaN becomes the quiet NaN, and every true boolean the byte 1.
    """
    if array.dtype.names is not None:
        for name in array.dtype.names:
            _settle(array[name])
    elif array.dtype.kind == "b":
        array[...] = array.view("u1") != 0
    elif array.dtype.kind in "fc":
        for part in (array.real, array.imag) if array.dtype.kind == "c" else (array,):
            part[np.isnan(part)] = np.nan


def _with_lengths(array: Array, dtype: Literal["string", "bytes"]) -> bytes:
    parts: list[bytes] = []
    for item in array.reshape(-1).tolist():
        if not isinstance(item, str if dtype == "string" else bytes):
            raise TypeError(f"the element {item!r} is not of type {dtype!r}")
        data = item.encode("utf-8", "surrogatepass") if isinstance(item, str) else item
        parts += (len(data).to_bytes(8, "little"), data)
    return b"".join(parts)


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
