"""The metadata documents of a Zarr v2 node as one ``zarr.json`` of Zarr v3."""

from __future__ import annotations

import base64
import functools
import struct
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from shardedstore.codecs.migrate_codecs import AS_IT_IS, Layout, Style, layout
from shardedstore.errors import ShardedStoreError
from shardedstore.zarr.metadata import DIMENSIONS, ArrayMeta, dimension_names_v2, dump_json, parse_json, parse_node

MASKED, MISSING = "_FillValue", "missing_value"
TEXTS = "OTUSV"  # the kinds of NumPy's types that are compared with texts
EXACT = 2**53  # below it, floats and integers are equal or not in whichever type
KNOWN = {
    ".zgroup": {"zarr_format"},
    ".zarray": {
        *("zarr_format", "shape", "chunks", "dtype", "compressor", "fill_value", "order", "filters"),
        "dimension_separator",
    },
}


def group_document(documents: Mapping[str, bytes], path: str) -> bytes:
    """Return a v2 group's document in v3, as zarr writes it; what else the v2 document holds is among the attributes.

    >>> parse_json(group_document({".zgroup": b'{"zarr_format": 2}', ".zattrs": b'{"a": 1}'}, ""), "", "zarr.json")
    {'attributes': {'a': 1}, 'zarr_format': 3, 'node_type': 'group'}
    """
    attributes = {
        **_others(parse_json(documents.get(".zgroup", b"{}"), path, ".zgroup"), ".zgroup"),
        **_attributes(documents, path),
    }
    return dump_json({"attributes": attributes, "zarr_format": 3, "node_type": "group"})


class Made(NamedTuple):
    """An array's document in v3, its metadata, how its chunks stand there, and in what some reader sees another thing."""

    data: bytes
    meta: ArrayMeta
    layout: Layout
    unlike: tuple[str, ...]


def array_document(documents: Mapping[str, bytes], path: str, style: Style = AS_IT_IS) -> Made:
    """Return a v2 array's document in v3, in a style.

    Attributes say the same to xarray as before: it takes dimensions from ``dimension_names`` in v3, and there masks what
    equals an attribute, where in v2 it masks what equals the fill value. What NCZarr and others have put into the v2
    document stands beside the attributes, marked as what a reader need not understand.

    Raises
    ------
    ChainError
        Where v3 has nothing that keeps the values.
    """
    given = bytes(documents[".zarray"]), bytes(documents.get(".zattrs", b"{}")), style
    if sum(map(len, given[:2])) > LARGEST_KEPT:
        return _array_document(*given, path)
    try:
        return _cached(*given)
    except ShardedStoreError:
        return _array_document(*given, path)  # raises the same, with the path


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


LARGEST_KEPT = 1 << 14  # bytes of documents that equal arrays are recognised by
_cached = functools.lru_cache(maxsize=1024)(_array_document)  # of archives of many equal arrays, one is worked out

NAMES_LOST = "dimensions whose names are no texts have no names in Zarr v3, and xarray does not open such arrays"
MISSING_BYTES = "bytes that equal the fill value are missing to xarray in Zarr v2, and nothing tells it so in Zarr v3: it shows the bytes"
MISSING_NUMBERS = (
    "missing texts are the number of the fill value, and zarr reads its digits for them, before and after: xarray alone "
    "takes them for missing, and texts of these digits too"
)


def _unlike(document: Mapping[str, Any], attributes: Mapping[str, Any], names: object) -> Iterator[str]:
    """Yield in what some reader sees another thing in v3, as sentences."""
    dims, fill = attributes.get(DIMENSIONS), document.get("fill_value")
    if names is None and isinstance(dims, list) and len(dims) == len(document["shape"]):
        yield NAMES_LOST
    if document["dtype"] == "|O" and isinstance(fill, int | float):
        yield MISSING_NUMBERS


def _names(made: Layout, changes: Mapping[str, Any]) -> list[str]:
    """Return the names in a document in zarr's order, in which `dimension_names` follow the attributes."""
    names = list(made.document)
    if "dimension_names" in changes:
        names.insert(names.index("attributes") + 1, "dimension_names")
    return names


def _attributes(documents: Mapping[str, bytes], path: str) -> dict[str, Any]:
    return parse_json(documents.get(".zattrs", b"{}"), path, ".zattrs")


def _others(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key not in KNOWN[name]}


def _hidden(attributes: dict[str, Any]) -> dict[str, Any]:
    """Take NCZarr's own descriptions out of an array's attributes: xarray passes over them in v2, and not in v3."""
    names = [name for name, value in attributes.items() if _is_nczarr(name) and isinstance(value, dict)]
    return {name: attributes.pop(name) for name in names}


def _is_nczarr(name: str) -> bool:
    return name.lower().startswith("_nc")


def shared_attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes that a node has in v2 and in v3: all but what each says of dimensions and masks in its way.

    >>> shared_attributes({"_ARRAY_DIMENSIONS": ["x"], "_FillValue": 0, "units": "m"})
    {'units': 'm'}
    """
    others = {DIMENSIONS, MASKED, MISSING}
    return {name: value for name, value in attributes.items() if name not in others and not _is_nczarr(name)}


def _ignored(value: Any) -> dict[str, Any]:
    """Return a field that readers of v3 are to ignore when they do not know it.

    >>> _ignored({"dimrefs": ["/x"]}), _ignored(1)
    ({'must_understand': False, 'dimrefs': ['/x']}, {'must_understand': False, 'value': 1})
    """
    return {"must_understand": False, **(value if isinstance(value, dict) else {"value": value})}


def _mask(kept: Layout, attributes: dict[str, Any]) -> bool:
    """Change attributes so that xarray masks in v3 what it masks in v2; return whether that is impossible.

    It has ``_FillValue`` for numbers alone there, in a code of its own; ``missing_value`` masks whatever JSON holds.
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
        return kept.kind not in "mM"  # which xarray does not mask in v2
    attributes[MISSING] = _joined(attributes.get(MISSING), value, kept.kind)
    return False


def _is_null(value: Any) -> bool:
    return all(item is None or item != item for item in np.ravel(np.asarray(value, object)))  # noqa: PLR0124 (NaN, NaT)


def _joined(old: Any, value: Any, kind: str) -> Any:
    """Return two values of ``missing_value`` as one: of both kinds, NumPy would make texts of the numbers among them.

    >>> _joined(None, "", "T"), _joined(1, 2.5, "i"), _joined(-9, "NaN", "f")
    ('', [1, 2.5], -9)
    """
    if old is None or old == value:
        return value
    both = [item for part in (old, value) for item in (part if isinstance(part, list) else [part])]
    fitting = [item for item in both if isinstance(item, str) == (kind in TEXTS)]
    return fitting[0] if len(fitting) == 1 else fitting


def _coded(value: Any, kind: str) -> Any:
    """Return a number as xarray writes it for an array of a kind of numbers, if it can be told exactly.

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
