"""Levels of comparison of arrays: decoded data, else decompressed bytes, else stored bytes.

Each side uses the deepest level that its metadata allows. A chunk that can't be decoded is digested one level lower, together
with the metadata that defines the meaning of its bytes. Therefore it equals only the same bytes with the same codecs.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from operator import add, mul
from typing import Any, Literal, NamedTuple

import numpy as np
from zarr.dtype import parse_dtype

from shardedstore.codecs.array_codecs import Array, ChunkCodec, FilterPart
from shardedstore.codecs.array_document import ArrayDoc, name_of, options_of, parse_array_document, split_codecs
from shardedstore.codecs.array_info import compressor_configs, read_fill_value
from shardedstore.codecs.bytes_codecs import Compression
from shardedstore.codecs.codec_config import safe_codec
from shardedstore.codecs.digest import VERSION, Digester, Hasher, Layout
from shardedstore.stores.entries import Data, Entry
from shardedstore.transforms.base.datasums import Found, Read, element_type, inner_chunks
from shardedstore.zarr.grid import Coords
from shardedstore.zarr.metadata import ArrayMeta

Depth = Literal["decoded", "decompressed", "stored"]
TEXT_CODECS = {"json2", "msgpack2", "categorize"}  # codecs for texts that run no code when they decode
PLACE = ("shape", "attributes", "dimension_names", "chunk_key_encoding", "dimension_separator")  # fields without values


class Level(NamedTuple):
    """One way to digest a chunk. `decode` raises an error for damaged data, and `digest` for elements that have no digest."""

    depth: Depth
    hasher: Hasher
    decode: Callable[[Data], Any]
    digest: Callable[[Coords, Any], Found]


class ComparedChunks:
    """Digests the stored chunks of one array for comparison; the parameters are those of `ArrayChunks`.

    Attributes
    ----------
    levels : list of Level
        The levels, the deepest first. The last level accepts any bytes.
    """

    def __init__(self, path: str, document: dict[str, Any], meta: ArrayMeta, shape: Coords | None = None) -> None:
        self.path = path
        self.doc: ArrayDoc | None = None
        self.grid = (1,) * len(meta.shape)  # digested chunks in a stored object, along each dimension
        self.levels = list(self._levels(document, meta, meta.shape if shape is None else shape))

    @property
    def layout(self) -> Layout:
        # docstring inherited
        return self.levels[0].hasher.layout

    def _levels(self, document: dict[str, Any], meta: ArrayMeta, shape: Coords) -> Iterator[Level]:
        try:
            self.doc = doc = parse_array_document(document, self.path)
        except Exception:  # noqa: BLE001 (unknown codecs, or unknown options of codecs)
            yield from self._levels_of_objects(document, meta, shape)
            return
        self.grid = doc.inner_grid
        with suppress(Exception):  # an unknown data type, fill value or codec
            yield _decoded(doc, shape)
        with suppress(Exception):  # an unknown compressor
            compression = Compression(compressor_configs(doc, 1))
            yield _of_bytes("decompressed", compression.decode, shape, doc.chunks, _meaning(doc, ()))
        yield _of_bytes("stored", _as_it_is, shape, doc.chunks, _meaning(doc, doc.compressors))

    def _levels_of_objects(self, document: dict[str, Any], meta: ArrayMeta, shape: Coords) -> Iterator[Level]:
        """Yield the levels for codecs that only zarr can decode, one whole object at a time."""
        with suppress(Exception):  # codecs that zarr does not know either
            level, self.grid = _decoded_by_zarr(document, shape, self.path)
            yield level
        kept = {key: value for key, value in document.items() if key not in PLACE}
        yield _of_bytes("stored", _as_it_is, shape, meta.chunks or shape, kept)

    def read(self, entry: Entry) -> Read:
        # docstring inherited
        assert entry.coords is not None
        first = tuple(map(mul, entry.coords, self.grid))
        try:
            chunks = [(first, entry.data)] if self.doc is None else list(inner_chunks(self.doc, entry))
        except Exception as error:  # noqa: BLE001 (an object that can't be split)
            lowest = self.levels[-1]
            return Read(lowest.digest(first, entry.data), error, ((first, lowest.depth),))
        found, errors, lower = list[tuple[Coords, Any]](), list[Exception](), list[tuple[Coords, str]]()
        for index, data in chunks:
            for level in self.levels:
                try:
                    decoded = level.decode(data)
                except Exception as error:  # noqa: BLE001 (codecs raise errors of any type)
                    errors.append(error)
                    continue
                try:
                    found += level.digest(index, decoded)
                except (TypeError, ValueError):  # elements without a digest, such as numbers among texts
                    continue
                if level is not self.levels[0]:
                    lower.append((index, level.depth))
                break
        return Read(found, errors[0] if errors else None, tuple(lower))


def depth_of(layout: Layout) -> Depth:
    """Return the level of comparison of an array with this layout."""
    for depth in ("decompressed", "stored"):
        if layout.dtype.startswith(f'["{depth}",'):
            return depth
    return "decoded"


def _decoded(doc: ArrayDoc, shape: Coords) -> Level:
    if doc.document.get("dtype") == "|O" and not TEXT_CODECS.isdisjoint(codec["id"] for codec in doc.filters):
        return _texts(doc, shape)
    fill_value = read_fill_value(doc, doc.document.get("fill_value"))
    digester = Digester(shape, doc.chunks, element_type(doc), fill_value)
    return Level("decoded", digester, ChunkCodec(doc, arrays=True).decode, partial(_chunk, digester))


def _texts(doc: ArrayDoc, shape: Coords) -> Level:
    """Return the level of a v2 array of objects that hold texts, which `MigrateV3` treats as texts."""
    zdtype = parse_dtype({"name": "|O", "object_codec_id": "vlen-utf8"}, zarr_format=2)
    fill = doc.document.get("fill_value")
    fill_value = zdtype.default_scalar() if fill is None else zdtype.from_json_scalar(fill, zarr_format=2)
    filters = [safe_codec(config) for config in doc.filters]
    part = FilterPart(filters, np.dtype(object), doc.chunks, doc.document.get("order") or "C")
    compression = Compression(compressor_configs(doc, 1))
    digester = Digester(shape, doc.chunks, "string", fill_value)
    return Level("decoded", digester, lambda data: part.unpack(compression.decode(data)), partial(_chunk, digester))


def _chunk(digester: Digester, index: Coords, array: Array) -> Found:
    found = digester.chunk(index, array)
    return [] if found is None else [(index, found)]


def _decoded_by_zarr(document: Mapping[str, Any], shape: Coords, path: str) -> tuple[Level, Coords]:
    """Return the level for objects that zarr decodes as a whole, and the grid of the finest chunks in an object."""
    stored = tuple(document["chunk_grid"]["configuration"]["chunk_shape"])
    filters, serializer, compressors = split_codecs(document["codecs"], path)
    doc = ArrayDoc(dict(document), 3, tuple(document["shape"]), stored, stored, filters, serializer, compressors)
    finest = _finest(serializer, stored)
    if any(n % c for n, c in zip(stored, finest, strict=True)):
        raise ValueError(f"inner chunks of {finest} don't divide {stored}")
    digester = Digester(shape, finest, element_type(doc), read_fill_value(doc, document["fill_value"]))

    def digest(first: Coords, array: Array) -> Found:
        made: Found = []
        for place in itertools.product(*(range(n // c) for n, c in zip(stored, finest, strict=True))):
            box = tuple(slice(i * c, (i + 1) * c) for i, c in zip(place, finest, strict=True))
            index = tuple(map(add, first, place))
            made += ((at, found) for at, found in _chunk(digester, index, array[box]) if found.value)
        return made

    grid = tuple(n // c for n, c in zip(stored, finest, strict=True))
    return Level("decoded", digester, ChunkCodec(doc, arrays=True).decode, digest), grid


def _finest(serializer: Any, chunks: Coords) -> Coords:
    """Return the shape of the innermost chunks of some codecs."""
    while name_of(serializer) == "sharding_indexed":
        options = options_of(serializer)
        chunks, (_, serializer, _) = tuple(options["chunk_shape"]), split_codecs(options["codecs"], "")
    return chunks


def _meaning(doc: ArrayDoc, compressors: Iterable[Any]) -> dict[str, Any]:
    """Return the metadata that defines the values of a chunk's bytes, after decompression by these compressors."""
    if doc.zarr_format == 3:
        kept = {name: doc.document.get(name) for name in ("data_type", "fill_value")}
        return {**kept, "codecs": [*doc.filters, doc.serializer, *compressors]}
    kept = {name: doc.document.get(name) for name in ("dtype", "fill_value", "order")}
    return {**kept, "filters": doc.filters, "compressors": list(compressors)}


def _of_bytes(
    depth: Depth, decode: Callable[[Data], Any], shape: Coords, chunks: Coords, meaning: Mapping[str, Any]
) -> Level:
    dtype = json.dumps([depth, VERSION, meaning], ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    hasher = Hasher(Layout(shape, chunks, dtype, ""))
    return Level(depth, hasher, decode, lambda index, data: [(index, hasher.hash(index, data))])


def _as_it_is(data: Data) -> Data:
    return data
