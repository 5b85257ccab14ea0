"""A Zarr on a web server, which can't be listed: its keys follow from its metadata.

Consolidated metadata names all groups and arrays; without it, only an array at the root is known. The possible chunks follow
from the array's shape. A chunk is missing only if the server answers with status 404.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import aclosing
from functools import cache, cached_property
from itertools import chain, islice
from threading import Lock
from types import MappingProxyType
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import NotSupportedError, PermissionDeniedError
from toolz import partition_all
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype

from shardedstore.errors import CorruptError, PartitionError
from shardedstore.storage.blobs import object_store, size_at
from shardedstore.storage.errors import status_of
from shardedstore.storage.options import NONE, Options
from shardedstore.storage.request_metrics import read_whole
from shardedstore.storage.requests import in_flight
from shardedstore.storage.urls import join_url, quote_name
from shardedstore.stores.http_index import ROOTS, Named, chunk_keys, has_one_name, named_by
from shardedstore.stores.reader import KeyFilter, StoreReader, reader_of
from shardedstore.zarr.metadata import CONSOLIDATED_V2, DOCUMENTS
from shardedstore.zarr.paths import is_below, join
from shardedstore.zarr.readonly import ReadOnlyStore, cut

if TYPE_CHECKING:
    from obstore import GetOptions, GetResult
    from obstore.store import ObjectStore

IN_FLIGHT = 32
NOWHERE = "shardedstore-asks-for-what-is-not-there"
NAMING = ("zarr.json", CONSOLIDATED_V2)  # documents at the root that can hold consolidated metadata
_REFUSALS = (FileNotFoundError, PermissionDeniedError)
_DENIED = (
    "access is denied, or it is missing, which this server may not tell apart: ask its owner to answer 404 for "
    "missing keys (S3 does so if listing is allowed), or give an s3:// URL"
)


class HTTPReadStore(ReadOnlyStore):
    """A folder of a web server as a read-only zarr store.

    Values are read from the server. A metadata document that the server does not have is taken from the consolidated metadata.

    Parameters
    ----------
    url : str
        A normalized ``http://`` or ``https://`` URL.
    options : Options, optional
        The public options of the client.

    Raises
    ------
    PartitionError
        When the store is listed: for a group without consolidated metadata, for unknown kinds of chunk keys, and for a server
        that answers every request with success.
    PermissionError
        If the server answers with status 403 for a chunk: the chunk may be missing or protected.
    CorruptError
        If the server sends a value with a content encoding.
    """

    def __init__(self, url: str, options: Options = NONE) -> None:
        super().__init__()
        self.url, self.options = url, options
        self._roots: dict[str, bytes | None] = {}  # requested documents at the root; None for a missing one
        self._known: Named | None = None
        self._lock = Lock()

    def __reduce__(self) -> tuple[type[HTTPReadStore], tuple[str, Options]]:
        return HTTPReadStore, (self.url, self.options)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HTTPReadStore) and (self.url, self.options) == (other.url, other.options)

    def __repr__(self) -> str:
        return f"HTTPReadStore({self.url!r})"

    @cached_property
    def _client(self) -> ObjectStore:
        return object_store(self.url, self.options)

    @cached_property
    def named(self) -> Named:
        """The names at the first request, or PartitionError if the names are not complete."""
        found = self.known
        if found.documents and not found.is_whole:
            raise PartitionError(
                f"{self.url!r} is a group without consolidated metadata, and a web server can't be listed: name the URL of "
                "one of its arrays, or have its owner run zarr.consolidate_metadata"
            )
        try:
            has_all = self._ask(NOWHERE) is not None
        except PermissionError:  # a missing chunk raises it later, if there is one
            has_all = False
        if has_all:
            raise PartitionError(
                f"{self.url!r} is on a server that has an answer for {NOWHERE!r} too, so that a missing chunk can't be distinguished "
                "from a stored one: name where the files themselves are, or download them"
            )
        return found

    @property
    def known(self) -> Named:
        """The names in the root's metadata at the first request; they may be incomplete."""
        with self._lock:
            if self._known is None:
                self._known = self.look(self._roots)
        return self._known

    def look(self, roots: Mapping[str, bytes | None] = MappingProxyType({})) -> Named:
        """Return the names in the root's current metadata; documents in `roots` are not requested again."""
        denied: PermissionError | None = None
        for name in ROOTS:
            try:
                data = roots[name] if name in roots else self._ask(name)
            except PermissionError as error:  # it may be missing: try the others
                denied = error
                continue
            if data is not None:
                return named_by(name, data, self._ask(".zattrs") if name == ".zarray" else None)
        if denied is not None:
            raise denied
        return Named()

    def read(self, key: str, look: Callable[[], Named]) -> bytes | None:
        """Return a value; None if it is missing.

        A metadata document that the server does not have is taken from the result of `look`.
        """
        try:
            return self._fetch(key)
        except _REFUSALS as error:
            return self._instead(key, error, look)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        # docstring inherited
        try:
            found = await obstore.get_async(self._client, key, options=_options(byte_range))
            data = await self._plain(found, key).bytes_async()
        except _REFUSALS as error:
            document = await asyncio.to_thread(self._instead, key, error, lambda: self.known)
            return None if document is None else cut(prototype.buffer.from_bytes(document), byte_range)
        except NotSupportedError:  # the server does not support ranges
            if byte_range is None:
                raise
            whole = await self.get(key, prototype)
            return None if whole is None else cut(whole, byte_range)
        if key in ROOTS and byte_range is None:
            self._roots[key] = bytes(data)
        return prototype.buffer.from_bytes(memoryview(data))

    def _ask(self, key: str) -> bytes | None:
        try:
            return self._fetch(key)
        except _REFUSALS as error:
            self._check_missing(key, error)
            return None

    def _fetch(self, key: str) -> bytes:
        return read_whole(lambda: self._plain(obstore.get(self._client, key), key).bytes())

    def _plain(self, found: GetResult, key: str) -> GetResult:
        """Raise CorruptError if the server has compressed the value, which no request asked for."""
        encoding = found.attributes.get("Content-Encoding", "identity")
        if encoding != "identity":
            raise CorruptError(
                f"the server has encoded {self._url(key)!r} as {encoding}, so that its bytes are not those of the file: ask "
                "its owner to serve the files as they are"
            )
        return found

    def _instead(self, key: str, error: BaseException, look: Callable[[], Named]) -> bytes | None:
        """Return the document from consolidated metadata in place of a refused one; None if it is missing."""
        if key in ROOTS and status_of(error) == 404:
            self._roots[key] = None
        if key in NAMING and status_of(error) == 404:
            return None  # no other document names the same nodes
        if key.rpartition("/")[2] in DOCUMENTS and status_of(error) in (403, 404) and self.known.is_whole:
            return look().documents.get(key) if key in self.known.documents else None
        self._check_missing(key, error)
        return None

    def _check_missing(self, key: str, error: BaseException) -> None:
        """Raise unless the server's answer has status 404, which means that the value is missing."""
        status = status_of(error)
        if status == 403:
            raise PermissionError(errno.EACCES, _DENIED, self._url(key)) from None
        if status != 404:
            raise error

    def _url(self, key: str) -> str:
        return join_url(self.url, quote_name(key))

    async def exists(self, key: str) -> bool:
        # docstring inherited
        if key.rpartition("/")[2] in DOCUMENTS:
            return await self.get(key, default_buffer_prototype()) is not None
        try:
            return await asyncio.to_thread(size_at, self._client, key) is not None
        except PermissionDeniedError as error:
            self._check_missing(key, error)
            return False

    async def list(self) -> AsyncIterator[str]:
        # docstring inherited
        async for key in self.list_prefix(""):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncGenerator[str]:
        # docstring inherited
        named = await asyncio.to_thread(lambda: self.named)
        for key in named.documents:
            if key.startswith(prefix):
                yield key
        for path, document in named.arrays.items():
            start = f"{path}/" if path else ""
            data = None
            if start.startswith(prefix) or prefix.startswith(start):
                data = await self.get(document, default_buffer_prototype())
            if data is not None:
                possible = filter(lambda key: key.startswith(prefix), chunk_keys(document, data.to_bytes()))
                for some in chain([tuple(islice(possible, 1))], partition_all(IN_FLIGHT, possible)):
                    there = await asyncio.gather(*map(self.exists, some))
                    for key, is_there in zip(some, there, strict=True):
                        if is_there:
                            yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        # docstring inherited
        folder = prefix.strip("/")
        named = await asyncio.to_thread(lambda: self.named)
        names = named.names(folder)
        if (document := named.arrays.get(folder)) is not None and has_one_name(document, named.documents[document]):
            chunks = self.list_prefix(join(folder, "c/"))  # the first one is enough
            async with aclosing(chunks):
                names = chain(names, ["c"] if await anext(chunks, None) is not None else [])
        elif any(path == folder or is_below(folder, path) for path in named.arrays):
            names = iter([name async for name in super().list_dir(folder)])
        for name in names:
            yield name


