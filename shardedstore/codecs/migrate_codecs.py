"""Codecs of a Zarr v2 array in Zarr v3: its chunks are kept if v3 has equal codecs, or else encoded again.

Every choice is verified: zarr reads a few elements that are stored with the chosen codecs.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from zarr.abc.codec import ArrayArrayCodec, BytesBytesCodec
from zarr.dtype import parse_dtype
from zarr.registry import get_codec_class

from shardedstore.codecs.array_codecs import few_elements, opened, read_one_chunk, write_one_chunk
from shardedstore.codecs.array_document import AnyType, ArrayDoc, data_type, name_of, parse_array_document
from shardedstore.codecs.array_info import encoded_dtype
from shardedstore.codecs.codec_config import LARGEST, Config, complete, from_json, to_json
from shardedstore.codecs.reencode import Reencoder
from shardedstore.errors import ChainError
from shardedstore.zarr.metadata import dump_json

TEXTS, BYTES = "vlen-utf8", "vlen-bytes"  # these codecs store the same bytes in both formats
PORTABLE = {"bytes", "transpose", "blosc", "zstd", "gzip", "crc32c", TEXTS, BYTES}  # codecs of all v3 readers
SHUFFLED = {
    "zlib": "zlib",
    "gzip": "zlib",
    "zstd": "zstd",
    "lz4": "lz4",
}  # Blosc's names for compressors that follow a shuffle filter
LEVEL = 5  # replaces the level of a compressor that has another scale
NO_TYPE = {"pickle": "pickled Python objects", "vlen-array": "arrays of different lengths"}


class MigratedArray(NamedTuple):
    """An array in v3: its document, and whether its chunks are encoded again.

    Attributes
    ----------
    document : dict
        The v3 document. Its shape and attributes are not those of the array.
    recodes : bool
        Whether the chunks are encoded again.
    fill : scalar
        The fill value of the v2 document; None for null.
    kind : str
        NumPy's kind of the data type.
    """

    document: dict[str, Any]
    recodes: bool
    fill: Any = None
    kind: str = "V"


class Style(NamedTuple):
    """Options of the migration.

    Attributes
    ----------
    chunk_keys : str
        The encoding of the chunk keys.
    portable : bool
        Whether only codecs that all v3 readers have are used.
    """

    chunk_keys: str = "v2"
    portable: bool = False


AS_IT_IS = Style()


def layout(document: Mapping[str, Any], path: str, style: Style = AS_IT_IS) -> MigratedArray:
    """Return a v2 array's document and codecs in v3.

    Raises
    ------
    ChainError
        If v3 has no codecs that keep the values. The message names the array and the codec, and says what to do.

    Examples
    --------
    >>> v2 = {"zarr_format": 2, "shape": [9], "chunks": [3], "dtype": ">i4", "fill_value": None, "order": "C"}
    >>> made, recodes, *_ = layout({**v2, "filters": None, "compressor": {"id": "zlib", "level": 3}}, "a")
    >>> made["data_type"], made["fill_value"], recodes
    ('int32', 0, False)
    >>> made["codecs"][0], made["codecs"][1]["name"]
    ({'name': 'bytes', 'configuration': {'endian': 'big'}}, 'numcodecs.zlib')
    """
    shape = [min(n, 1) for n in document["shape"]]  # all blocks of an array share one cached result
    text = json.dumps({**document, "shape": shape}, sort_keys=True)
    try:
        return _cached(text, style)
    except ChainError:
        return _layout(text, style, path)  # raises the same error with the path


def _layout(text: str, style: Style, path: str = "") -> MigratedArray:
    doc = parse_array_document(json.loads(text), path)
    for codec in (*doc.filters, *doc.compressors):
        if codec["id"] in NO_TYPE:
            raise ChainError(
                f"{path!r} holds {NO_TYPE[codec['id']]} ({codec['id']}), for which Zarr v3 has no data type: rewrite it "
                "as text or numbers, or leave it out of the source"
            )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr warns about codecs and data types without a specification
        types = _types(doc, path)
        reason = "Zarr v3 has no codecs for its filters"
        for find, recodes in _candidates(doc, types, path, style):
            try:
                codecs = find()
                if codecs is not None:
                    made = _as_zarr_writes(_document(doc, types, codecs, style))
                    _check(doc, types, made, recodes)
                    fill = None if doc.document.get("fill_value") is None else types.fill
                    return MigratedArray(made, recodes, fill, types.old.to_native_dtype().kind)
            except Exception as error:  # noqa: BLE001 (numcodecs and zarr raise different errors)
                reason = f"{type(error).__name__}: {error}"
    names = ", ".join(codec["id"] for codec in doc.filters) or "no filter"
    raise ChainError(
        f"{path!r} ({doc.document['dtype']}, {names}) can't be converted to Zarr v3 with equal values ({reason}): register its "
        "codecs with numcodecs, or rewrite it with other codecs"
    )


Find = Callable[[], list[Any] | None]


def _candidates(doc: ArrayDoc, types: Types, path: str, style: Style) -> Iterator[tuple[Find, bool]]:
    """Yield functions that return codecs, and whether chunks are encoded again with them.

    The preferred codecs come first.
    """
    if style.portable:
        yield lambda: _if_portable(_same_codecs(doc), _compressors(doc, types, path)), False
        yield lambda: [*_plain_codecs(doc, types), *_portable_compressors(doc, types)], True
        return
    compressors = _compressors(doc, types, path)
    yield lambda: _joined(_same_codecs(doc), compressors), False
    yield lambda: _joined(_plain_codecs(doc, types), compressors), True


def _joined(codecs: list[Any] | None, compressors: list[Any]) -> list[Any] | None:
    return None if codecs is None else [*codecs, *compressors]


def _if_portable(codecs: list[Any] | None, compressors: list[Any]) -> list[Any] | None:
    whole = _joined(codecs, compressors) or []
    return whole if whole and all(name_of(codec) in PORTABLE for codec in whole) else None


def _portable_compressors(doc: ArrayDoc, types: Types) -> list[Any]:
    """Return portable compressors that replace others.

    Blosc replaces a compressor that follows a shuffle filter, gzip replaces zlib, and zstd replaces the rest.
    """
    if not doc.compressors:
        compressor: Config | None = next((c for c in doc.filters if c["id"] in {*SHUFFLED, "bz2", "lzma"}), None)
    else:
        compressor = doc.compressors[0]
    if compressor is None:
        return []
    name, itemsize = compressor["id"], max(1, getattr(types.new, "item_size", 1))
    is_shuffled = any(codec["id"] == "shuffle" for codec in doc.filters)
    nbytes = math.prod(doc.chunks) * itemsize
    if name in SHUFFLED and is_shuffled and itemsize > 1 and nbytes <= LARGEST["blosc"]:
        level = min(9, max(1, compressor.get("level", 1)))
        config: Config = {"id": "blosc", "cname": SHUFFLED[name], "clevel": level, "shuffle": "shuffle"}
    elif name == "blosc":
        config = from_json(compressor, 2, itemsize)
    elif name in {"zlib", "gzip"}:
        level = compressor.get("level", 1)
        config = {"id": "gzip", "level": level if 0 <= level <= 9 else LEVEL}  # -1 is zlib's default
    else:
        config = {"id": "zstd", "level": compressor.get("level", LEVEL) if name == "zstd" else LEVEL}
    return [_named(complete(config, 3, itemsize))]


_cached = functools.lru_cache(maxsize=1024)(_layout)


class Types(NamedTuple):
    """An array's data type in v2 and in v3, and its fill value as a scalar and as JSON."""

    old: AnyType
    new: AnyType
    fill: Any
    fill_json: Any


