"""Reading many keys of a component: each kind of component in the way that is fast for it.

One key at a time through a store's async `get` costs hundreds of microseconds; here a local file costs six to eight,
and an object store has many requests in flight.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING, Protocol

import obstore
from toolz import partition_all
from zarr.abc.store import Store
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import LocalStore, ObjectStore

from shardedstore.errors import CorruptError
from shardedstore.mounts import is_below
from shardedstore.named import chunk_keys
from shardedstore.parts import Part, Rest
from shardedstore.unlisted import Unlisted
from shardedstore.views import Left
from shardedstore.zips import ZipReadStore

if TYPE_CHECKING:
    from obstore import ObjectMeta

IN_FLIGHT = 32
BYTES_IN_FLIGHT = 64 << 20
MOST_LISTINGS = 100  # of the folders in one folder; one listing of all, a request for a thousand keys, takes less then
_READ = os.O_RDONLY | os.O_CLOEXEC
_DANGLING = "a link to what is not there: mount or restore it, or remove the link"


class Bulk(Protocol):
    """Reads many keys of one store.

    `guesses` tells that `keys` gives the chunks that there may be, of which some can be missing.
    """

    guesses: bool

    def keys(self, path: str, remainder: Left | None) -> Iterator[str]:
        """Yield all keys below a path, in any order; of a base, those that are left for it."""

    def fetch(self, keys: Iterable[str]) -> Iterator[bytes | None]:
        """Yield the values of keys, in their order; None where there is none."""


def bulk(store: Store) -> Bulk:
    """Return the reader for a kind of store."""
    match store:
        case LocalStore():
            return LocalBulk(os.fspath(store.root))
        case ZipReadStore():
            return ZipBulk(store)
        case ObjectStore():
            return ObjectBulk(store)
        case Unlisted():
            return UnlistedBulk(store)
        case Part():
            return PartBulk(store)
    return StoreBulk(store)


class LocalBulk:
    """Plain files: `open` and `read` beat every other way by far."""

    guesses = False

    def __init__(self, root: str) -> None:
        self.root = root

    def keys(self, path: str, remainder: Left | None) -> Iterator[str]:
        """Walk the folders, following links, but not into those that are other components'."""
        folders = [path]
        while folders:
            folder = folders.pop()
            start = f"{folder}/" if folder else ""
            chunks = () if remainder is None else remainder.chunk_names(folder)
            with os.scandir(f"{self.root}/{folder}") as found:
                for entry in found:
                    name = entry.name
                    if name in chunks and not entry.is_dir(follow_symlinks=False):
                        continue
                    if entry.is_dir():
                        if remainder is None or not remainder.is_mounted(start + name):
                            self._refuse_cycle(entry)
                            folders.append(start + name)
                    elif entry.is_file() or entry.is_symlink():  # a link to nothing is told when it is read
                        yield start + name

    def _refuse_cycle(self, entry: os.DirEntry[str]) -> None:
        if entry.is_symlink() and f"{entry.path}/".startswith(os.path.realpath(entry.path) + "/"):
            raise CorruptError(f"{entry.path!r} is a link to a folder that it lies in: remove it")

    def fetch(self, keys: Iterable[str]) -> Iterator[bytes | None]:
        """Read file by file, from an open folder: a path is long, and keys of one folder come together."""
        here, folder_fd, guess = None, -1, 1 << 14
        try:
            for key in keys:
                folder, _, name = key.rpartition("/")
                if folder != here:
                    here, folder_fd = folder, self._change_folder(folder_fd, folder)
                data = None
                if folder_fd >= 0:
                    try:
                        data = _read_file(name, folder_fd, guess)
                    except OSError as error:
                        error.filename = f"{self.root}/{key}"
                        raise
                    guess = len(data) if data else guess
                yield data
        finally:
            self._change_folder(folder_fd, None)

    def _change_folder(self, descriptor: int, folder: str | None) -> int:
        """Close one folder and open another; -1 stands for one that is not there."""
        if descriptor >= 0:
            os.close(descriptor)
        if folder is None:
            return -1
        try:
            return os.open(f"{self.root}/{folder}", _READ | os.O_DIRECTORY)
        except NotADirectoryError:
            return -1
        except FileNotFoundError:
            self._refuse_dangling(folder)
            return -1

    def _refuse_dangling(self, folder: str) -> None:
        """Raise where a folder is missing because a link leads to nothing: its chunks only seem to be missing."""
        path = self.root
        for part in ("", *folder.split("/")):
            path = f"{path}/{part}" if part else path
            if os.path.islink(path) and not os.path.exists(path):
                raise OSError(errno.ENXIO, _DANGLING, path)


def _read_file(name: str, folder: int, guess: int) -> bytes | None:
    """Return a file's bytes, of which there are probably `guess`; None where there is no file."""
    try:
        descriptor = os.open(name, _READ, dir_fd=folder)
    except FileNotFoundError:
        if not _is_link(name, folder):
            return None
        raise OSError(errno.ENXIO, _DANGLING, name) from None
    try:
        data = os.read(descriptor, guess)
        if more := os.read(descriptor, 1):  # only an empty read proves the end: some file systems read short
            data = _read_rest(descriptor, data + more)
        return data
    except IsADirectoryError:
        return None
    finally:
        os.close(descriptor)


def _is_link(name: str, folder: int) -> bool:
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _read_rest(descriptor: int, data: bytes) -> bytes:
    parts = [data]
    left = os.fstat(descriptor).st_size - len(data)
    while part := os.read(descriptor, max(left, 0) + 1):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


