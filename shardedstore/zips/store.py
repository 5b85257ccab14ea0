"""Zip archives as read-only zarr stores: on a local disk or in an object store, one range request a chunk.

The directory at the end of the zip is read once, with one request or two, and checked. It tells where each entry's local
header begins and the next one's, so that one request gets header and data whatever extra fields the header has. In a
zip without extra fields (those of `ZipWriter`) the place of the data itself is known, and a byte range is read alone.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any

from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype

from shardedstore.readonly import PROTOTYPE, ReadOnlyStore, bounds
from shardedstore.storage.access import StorageOptions, take_options
from shardedstore.storage.blobs import INLINE, ByteSource, open_blob
from shardedstore.storage.urls import is_remote, normalize
from shardedstore.zips.index import STORED, Archive


class ZipReadStore(ReadOnlyStore):
    """A zip as a read-only zarr store.

    Opened by the first use, without a lock: threads that open it at once do the same thing twice. A value that is read
    whole is checked against its CRC-32; a byte range of a stored entry can't be.

    Parameters
    ----------
    url : str or path
        A local path, or a URL that obstore knows: ``s3://``, ``gs://``, ``az://``, ``https://`` ...
    storage_options : mapping or str, optional
        Options of the object store by obstore's names, or ``"anonymous"``. What is secret stays in this process, and is
        not pickled with the store.
    source : ByteSource, optional
        Where to read the bytes instead of at `url`. It is not pickled.

    Raises
    ------
    CorruptError
        When it is opened, for a zip that is damaged or has what can't be read: several disks, encrypted entries,
        another compression than deflate. When a key is read, for an entry that is damaged.
    """

    def __init__(
        self,
        url: str | os.PathLike[str],
        *,
        storage_options: StorageOptions = None,
        source: ByteSource | None = None,
    ) -> None:
        super().__init__()
        self._url = normalize(url)
        self.options = take_options(self._url, storage_options)
        self._source = source
        self._archive: Archive | None = None
        self._opening: asyncio.Future[Archive] | None = None

    @property
    def url(self) -> str:
        """The URL, or the absolute path of a local zip."""
        return self._url

    @property
    def is_remote(self) -> bool:
        """Whether reading is a matter of requests."""
        return is_remote(self._url)

    def names(self, prefix: str = "") -> list[str]:
        """Return all keys that begin like this, sorted."""
        return list(self._opened().below(prefix))

    def holds(self, key: str) -> bool:
        """Tell whether there is such a key."""
        return key in self._opened().entries

    def read_sync(self, key: str) -> bytes:
        """Return a value, checked against its CRC-32."""
        archive = self._opened()
        entry = archive.entry(key)
        return bytes(archive.content(key, entry, archive.source.read(entry.start, entry.stop)))

    def entry_crc(self, key: str) -> int:
        """Return the CRC-32 that the directory has for a value."""
        return self._opened().entry(key).crc

    def entry_size(self, key: str) -> int:
        """Return the size of a value in bytes."""
        return self._opened().entry(key).size

    async def get(
        self, key: str, prototype: BufferPrototype = PROTOTYPE, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        # docstring inherited
        archive = self._archive or await self._ready()
        entry = archive.entries.get(key)
        if entry is None:
            return None
        start, stop = bounds(byte_range, entry.size)
        if byte_range is None or entry.method != STORED:
            raw = await archive.source.aread(entry.start, entry.stop)
            check = archive.content
            whole = check(key, entry, raw) if entry.size <= INLINE else await asyncio.to_thread(check, key, entry, raw)
            return prototype.buffer.from_bytes(whole[start:stop])
        first = entry.data
        if not entry.is_exact:
            first = entry.start + archive.data_at(key, entry, await archive.source.aread(entry.start, entry.data))
        if start >= stop:
            return prototype.buffer.from_bytes(b"")
        part = memoryview(await archive.source.aread(first + start, first + stop))
        if len(part) != stop - start:
            raise archive.damaged(key, "the file ends inside its data")
        return prototype.buffer.from_bytes(part)

    async def exists(self, key: str) -> bool:
        # docstring inherited
        return key in (await self._ready()).entries

    async def getsize(self, key: str) -> int:
        # docstring inherited
        return (await self._ready()).entry(key).size

    async def list(self) -> AsyncIterator[str]:
        # docstring inherited
        for name in (await self._ready()).names:
            yield name

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        # docstring inherited
        for name in (await self._ready()).below(prefix):
            yield name

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        # docstring inherited
        folder = prefix.rstrip("/") + "/" if prefix.rstrip("/") else ""
        below = (await self._ready()).below(folder)
        for name in dict.fromkeys(name[len(folder) :].partition("/")[0] for name in below):
            yield name

    def close(self) -> None:
        # docstring inherited
        self._archive = self._opening = None
        super().close()

    async def _open(self) -> None:
        if self._is_open:
            raise ValueError("store is already open")
        await self._ready()
        self._is_open = True

    async def _ready(self) -> Archive:
        """Return the opened archive; many coroutines that come first share one opening."""
        if self._archive is not None:
            return self._archive
        loop = asyncio.get_running_loop()
        opening = self._opening
        if opening is None or opening.done() or opening.get_loop() is not loop:
            opening = self._opening = loop.run_in_executor(None, self._opened)
        return await asyncio.shield(opening)

    def _opened(self) -> Archive:
        archive = self._archive
        if archive is None:
            archive = self._archive = Archive.open(self._url, self._source or open_blob(self._url, self.options))
        return archive

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self._url, "storage_options": self.options}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and (self._url, self.options) == (other._url, other.options)

    def __str__(self) -> str:
        return f"zip::{self._url}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._url!r})"
