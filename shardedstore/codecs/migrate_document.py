"""Convert the metadata documents of a Zarr v2 node to one ``zarr.json`` of Zarr v3."""

from __future__ import annotations

import base64
import functools
import struct
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from shardedstore.codecs.migrate_codecs import AS_IT_IS, MigratedArray, Style, layout
from shardedstore.errors import ShardedStoreError
from shardedstore.zarr.metadata import DIMENSIONS, ArrayMeta, dimension_names_v2, dump_json, parse_json, parse_node

MASKED, MISSING = "_FillValue", "missing_value"
TEXTS = "OTUSV"  # NumPy's kinds of types whose values are compared as text
EXACT = 2**53  # integers below this are exact as floats
KNOWN = {
    ".zgroup": {"zarr_format"},
    ".zarray": {
        *("zarr_format", "shape", "chunks", "dtype", "compressor", "fill_value", "order", "filters"),
        "dimension_separator",
    },
}


def group_document(documents: Mapping[str, bytes], path: str) -> bytes:
    """Return a v2 group's document in v3, as zarr writes it.

    Other fields of the v2 document become attributes.

    >>> parse_json(group_document({".zgroup": b'{"zarr_format": 2}', ".zattrs": b'{"a": 1}'}, ""), "", "zarr.json")
    {'attributes': {'a': 1}, 'zarr_format': 3, 'node_type': 'group'}
    """
    attributes = {
        **_others(parse_json(documents.get(".zgroup", b"{}"), path, ".zgroup"), ".zgroup"),
        **_attributes(documents, path),
    }
    return dump_json({"attributes": attributes, "zarr_format": 3, "node_type": "group"})


class Made(NamedTuple):
    """An array's document in v3, and properties of the migration.

    Attributes
    ----------
    data : bytes
        The document.
    meta : ArrayMeta
        The parsed metadata of the document.
    layout : Layout
        The codecs in v3, and whether chunks are encoded again.
    unlike : tuple of str
        Sentences that describe what readers may see differently in v3.
    """

    data: bytes
    meta: ArrayMeta
    layout: MigratedArray
    unlike: tuple[str, ...]


def array_document(documents: Mapping[str, bytes], path: str, style: Style = AS_IT_IS) -> Made:
    """Return a v2 array's document in v3.

    xarray sees the same dimensions and masks as before. In v3 it takes dimensions from ``dimension_names``, and masks
    values that equal an attribute; in v2 it masks values that equal the fill value. Fields that NCZarr and others added
    to the v2 document become fields of the v3 document that readers may ignore.

    Raises
    ------
    ChainError
        If v3 has no codecs that keep the values.
    """
    given = bytes(documents[".zarray"]), bytes(documents.get(".zattrs", b"{}")), style
    if sum(map(len, given[:2])) > LARGEST_KEPT:
        return _array_document(*given, path)
    try:
        return _cached(*given)
    except ShardedStoreError:
        return _array_document(*given, path)  # raises the same error with the path


def _array_document(array: bytes, attrs: bytes, style: Style, path: str = "") -> Made:
    document, attributes = parse_json(array, path, ".zarray"), parse_json(attrs, path, ".zattrs")
    names = dimension_names_v2(document, attributes)
    others = _others(document, ".zarray")
    made = layout({name: value for name, value in document.items() if name not in others}, path, style)
    unlike = [*_unlike(document, attributes, names)]
    changes: dict[str, Any] = {"shape": list(document["shape"]), "attributes": attributes}
    if names is not None:
        attributes.pop(DIMENSIONS, None)
        others |= _hidden(attributes)
        unlike += [MISSING_BYTES] if _mask(made, attributes) else []
        changes["dimension_names"] = list(names)
    whole = {name: changes.get(name, made.document.get(name)) for name in _names(made, changes)}
    data = dump_json(whole | {name: _ignored(value) for name, value in others.items() if name not in whole})
    meta = parse_node({"zarr.json": data}, path)
    assert isinstance(meta, ArrayMeta)
    return Made(data, meta, made, tuple(unlike))


LARGEST_KEPT = 1 << 14  # bytes; larger documents are not cached
_cached = functools.lru_cache(maxsize=1024)(_array_document)  # archives often have many arrays with equal documents

NAMES_LOST = (
    "names of dimensions that are not strings are lost in Zarr v3, and xarray does not open arrays with such names"
)
MISSING_BYTES = "xarray masks bytes that equal the fill value in Zarr v2, but has no way to mask them in Zarr v3: it shows the bytes"
MISSING_NUMBERS = (
    "the fill value of the text is a number: zarr reads missing text as its digits, in Zarr v2 and v3, and xarray masks all "
    "text of these digits"
)


