"""Nodes with documents of both Zarr v2 and v3: one format is kept before steps change the node.

``zarr migrate v3`` leaves such nodes. A step changes the documents of one format, and the documents of the other format would
then be wrong.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress

from obstore.exceptions import BaseError
from zarr.abc.store import Store

from shardedstore.errors import CorruptError
from shardedstore.notices import Notice, node_name
from shardedstore.stores.entries import Entry, is_document
from shardedstore.stores.hierarchy import Node
from shardedstore.stores.reader import reader_of
from shardedstore.zarr.grid import ENCODINGS
from shardedstore.zarr.metadata import (
    CONSOLIDATED_V2,
    NAMES_OF,
    ArrayMeta,
    GroupMeta,
    dump_json,
    format_above,
    format_of,
    parse_json,
    parse_node,
)
from shardedstore.zarr.paths import join, parents

OF_V2 = [keys for keys in ENCODINGS if keys.name == "v2"]


def reconciled(entries: Iterable[Entry], path: str) -> Iterator[Entry]:
    """Yield the entries of a shard with the documents of one format for each node.

    A node keeps the format of the group above it, or v3 if that group has both. Groups above a node that has only v2 keep
    all their documents. Consolidated metadata of v2 beside a ``zarr.json`` is left out. If chunks are read with other keys
    than the array's document states, the document is corrected.

    Parameters
    ----------
    entries : iterable of Entry
        The entries in the order of reading: documents first, and parents before children.
    path : str
        The path of the shard.

    Raises
    ------
    CorruptError
        If the documents of two formats describe different nodes or chunks.
    """
    formats: dict[str, int] = {}
    for are_documents, some in itertools.groupby(entries, is_document):
        if are_documents:
            yield from _of_one_format(some, path, formats)
        else:
            yield from (entry for entry in some if not _is_stale(entry.key, formats))


def _of_one_format(documents: Iterable[Entry], path: str, formats: dict[str, int]) -> Iterator[Entry]:
    """Yield the kept documents, and record the formats of their nodes in `formats`; parents come first."""
    nodes: dict[str, dict[str, Entry]] = {}
    for entry in documents:
        folder, _, name = entry.key.rpartition("/")
        nodes.setdefault(folder, {})[name] = entry
    for folder, named in nodes.items():
        found = format_of(named, format_above(formats, folder))
        if found is not None:
            formats[folder] = found
    old = [folder for folder, named in nodes.items() if formats.get(folder) == 2 and not named.keys() & NAMES_OF[3]]
    leading = {parent for folder in old for parent in parents(folder)}  # readers of v2 need these to find the nodes
    for folder, named in nodes.items():
        others = named.keys() - NAMES_OF[formats[folder]] if folder in formats else set[str]()
        if others:
            _check_alike({name: bytes(entry.data) for name, entry in named.items()}, join(path, folder))
        kept = named.keys() if folder in leading and ".zgroup" in named else named.keys() - others
        yield from (_with_keys(entry, name, join(path, folder)) for name, entry in named.items() if name in kept)


def both_notices(store: Store, nodes: Mapping[str, Node]) -> Iterator[Notice]:
    """Yield a notice of the arrays with documents of both formats; a chain that changes them keeps v3."""
    arrays = [path for path, node in nodes.items() if isinstance(node.meta, ArrayMeta) and node.meta.zarr_format == 3]
    old = list[bytes | None]()
    with suppress(OSError, BaseError):  # some servers do not report missing keys
        old = list(reader_of(store).fetch(join(path, ".zarray") for path in arrays))
    found = tuple(path for path, data in zip(arrays, old, strict=False) if data is not None)
    if found:
        yield Notice("documents of Zarr v2 and v3 describe the same array, and the result has those of v3 alone", found)


def _is_stale(key: str, formats: dict[str, int]) -> bool:
    folder, _, name = key.rpartition("/")
    return name == CONSOLIDATED_V2 and formats.get(folder) == 3


def _check_alike(documents: Mapping[str, bytes], path: str) -> None:
    """Raise CorruptError if the documents of two formats do not describe the same chunks."""
    old, new = (_only(documents, zarr_format, path) for zarr_format in (2, 3))
    if old is None or new is None:
        return
    if isinstance(old, ArrayMeta) and isinstance(new, ArrayMeta):
        is_unsaid = parse_json(documents[".zarray"], path, ".zarray").get("dimension_separator") is None
        keys = new.keys if is_unsaid and new.keys in OF_V2 else old.keys
        if (old.shape, old.chunks, old.itemsize, keys) == (new.shape, new.chunks, new.itemsize, new.keys):
            return
    elif isinstance(old, GroupMeta) and isinstance(new, GroupMeta):
        return
    raise CorruptError(
        f"{node_name(path)} has documents of Zarr v2 and v3 that describe different nodes or chunks, so that no change "
        "would be right for both: remove the wrong documents from the source"
    )


def _only(documents: Mapping[str, bytes], zarr_format: int, path: str) -> ArrayMeta | GroupMeta | None:
    return parse_node({name: data for name, data in documents.items() if name in NAMES_OF[zarr_format]}, path)


def _with_keys(entry: Entry, name: str, path: str) -> Entry:
    """Return the entry of a ``.zarray`` with the separator of the chunk keys that are read."""
    array = entry.array
    if name != ".zarray" or array is None or array.keys is None:
        return entry
    document = parse_json(bytes(entry.data), path, name)
    separator = document.get("dimension_separator") or "."
    if array.keys.separator == separator:
        return entry
    return entry._replace(data=dump_json({**document, "dimension_separator": array.keys.separator}))
