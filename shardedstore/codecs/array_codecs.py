"""Encode and decode whole chunks: between stored bytes and ndarrays, with all codecs of an array.

`ChunkCodec` runs an array's codecs. Common codecs use only NumPy and numcodecs. All other v3 codecs of arrays run in
zarr's own pipeline, which takes about 150 microseconds more per chunk.

`read_one_chunk` and `write_one_chunk` do the same with zarr, to check that zarr agrees.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from itertools import takewhile
from typing import Any, Protocol

import numpy as np
import zarr
from numcodecs.compat import ensure_bytes, ensure_ndarray_like
from toolz import valmap
from zarr.core.array_spec import ArrayConfig, ArraySpec
from zarr.core.buffer import Buffer, NDBuffer, cpu, default_buffer_prototype
from zarr.core.sync import sync
from zarr.registry import get_codec_class, get_pipeline_class
from zarr.storage import MemoryStore

from shardedstore.codecs.array_document import ORDERS, ArrayDoc, data_type, endian_of, name_of, options_of
from shardedstore.codecs.array_info import compressor_configs, encoded_dtype, itemsize_of, read_fill_value
from shardedstore.codecs.bytes_codecs import Compression
from shardedstore.codecs.codec_config import safe_codec
from shardedstore.zarr.grid import Coords
from shardedstore.zarr.metadata import ArrayMeta, dump_json, parse_node

Array = np.ndarray[Any, np.dtype[Any]]


class ChunkCodec:
    """All codecs of an array's chunks, or of its inner chunks if it uses the sharding codec.

    Parameters
    ----------
    doc : ArrayDoc
        The array's document.
    arrays : bool
        Whether chunks are decoded to arrays, or only to uncompressed bytes.

    Raises
    ------
    Exception
        Of any type, if numcodecs or zarr do not know a codec or the data type.
    """

    def __init__(self, doc: ArrayDoc, arrays: bool) -> None:
        dtype = encoded_dtype(doc) if doc.zarr_format == 2 else None
        self.compression = Compression(compressor_configs(doc, itemsize_of(doc)), dtype)
        self.raw_nbytes = raw_nbytes(doc)
        self.shape = doc.chunks
        if arrays:
            self.part = array_part(doc)
            self.padding = read_fill_value(doc, doc.document["fill_value"])

    def decompress(self, data: Any) -> Any:
        """Return a chunk's uncompressed bytes as a buffer, or raise ValueError for a wrong size."""
        raw = self.compression.decode(data)
        nbytes = len(raw) if type(raw) is bytes else memoryview(raw).nbytes
        if self.raw_nbytes is not None and nbytes != self.raw_nbytes:
            raise ValueError(f"it holds {nbytes} bytes, but a chunk has {self.raw_nbytes}")
        return raw

    def decode(self, data: Any) -> Array:
        """Return a chunk as an array, which may be read-only."""
        return self.part.unpack(self.decompress(data))

    def encode(self, array: Array) -> bytes:
        """Encode a chunk. An array smaller than the chunk is padded with the fill value."""
        return self.compression.encode(self.part.pack(self._filled_up(array)))

    def encode_exactly(self, array: Array) -> bytes:
        """Encode a chunk like `encode`, and check that it decodes to the same values.

        Raises
        ------
        ValueError
            If the filters change the values.
        """
        with np.errstate(all="ignore"):
            raw = self.part.pack(self._filled_up(array))
            again = self.part.unpack(bytes(ensure_bytes(raw)))
            again = again[tuple(map(slice, array.shape))] if array.shape != self.shape else again
        if not is_identical(again, array):
            raise ValueError("its filters do not keep the values of this chunk: to change values, use MapChunks")
        return self.compression.encode(raw)

    def _filled_up(self, array: Array) -> Array:
        if array.shape == self.shape:
            return array
        whole = np.full(self.shape, self.padding, array.dtype)
        whole[tuple(map(slice, array.shape))] = array
        return whole


def is_identical(one: Array, other: Array) -> bool:
    """Tell whether two arrays have the same shape, type and bits."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if one.dtype.kind in "OT":
        return bool(np.array_equal(one, other))
    return one.tobytes() == other.tobytes()


class ArrayPart(Protocol):
    """Conversion between uncompressed bytes and an array of a chunk's shape."""

    def unpack(self, raw: Any) -> Array:
        """Return the array, which may be read-only."""

    def pack(self, array: Array) -> Any:
        """Return the uncompressed bytes as a buffer."""