def _unlike(document: Mapping[str, Any], attributes: Mapping[str, Any], names: object) -> Iterator[str]:
    """Yield sentences that describe what readers may see differently in v3."""
    dims, fill = attributes.get(DIMENSIONS), document.get("fill_value")
    if names is None and isinstance(dims, list) and len(dims) == len(document["shape"]):
        yield NAMES_LOST
    if document["dtype"] == "|O" and isinstance(fill, int | float):
        yield MISSING_NUMBERS


def _names(made: MigratedArray, changes: Mapping[str, Any]) -> list[str]:
    """Return the fields of a document in zarr's order: `dimension_names` after the attributes."""
    names = list(made.document)
    if "dimension_names" in changes:
        names.insert(names.index("attributes") + 1, "dimension_names")
    return names


def _attributes(documents: Mapping[str, bytes], path: str) -> dict[str, Any]:
    return parse_json(documents.get(".zattrs", b"{}"), path, ".zattrs")


def _others(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key not in KNOWN[name]}


def _hidden(attributes: dict[str, Any]) -> dict[str, Any]:
    """Remove NCZarr's own descriptions from an array's attributes, and return them.

    xarray ignores them in v2, but not in v3.
    """
    names = [name for name, value in attributes.items() if _is_nczarr(name) and isinstance(value, dict)]
    return {name: attributes.pop(name) for name in names}


def _is_nczarr(name: str) -> bool:
    return name.lower().startswith("_nc")


def shared_attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes that are equal in v2 and v3.

    Attributes about dimensions and masks differ.

    >>> shared_attributes({"_ARRAY_DIMENSIONS": ["x"], "_FillValue": 0, "units": "m"})
    {'units': 'm'}
    """
    others = {DIMENSIONS, MASKED, MISSING}
    return {name: value for name, value in attributes.items() if name not in others and not _is_nczarr(name)}


def _ignored(value: Any) -> dict[str, Any]:
    """Return a field that v3 readers may ignore if they do not know it.

    >>> _ignored({"dimrefs": ["/x"]}), _ignored(1)
    ({'must_understand': False, 'dimrefs': ['/x']}, {'must_understand': False, 'value': 1})
    """
    return {"must_understand": False, **(value if isinstance(value, dict) else {"value": value})}


def _mask(kept: MigratedArray, attributes: dict[str, Any]) -> bool:
    """Change attributes so that xarray masks the same values in v3 as in v2.

    Return True if that is not possible. In v3, xarray uses ``_FillValue`` only for numbers, in its own encoding;
    ``missing_value`` masks any JSON value.
    """
    is_given, value = MASKED in attributes, attributes.pop(MASKED, None)
    value = value if kept.fill is None else kept.fill
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    if (kept.fill is None and not is_given) or (_is_null(value) and kept.kind not in "fc"):
        return False
    coded = _coded(value, kept.kind)
    if coded is not None:
        attributes[MASKED] = coded
        return False
    if isinstance(value, bytes | np.generic) and not isinstance(value, str):
        return kept.kind not in "mM"  # xarray does not mask times in v2
    attributes[MISSING] = _joined(attributes.get(MISSING), value, kept.kind)
    return False


def _is_null(value: Any) -> bool:
    return all(item is None or item != item for item in np.ravel(np.asarray(value, object)))  # noqa: PLR0124 (NaN, NaT)


def _joined(old: Any, value: Any, kind: str) -> Any:
    """Combine two values of ``missing_value``, and keep only values of the array's kind.

    Otherwise NumPy would convert numbers to text.

    >>> _joined(None, "", "T"), _joined(1, 2.5, "i"), _joined(-9, "NaN", "f")
    ('', [1, 2.5], -9)
    """
    if old is None or old == value:
        return value
    both = [item for part in (old, value) for item in (part if isinstance(part, list) else [part])]
    fitting = [item for item in both if isinstance(item, str) == (kind in TEXTS)]
    return fitting[0] if len(fitting) == 1 else fitting


def _coded(value: Any, kind: str) -> Any:
    """Return a number in xarray's encoding, or None if it is not exact for this kind.

    >>> _coded(-1, "i"), _coded(np.nan, "f"), _coded(3.5, "i"), _coded("", "f"), _coded(2, "b")
    (-1, 'AAAAAAAA+H8=', None, None, None)
    """
    if not isinstance(value, int | float | complex | np.number | np.bool_):
        return None
    if kind == "c":
        return [_base64(value.real), _base64(value.imag)]
    if isinstance(value, complex):
        return None
    if kind == "f":
        return _base64(value) if value != value or float(value) == value else None  # noqa: PLR0124 (NaN)
    is_exact = isinstance(value, int | np.integer | np.bool_) or (abs(float(value)) < EXACT and value == int(value))
    if kind == "b" and value in (0, 1):
        return bool(value)
    return int(value) if kind in "iu" and is_exact else None


def _base64(value: Any) -> str:
    return base64.b64encode(struct.pack("<d", value)).decode()
