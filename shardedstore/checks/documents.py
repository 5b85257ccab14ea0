"""Checks of the documents of one group or array: JSON, attributes, sizes, codecs and data types."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from dask.utils import format_bytes

from shardedstore.checks.contents import CheckedNode
from shardedstore.checks.finding import Finding
from shardedstore.checks.registry import Subject, metadata_check
from shardedstore.codecs.array_codecs import ChunkCodec
from shardedstore.codecs.array_document import SHARDING, data_type, name_of, options_of
from shardedstore.codecs.array_info import read_fill_value
from shardedstore.codecs.codec_config import UNSAFE, is_of_numcodecs, is_of_zarr
from shardedstore.zarr.metadata import DIMENSIONS, LARGEST, ArrayMeta

MOST_CHUNKS = 2**62  # numbers of chunks above are refused: they don't fit into 64 bits
PYRAMIDS = ("multiscales", "ome")  # attributes of groups whose arrays are levels of one image
GRIDS = ("chunk_grid", "chunk_key_encoding")


@metadata_check
def documents_are_json(subject: Subject) -> Iterator[Finding]:
    """Find documents that are no JSON objects."""
    node = subject.node
    for name in node.documents.keys() - node.content.keys():
        code = "attributes" if name == ".zattrs" else "not-json"
        yield Finding(code, f"{node.key(name)!r} is not a JSON object", node.path, node.key(name))


@metadata_check
def attributes_are_json(subject: Subject) -> Iterator[Finding]:
    """Find attributes that are no JSON object, and numbers that JSON does not have."""
    node = subject.node
    name = ".zattrs" if node.meta is not None and node.meta.zarr_format == 2 else "zarr.json"
    if name not in node.content:
        return
    attributes = node.attributes
    if not isinstance(attributes, dict):
        yield Finding(
            "attributes", f"the attributes in {node.key(name)!r} are not a JSON object", node.path, node.key(name)
        )
        return
    wrong = sorted(key for key, value in attributes.items() if not _is_strict(value))
    if wrong:
        names = ", ".join(map(repr, wrong[:3]))
        what = f"the attributes {names} in {node.key(name)!r} hold NaN or Infinity, which JSON does not have"
        yield Finding("attributes", what, node.path, node.key(name))


def _is_strict(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError):
        return False
    return True


@metadata_check
def documents_are_valid(subject: Subject) -> Iterator[Finding]:
    """Find documents that the specification does not allow, and sizes that contradict each other."""
    node = subject.node
    array = node.array
    if array is None or array.chunks is None or array.keys is None or not node.error:
        if node.error and array is None:
            yield Finding(
                "metadata", node.error, node.path, node.key("zarr.json" if "zarr.json" in node.content else None)
            )
        elif array is not None:
            yield from _of_grid(subject, array)
        return
    if not any(_unknown_codecs(subject)):
        yield Finding("metadata", node.error, node.path, node.key())


def _of_grid(subject: Subject, array: ArrayMeta) -> Iterator[Finding]:
    node = subject.node
    if array.chunks is not None and array.keys is not None:
        return
    is_regular = array.zarr_format == 2 or name_of(node.document["chunk_grid"]) == "regular"
    if array.chunks is None and is_regular:
        if not all(array.shape) and node.doc is not None:
            return  # an empty array may have chunks of size 0
        written = node.document.get("chunks") or options_of(node.document["chunk_grid"]).get("chunk_shape")
        what = f"{node.path!r} has the shape {list(array.shape)} and chunks of {written}"
        yield Finding("metadata", what, node.path, node.key())
        return
    names = {name: name_of(node.document[name]) for name in GRIDS if name in node.document}
    what = f"{node.path!r} has an unknown chunk grid or chunk keys: {', '.join(names.values())}"
    yield Finding("unknown-grid", what, node.path, node.key())


@metadata_check
def codecs_are_known(subject: Subject) -> Iterator[Finding]:
    """Find codecs that are not installed here."""
    node = subject.node
    for name in _unknown_codecs(subject):
        yield Finding(
            "unknown-codec", f"{node.path!r} has the codec {name!r}, which is not installed here", node.path, node.key()
        )


@metadata_check
def codecs_are_safe(subject: Subject) -> Iterator[Finding]:
    """Find codecs that run code of the writer."""
    node = subject.node
    for name in UNSAFE.intersection(codec_names(node.document)) if node.array is not None else ():
        yield Finding(
            "unsafe-codec", f"{node.path!r} has the codec {name!r}: its chunks are not decoded", node.path, node.key()
        )


def codec_names(document: dict[str, Any]) -> Iterator[str]:
    """Yield the names of all codecs of an array, also inside the sharding codec."""
    if document.get("zarr_format") == 3:
        yield from _names_v3(document.get("codecs"))
        return
    filters = document.get("filters")
    for codec in (*(filters if isinstance(filters, list) else ()), document.get("compressor")):
        if isinstance(codec, dict):
            yield str(codec.get("id"))


def _names_v3(codecs: Any) -> Iterator[str]:
    for codec in codecs if isinstance(codecs, list) else ():
        name = codec if isinstance(codec, str) else codec.get("name") if isinstance(codec, dict) else None
        if not isinstance(name, str):
            continue
        yield name
        options = codec.get("configuration") if isinstance(codec, dict) else None
        if name == SHARDING and isinstance(options, dict):
            yield from _names_v3(options.get("codecs"))
            yield from _names_v3(options.get("index_codecs"))


def _unknown_codecs(subject: Subject) -> Iterator[str]:
    node = subject.node
    if node.array is None:
        return
    is_known = _is_known_v3 if node.array.zarr_format == 3 else is_of_numcodecs
    yield from dict.fromkeys(name for name in codec_names(node.document) if not is_known(name))


def _is_known_v3(name: str) -> bool:
    return name == "endian" or is_of_zarr(name)


@metadata_check
def types_are_known(subject: Subject) -> Iterator[Finding]:
    """Find unknown data types, and fill values that a data type does not have."""
    node = subject.node
    if node.doc is None or not UNSAFE.isdisjoint(codec_names(node.document)):
        return
    try:
        data_type(node.doc.document)
    except Exception as error:  # noqa: BLE001 (zarr raises various errors for unknown types)
        written = node.document.get("data_type", node.document.get("dtype"))
        what = f"{node.path!r} has the data type {written!r}, which is not known here ({type(error).__name__})"
        yield Finding("unknown-type", what, node.path, node.key())
        return
    try:
        read_fill_value(node.doc, node.document.get("fill_value"))
    except Exception as error:  # noqa: BLE001 (as above)
        what = f"{node.path!r} has the fill value {node.document.get('fill_value')!r}, which its data type does not have ({error})"
        yield Finding("fill-value", what, node.path, node.key())


@metadata_check
def sizes_are_possible(subject: Subject) -> Iterator[Finding]:
    """Find chunks that are too large to decode, and numbers of chunks that don't fit into 64 bits."""
    node = subject.node
    array = node.array
    if array is None or array.chunks is None:
        return
    nbytes = math.prod(array.chunks if node.doc is None else node.doc.chunks) * array.itemsize
    if nbytes > subject.max_chunk:
        what = f"a chunk of {node.path!r} has {_size(nbytes)}, more than {format_bytes(subject.max_chunk)}: its chunks are not decoded"
        yield Finding("huge-chunk", what, node.path, node.key())
    elif array.chunk_count > MOST_CHUNKS:
        yield Finding(
            "huge-chunk",
            f"{node.path!r} has {array.chunk_count:.3g} chunks: they are not decoded",
            node.path,
            node.key(),
        )


