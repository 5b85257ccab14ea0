"""A group without anything else in it, as a store of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype

from shardedstore.zarr.metadata import dump_json
from shardedstore.zarr.paths import join
from shardedstore.zarr.readonly import ReadOnlyStore, cut


def group_documents(zarr_format: int, attributes: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the metadata documents of a group, by name.

    >>> list(group_documents(2, {"title": "cells"})), list(group_documents(3, {}))
    (['.zgroup', '.zattrs'], ['zarr.json'])
    """
    if zarr_format == 2:
        documents = {".zgroup": dump_json({"zarr_format": 2})}
        return {**documents, ".zattrs": dump_json(dict(attributes))} if attributes else documents
    return {"zarr.json": dump_json({"zarr_format": 3, "node_type": "group", "attributes": dict(attributes)})}


class GroupStore(ReadOnlyStore):
    """A group's metadata documents, those of the empty groups in it, and nothing else."""

    def __init__(self, zarr_format: int, attributes: Mapping[str, Any], groups: Iterable[str] = ()) -> None:
        super().__init__()
        self.documents = group_documents(zarr_format, attributes)
        for path in groups:
            self.documents |= {join(path, name): data for name, data in group_documents(zarr_format, {}).items()}

    @classmethod
    def nothing(cls) -> GroupStore:
        """Return a store without any key."""
        store = cls(3, {})
        store.documents = {}
        return store

    def __eq__(self, other: object) -> bool:
        return type(other) is GroupStore and self.documents == other.documents

    def __repr__(self) -> str:
        return "GroupStore()"

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        # docstring inherited
        data = self.documents.get(key)
        return None if data is None else cut(prototype.buffer.from_bytes(data), byte_range)

    async def exists(self, key: str) -> bool:
        # docstring inherited
        return key in self.documents

    async def list(self) -> AsyncIterator[str]:
        # docstring inherited
        for key in self.documents:
            yield key
