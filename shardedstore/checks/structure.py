"""The structure of a group or an array as plain values, equal for equal meaning in both Zarr formats."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from shardedstore.codecs.array_document import ArrayDoc, data_type, endian_of, name_of, options_of, parse_array_document
from shardedstore.codecs.array_info import compressor_configs, itemsize_of
from shardedstore.codecs.codec_config import filter_from_json
from shardedstore.stores.hierarchy import Node
from shardedstore.zarr.metadata import DIMENSIONS, ArrayMeta, parse_json

Structure = dict[str, Any]


def structure_of(node: Node, path: str) -> Structure:
    """Return the fields of a group or an array by name; attributes are named ``attributes.NAME``."""
    attributes = _attributes(node, path)
    if not isinstance(node.meta, ArrayMeta):
        return {"node": "group", "zarr_format": node.meta.zarr_format, **attributes}
    name = "zarr.json" if node.meta.zarr_format == 3 else ".zarray"
    return {**_array(parse_json(node.documents[name], path, name), node.meta, path), **attributes}


def _attributes(node: Node, path: str) -> Structure:
    name = "zarr.json" if node.meta.zarr_format == 3 else ".zattrs"
    found = parse_json(node.documents.get(name, b"{}"), path, name)
    attributes = found.get("attributes") or {} if name == "zarr.json" else found
    is_array_v2 = isinstance(node.meta, ArrayMeta) and node.meta.zarr_format == 2
    return {f"attributes.{key}": value for key, value in attributes.items() if not (is_array_v2 and key == DIMENSIONS)}


def _array(document: dict[str, Any], meta: ArrayMeta, path: str) -> Structure:
    keys = None if meta.keys is None else f"{meta.keys.name} {meta.keys.separator!r}"
    found: Structure = {
        "node": "array",
        "zarr_format": meta.zarr_format,
        "shape": list(meta.shape),
        "chunks": _listed(meta.chunks),
        "data_type": document.get("data_type", document.get("dtype")),
        "fill_value": document.get("fill_value"),
        "codecs": document.get("codecs", [*(document.get("filters") or ()), document.get("compressor")]),
        "chunk_keys": keys,
        "dimension_names": _listed(meta.dimension_names),
    }
    with suppress(Exception):  # an unknown chunk grid, codec or data type is shown as it is written
        found |= _known(parse_array_document(document, path))
    return found


def _known(doc: ArrayDoc) -> Structure:
    zdtype = data_type(doc.document)
    known: Structure = {"chunks": list(doc.chunks), "codecs": [*_codecs(doc)]}
    if doc.index is not None:
        known["shards"] = list(doc.stored)
    with suppress(Exception):  # a type that Zarr v3 has no name for
        known["data_type"] = zdtype.to_json(zarr_format=3)
        native = zdtype.to_native_dtype()
        if native.itemsize > 1 and native.kind not in "OTSV":
            known["byte_order"] = _byte_order(doc, native.byteorder)
    return known


def _byte_order(doc: ArrayDoc, order: str) -> Any:
    if doc.zarr_format == 3:
        return endian_of(doc.serializer)
    return "big" if order == ">" else "little"


def _codecs(doc: ArrayDoc) -> Iterator[Any]:
    yield from (filter_from_json(codec, doc.zarr_format) for codec in doc.filters)
    if doc.zarr_format == 3 and name_of(doc.serializer) not in ("bytes", "vlen-utf8", "vlen-bytes"):
        yield {"id": name_of(doc.serializer), **options_of(doc.serializer)}
    itemsize = itemsize_of(doc)
    for config in compressor_configs(doc, itemsize):  # only Zarr v3 writes the usual size of elements
        yield {key: value for key, value in config.items() if (key, value) != ("typesize", itemsize)}


def _listed(values: tuple[Any, ...] | None) -> list[Any] | None:
    return None if values is None else list(values)
