"""What a JSON file is that is no config, and how its data are reached, for messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FOLDER = "name the folder that it lies in"


def describe_json(document: object) -> str:
    """Return what a JSON document is, and the next step, as far as it can be told.

    >>> describe_json({"version": 1, "refs": {}})
    'it is a set of references by Kerchunk: open it with fsspec or VirtualiZarr, and write a Zarr from there first'
    >>> describe_json([1, 2])
    'it is a list'
    """
    if not isinstance(document, Mapping):
        kinds = {list: "a list", str: "a text", int: "a number", float: "a number", type(None): "null"}
        return f"it is {kinds.get(type(document), repr(document))}"
    return next((text for is_kind, text in KINDS if is_kind(document)), "it is some other program's")


def _is_kerchunk(document: Mapping[str, Any]) -> bool:
    is_flat = any(key.rpartition("/")[2] in (".zgroup", ".zarray", "zarr.json") for key in document)
    return is_flat or isinstance(document.get("refs"), Mapping)


KINDS = (
    (
        lambda document: "zarr_consolidated_format" in document,
        f"it is the consolidated metadata of a Zarr: {FOLDER}",
    ),
    (
        lambda document: "zarr_format" in document or "node_type" in document,
        f"it is a metadata document of a Zarr: {FOLDER}",
    ),
    (
        _is_kerchunk,
        "it is a set of references by Kerchunk: open it with fsspec or VirtualiZarr, and write a Zarr from there first",
    ),
    (
        lambda document: "scales" in document and "num_channels" in document,
        "it is the info file of a precomputed volume of Neuroglancer: write it as a Zarr first, with tensorstore for example",
    ),
    (
        lambda document: "stac_version" in document,
        "it is an item, a collection or a catalogue of STAC: name the URL of the Zarr among its assets",
    ),
    (
        lambda document: "n5" in document or {"dimensions", "blockSize"} <= document.keys(),
        "it is the metadata of an N5, which is no Zarr: write it as a Zarr first, with z5py or tensorstore for example",
    ),
    (
        lambda document: "driver" in document or "kvstore" in document,
        "it is a spec of tensorstore: name the Zarr that it opens",
    ),
    (lambda document: str(document.get("type", "")).startswith("Feature"), "it is GeoJSON"),
)
