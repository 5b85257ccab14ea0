"""The stream of a shard on its way to an object of its own, with the consolidated metadata of groups that are whole in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from shardedstore.chain import Entries, Shard
from shardedstore.errors import ChainError
from shardedstore.metadata import GroupMeta
from shardedstore.reading.entries import Entry, is_document
from shardedstore.reading.hierarchy import consolidate, nodes_of


def rebuilt(entries: Entries, shard: Shard, groups: Mapping[str, Mapping[str, Any]]) -> Entries:
    """Yield a shard's entries with the consolidated metadata of some groups, made of the documents as they come.

    `groups` has for each what its consolidated metadata names beside documents. That of Zarr v2 stands where a listing puts
    it, among the files that are no documents, so that what is stored is read in the order in which it was written.

    Raises
    ------
    ChainError
        For a document that comes after other entries.
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
                f"shard {shard.name!r}: {entry.key!r} comes after entries that are no metadata, so that consolidated metadata "
                "would lack it: have the steps yield metadata first, or map with consolidated=False"
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
    """Return the keys and documents that hold the consolidated metadata of the groups that are still there."""
    nodes = nodes_of({entry.key: bytes(entry.data) for entry in documents})
    there = (group for group in groups if group in nodes and isinstance(nodes[group].meta, GroupMeta))
    return dict(consolidate(nodes, group, groups[group]) for group in there)