def _types(doc: ArrayDoc, path: str) -> Types:
    """Return an array's types. A null fill value becomes zarr's default.

    All text has one type, whatever its object codec.
    """
    document = doc.document
    fill = document.get("fill_value")
    try:
        if document["dtype"] == "|O" and not any(codec["id"] == BYTES for codec in doc.filters):
            old = parse_dtype({"name": "|O", "object_codec_id": TEXTS}, zarr_format=2)
        else:
            old = data_type(document)
        native = old.to_native_dtype()
        new = old if native.kind in "OT" else parse_dtype(native.newbyteorder("<"), zarr_format=3)
        scalar = old.default_scalar() if fill is None else old.from_json_scalar(fill, zarr_format=2)
        return Types(old, new, scalar, new.to_json_scalar(new.cast_scalar(scalar), zarr_format=3))
    except Exception as error:
        raise ChainError(
            f"{path!r} has the data type {document['dtype']!r} and the fill value {fill!r}, which zarr does not support in "
            f"Zarr v3 ({type(error).__name__}: {error}): rewrite it with another type"
        ) from error


def _compressors(doc: ArrayDoc, types: Types, path: str) -> list[Any]:
    try:
        return [_bytes_codec(codec, doc, types) for codec in doc.compressors]
    except Exception as error:
        raise ChainError(
            f"{path!r} is compressed with {doc.compressors[0]['id']!r}, which zarr does not support in Zarr v3 "
            f"({type(error).__name__}: {error}): put Recompress('zstd', arrays={path!r}) before MigrateV3"
        ) from error


def _bytes_codec(codec: Any, doc: ArrayDoc, types: Types) -> Any:
    """Return a bytes-to-bytes codec in v3; raise an error if v3 has none."""
    dtype = encoded_dtype(doc) if codec.get("shuffle") == -1 else None  # numcodecs chooses the shuffle by the item size
    config = from_json(codec, 2, 1 if dtype is None else dtype.itemsize)
    return _named(complete(config, 3, max(1, getattr(types.new, "item_size", 1))))


