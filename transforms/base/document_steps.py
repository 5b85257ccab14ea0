"""Changes to the metadata documents of shards when they are copied to or from separate objects.

A block's object holds only the attributes that its readers need. A shard may need new consolidated metadata. The base
hides the documents of divided arrays.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from zarr.abc.store import Store

from shardedstore.errors import ChainError
from shardedstore.stores.consolidate import consolidate
from shardedstore.stores.entries import Entry, is_document
from shardedstore.stores.hierarchy import nodes_of
from shardedstore.stores.reader import reader_of
from shardedstore.stores.veiled import Veil
from shardedstore.transforms.base.shard import Entries, Shard
from shardedstore.zarr.attributes import carried, completed
from shardedstore.zarr.metadata import CONSOLIDATED_V2, GroupMeta
from shardedstore.zarr.paths import Mounts, join


def shortened(entries: Entries, shard: Shard) -> Entries:
    """Yield the entries of a block with only the attributes that readers of its object need."""
    for entry in entries:
        if is_document(entry) and "/" not in entry.key:
            data = bytes(entry.data)
            kept = carried(entry.key, data, shard.path)
            yield entry if kept is data else entry._replace(data=kept)
        else:
            yield entry


def lengthened(entries: Entries, shard: Shard, base: Store) -> Entries:
    """Yield the entries of a block's object with all attributes of the array, from the base."""
    for entry in entries:
        if is_document(entry) and "/" not in entry.key:
            (whole,) = reader_of(base).fetch([join(shard.path, entry.key)])
            if whole is not None:
                data = completed(entry.key, bytes(entry.data), shard.path, bytes(whole))
                yield entry._replace(data=data)
            else:
                yield entry
        else:
            yield entry


def rebuilt(entries: Entries, shard: Shard, groups: Mapping[str, Mapping[str, Any]]) -> Entries:
    """Yield a shard's entries with consolidated metadata for some groups, made from the documents in the stream.

    `groups` maps each group to the additional fields of its consolidated metadata. The ``.zmetadata`` of Zarr v2 is yielded
    at its place in the order of keys among the other files, so that entries are read in the order in which they were
    written.

    Raises
    ------
    ChainError
        If a document comes after other entries.
    """
    documents: list[Entry] = []
    rest: list[Entry] = []
    for entry in entries:
        if not is_document(entry):
            rest.append(entry)
            break
        documents.append(entry)
    made = _made(documents, groups)
    for entry in documents:
        data = made.pop(entry.key, None)
        yield entry if data is None else entry._replace(data=data)
    left = sorted(made.items(), reverse=True)
    for entry in _each(rest, entries):
        if is_document(entry):
            raise ChainError(
                f"shard {shard.name!r}: the document {entry.key!r} comes after chunks or other files, so that consolidated "
                "metadata would lack it: change the steps to yield metadata first, or map with consolidated=False"
            )
        while left and (entry.coords is not None or left[-1][0] < entry.key):
            yield Entry(*left.pop())
        yield entry
    while left:
        yield Entry(*left.pop())


def _each(first: list[Entry], others: Entries) -> Iterator[Entry]:
    yield from first
    yield from others


def _made(documents: list[Entry], groups: Mapping[str, Mapping[str, Any]]) -> dict[str, bytes]:
    """Return the documents with consolidated metadata, by key, for the groups that still exist."""
    nodes = nodes_of({entry.key: bytes(entry.data) for entry in documents})
    there = (group for group in groups if group in nodes and isinstance(nodes[group].meta, GroupMeta))
    return dict(consolidate(nodes, group, groups[group]) for group in there)


def veil(entries: Entries, shard: Shard, mounted: Iterable[str]) -> Entries:
    """Yield the entries of a base, with the documents of divided arrays under names that hide them from other readers.

    A ``.zmetadata`` is left out if shards are mounted below its folder, as it may name their nodes.

    Raises
    ------
    ChainError
        If a file already has such a name.
    """
    names, mounts = Veil(shard.divided), Mounts(mounted)
    for entry in entries:
        if entry.coords is not None:
            yield entry
            continue
        if names.shown(entry.key) != entry.key:
            raise ChainError(
                f"{entry.key!r} has a name that is reserved for the metadata of a divided array: move it out of the source, "
                "or leave the array out with exclude="
            )
        folder, _, name = entry.key.rpartition("/")
        if name != CONSOLIDATED_V2 or not mounts.any_below(folder):
            yield entry._replace(key=names.stored(entry.key))