def array_part(doc: ArrayDoc) -> ArrayPart:
    """Return the part of a document's codecs that converts between arrays and bytes.

    Raises
    ------
    Exception
        Of any type, if numcodecs or zarr do not know a codec or the data type.
    """
    dtype = data_type(doc.document).to_native_dtype()
    if doc.zarr_format == 2:
        filters = [safe_codec(config) for config in doc.filters]
        return FilterPart(filters, dtype, doc.chunks, doc.document.get("order", "C"))
    plain = all(map(_is_transposition, doc.filters))
    if plain and name_of(doc.serializer) == "bytes" and dtype.fields is None and dtype.kind not in "OT":
        orders = [options_of(codec)["order"] for codec in doc.filters]
        return PlainPart(dtype, endian_of(doc.serializer), doc.chunks, orders)
    return PipelinePart(doc)


class PlainPart:
    """The v3 ``bytes`` codec, after any number of ``transpose`` codecs."""

    def __init__(self, dtype: np.dtype[Any], endian: Any, shape: Coords, orders: list[Any]) -> None:
        if endian not in ORDERS and dtype.itemsize > 1:
            raise ValueError(f"the bytes codec has the endian {endian!r}, but must have 'little' or 'big'")
        self.dtype, self.stored = dtype, dtype.newbyteorder(ORDERS.get(endian, "="))
        self.axes, self.back = _axes(orders, len(shape))
        self.shape = tuple(shape[axis] for axis in self.axes)

    def unpack(self, raw: Any) -> Array:
        # docstring inherited
        array = np.frombuffer(raw, self.stored).reshape(self.shape).transpose(self.back)
        return array.astype(self.dtype, copy=False)

    def pack(self, array: Array) -> Any:
        # docstring inherited
        stored = np.ascontiguousarray(array.transpose(self.axes), self.stored)
        return stored.reshape(-1).view("u1")


def _axes(orders: Iterable[Any], dimensions: int) -> tuple[Coords, Coords]:
    """Combine several transpositions into one, and return its axes and the inverse's.

    >>> _axes([[1, 2, 0], [1, 0, 2]], 3)
    ((2, 1, 0), (2, 1, 0))
    """
    axes = np.arange(dimensions)
    for order in orders:
        if sorted(order) != list(range(dimensions)):
            raise ValueError(f"transpose has the order {list(order)}, but the array has {dimensions} dimensions")
        axes = axes[list(order)]
    return tuple(axes.tolist()), tuple(np.argsort(axes).tolist())


class FilterPart:
    """Filters of a Zarr v2 array, and its C or Fortran order, as zarr applies them."""

    def __init__(self, filters: list[Any], dtype: np.dtype[Any], shape: Coords, order: Any) -> None:
        self.filters, self.dtype, self.shape, self.order = filters, dtype, shape, order

    def unpack(self, raw: Any) -> Array:
        # docstring inherited
        for coder in reversed(self.filters):
            raw = coder.decode(raw)
        chunk: Any = ensure_ndarray_like(raw)
        if chunk.dtype == object or self.dtype.kind in "OT":
            chunk = chunk.astype(self.dtype, copy=False)
        else:
            chunk = chunk.view(self.dtype)
        array: Array = chunk.reshape(-1, order="A").reshape(self.shape, order=self.order)
        return array

    def pack(self, array: Array) -> Any:
        # docstring inherited
        chunk: Any = array.astype(self.dtype, order=self.order, copy=False)
        for coder in self.filters:
            chunk = coder.encode(chunk)
        return chunk if isinstance(chunk, bytes) else ensure_ndarray_like(chunk).reshape(-1, order="A")


