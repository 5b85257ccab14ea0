"""The metadata documents of a Zarr v2 node as one ``zarr.json`` of Zarr v3."""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping
from typing import Any

from shardedstore.codecs.arraydoc import data_type
from shardedstore.codecs.v3codecs import Layout, layout
from shardedstore.metadata import ArrayMeta, dump_json, parse_json, parse_node

DIMENSIONS = "_ARRAY_DIMENSIONS"
MASKED = "_FillValue"


def group_document(documents: Mapping[str, bytes], path: str) -> bytes:
    """Return a v2 group's document in v3, as zarr writes it.

    >>> parse_json(group_document({".zgroup": b'{"zarr_format": 2}', ".zattrs": b'{"a": 1}'}, ""), "", "zarr.json")
    {'attributes': {'a': 1}, 'zarr_format': 3, 'node_type': 'group'}
    """
    return dump_json({"attributes": _attributes(documents, path), "zarr_format": 3, "node_type": "group"})


def array_document(documents: Mapping[str, bytes], path: str) -> tuple[bytes, Layout]:
    """Return a v2 array's document in v3, and how its chunks stand there.

    Attributes say the same to xarray as before: it takes dimensions from ``dimension_names`` in v3, and there masks what
    equals the attribute ``_FillValue``, where in v2 it masks what equals the fill value.

    Raises
    ------
    ChainError
        Where v3 has nothing that keeps the values.
    """
    document = parse_json(documents[".zarray"], path, ".zarray")
    made = layout(document, path)
    attributes = _attributes(documents, path)
    meta = parse_node(documents, path)
    assert isinstance(meta, ArrayMeta)
    changes: dict[str, Any] = {"shape": list(meta.shape), "attributes": attributes}
    if meta.dimension_names is not None:
        attributes |= _masked(document, attributes)
        changes["dimension_names"] = attributes.pop(DIMENSIONS)
    return dump_json({name: changes.get(name, made.document.get(name)) for name in _names(made, changes)}), made


def _names(made: Layout, changes: Mapping[str, Any]) -> list[str]:
    """Return the names in a document in zarr's order, in which `dimension_names` follow the attributes."""
    names = list(made.document)
    if "dimension_names" in changes:
        names.insert(names.index("attributes") + 1, "dimension_names")
    return names


def _attributes(documents: Mapping[str, bytes], path: str) -> dict[str, Any]:
    return parse_json(documents.get(".zattrs", b"{}"), path, ".zattrs")


def _masked(document: Mapping[str, Any], attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attribute that makes xarray mask the values in v3 that it masks in v2; it has none for texts and dates.

    >>> _masked({"dtype": "<i2", "fill_value": -1}, {}), _masked({"dtype": "<f4", "fill_value": "NaN"}, {})
    ({'_FillValue': -1}, {'_FillValue': 'AAAAAAAA+H8='})
    """
    zdtype = data_type(document)
    kind = zdtype.to_native_dtype().kind
    value = document.get("fill_value")
    if value is not None:
        value = zdtype.from_json_scalar(value, zarr_format=2)
    elif isinstance(attributes.get(MASKED), int | float):
        value = attributes[MASKED]
    if value is None or kind not in "biufc":
        return {}
    match kind:
        case "f":
            return {MASKED: _coded(value)}
        case "c":
            return {MASKED: [_coded(value.real), _coded(value.imag)]}
        case "b":
            return {MASKED: bool(value)}
    return {MASKED: int(value)}


def _coded(value: Any) -> str:
    """Return a float as xarray writes it in JSON."""
    return base64.b64encode(struct.pack("<d", value)).decode()