def _options(byte_range: ByteRequest | None) -> GetOptions:
    match byte_range:
        case None:
            return {}
        case RangeByteRequest(start, end):
            return {"range": (start, end)}
        case OffsetByteRequest(offset):
            return {"range": {"offset": offset}}
        case SuffixByteRequest(suffix):
            return {"range": {"suffix": suffix}}
    raise ValueError(f"Unexpected byte_range, got {byte_range}.")


class HTTPReader(StoreReader[HTTPReadStore]):
    """Reads the documents that the metadata on a web server names, and the possible chunks."""

    guesses = True

    def keys(self, path: str, kept: KeyFilter | None) -> Iterator[str]:
        """Yield the possible keys below a path; the chunks of an array are kept all or not at all."""
        named = self.store.named
        documents = {key for key in named.documents if is_below(key, path) and (kept is None or kept.holds(key))}
        yield from sorted(documents)
        arrays = [key for key in named.arrays.values() if key in documents]
        if kept is not None:
            first = {key: next(chunk_keys(key, named.documents[key]), None) for key in arrays}
            arrays = [key for key, chunk in first.items() if chunk is None or kept.holds(chunk)]
        for key, data in zip(arrays, self.fetch(arrays), strict=True):
            if data is not None:  # a missing document is reported when it is read
                yield from chunk_keys(key, data)

    def fetch(self, keys: Iterable[str]) -> Iterator[bytes | None]:
        """Fetch many keys concurrently; the root's metadata is read at most once."""
        look = cache(self.store.look)
        return in_flight(lambda key: self.store.read(key, look), keys)


reader_of.register(HTTPReadStore, HTTPReader)
