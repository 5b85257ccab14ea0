"""Attributes of an array that the object of one block carries.

The base holds all attributes; readers of the whole array use those. A block carries the attributes that are needed to
decode its chunks and to name its dimensions. It also carries the smallest of the others, up to a limit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from shardedstore.zarr.metadata import dump_json, parse_json

MOST = 2**16  # bytes of other attributes in each block, as JSON without white space
LONGER = 8  # rewriting can make JSON values up to 8 times longer, such as 1e15
NEEDED = frozenset(  # attributes that xarray and netCDF4 decode arrays by; see CF conventions 1.11, appendix A
    [
        "_ARRAY_DIMENSIONS",
        "_Encoding",
        "_FillValue",
        "_NCZARR_ARRAY",
        "_Unsigned",
        "_nczarr_array",
        "add_offset",
        "calendar",
        "coordinates",
        "dtype",
        "flag_masks",
        "flag_meanings",
        "flag_values",
        "grid_mapping",
        "long_name",
        "missing_value",
        "scale_factor",
        "standard_name",
        "units",
        "valid_max",
        "valid_min",
        "valid_range",
    ]
)
DOCUMENTS = (".zattrs", "zarr.json")


def carried(name: str, data: bytes, path: str) -> bytes:
    """Return an array's document as the object of a block carries it.

    The bytes are unchanged unless attributes are left out.

    >>> carried("zarr.json", b'{"shape": [2], "attributes": {"units": "K"}}', "t")
    b'{"shape": [2], "attributes": {"units": "K"}}'
    >>> document = dump_json({"shape": [2], "attributes": {"units": "K", "history": "x" * 100_000}})
    >>> parse_json(carried("zarr.json", document, "t"), "t", "zarr.json")
    {'shape': [2], 'attributes': {'units': 'K'}}
    """
    left = left_out(name, data, path)
    if not left:
        return data
    kept = {key: value for key, value in attributes_in(name, data, path).items() if key not in left}
    return _with(name, data, path, kept)


def left_out(name: str, data: bytes, path: str) -> dict[str, Any]:
    """Return the attributes of an array's document that its blocks do not carry."""
    if len(data) <= MOST // LONGER or name not in DOCUMENTS:
        return {}
    others = {key: value for key, value in attributes_in(name, data, path).items() if key not in NEEDED}
    sizes = {key: _size(key, value) for key, value in others.items()}
    room = MOST
    for key in sorted(sizes, key=lambda key: (sizes[key], key)):
        room -= sizes[key]
        if room < 0:
            break
        del others[key]
    return others


def _size(key: str, value: object) -> int:
    """Return the size of an attribute as compact JSON, in bytes."""
    return len(json.dumps({key: value}, ensure_ascii=False, separators=(",", ":")).encode(errors="surrogatepass"))


def completed(name: str, data: bytes, path: str, whole: bytes) -> bytes:
    r"""Add the missing attributes of the whole array to the document of a block.

    >>> completed(".zattrs", b'{"units": "K"}', "t", b'{"units": "K", "history": "long"}')
    b'{\n  "units": "K",\n  "history": "long"\n}'
    """
    own, all_ = attributes_in(name, data, path), attributes_in(name, whole, path)
    return data if all_.keys() <= own.keys() else _with(name, data, path, {**all_, **own})


def attributes_in(name: str, data: bytes, path: str) -> dict[str, Any]:
    """Return the attributes in an array's document."""
    document = parse_json(data, path, name)
    found = document if name == ".zattrs" else document.get("attributes")
    return dict(found) if isinstance(found, Mapping) else {}


def longest(data: bytes) -> int:
    """Return an upper limit, in bytes, of a document's attributes when rewritten.

    The limit is computed without parsing the document.

    >>> longest(b'{"a": [1, 2]}')
    195
    """
    depth = data.count(b"[") + data.count(b"{")
    return len(data) * (LONGER + 3 + 2 * depth)


def _with(name: str, data: bytes, path: str, attributes: dict[str, Any]) -> bytes:
    if name == ".zattrs":
        return dump_json(attributes)
    return dump_json({**parse_json(data, path, name), "attributes": attributes})