class ZipBulk:
    """A zip: its names are known, and members are read in the order asked for."""

    guesses = False

    def __init__(self, store: ZipReadStore) -> None:
        self.store = store

    def keys(self, path: str, remainder: Left | None) -> Iterator[str]:
        """Yield the names below the path."""
        for key in self.store.names():
            if is_below(key, path) and (remainder is None or remainder.holds(key)):
                yield key

    def fetch(self, keys: Iterable[str]) -> Iterator[bytes | None]:
        """Read member by member, with the CRC checked."""
        present = set(self.store.names())
        if not self.store.is_remote:
            return (self.store.read_sync(key) if key in present else None for key in keys)
        return in_flight(lambda key: self.store.read_sync(key) if key in present else None, keys)


class ObjectBulk:
    """An object store: the sync calls of obstore, from threads."""

    guesses = False

    def __init__(self, store: ObjectStore) -> None:  # type: ignore[type-arg]
        self.store = store.store

    def keys(self, path: str, remainder: Left | None) -> Iterator[str]:
        """List everything below the path, a request for a thousand keys, but no folders that are cut out."""
        folders = [path]
        while folders:
            folder = folders.pop()
            listed: Iterable[Sequence[ObjectMeta]] = obstore.list(self.store, prefix=folder or None)
            if remainder is not None and remainder.is_cut(folder):
                names = obstore.list_with_delimiter(self.store, prefix=folder or None)
                left = [below for below in names["common_prefixes"] if not remainder.is_mounted(below)]
                if len(left) <= MOST_LISTINGS:
                    folders += left
                    listed = [names["objects"]]
            for batch in listed:
                for found in batch:
                    key = found["path"]
                    if is_below(key, path) and (remainder is None or remainder.holds(key)):
                        yield key

    def fetch(self, keys: Iterable[str]) -> Iterator[bytes | None]:
        """Get many objects at once."""

        def get(key: str) -> bytes | None:
            try:
                return bytes(obstore.get(self.store, key).bytes())
            except FileNotFoundError:
                return None

        return in_flight(get, keys)


class UnlistedBulk:
    """A web server: what its metadata names, and the chunks that there may be."""

    guesses = True

    def __init__(self, store: Unlisted) -> None:
        self.store = store

    def keys(self, path: str, remainder: Left | None) -> Iterator[str]:
        """Yield what can be below the path; an array's chunks are all left, or none of them is."""
        named = self.store.named
        documents = {
            key for key in named.documents if is_below(key, path) and (remainder is None or remainder.holds(key))
        }
        yield from sorted(documents)
        arrays = [key for key in named.arrays.values() if key in documents]
        if remainder is not None:
            first = {key: next(chunk_keys(key, named.documents[key]), None) for key in arrays}
            arrays = [key for key, chunk in first.items() if chunk is None or remainder.holds(chunk)]
        for key, data in zip(arrays, self.fetch(arrays), strict=True):
            if data is not None:  # it is told when it is read
                yield from chunk_keys(key, data)

    def fetch(self, keys: Iterable[str]) -> Iterator[bytes | None]:
        """Get many at once; what the server does not have itself is looked up once."""
        look = cache(self.store.look)
        return in_flight(lambda key: self.store.read(key, look), keys)


class PartBulk:
    """A part of a store, by the reader of the whole."""

    def __init__(self, part: Part) -> None:
        whole = bulk(part.store)
        self.part, self.fetch, self.guesses = part, whole.fetch, whole.guesses

    def keys(self, path: str, remainder: Left | None) -> Iterator[str]:
        """Let the reader of the whole leave out what is no part."""
        return bulk(self.part.store).keys(path, Rest(self.part, remainder))


class StoreBulk:
    """Any zarr store, by its own methods."""

    guesses = False

    def __init__(self, store: Store) -> None:
        self.store = store

    def keys(self, path: str, remainder: Left | None) -> Iterator[str]:
        """List by the store."""

        async def listed() -> list[str]:
            return [key async for key in self.store.list_prefix(f"{path}/" if path else "")]

        yield from (key for key in sync(listed()) if remainder is None or remainder.holds(key))

    def fetch(self, keys: Iterable[str]) -> Iterator[bytes | None]:
        """Get some keys at a time."""
        prototype = default_buffer_prototype()

        async def get(keys: Iterable[str]) -> list[bytes | None]:
            found = await asyncio.gather(*(self.store.get(key, prototype) for key in keys))
            return [None if value is None else value.to_bytes() for value in found]

        for some in partition_all(IN_FLIGHT, keys):
            yield from sync(get(some))


def in_flight(get: Callable[[str], bytes | None], keys: Iterable[str]) -> Iterator[bytes | None]:
    """Call `get` for many keys at once, and yield the results in the order of the keys.

    As many wait as `BYTES_IN_FLIGHT` has room for, if they are as large as the largest so far.
    """
    waiting: deque[Future[bytes | None]] = deque()
    largest: int | None = None

    def first() -> bytes | None:
        nonlocal largest
        data = waiting.popleft().result()
        if data is not None:
            largest = max(largest or 1, len(data))
        return data

    def room() -> int:
        return 4 if largest is None else max(2, min(2 * IN_FLIGHT, BYTES_IN_FLIGHT // largest))

    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        try:
            for key in keys:
                waiting.append(pool.submit(get, key))
                while len(waiting) >= room():
                    yield first()
            while waiting:
                yield first()
        finally:
            for future in waiting:
                future.cancel()
