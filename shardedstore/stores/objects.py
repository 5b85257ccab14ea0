"""Folders of object stores: zarr's store without folder markers, and its reader."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import obstore
from zarr.storage import ObjectStore

from shardedstore.storage.markers import MARKERS, is_marked, unmarked
from shardedstore.storage.request_metrics import list_pages, read_whole, request, timed
from shardedstore.storage.requests import in_flight
from shardedstore.stores.reader import KeyFilter, StoreReader, Tag, reader_of
from shardedstore.zarr.paths import is_below

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype

MOST_LISTINGS = 100  # folders listed one by one; for more of them, one recursive listing is faster
PAGE = 1000  # keys that a store lists with one request


class ObjectFolder(ObjectStore[Any]):
    """An `ObjectStore` that ignores folder markers; zarr's class fails on a marker named like its folder."""

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        # docstring inherited
        with timed("GET") as got:
            found = await super().get(key, prototype, byte_range)
            got.nbytes = 0 if found is None else len(found)
        return found

    async def list(self) -> AsyncIterator[str]:  # type: ignore[override]
        # docstring inherited
        async for key in self.list_prefix(""):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:  # type: ignore[override]
        # docstring inherited
        async for batch in obstore.list(self.store, prefix=prefix or None):
            for found in await asyncio.to_thread(list, unmarked(self.store, batch)):
                yield found["path"]

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:  # type: ignore[override]
        # docstring inherited
        folder = prefix.rstrip("/")
        with timed("LIST"):
            listed = await obstore.list_with_delimiter_async(self.store, prefix=folder or None)
        objects = [found["path"] for found in listed["objects"] if found["size"] or not is_marked(found["path"])]
        start = f"{folder}/" if folder else ""
        for path in dict.fromkeys([*listed["common_prefixes"], *objects]):
            if path != folder:  # the folder's own marker
                yield path.removeprefix(start).rstrip("/")


class ObjectReader(StoreReader[ObjectStore[Any]]):
    """Reads an object store with the synchronous calls of obstore, from threads."""

    has_tags = True

    def __init__(self, store: ObjectStore[Any]) -> None:
        self.client = store.store

    def keys(self, path: str, kept: KeyFilter | None) -> Iterator[str]:
        """Yield the keys below a path, 1000 keys for each request; skip folders of other components."""
        return (found["path"] for found in self.objects(path, kept))

    def objects(self, path: str, kept: KeyFilter | None) -> Iterator[ObjectMeta]:
        """Yield the objects of the keys that `keys` yields, with sizes and tags."""
        folders = [path]
        while folders:
            folder = folders.pop()
            listed: Iterable[Sequence[ObjectMeta]] = list_pages(obstore.list(self.client, prefix=folder or None))
            if kept is not None and kept.is_cut(folder):
                with request("LIST"):
                    names = obstore.list_with_delimiter(self.client, prefix=folder or None)
                left = [below for below in names["common_prefixes"] if not kept.is_mounted(below)]
                if len(left) <= MOST_LISTINGS:
                    folders += left
                    listed = [names["objects"]]
            for batch in listed:
                for found in unmarked(self.client, batch, MARKERS.add):
                    key = found["path"]
                    if is_below(key, path) and (kept is None or kept.holds(key)):
                        yield found

    def fetch(self, keys: Iterable[str]) -> Iterator[bytes | None]:
        """Fetch many objects concurrently."""

        def get(key: str) -> bytes | None:
            try:
                return read_whole(lambda: obstore.get(self.client, key).bytes())
            except FileNotFoundError:
                return None

        return in_flight(get, keys)

    def tags(self, keys: Iterable[str]) -> Iterator[Tag]:
        """List pages of objects, and start each page at the next key that is needed."""
        wanted = sorted(keys)
        names, place = set(wanted), 0
        while place < len(wanted):
            with request("LIST"):
                batch = next(iter(obstore.list(self.client, offset=_before(wanted[place]), chunk_size=PAGE)), None)
            if not batch:
                return
            yield from (_tag(found) for found in batch if found["path"] in names)
            last = batch[-1]["path"]
            while place < len(wanted) and wanted[place] <= last:
                place += 1

    def tags_below(self, path: str, kept: KeyFilter | None) -> Iterator[Tag]:
        # docstring inherited
        return map(_tag, self.objects(path, kept))

    async def folders(self, path: str) -> AsyncIterator[str]:
        # docstring inherited
        with timed("LIST"):
            found = await obstore.list_with_delimiter_async(self.client, prefix=path or None)
        for folder in found["common_prefixes"]:
            yield folder.rstrip("/").rpartition("/")[2]


reader_of.register(ObjectStore, ObjectReader)


def _before(key: str) -> str:
    """Return a name that sorts directly before a key, with no chunk key between the two.

    >>> _before("t/c/1/0"), _before("t/c/1/7")
    ('t/c/1/-', 't/c/1/6z')
    """
    start, last = key[:-1], key[-1]
    return f"{start}-" if last == "0" else f"{start}{chr(ord(last) - 1)}z"


def _tag(found: ObjectMeta) -> Tag:
    return found["path"], found["size"], str(found["e_tag"] or found["last_modified"])
