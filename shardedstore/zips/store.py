"""Zip archives as read-only zarr stores, on a local disk or in an object store, with at most one range request per chunk.

The directory at the end of the zip is read once, with one or two requests, and checked. It gives the offset of each
entry's local header and of the next one, so one request reads header and data, whatever extra fields the header has. In
zips without extra fields (such as those of `ZipWriter`) the offset of the data is known too, and byte ranges are read
alone. In object stores, entries that lie beside one another are read with one request.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from typing import Any

from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype

from shardedstore.errors import CorruptError, UsageError
from shardedstore.storage.blobs import INLINE, ByteSource, open_blob
from shardedstore.storage.gathered import ByteSpan, GatheredReads, together
from shardedstore.storage.options import StorageOptions, take_options
from shardedstore.storage.urls import is_remote, normalize
from shardedstore.zarr.paths import is_below, join
from shardedstore.zarr.readonly import PROTOTYPE, ReadOnlyStore, bounds
from shardedstore.zips.index import STORED, Archive, join_inside, split_inside
from shardedstore.zips.writer import MAX16

ROOTS = ("zarr.json", ".zgroup", ".zarray", ".zmetadata")  # a folder with any of these is a Zarr


class ZipReadStore(ReadOnlyStore):
    """A zip as a read-only zarr store.

    The zip is opened at the first use, without a lock: threads that open it at the same time do the same work twice. A
    value that is read whole is checked against its CRC-32; a byte range of a stored entry cannot be checked.

    Parameters
    ----------
    url : str or path
        A local path, or a URL that obstore knows: ``s3://``, ``gs://``, ``az://``, ``https://`` ... A folder in the zip
        is named after ``|zip:``, like ``cubes.zip|zip:2024/a.zarr/``, with special characters quoted as in URLs.
    storage_options : mapping or str, optional
        Options of the object store by obstore's names, or ``"anonymous"``. Secrets stay in this process, and are not
        pickled with the store.
    source : ByteSource, optional
        Where to read the bytes instead of at `url`. It is not pickled.

    Raises
    ------
    CorruptError
        On opening, if the zip is damaged, encrypted, split over several disks, or compressed by a method other than
        deflate. On reading a key, if the entry is damaged.

    See Also
    --------
    shardedstore.transforms.ToZip : Write zips that this store reads with one request for neighbouring keys.

    Examples
    --------
    >>> import pathlib, tempfile, zipfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with zipfile.ZipFile(pathlib.Path(folder, "a.zarr.zip"), "w") as made:
    ...         made.writestr("zarr.json", '{"zarr_format": 3, "node_type": "group"}')
    ...     store = ZipReadStore(pathlib.Path(folder, "a.zarr.zip"))
    ...     store.names(), store.holds("c/0"), store.entry_size("zarr.json")
    (['zarr.json'], False, 40)
    """

    def __init__(
        self,
        url: str | os.PathLike[str],
        *,
        storage_options: StorageOptions = None,
        source: ByteSource | None = None,
    ) -> None:
        super().__init__()
        place, self._path = split_inside(url)
        self._url = normalize(place)
        self.options = take_options(self._url, storage_options)
        self._source = source
        self._whole: ZipReadStore | None = None  # the store of the whole zip, if this is one of its folders
        self._inside = ""
        self._archive: Archive | None = None
        self._opening: asyncio.Future[Archive] | None = None

    @property
    def url(self) -> str:
        """The URL, or the absolute path of a local zip."""
        return self._url

    @property
    def path(self) -> str:
        """The path of the store's folder in the zip; empty for the whole zip."""
        return self._path

    def zarrs(self) -> list[str]:
        """Return the paths of the outermost folders that hold a Zarr.

        Returns
        -------
        list of str
            The sorted paths; ``""`` stands for the store itself.
        """
        documents = (name.rpartition("/") for name in self.names())
        found: list[str] = []
        for folder in sorted({folder for folder, _, name in documents if name in ROOTS and not _is_of_finder(folder)}):
            if not any(is_below(folder, other) for other in found):
                found.append(folder)
        return found

    @property
    def is_remote(self) -> bool:
        """Whether the zip is in an object store."""
        return is_remote(self._url)

    def at(self, path: str) -> ZipReadStore:
        """Return the store of a folder in the zip. Both stores share the zip's directory.

        Parameters
        ----------
        path : str
            The path of the folder, relative to the store's own folder.

        Returns
        -------
        ZipReadStore
            The store of the keys below the folder.
        """
        store = ZipReadStore(join_inside(self._url, join(self._path, path)), storage_options=self.options)
        store._whole, store._inside = self, path
        return store

    def names(self, prefix: str = "") -> list[str]:
        """Return the sorted keys that begin with a prefix.

        Parameters
        ----------
        prefix : str
            The prefix; empty for all keys.

        Returns
        -------
        list of str
            The keys, relative to the store's folder in the zip.
        """
        return list(self._opened().below(prefix))

    def holds(self, key: str) -> bool:
        """Tell whether a key exists.

        Parameters
        ----------
        key : str
            The key, relative to the store's folder in the zip.

        Returns
        -------
        bool
            Whether the zip has the key.
        """
        return key in self._opened().entries

    def read_sync(self, key: str) -> bytes:
        """Return a value, checked against its CRC-32.

        Parameters
        ----------
        key : str
            The key, relative to the store's folder in the zip.

        Returns
        -------
        bytes
            The whole value.

        Raises
        ------
        KeyError
            If the zip has no such key.
        CorruptError
            If the value is damaged.
        """
        archive = self._opened()
        entry = archive.entry(key)
        return bytes(archive.content(key, entry, archive.source.read(entry.start, entry.stop)))

    def read_many(self, keys: Sequence[str]) -> list[bytes | CorruptError | None]:
        """Return values, checked against their CRC-32, and read neighbours with one request.

        Parameters
        ----------
        keys : sequence of str
            The keys, relative to the store's folder in the zip. Their values together should fit into memory.

        Returns
        -------
        list of bytes, CorruptError or None
            The value of each key; None for a missing key, and an error for a damaged value.
        """
        archive = self._opened()
        entries = {key: archive.entries[key] for key in keys if key in archive.entries}
        found = dict[str, bytes | CorruptError]()
        spans = sorted((ByteSpan(entry.start, entry.stop), key) for key, entry in entries.items())
        for run in together(spans):
            start, stop = run[0][0].start, max(span.stop for span, _ in run)
            raw = memoryview(archive.source.read(start, stop))
            for span, key in run:
                try:
                    found[key] = bytes(archive.content(key, entries[key], raw[span.start - start : span.stop - start]))
                except CorruptError as error:
                    found[key] = error
        return [found.get(key) for key in keys]

    def entry_crc(self, key: str) -> int:
        """Return the CRC-32 of a value from the zip's directory.

        Parameters
        ----------
        key : str
            The key, relative to the store's folder in the zip.

        Returns
        -------
        int
            The CRC-32; the value is not read.

        Raises
        ------
        KeyError
            If the zip has no such key.
        """
        return self._opened().entry(key).crc

    def entry_size(self, key: str) -> int:
        """Return the size of a value.

        Parameters
        ----------
        key : str
            The key, relative to the store's folder in the zip.

        Returns
        -------
        int
            The size in bytes, without compression in the zip.

        Raises
        ------
        KeyError
            If the zip has no such key.
        """
        return self._opened().entry(key).size

    def entry_range(self, key: str) -> tuple[int, int]:
        """Return the position of a stored value in the zip.

        Parameters
        ----------
        key : str
            The key, relative to the store's folder in the zip.

        Returns
        -------
        tuple of int and int
            The first byte and the number of bytes. The value is not read; for a foreign zip, its local header may be.

        Raises
        ------
        KeyError
            If the zip has no such key.
        UsageError
            If the value is compressed in the zip, so that no range holds it.
        """
        archive = self._opened()
        entry = archive.entry(key)
        if entry.method != STORED:
            raise UsageError(
                f"{archive.start + key!r} is compressed in {self._url!r}, so that no byte range holds its value: write the zip "
                "anew with ToZip, which stores values as they are"
            )
        if entry.is_exact:
            return entry.data, entry.size
        head = archive.source.read(entry.start, min(entry.stop, entry.data + MAX16))
        return entry.start + archive.data_at(key, entry, head), entry.size

    async def get(
        self, key: str, prototype: BufferPrototype = PROTOTYPE, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        # docstring inherited
        archive = self._archive or await self._ready()
        entry = archive.entries.get(key)
        if entry is None:
            return None
        if self._supports_sync_io and entry.size <= INLINE:
            return self.get_sync(key, prototype=prototype, byte_range=byte_range)
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
        part = await archive.source.aread(first + start, first + stop)
        return prototype.buffer.from_bytes(archive.part(key, part, stop - start))

    def get_sync(
        self, key: str, *, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        # docstring inherited
        archive = self._archive or self._opened()
        entry = archive.entries.get(key)
        if entry is None:
            return None
        buffer, read = (prototype or PROTOTYPE).buffer, archive.source.read
        start, stop = bounds(byte_range, entry.size)
        if byte_range is None or entry.method != STORED:
            return buffer.from_bytes(archive.content(key, entry, read(entry.start, entry.stop))[start:stop])
        first = entry.data
        if not entry.is_exact:
            first = entry.start + archive.data_at(key, entry, read(entry.start, entry.data))
        if start >= stop:
            return buffer.from_bytes(b"")
        return buffer.from_bytes(archive.part(key, read(first + start, first + stop), stop - start))

    @property
    def _supports_sync_io(self) -> bool:
        # docstring inherited
        return not self.is_remote and self._source is None

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
        """Return the opened archive. Concurrent callers share one opening."""
        if self._archive is not None:
            return self._archive
        loop = asyncio.get_running_loop()
        opening = self._opening
        if opening is None or opening.done() or opening.get_loop() is not loop:
            opening = self._opening = loop.create_task(asyncio.to_thread(self._opened))
        return await asyncio.shield(opening)

    def _opened(self) -> Archive:
        archive = self._archive
        if archive is None:
            archive = self._archive = self._open_archive()
        return archive

    def _open_archive(self) -> Archive:
        if self._whole is not None:
            return self._whole._opened().at(self._inside)
        archive = Archive.open(self._url, self._source or self._open_source())
        return archive.at(self._path) if self._path else archive

    def _open_source(self) -> ByteSource:
        source = open_blob(self._url, self.options)
        return GatheredReads(source) if self.is_remote else source

    def __getstate__(self) -> dict[str, Any]:
        return {"url": join_inside(self._url, self._path), "storage_options": self.options}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and self.__getstate__() == other.__getstate__()

    def __str__(self) -> str:
        return f"zip::{join_inside(self._url, self._path)}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({join_inside(self._url, self._path)!r})"


def _is_of_finder(folder: str) -> bool:
    """Tell whether a folder is one that macOS adds to zips, whose files belong to no Zarr."""
    return folder.partition("/")[0] == "__MACOSX"