def _named(config: Config) -> Any:
    return {"configuration": {}, **to_json(config, 3)}  # zarr requires a configuration for numcodecs codecs


def _transposed(doc: ArrayDoc) -> list[Any]:
    order = list(range(len(doc.chunks)))
    if doc.document.get("order") != "F" or len(order) < 2:
        return []
    return [{"name": "transpose", "configuration": {"order": order[::-1]}}]


def _bytes_of(dtype: np.dtype[Any]) -> Any:
    little, big = dtype.newbyteorder("<"), dtype.newbyteorder(">")
    if little == big:
        return {"name": "bytes"}
    return {"name": "bytes", "configuration": {"endian": "big" if dtype == big else "little"}}


def _same_codecs(doc: ArrayDoc) -> list[Any] | None:
    """Return v3 codecs equal to the filters, in the order that v3 requires, or None."""
    arrays = _transposed(doc)
    serializers: list[Any] = []
    others: list[Any] = []
    for i, codec in enumerate(doc.filters):
        if codec["id"] in {TEXTS, BYTES} and not others:
            serializers.append({"name": codec["id"]})
            continue
        named = _named(from_json(codec, 2, 1))
        try:
            kind = get_codec_class(name_of(named))
        except (KeyError, ImportError, ValueError):
            return None
        if issubclass(kind, BytesBytesCodec):
            serializers = serializers or [_bytes_of(_dtype_after(doc, i))]
            others.append(named)
        elif issubclass(kind, ArrayArrayCodec) and not serializers:
            arrays.append(named)
        else:
            return None
    return [*arrays, *(serializers or [_bytes_of(_dtype_after(doc, len(doc.filters)))]), *others]


def _dtype_after(doc: ArrayDoc, count: int) -> np.dtype[Any]:
    """Return the data type after the first filters, in the byte order of the stored bytes."""
    dtype = encoded_dtype(dataclasses.replace(doc, filters=doc.filters[:count]))
    if dtype is None:
        raise TypeError("objects have no bytes")
    return dtype


def _plain_codecs(doc: ArrayDoc, types: Types) -> list[Any]:
    """Return codecs that replace all filters."""
    native = types.new.to_native_dtype()
    if native.kind not in "OT":
        return [*_transposed(doc), _bytes_of(native)]
    return [{"name": BYTES if any(codec["id"] == BYTES for codec in doc.filters) else TEXTS}]


def _document(doc: ArrayDoc, types: Types, codecs: list[Any], style: Style) -> dict[str, Any]:
    separator = "/" if style.chunk_keys == "default" else doc.document.get("dimension_separator") or "."
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": doc.shape,
        "data_type": types.new.to_json(zarr_format=3),
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [max(1, n) for n in doc.chunks]}},
        "chunk_key_encoding": {"name": style.chunk_keys, "configuration": {"separator": separator}},
        "fill_value": types.fill_json,
        "codecs": codecs,
    }


def _as_zarr_writes(document: dict[str, Any]) -> dict[str, Any]:
    array = opened({"zarr.json": dump_json(document)}, mode="r")
    written: dict[str, Any] = json.loads(dump_json(array.metadata.to_dict()))
    return written


def _check(doc: ArrayDoc, types: Types, made: dict[str, Any], recodes: bool) -> None:
    """Raise ValueError if zarr does not agree with the chosen codecs.

    zarr must read the same elements in v3 as in v2, read the same fill value for a missing chunk, and write elements
    that it reads again.
    """
    shape = tuple(max(1, min(n, 2 + i % 2)) for i, n in enumerate(doc.chunks))
    old = parse_array_document({**doc.document, "shape": shape, "chunks": shape}, "")
    grid = {"name": "regular", "configuration": {"chunk_shape": shape}}
    new = parse_array_document({**made, "shape": shape, "chunk_grid": grid}, "")
    reencoder, native = Reencoder(old, new), types.old.to_native_dtype()
    stored = reencoder.encode_old(few_elements(native, shape))
    elements = reencoder.decode(stored)
    stored = reencoder.encode(elements) if recodes else stored
    for data, expected in ((stored, elements), (None, np.full(shape, types.fill, native))):
        got = read_one_chunk(new, data)
        if str(got.tolist()) != str(expected.tolist()):
            raise ValueError(f"zarr reads {got.ravel()[:4]} for {expected.ravel()[:4]}")
    if not recodes:
        got = write_one_chunk(new, np.array(elements, elements.dtype.newbyteorder("="), order="C"))
        if str(got.tolist()) != str(elements.tolist()):
            raise ValueError(f"zarr writes {got.ravel()[:4]} for {elements.ravel()[:4]}")
