"""Codecs tried on a few elements: what zarr itself reads and writes with them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import zarr
from toolz import valmap
from zarr.core.buffer import cpu
from zarr.storage import MemoryStore

from shardedstore.codecs.arraycodecs import Array
from shardedstore.codecs.arraydoc import ArrayDoc
from shardedstore.grid import Coords
from shardedstore.metadata import ArrayMeta, dump_json, parse_node


def read_one_chunk(doc: ArrayDoc, stored: bytes | None) -> Array:
    """Return what zarr reads from an array that is a single chunk, or of which that one is missing."""
    contents = _documents(doc)
    meta = parse_node(contents, "")
    assert isinstance(meta, ArrayMeta)
    assert meta.keys is not None
    if stored is not None:
        contents[meta.keys.encode((0,) * len(doc.shape))] = stored
    return np.asarray(opened(contents, mode="r")[...])


def write_one_chunk(doc: ArrayDoc, elements: Array) -> Array:
    """Return what zarr reads of an array that it has written; some filters take any array for one of their type."""
    array = opened(_documents(doc), mode="r+", config={"write_empty_chunks": True})
    array[...] = elements
    return np.asarray(array[...])


def _documents(doc: ArrayDoc) -> dict[str, bytes]:
    return {".zarray" if doc.zarr_format == 2 else "zarr.json": dump_json(doc.document)}


def opened(contents: Mapping[str, bytes], **options: Any) -> Any:
    """Return an array of zarr in memory."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr 3.1 warns of each codec of numcodecs
        return zarr.open_array(MemoryStore(valmap(cpu.Buffer.from_bytes, contents)), **options)


def few_elements(dtype: np.dtype[Any], shape: Coords) -> Array:
    """Return an array of small values that are all different, as far as the type has such.

    >>> few_elements(np.dtype("<U2"), (2,)).tolist(), few_elements(np.dtype([("a", "i2"), ("b", "?")]), (2,)).tolist()
    (['1', '2'], [(1, True), (2, False)])
    """
    numbers: Array = np.arange(1, np.prod(shape, dtype=int) + 1).reshape(shape)
    if dtype.names is not None:
        array = np.zeros(shape, dtype)
        for name in dtype.names:
            array[name] = few_elements(dtype[name], shape)
        return array
    match dtype.kind:
        case "b":
            return (numbers % 2).astype(dtype)
        case "m" | "M":
            return numbers.astype("i8").view(f"{dtype.kind}8").astype(dtype)
        case "V":
            return numbers.astype(f"S{dtype.itemsize}").view(dtype)
        case "O":
            return numbers.astype("S").astype(object)
        case "T":
            return numbers.astype("T").astype(object)
    return numbers.astype(dtype)
