"""Zarr's metadata documents, v2 and v3: shapes, chunk grids, chunk keys and names of dimensions.

Documents are parsed as JSON and never passed through codecs, so arrays with unknown codecs can be moved like any other.
Documents that need no change keep their bytes.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Container, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from shardedstore.errors import CorruptError
from shardedstore.zarr.grid import ChunkKeys, Coords
from shardedstore.zarr.paths import parents
from shardedstore.zarr.refusal import is_refusal

METADATA_NAMES = ("zarr.json", ".zarray", ".zgroup", ".zattrs")
CONSOLIDATED_V2 = ".zmetadata"
DOCUMENTS = (*METADATA_NAMES, CONSOLIDATED_V2)
DIMENSIONS = "_ARRAY_DIMENSIONS"  # attribute of v2 arrays in which xarray stores the names of dimensions
NCZARR = ("_NCZARR_ARRAY", "_nczarr_array")  # fields or attributes in which netCDF-C stores them
NAMES_OF = {3: METADATA_NAMES[:1], 2: METADATA_NAMES[1:]}  # names of documents by Zarr format


class ArrayMeta(msgspec.Struct, frozen=True):
    """Properties of an array from its metadata document.

    `chunks` and `keys` are None if the chunk grid or the chunk key encoding is unknown. Such an array can be copied,
    but not divided. For an array with the sharding codec, `chunks` is the shape of the outer chunks.
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
        """The number of chunks, including missing ones."""
        return math.prod(self.chunk_grid) if self.chunks is not None else 1

    @property
    def chunk_nbytes(self) -> int:
        """The size of a decoded chunk in bytes; an estimate for types of variable length."""
        return math.prod(self.chunks if self.chunks is not None else self.shape) * self.itemsize

    @property
    def nbytes(self) -> int:
        """The size of the decoded array in bytes; an estimate for types of variable length."""
        return math.prod(self.shape) * self.itemsize


class GroupMeta(msgspec.Struct, frozen=True):
    """Properties of a group: its format, and whether its document has consolidated metadata."""

    zarr_format: int
    consolidated: bool = False


def parse_node(documents: Mapping[str, bytes], path: str, above: int | None = None) -> ArrayMeta | GroupMeta | None:
    """Parse the metadata documents of one node, or return None if they define no node.

    Parameters
    ----------
    documents : mapping of str to bytes
        The node's documents by their names (``zarr.json``, ``.zarray``, ``.zgroup``, ``.zattrs``).
    path : str
        The node's path, for error messages.
    above : int, optional
        The format of the group above. It decides the format of a node that has documents of both formats.

    Raises
    ------
    CorruptError
        If a document is not JSON, or lacks a required field.
    """
    if any(map(is_refusal, documents.values())):
        return None
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
            return _array_v2(document, attributes)
        return _node_v3(document)
    except CorruptError:
        raise
    except Exception as error:  # noqa: BLE001 (a damaged document can raise any error)
        raise _unknown(path, name, error) from None


def _unknown(path: str, name: str, error: Exception) -> CorruptError:
    field = f"it has no {error}" if isinstance(error, KeyError) else f"{type(error).__name__}: {error}"
    cause = str(error) if isinstance(error, FieldError) else field
    return CorruptError(f"{_at(path, name)} is not valid Zarr metadata ({cause}): fix it, or move it out of the source")


class FieldError(ValueError):
    """A field of a document has an invalid value."""

    def __init__(self, field: str, value: object, wanted: str) -> None:
        shown = repr(value)
        super().__init__(f"{field!r} is {shown if len(shown) < 80 else shown[:76] + '...'}, but must be {wanted}")


def format_of(names: Container[str], above: int | None = None) -> int | None:
    """Return the Zarr format of a node with these documents; None if they define no node.

    If a node has documents of both formats, the format of the group above decides, as in zarr. Without it, v3 is
    preferred.

    >>> format_of([".zgroup"]), format_of([".zarray", "zarr.json"]), format_of([".zarray", "zarr.json"], above=2)
    (2, 3, 2)
    """
    found = [] if "zarr.json" not in names else [3]
    found += [2] if ".zarray" in names or ".zgroup" in names else []
    return above if above in found else next(iter(found), None)


def format_above(formats: Mapping[str, int], path: str) -> int | None:
    """Return the format of the nearest group above a path, or None."""
    return next((formats[parent] for parent in parents(path) if parent in formats), None)


def parse_json(data: bytes, path: str, name: str) -> dict[str, Any]:
    """Return a document's content, which must be a JSON object."""
    try:
        document = json.loads(bytes(data))
    except (ValueError, RecursionError) as error:
        raise CorruptError(f"{_at(path, name)} is not JSON ({error}): fix it, or move it out of the source") from None
    if not isinstance(document, dict):
        raise CorruptError(f"{_at(path, name)} is not a JSON object: fix it, or move it out of the source")
    return document


