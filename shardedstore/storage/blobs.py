"""Random access to the bytes of one local file or object."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote
from weakref import finalize

import obstore
from obstore.exceptions import BaseError, GenericError, NotSupportedError
from obstore.store import from_url

from shardedstore.errors import UsageError
from shardedstore.storage.client_keywords import keywords
from shardedstore.storage.errors import status_of
from shardedstore.storage.options import NONE, Options, near_option
from shardedstore.storage.request_metrics import request, timed
from shardedstore.storage.throttle import spend, spend_async
from shardedstore.storage.urls import is_remote

if TYPE_CHECKING:
    from obstore.store import ObjectStore
    from typing_extensions import Buffer as Bytes

NO_HEAD = (405, 501)  # status codes of web servers that support only GET; obstore reports 405 as a missing object
INLINE = 1 << 20  # bytes; reading in another thread costs 100 microseconds, which pays off for larger reads


class ByteSource(Protocol):
    """Random access to the bytes of one file or object, for any number of threads at once."""

    def tail(self, n: int) -> tuple[Bytes, int]:
        """Return the last `n` bytes, or all if there are fewer, and the total size in bytes."""

    def read(self, start: int, stop: int) -> Bytes:
        """Return the bytes from `start` to `stop`, or fewer if the file ends earlier."""

    async def aread(self, start: int, stop: int) -> Bytes:
        """Do the same as `read`, asynchronously."""


class LocalFile:
    """A file on a local disk.

    The descriptor is closed when the last reference to the object is gone, so a reading thread never loses it.
    """

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        finalize(self, os.close, self._fd)

    def tail(self, n: int) -> tuple[bytes, int]:
        """Return the last bytes and the size of the file."""
        size = os.fstat(self._fd).st_size
        return self.read(max(0, size - n), size), size

    def read(self, start: int, stop: int) -> bytes:
        """Read with pread, which is safe from several threads because it uses no file position."""
        spend(0, stop - start)
        data = os.pread(self._fd, stop - start, start)  # on Linux at most 2 GiB
        while len(data) < stop - start and (more := os.pread(self._fd, stop - start - len(data), start + len(data))):
            data += more
        return data

    def copy_to(self, descriptor: int, start: int, stop: int) -> int:
        """Let the kernel copy a range to another file, and return the number of copied bytes.

        It is 0 if the kernel can't copy between these files, and smaller than the range if the file ends earlier.
        """
        at, copy = start, getattr(os, "copy_file_range", None)  # Linux only
        try:
            while copy is not None and at < stop and (copied := copy(self._fd, descriptor, stop - at, at)):
                at += copied
        except OSError as error:
            if at > start or error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
        return at - start

    async def aread(self, start: int, stop: int) -> bytes:
        """Read small ranges directly, and large ones in a thread."""
        return self.read(start, stop) if stop - start <= INLINE else await asyncio.to_thread(self.read, start, stop)


class RemoteObject:
    """An object in an object store."""

    def __init__(self, store: ObjectStore, path: str) -> None:
        self._store = store
        self._path = path

    def tail(self, n: int) -> tuple[Bytes, int]:
        """Return the last bytes and the size of the object.

        This takes one request, or two if the server does not support suffix ranges (Azure).
        """
        try:
            with request("GET", n):
                found = obstore.get(self._store, self._path, options={"range": {"suffix": n}})
                return found.bytes(), found.meta["size"]
        except (NotSupportedError, GenericError):
            size = size_at(self._store, self._path)
            if size is None:
                raise FileNotFoundError(
                    f"no object has this name: check the name and the bucket ({self._path})"
                ) from None
            return self.read(max(0, size - n), size), size

    def read(self, start: int, stop: int) -> Bytes:
        """Make one range request."""
        if stop <= start:
            return b""
        with request("GET", stop - start):
            return obstore.get_range(self._store, self._path, start=start, end=stop)

    async def aread(self, start: int, stop: int) -> Bytes:
        """Make one range request."""
        if stop <= start:
            return b""
        await spend_async(1, stop - start)
        with timed("GET", stop - start):
            return await obstore.get_range_async(self._store, self._path, start=start, end=stop)


def open_blob(url: str, options: Options = NONE, keys_of: str | None = None) -> ByteSource:
    """Open a file or object for reading, with the credentials of another URL if one is given."""
    if not is_remote(url):
        return LocalFile(url)
    folder, _, name = url.rpartition("/")
    return RemoteObject(object_store(folder, options, keys_of or url), unquote(name))


def nbytes_of(url: str, options: Options = NONE, keys_of: str | None = None) -> int | None:
    """Return the size of a file or object in bytes, or None if it does not exist; see `open_blob`."""
    if is_remote(url):
        folder, _, name = url.rpartition("/")
        return size_at(object_store(folder, options, keys_of or url), unquote(name))
    try:
        return os.stat(url).st_size
    except (FileNotFoundError, NotADirectoryError):
        return None


def seems_there(url: str, options: Options = NONE) -> bool:
    """Tell whether a file or object exists; False also if it can't be asked for, as without the right to list."""
    with suppress(OSError, BaseError):
        return nbytes_of(url, options) is not None
    return False


def size_at(store: ObjectStore, path: str) -> int | None:
    """Return the size of an object in bytes, or None if it does not exist."""
    try:
        with request("HEAD"):
            return obstore.head(store, path)["size"]
    except (FileNotFoundError, GenericError) as error:
        if _says_missing(error):
            return None
        if status_of(error) not in NO_HEAD:
            raise
    try:
        with request("GET"):
            return obstore.get(store, path).meta["size"]  # the body is not read
    except FileNotFoundError as error:
        if _says_missing(error):
            return None
        raise


def _says_missing(error: Exception) -> bool:
    return isinstance(error, FileNotFoundError) and status_of(error) not in NO_HEAD


def object_store(
    folder: str, options: Options = NONE, url: str | None = None, more: Mapping[str, Any] | None = None
) -> ObjectStore:
    """Return the shared client for a folder of an object store.

    Clients are cached because creating one takes 13 milliseconds and opens new connections.

    Parameters
    ----------
    folder : str
        The URL of the folder.
    options : mapping
        Storage options that are given for the folder.
    url : str, optional
        The URL of one object in the folder. Options and credentials registered for this URL are used as well.
    more : mapping, optional
        Further arguments of the client, by obstore's names.

    Raises
    ------
    UsageError
        If obstore does not know an option.
    """
    environment = tuple(item for item in os.environ.items() if item[0].startswith(("AWS_", "AZURE_", "GOOGLE_")))
    return _object_store(folder, _Keywords({**keywords(url or folder, options), **(more or {})}), environment)


class _Keywords:
    """Keyword arguments that can be used as a cache key."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values, self.text = values, repr(sorted(values.items()))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Keywords) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)


@lru_cache(maxsize=64)
def _object_store(folder: str, options: _Keywords, _environment: object) -> ObjectStore:
    try:
        return from_url(folder, **options.values)
    except BaseException as error:
        is_panic = type(error).__name__ == "PanicException"  # raised by Rust code; not a subclass of Exception
        if not is_panic and not isinstance(error, BaseError | TypeError | ValueError):
            raise
        names = ", ".join(options.values) or "none"
        near = [
            f"{name!r}: did you mean {found!r}?"
            for name in options.values
            if (found := near_option(name)) not in ("", name)
        ]
        if near:
            names += f"; {', '.join(near)}"
        raise UsageError(
            f"{folder!r} can't be opened with the storage options given ({names}): {str(error).partition(chr(10))[0]}"
        ) from None
