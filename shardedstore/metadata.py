"""Zarr's metadata documents, v2 and v3, as far as dividing a store needs them: shapes, chunk grids and chunk keys.

Documents are read as JSON, never through codecs, so that an array of an unknown codec can be moved like any other;
where nothing has to change, their bytes are carried as they are.
"""

from __future__ import annotations

import json
import math
from collections.abc import Container, Mapping
from typing import Any

import msgspec
import numpy as np

from shardedstore.errors import CorruptError
from shardedstore.grid import ChunkKeys, Coords
from shardedstore.mounts import parents

METADATA_NAMES = ("zarr.json", ".zarray", ".zgroup", ".zattrs")
CONSOLIDATED_V2 = ".zmetadata"
NAMES_OF = {3: METADATA_NAMES[:1], 2: METADATA_NAMES[1:]}  # by Zarr format


class ArrayMeta(msgspec.Struct, frozen=True):
    """What is known of an array from its metadata document.

    `chunks` and `keys` are None for a chunk grid or a chunk key encoding that is not known here: such an array is
    carried, but can't be divided. For an array that uses the sharding codec, `chunks` is the outer grid's.
    """

    zarr_format: int
    shape: Coords
    chunks: Coords | None
    keys: ChunkKeys | None
    dimension_names: tuple[str | None, ...] | None
    itemsize: int

    @property
    def chunk_grid(self) -> Coords:
        """The number of chunks along each dimension."""
        if self.chunks is None:
            return ()
        return tuple(-(-n // c) for n, c in zip(self.shape, self.chunks, strict=True))

    @property
    def chunk_count(self) -> int:
        """The number of chunks, stored or missing."""
        return math.prod(self.chunk_grid) if self.chunks is not None else 1

    @property
    def chunk_nbytes(self) -> int:
        """The size of one decoded chunk, in bytes; nominal for types of variable length."""
        return math.prod(self.chunks if self.chunks is not None else self.shape) * self.itemsize

    @property
    def nbytes(self) -> int:
        """The size of the decoded array, in bytes; nominal for types of variable length."""
        return math.prod(self.shape) * self.itemsize


class GroupMeta(msgspec.Struct, frozen=True):
    """What is known of a group: its format, and whether its document holds metadata of all below it."""

    zarr_format: int
    consolidated: bool = False


def parse_node(documents: Mapping[str, bytes], path: str, above: int | None = None) -> ArrayMeta | GroupMeta | None:
    """Return what the metadata documents of one node say, or None where there is no node.

    Parameters
    ----------
    documents : mapping of str to bytes
        The node's documents by their names (``zarr.json``, ``.zarray``, ``.zgroup``, ``.zattrs``).
    path : str
        The node's path, for messages.
    above : int, optional
        The format of the group above, which is that of a node that has documents of both.

    Raises
    ------
    CorruptError
        For a document that is not JSON, or lacks what every such document has.
    """
    zarr_format = format_of(documents, above)
    if zarr_format is None:
        return None
    name = "zarr.json" if zarr_format == 3 else ".zarray" if ".zarray" in documents else ".zgroup"
    document = parse_json(documents[name], path, name)
    try:
        if name == ".zgroup":
            return GroupMeta(2)
        if name == ".zarray":
            attributes = parse_json(documents.get(".zattrs", b"{}"), path, ".zattrs")
            return _array_v2(document, attributes.get("_ARRAY_DIMENSIONS"))
        if document["node_type"] == "group":
            return GroupMeta(3, document.get("consolidated_metadata") is not None)
        return _array_v3(document)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        cause = f"{type(error).__name__}: {error}"
        raise CorruptError(
            f"{_at(path, name)} is not metadata that Zarr knows ({cause}): mend it, or move it out of the source"
        ) from None


def format_of(names: Container[str], above: int | None = None) -> int | None:
    """Return the Zarr format of a node that has documents of these names; None where they make no node.

    Of one that has documents of both formats it is that of the group above, by which zarr looks for it, and else v3.

    >>> format_of([".zgroup"]), format_of([".zarray", "zarr.json"]), format_of([".zarray", "zarr.json"], above=2)
    (2, 3, 2)
    """
    found = [] if "zarr.json" not in names else [3]
    found += [2] if ".zarray" in names or ".zgroup" in names else []
    return above if above in found else next(iter(found), None)


def format_above(formats: Mapping[str, int], path: str) -> int | None:
    """Return the format of the nearest group above a path; None where there is none."""
    return next((formats[parent] for parent in parents(path) if parent in formats), None)


def parse_json(data: bytes, path: str, name: str) -> dict[str, Any]:
    """Return a document's content; it must be a JSON object."""
    try:
        document = json.loads(bytes(data))
    except (ValueError, RecursionError) as error:
        raise CorruptError(f"{_at(path, name)} is not JSON ({error}): mend it, or move it out of the source") from None
    if not isinstance(document, dict):
        raise CorruptError(f"{_at(path, name)} is not a JSON object: mend it, or move it out of the source")
    return document


def dump_json(document: Mapping[str, Any]) -> bytes:
    """Return a document's bytes, indented as zarr writes them."""
    return json.dumps(document, indent=2).encode()


def crop_document(data: bytes, shape: Coords, path: str, name: str) -> bytes:
    """Return an array's document with another shape.

    >>> json.loads(crop_document(b'{"shape": [9, 4], "fill_value": 1}', (3, 4), "a", ".zarray"))
    {'shape': [3, 4], 'fill_value': 1}
    """
    return dump_json({**parse_json(data, path, name), "shape": list(shape)})


def drop_consolidated(data: bytes, path: str) -> bytes | None:
    """Return a group's ``zarr.json`` without its consolidated metadata; None where it has none."""
    if b'"consolidated_metadata"' not in bytes(data):
        return None
    document = parse_json(data, path, "zarr.json")
    if document.pop("consolidated_metadata", None) is None:
        return None
    return dump_json(document)


def _at(path: str, name: str) -> str:
    return repr(f"{path}/{name}" if path else name)


def _array_v2(document: Mapping[str, Any], dims: object) -> ArrayMeta:
    shape, chunks = _sizes(document["shape"]), _sizes(document["chunks"])
    named = isinstance(dims, list) and len(dims) == len(shape) and all(isinstance(d, str) for d in dims)
    return ArrayMeta(
        zarr_format=2,
        shape=shape,
        chunks=chunks if len(chunks) == len(shape) and all(chunks) else None,
        keys=_keys("v2", document.get("dimension_separator") or "."),
        dimension_names=tuple(dims) if named and isinstance(dims, list) else None,
        itemsize=_itemsize_v2(document["dtype"]),
    )


def _array_v3(document: Mapping[str, Any]) -> ArrayMeta:
    if document["node_type"] != "array":
        raise ValueError(f"node_type is {document['node_type']!r}")
    shape = _sizes(document["shape"])
    grid, encoding = document["chunk_grid"], document["chunk_key_encoding"]
    chunks = _sizes(grid["configuration"]["chunk_shape"]) if _name(grid) == "regular" else ()
    dims = document.get("dimension_names")
    return ArrayMeta(
        zarr_format=3,
        shape=shape,
        chunks=chunks if _name(grid) == "regular" and len(chunks) == len(shape) and all(chunks) else None,
        keys=_keys_v3(encoding),
        dimension_names=tuple(dims) if isinstance(dims, list) and len(dims) == len(shape) else None,
        itemsize=_itemsize_v3(document["data_type"]),
    )


def _sizes(values: Any) -> Coords:
    if not isinstance(values, list) or not all(type(v) is int and v >= 0 for v in values):
        raise ValueError(f"{values!r} is not a list of sizes")
    return tuple(values)


def _name(extension: Any) -> str:
    return extension if isinstance(extension, str) else str(extension["name"])


def _keys_v3(encoding: Any) -> ChunkKeys | None:
    name = _name(encoding)
    options = encoding.get("configuration") or {} if isinstance(encoding, dict) else {}
    return _keys(name, options.get("separator", "/" if name == "default" else "."))


def _keys(name: str, separator: object) -> ChunkKeys | None:
    try:
        return msgspec.convert({"name": name, "separator": separator}, ChunkKeys)
    except msgspec.ValidationError:
        return None


NOMINAL_ITEMSIZE = 16  # of strings and bytes of variable length


def _itemsize_v2(dtype: Any) -> int:
    fields = [tuple(f) if isinstance(f, list) else f for f in dtype] if isinstance(dtype, list) else dtype
    try:
        size = np.dtype(fields)
    except (SyntaxError, TypeError, ValueError):
        return NOMINAL_ITEMSIZE
    return NOMINAL_ITEMSIZE if size.hasobject else size.itemsize


def _itemsize_v3(data_type: Any) -> int:
    """Return the size in bytes of an element: exact for the core types of the specification."""
    name = _name(data_type)
    if name.startswith("r") and name[1:].isdigit():
        return int(name[1:]) // 8
    if isinstance(data_type, dict):
        length = (data_type.get("configuration") or {}).get("length_bytes")
        if isinstance(length, int):
            return length
    try:
        size = np.dtype(name.removeprefix("numpy."))
    except (TypeError, ValueError):
        return NOMINAL_ITEMSIZE
    return NOMINAL_ITEMSIZE if size.hasobject else size.itemsize or 1