def dump_json(document: Mapping[str, Any]) -> bytes:
    """Return a document's bytes, indented like zarr's."""
    try:
        return json.dumps(document, indent=2).encode()
    except RecursionError:
        raise CorruptError(
            "the values of a metadata document are nested too deeply to be written: flatten its attributes"
        ) from None


def crop_document(data: bytes, shape: Coords, path: str, name: str) -> bytes:
    """Return an array's document with another shape.

    >>> json.loads(crop_document(b'{"shape": [9, 4], "fill_value": 1}', (3, 4), "a", ".zarray"))
    {'shape': [3, 4], 'fill_value': 1}
    """
    return dump_json({**parse_json(data, path, name), "shape": list(shape)})


def drop_consolidated(data: bytes, path: str) -> bytes | None:
    """Return a group's ``zarr.json`` without its consolidated metadata, or None if it has none."""
    if b'"consolidated_metadata"' not in bytes(data):
        return None
    document = parse_json(data, path, "zarr.json")
    if document.pop("consolidated_metadata", None) is None:
        return None
    return dump_json(document)


def _at(path: str, name: str) -> str:
    return repr(f"{path}/{name}" if path else name)


def consolidated_nodes(document: Mapping[str, Any], path: str, name: str) -> dict[str, Any]:
    """Return the consolidated metadata of a document, by node name.

    The document is a ``.zmetadata``, or the ``zarr.json`` of a group.

    Raises
    ------
    CorruptError
        If the consolidated metadata is not valid.
    """
    field = "consolidated_metadata" if name == "zarr.json" else "metadata"
    holder = document if name != "zarr.json" else document.get(field) or {}
    nodes = holder.get("metadata") or {} if isinstance(holder, dict) else holder
    if not isinstance(nodes, dict) or not all(isinstance(node, dict) for node in nodes.values()):
        raise CorruptError(
            f"{_at(path, name)} has invalid consolidated metadata in {field!r}: run zarr.consolidate_metadata again"
        )
    return nodes


def _array_v2(document: Mapping[str, Any], attributes: Mapping[str, Any]) -> ArrayMeta:
    if document.get("zarr_format", 2) != 2:
        raise FieldError("zarr_format", document["zarr_format"], "2")
    shape, chunks = _sizes(document, "shape"), _sizes(document, "chunks")
    return ArrayMeta(
        zarr_format=2,
        shape=shape,
        chunks=chunks if len(chunks) == len(shape) and all(chunks) else None,
        keys=_keys("v2", document.get("dimension_separator") or "."),
        dimension_names=dimension_names_v2(document, attributes),
        itemsize=_itemsize_v2(document["dtype"]),
    )


def dimension_names_v2(document: Mapping[str, Any], attributes: Mapping[str, Any]) -> tuple[str | None, ...] | None:
    """Return the names of a v2 array's dimensions as xarray finds them, or None.

    They come from an attribute, or else from the last parts of NCZarr's references. The references are in the document
    or, since netCDF-C 4.9.3, in an attribute.

    >>> dimension_names_v2({"shape": [2, 3], "_NCZARR_ARRAY": {"dimrefs": ["/y", "/g/x"]}}, {})
    ('y', 'x')
    """
    dims = attributes.get(DIMENSIONS)
    if DIMENSIONS not in attributes:
        places = (
            where[name] for where in (document, attributes) for name in NCZARR if isinstance(where.get(name), dict)
        )
        refs = next((place["dimrefs"] for place in places if "dimrefs" in place), None)
        dims = [str(ref).rpartition("/")[2] for ref in refs] if isinstance(refs, list) else None
    if not isinstance(dims, list) or len(dims) != len(document["shape"]):
        return None
    return tuple(dims) if all(isinstance(dim, str | None) for dim in dims) else None


def _node_v3(document: Mapping[str, Any]) -> ArrayMeta | GroupMeta:
    if document.get("zarr_format") != 3:
        wanted = "3 (a text value is from a draft of Zarr v3: write the data again)"
        raise FieldError("zarr_format", document.get("zarr_format"), wanted)
    if document["node_type"] not in ("array", "group"):
        raise FieldError("node_type", document["node_type"], "'array' or 'group'")
    if not isinstance(document.get("attributes") or {}, dict):
        raise FieldError("attributes", document["attributes"], "an object")
    if document["node_type"] == "array":
        return _array_v3(document)
    consolidated = document.get("consolidated_metadata")
    if not isinstance(consolidated or {}, dict) or consolidated is False:
        raise FieldError("consolidated_metadata", consolidated, "an object")
    return GroupMeta(3, consolidated is not None)


