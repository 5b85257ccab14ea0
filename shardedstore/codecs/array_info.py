"""The description of an array that steps see, and functions to write changed properties into its document."""

from __future__ import annotations

import dataclasses
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from zarr.dtype import parse_dtype

from shardedstore.codecs.array_document import ArrayDoc, data_type, name_of, options_of, parse_array_document
from shardedstore.codecs.codec_config import (
    CRC32C,
    OBJECT_CODECS,
    Config,
    filter_from_json,
    filtered_dtype,
    from_json,
    to_json,
)
from shardedstore.errors import ChainError
from shardedstore.zarr.grid import Coords
from shardedstore.zarr.metadata import dimension_names_v2, element_dtype


@dataclass(frozen=True)
class ArrayInfo:
    """Description of an array that a step sees and may change.

    It is the same for Zarr v2 and v3, with and without the sharding codec.

    Parameters
    ----------
    path : str
        The array's path in the whole store.
    zarr_format : int
        2 or 3.
    shape : tuple of int
        The array's shape; in a shard that holds one block, the block's shape.
    chunks : tuple of int
        The shape of the chunks that `ArrayStep.chunk` gets: of inner chunks if the array uses the sharding codec.
    dtype : numpy.dtype
        The data type; None if zarr does not know it.
    fill_value : scalar
        The fill value; None if the document has null.
    itemsize : int
        The size in bytes of the elements that the first compressor encodes; 1 if they have none.
    compressors : tuple of dict
        The bytes-to-bytes codecs as `shardedstore.codecs.codec_config` describes them, without a CRC-32C at the end.
    attributes : dict
        The array's attributes.
    filters : tuple of dict
        The array-to-array codecs as `shardedstore.codecs.codec_config` describes them. In Zarr v2 they do not include
        the codec that converts objects to bytes.
    dimension_names : tuple of str or None, optional
        The names of the dimensions.
    """

    path: str
    zarr_format: int
    shape: Coords
    chunks: Coords
    dtype: np.dtype[Any] | None
    fill_value: Any
    itemsize: int
    compressors: tuple[Config, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    filters: tuple[Config, ...] = ()
    dimension_names: tuple[str | None, ...] | None = None

    def replace(self, **changes: Any) -> ArrayInfo:
        """Return a copy with changed values."""
        return dataclasses.replace(self, **changes)


def encoded_dtype(doc: ArrayDoc) -> np.dtype[Any] | None:
    """Return the type of the elements that a v2 array's compressor encodes.

    This is the type of the last filter's output. It is None for objects, for elements of size 0, and for an unknown
    type, unless a filter converts the elements to bytes.
    """
    dtype = element_dtype(doc.document["dtype"])
    if doc.filters:
        dtype = filtered_dtype(doc.filters, np.dtype("u1") if dtype is None else dtype)
    return None if dtype is None or dtype.hasobject or not dtype.itemsize else dtype


def itemsize_of(doc: ArrayDoc) -> int:
    """Return the size in bytes of the elements that the first compressor encodes, or 1."""
    if doc.zarr_format == 2:
        dtype = encoded_dtype(doc)
        return 1 if dtype is None else dtype.itemsize
    try:
        zdtype = data_type(doc.document)
        size = getattr(zdtype, "item_size", 1)
        if doc.filters and size > 1:
            configs = [filter_from_json(codec, 3) for codec in doc.filters]
            size = filtered_dtype(configs, zdtype.to_native_dtype()).itemsize
        return max(1, size)
    except Exception:  # noqa: BLE001 (for an unknown type or filter, no compressor needs the size)
        return 1


def read_info(doc: ArrayDoc, path: str, attributes: dict[str, Any]) -> ArrayInfo:
    """Return the description of an array for steps."""
    try:
        itemsize = itemsize_of(doc)
    except Exception as error:
        raise ChainError(f"{path!r} has filters that can't be run ({type(error).__name__}: {error})") from error
    dtype, fill_value = None, doc.document.get("fill_value")
    with suppress(Exception):  # zarr may not know the type or the fill value
        zdtype = data_type(doc.document)
        dtype = zdtype.to_native_dtype()
        if fill_value is not None:
            fill_value = zdtype.from_json_scalar(fill_value, zarr_format=_format(doc))
    compressors = doc.compressors[:-1] if doc.has_checksum else doc.compressors
    described = tuple(from_json(codec, doc.zarr_format, itemsize) for codec in compressors)
    filters = tuple(filter_from_json(codec, doc.zarr_format) for codec in doc.filters if not _is_object_codec(codec))
    names = doc.document.get("dimension_names")
    if doc.zarr_format == 2:
        names = dimension_names_v2(doc.document, attributes)
    return ArrayInfo(
        path,
        doc.zarr_format,
        doc.shape,
        doc.chunks,
        dtype,
        fill_value,
        itemsize,
        described,
        attributes,
        filters,
        tuple(names) if isinstance(names, list | tuple) and len(names) == len(doc.shape) else None,
    )


def _is_object_codec(codec: Any) -> bool:
    return isinstance(codec, dict) and codec.get("id") in OBJECT_CODECS


def read_fill_value(doc: ArrayDoc, fill_value: Any) -> Any:
    """Return a document's fill value as a scalar; for null, zarr's default."""
    zdtype = data_type(doc.document)
    return (
        zdtype.default_scalar() if fill_value is None else zdtype.from_json_scalar(fill_value, zarr_format=_format(doc))
    )


def _format(doc: ArrayDoc) -> Literal[2, 3]:
    return 2 if doc.zarr_format == 2 else 3


def compressor_configs(doc: ArrayDoc, itemsize: int) -> list[Config]:
    """Return the configurations of all bytes-to-bytes codecs."""
    return [from_json(codec, doc.zarr_format, itemsize) for codec in doc.compressors]


def write_compressors(doc: ArrayDoc, compressors: tuple[Config, ...], path: str) -> ArrayDoc:
    """Return a document with other compressors. A CRC-32C at the end is kept."""
    if doc.zarr_format == 2 and len(compressors) > 1:
        raise ChainError(f"{path!r} is a Zarr v2 array, which can have one compressor, not {len(compressors)}")
    tail = [CRC32C] if doc.has_checksum else []
    return doc.with_compressors([to_json(config, doc.zarr_format) for config in (*compressors, *tail)])


def write_grid(doc: ArrayDoc, shape: Coords, chunks: Coords, path: str) -> ArrayDoc:
    """Return a document with another shape and other chunks.

    The inner chunks of the sharding codec cannot be changed.
    """
    if chunks != doc.chunks and doc.index is not None:
        raise ChainError(f"{path!r} uses the sharding codec, whose chunks can't be changed: leave chunks= out")
    if doc.zarr_format == 2:
        return parse_array_document({**doc.document, "shape": list(shape), "chunks": list(chunks)}, path)
    document = {**doc.document, "shape": list(shape)}
    if chunks != doc.chunks:
        document["chunk_grid"] = {"name": "regular", "configuration": {"chunk_shape": list(chunks)}}
    return parse_array_document(document, path)


def write_filters(doc: ArrayDoc, filters: tuple[Config, ...]) -> ArrayDoc:
    """Return a document with other filters."""
    written = [to_json(config, doc.zarr_format) for config in filters]
    if doc.zarr_format == 2:
        return doc.with_filters([*filter(_is_object_codec, doc.filters), *written])
    if any(config["id"] != "transpose" for config in filters):  # single bytes may have become longer elements
        doc = _with_endian(doc)
    return doc.with_filters(written)


def _with_endian(doc: ArrayDoc) -> ArrayDoc:
    """Return a v3 document whose ``bytes`` codec has a byte order."""
    if name_of(doc.serializer) == "bytes" and "endian" not in options_of(doc.serializer):
        return doc.with_serializer({"name": "bytes", "configuration": {"endian": "little"}})
    return doc


def write_fill_value(doc: ArrayDoc, fill_value: Any, path: str) -> ArrayDoc:
    """Return a document with another fill value, converted to the array's data type."""
    if fill_value is None:
        if doc.zarr_format == 3:
            raise ChainError(f"{path!r} is a Zarr v3 array, which must have a fill value: fill_value can't be None")
        return dataclasses.replace(doc, document={**doc.document, "fill_value": None})
    try:
        zdtype = data_type(doc.document)
        with np.errstate(invalid="ignore"):  # NaN cast to an integer is refused below
            value = zdtype.cast_scalar(fill_value)
        if zdtype.to_native_dtype().kind in "iub" and value != fill_value:
            raise ValueError(f"it would become {value}")
        fill = zdtype.to_json_scalar(value, zarr_format=_format(doc))
    except (ValueError, TypeError, OverflowError, IndexError) as error:
        raise ChainError(
            f"{path!r} can't have the fill value {fill_value!r} ({error}): give another fill_value="
        ) from None
    return dataclasses.replace(doc, document={**doc.document, "fill_value": fill})


def write_dtype(doc: ArrayDoc, dtype: Any, path: str) -> ArrayDoc:
    """Return a document with another data type."""
    zarr_format = _format(doc)
    try:
        named = parse_dtype(np.dtype(dtype), zarr_format=zarr_format).to_json(zarr_format=zarr_format)
    except (ValueError, TypeError) as error:
        raise ChainError(f"{path!r} can't have the data type {dtype}: {error}") from None
    if zarr_format == 2:
        return dataclasses.replace(doc, document={**doc.document, "dtype": named["name"]})  # type: ignore[index]
    return _with_endian(dataclasses.replace(doc, document={**doc.document, "data_type": named}))


def is_bound_to_dtype(doc: ArrayDoc) -> bool:
    """Tell whether an array has codecs that only work with its current data type."""
    if doc.zarr_format == 2:
        return bool(doc.filters) or np.dtype(object) == doc.document["dtype"]
    return name_of(doc.serializer) != "bytes" or any(name_of(codec) != "transpose" for codec in doc.filters)