def _size(nbytes: int) -> str:
    return format_bytes(nbytes) if nbytes <= LARGEST else f"{nbytes:.3g} bytes"


FIRST = (codecs_are_known, codecs_are_safe, types_are_known, sizes_are_possible)  # they name other causes


@metadata_check
def codecs_have_valid_options(subject: Subject) -> Iterator[Finding]:
    """Find codecs whose options are not valid."""
    node = subject.node
    if node.doc is None or any(finding for check in FIRST for finding in check(subject)):
        return
    try:
        ChunkCodec(node.doc, arrays=True)
    except Exception as error:  # noqa: BLE001 (zarr and numcodecs raise various errors)
        what = f"the codecs of {node.path!r} can't be used ({type(error).__name__}: {error})"
        yield Finding("metadata", what, node.path, node.key())


@metadata_check
def dimensions_have_names(subject: Subject) -> Iterator[Finding]:
    """Find lists of names that do not fit the number of dimensions, or are no texts."""
    node = subject.node
    if node.array is None:
        return
    names = node.document.get("dimension_names") if node.array.zarr_format == 3 else _names_v2(node)
    if names is not None and node.array.dimension_names is None:
        what = f"{node.path!r} has {len(node.array.shape)} dimensions and the dimension names {names!r}"
        yield Finding("dimension-names", what, node.path, node.key())


def _names_v2(node: CheckedNode) -> Any:
    return node.attributes.get(DIMENSIONS)


@metadata_check
def dimensions_have_one_size(subject: Subject) -> Iterator[Finding]:
    """Find dimensions of one name and different sizes in the arrays of a group."""
    group = subject.node
    if group.array is not None or group.meta is None or _is_pyramid(group):
        return
    seen: dict[str, tuple[int, str]] = {}
    for node in _arrays_of(subject.nodes, group.path):
        assert node.array is not None
        for name, size in zip(node.array.dimension_names or (), node.array.shape, strict=False):
            if name is None:
                continue
            first, path = seen.setdefault(name, (size, node.path))
            if size != first:
                what = f"the dimension {name!r} has the size {size} in {node.path!r} and {first} in {path!r}"
                yield Finding("dimension-size", what, node.path, node.key())


def _is_pyramid(group: CheckedNode) -> bool:
    return isinstance(group.attributes, dict) and any(name in group.attributes for name in PYRAMIDS)


def _arrays_of(nodes: Mapping[str, CheckedNode], group: str) -> Iterator[CheckedNode]:
    for path, node in nodes.items():
        if node.array is not None and path and path.rpartition("/")[0] == group:
            yield node
