"""Groups that only the config holds."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta
from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype

from shardedstore.storage.crc import crc32
from shardedstore.stores.location import Location
from shardedstore.stores.reader import StoreReader, Tag, reader_of
from shardedstore.zarr.metadata import dump_json
from shardedstore.zarr.paths import check_path, join
from shardedstore.zarr.readonly import ReadOnlyStore, cut


class Group(Location, frozen=True, tag="group", omit_defaults=True):
    """A group that only the config holds; it contains only empty groups."""

    is_in_config: ClassVar[bool] = True

    zarr_format: Annotated[Literal[2, 3], Meta(description="The Zarr format of the group.")] = 3
    attributes: Annotated[dict[str, Any], Meta(description="The attributes of the group.")] = {}  # noqa: RUF012 (msgspec copies it)
    groups: Annotated[tuple[str, ...], Meta(description="The paths of the empty groups below it.")] = ()

    def __hash__(self) -> int:
        return hash(self.zarr_format)

    def open(self, *, read_only: bool = True) -> Store:
        # docstring inherited
        return GroupStore(self.zarr_format, self.attributes, self.groups)

    def show(self) -> str:
        # docstring inherited
        return "the group in the config"

    def show_in(self, folder: str) -> str:
        # docstring inherited
        return ", ".join(self.attributes)

    def is_same(self, other: Location) -> bool:
        # docstring inherited
        return type(other) is Group and (self.zarr_format, self.attributes) == (other.zarr_format, other.attributes)

    def check(self) -> None:
        # docstring inherited
        for path in self.groups:
            check_path(path, "the config's group")


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
    """The metadata documents of a group and of the empty groups in it."""

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


class GroupReader(StoreReader[GroupStore]):
    """Reads the documents of a group in the config."""

    has_tags = True

    def tags(self, keys: Iterable[str]) -> Iterator[Tag]:
        """Yield sizes, with the CRC-32 as the tag."""
        documents = self.store.documents
        found = ((key, documents[key]) for key in keys if key in documents)
        return ((key, len(data), str(crc32(data))) for key, data in found)


reader_of.register(GroupStore, GroupReader)
