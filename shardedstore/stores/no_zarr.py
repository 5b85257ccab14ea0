"""Messages about locations without a Zarr: their content, and the way to a Zarr."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from obstore.exceptions import BaseError

from shardedstore.fields import FILE_NAME, FORMAT, MOVING
from shardedstore.storage.blobs import nbytes_of, open_blob, seems_there
from shardedstore.storage.options import Options
from shardedstore.storage.urls import object_url
from shardedstore.stores.http_index import ROOTS
from shardedstore.stores.location import Location, Place
from shardedstore.zarr.refusal import is_refusal


def is_zarr(url: str, options: Options) -> bool:
    """Tell whether a folder has Zarr metadata at its root; False if that can't be read."""
    return any(seems_there(object_url(url, name), options) for name in ROOTS) and not is_refused(url, options)


def is_refused(url: str, options: Options) -> bool:
    """Tell whether the folder of a result refuses readers of Zarr."""
    with suppress(OSError, BaseError):
        return is_refusal(bytes(open_blob(object_url(url, "zarr.json"), options).tail(MOST_MARKER)[0]))
    return False


RESULT = "is the result of a job: open it with ShardedStore.load"
NO_CONFIG = f"is the folder of a result, but has no {FILE_NAME}: run the job again with the same arguments, which writes it, or restore it"
NO_ZARR = "holds no Zarr: there is no zarr.json, .zgroup or .zarray at its root; name the folder that has one"
MOST_MARKER = 1 << 16  # bytes
MOST_JSON = 64 << 20  # bytes; a larger file is not read


def instead(location: Location) -> str:
    """Describe the content of a location without a Zarr, and the next step."""
    if not isinstance(location, Place) or not location.is_folder:
        return NO_ZARR
    if moved_to := _moved_to(location):
        return (
            f"was moved to {moved_to!r}, which ShardedStore.load opens: ShardedStore.finish_move({moved_to!r}), or the same command again, deletes the "
            "rest of this folder"
        )
    if not location.url.endswith(".json"):
        if seems_there(object_url(location.url, FILE_NAME), location.options):
            return RESULT
        return NO_CONFIG if is_refused(location.url, location.options) else NO_ZARR
    with suppress(OSError, BaseError):
        nbytes = nbytes_of(location.url, location.options)
        if nbytes is not None and nbytes > MOST_JSON:
            return f"is a file of {nbytes:,} bytes, which is not a Zarr: name the folder of one"
        if nbytes is not None:
            return _of_json(bytes(open_blob(location.url, location.options).read(0, nbytes)))
    return NO_ZARR


def _moved_to(place: Place) -> str:
    """Return the destination of a move whose source this was; empty if there is none."""
    with suppress(OSError, BaseError, ValueError, KeyError, TypeError):
        blob = open_blob(object_url(place.url, MOVING), place.options)
        return str(json.loads(bytes(blob.tail(MOST_MARKER)[0]))["destination"])
    return ""


def _of_json(data: bytes) -> str:
    """Describe a JSON file that was named as a Zarr.

    >>> _of_json(b'{"format": "shardedstore"}'), _of_json(b"")
    ('is the result of a job: open it with ShardedStore.load', 'is an empty file, which is not a Zarr: name the folder of one')
    """
    if not data.strip():
        return "is an empty file, which is not a Zarr: name the folder of one"
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        return f"is neither JSON ({error}) nor a Zarr: name the folder of one"
    if isinstance(document, dict) and (document.get("format") == FORMAT or {"base", "shards"} <= document.keys()):
        return RESULT
    return f"is a JSON file, which is not a Zarr: {describe_json(document)}"


FOLDER = "name the folder that it lies in"


def describe_json(document: object) -> str:
    """Describe a JSON document, with the next step if it is of a known kind.

    >>> describe_json({"version": 1, "refs": {}})
    'it is a set of references by Kerchunk: open it with ShardedStore.partition'
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
        "it is a set of references by Kerchunk: open it with ShardedStore.partition",
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
        "it is the metadata of an N5, which is not a Zarr: write it as a Zarr first, with z5py or tensorstore for example",
    ),
    (
        lambda document: "driver" in document or "kvstore" in document,
        "it is a spec of tensorstore: name the Zarr that it opens",
    ),
    (lambda document: str(document.get("type", "")).startswith("Feature"), "it is GeoJSON"),
)