def _array_v3(document: Mapping[str, Any]) -> ArrayMeta:
    shape = _sizes(document, "shape")
    grid, encoding = document["chunk_grid"], document["chunk_key_encoding"]
    is_regular = _name(grid, "chunk_grid") == "regular"
    chunks = _sizes(_configuration(grid, "chunk_grid"), "chunk_shape") if is_regular else ()
    return ArrayMeta(
        zarr_format=3,
        shape=shape,
        chunks=chunks if is_regular and len(chunks) == len(shape) and all(chunks) else None,
        keys=_keys_v3(encoding),
        dimension_names=_dimension_names(document.get("dimension_names"), shape),
        itemsize=_itemsize_v3(document["data_type"]),
    )


def _dimension_names(names: Any, shape: Coords) -> tuple[str | None, ...] | None:
    fits = isinstance(names, list) and len(names) == len(shape)
    return tuple(names) if fits and all(name is None or isinstance(name, str) for name in names) else None


LARGEST = 2**63 - 1  # the largest size of a dimension that all readers support


def _sizes(document: Mapping[str, Any], field: str) -> Coords:
    values = document[field]
    if not isinstance(values, list) or not all(type(v) is int and 0 <= v <= LARGEST for v in values):
        raise FieldError(field, values, "a list of sizes")
    return tuple(values)


def _name(extension: Any, field: str) -> str:
    name = extension.get("name") if isinstance(extension, dict) else extension
    if not isinstance(name, str):
        raise FieldError(field, extension, "a name, or an object with one")
    return name


def _configuration(extension: Any, field: str) -> dict[str, Any]:
    options = extension.get("configuration") or {} if isinstance(extension, dict) else {}
    if not isinstance(options, dict):
        raise FieldError(field, extension, "an object with a configuration")
    return options


def _keys_v3(encoding: Any) -> ChunkKeys | None:
    name = _name(encoding, "chunk_key_encoding")
    options = _configuration(encoding, "chunk_key_encoding")
    return _keys(name, options.get("separator", "/" if name == "default" else "."))


msgspec.json.Decoder(ChunkKeys)  # prepared here: msgspec crashes when two threads prepare a type at the same time


def _keys(name: str, separator: object) -> ChunkKeys | None:
    try:
        return msgspec.convert({"name": name, "separator": separator}, ChunkKeys)
    except msgspec.ValidationError:
        return None


NOMINAL_ITEMSIZE = 16  # estimated bytes per element of variable length


def _itemsize_v2(dtype: Any) -> int:
    return _itemsize(element_dtype(dtype))


def _itemsize_v3(data_type: Any) -> int:
    """Return the size of an element in bytes; exact for the core types of the specification."""
    name = _name(data_type, "data_type")
    if name.startswith("r") and name[1:].isdecimal():
        return int(name[1:]) // 8
    if isinstance(data_type, dict):
        length = _configuration(data_type, "data_type").get("length_bytes")
        if type(length) is int and length > 0:
            return length
    return _itemsize(element_dtype(name.removeprefix("numpy.")))


def _itemsize(dtype: np.dtype[Any] | None) -> int:
    return NOMINAL_ITEMSIZE if dtype is None or dtype.hasobject else dtype.itemsize or 1


OPAQUE = re.compile(r"(?:bfloat16|complex_float(?:4|6|8)_\w+)|(?:float[468]_\w+|u?int[24])|complex_bfloat16")
OF_OTHERS = 2  # numpy.dtype.isbuiltin of a type that another package registered


def element_dtype(dtype: Any) -> np.dtype[Any] | None:
    """Return NumPy's type for the elements of an array, or None if NumPy has none.

    Types that other packages register in NumPy are returned as raw bytes of the same size. The client of a job and its
    workers must agree on the type, whichever packages each has imported.

    >>> element_dtype("<f4"), element_dtype([["a", "<i2"], ["b", "bfloat16", [2]]]), element_dtype("no type")
    (dtype('float32'), dtype([('a', '<i2'), ('b', 'V2', (2,))]), None)
    """
    try:
        if isinstance(dtype, list):
            return np.dtype([_field(*field) for field in dtype])
        found = np.dtype(str(dtype)) if isinstance(dtype, str) else None
    except Exception:  # noqa: BLE001 (NumPy raises various errors for unknown types)
        found = None
    if found is not None and found.isbuiltin != OF_OTHERS:
        return found
    return _opaque(dtype) if isinstance(dtype, str) else None


def _field(name: str, dtype: Any, shape: Sequence[int] = ()) -> Any:
    known = element_dtype(dtype)
    if known is None:
        raise TypeError(f"{dtype!r} is not known to NumPy")
    return (name, known, tuple(shape)) if shape else (name, known)


def _opaque(name: str) -> np.dtype[Any] | None:
    match = OPAQUE.fullmatch(name)
    if match is None:
        return None
    return np.dtype("V4" if name == "complex_bfloat16" else "V2" if match[0].startswith(("b", "c")) else "V1")