class PipelinePart:
    """All other v3 codecs, run in zarr's pipeline, after any number of ``transpose`` codecs.

    NumPy does the transpositions: with zarr 3.1, the codecs after them get arrays in Fortran order, which some codecs
    misread.
    """

    def __init__(self, doc: ArrayDoc) -> None:
        zdtype = data_type(doc.document)
        self.dtype = zdtype.to_native_dtype()
        orders = [options_of(codec)["order"] for codec in takewhile(_is_transposition, doc.filters)]
        self.axes, self.back = _axes(orders, len(doc.chunks))
        fill = zdtype.from_json_scalar(doc.document["fill_value"], zarr_format=3)
        config = ArrayConfig.from_dict({"write_empty_chunks": True})
        self.spec = ArraySpec(
            tuple(doc.chunks[axis] for axis in self.axes), zdtype, fill, config, default_buffer_prototype()
        )
        codecs, spec = [], self.spec
        for named in (*doc.filters[len(orders) :], doc.serializer):
            codec = self._codec(named).evolve_from_array_spec(spec)
            spec = codec.resolve_metadata(spec)
            codecs.append(codec)
        self.pipeline = get_pipeline_class().from_codecs(codecs)

    @staticmethod
    def _codec(codec: Any) -> Any:
        named = {"name": codec} if isinstance(codec, str) else dict(codec)
        return get_codec_class(name_of(codec)).from_dict(named)

    def unpack(self, raw: Any) -> Array:
        # docstring inherited
        (array,) = sync(self.pipeline.decode([(cpu.Buffer.from_bytes(bytes(raw)), self.spec)]))
        assert isinstance(array, NDBuffer)
        return array.as_numpy_array().transpose(self.back).astype(self.dtype, copy=False)

    def pack(self, array: Array) -> Any:
        # docstring inherited
        chunk = cpu.NDBuffer.from_numpy_array(np.asarray(array.transpose(self.axes), order="C"))
        (raw,) = sync(self.pipeline.encode([(chunk, self.spec)]))
        assert isinstance(raw, Buffer)
        return raw.to_bytes()


def _is_transposition(codec: Any) -> bool:
    return name_of(codec) == "transpose" and isinstance(options_of(codec).get("order"), list | tuple)


def raw_nbytes(doc: ArrayDoc) -> int | None:
    """Return the size of an uncompressed chunk in bytes, or None if the filters may change it."""
    if doc.zarr_format == 2 and doc.filters:
        return None
    if doc.zarr_format == 3 and (
        name_of(doc.serializer) != "bytes" or any(name_of(c) != "transpose" for c in doc.filters)
    ):
        return None
    try:
        dtype = data_type(doc.document).to_native_dtype()
    except Exception:  # noqa: BLE001 (zarr raises various errors for unknown types)
        return None
    return None if dtype.kind in "OT" else math.prod(doc.chunks) * dtype.itemsize


def read_one_chunk(doc: ArrayDoc, stored: bytes | None) -> Array:
    """Read an array with a single chunk by zarr; None stands for a missing chunk."""
    contents = _documents(doc)
    meta = parse_node(contents, "")
    assert isinstance(meta, ArrayMeta)
    assert meta.keys is not None
    if stored is not None:
        contents[meta.keys.encode((0,) * len(doc.shape))] = stored
    return np.asarray(opened(contents, mode="r")[...])


def write_one_chunk(doc: ArrayDoc, elements: Array) -> Array:
    """Write an array with a single chunk by zarr, and read it again.

    This shows filters that take arrays of another type for their own.
    """
    array = opened(_documents(doc), mode="r+", config={"write_empty_chunks": True})
    array[...] = elements
    return np.asarray(array[...])


def _documents(doc: ArrayDoc) -> dict[str, bytes]:
    return {".zarray" if doc.zarr_format == 2 else "zarr.json": dump_json(doc.document)}


def opened(contents: Mapping[str, bytes], **options: Any) -> Any:
    """Open an array in memory with zarr."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr 3.1 warns about each numcodecs codec
        return zarr.open_array(MemoryStore(valmap(cpu.Buffer.from_bytes, contents)), **options)


def few_elements(dtype: np.dtype[Any], shape: Coords) -> Array:
    """Return an array of small values, all different if the type has enough values.

    >>> few_elements(np.dtype("<U2"), (2,)).tolist(), few_elements(np.dtype([("a", "i2"), ("b", "?")]), (2,)).tolist()
    (['1', '2'], [(1, True), (2, False)])
    """
    numbers: Array = np.arange(1, np.prod(shape, dtype=int) + 1).reshape(shape)
    if dtype.names is not None:
        array = np.zeros(shape, dtype)
        for name in dtype.names:
            array[name] = few_elements(dtype[name], shape)
        return array
    match dtype.kind:
        case "b":
            return (numbers % 2).astype(dtype)
        case "m" | "M":
            return numbers.astype("i8").view(f"{dtype.kind}8").astype(dtype)
        case "V":
            return numbers.astype(f"S{dtype.itemsize}").view(dtype)
        case "O":
            return numbers.astype("S").astype(object)
        case "T":
            return numbers.astype("T").astype(object)
    return numbers.astype(dtype)
