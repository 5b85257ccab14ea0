"""Folders for a job's small files (ledger and config) on a local disk or in an object store.

Files are written atomically: a file appears with its whole content or not at all.
"""

from __future__ import annotations

import errno
import os
import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Protocol

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from toolz import groupby, partition_all

from shardedstore.storage.blobs import ByteSource, RemoteObject, nbytes_of, object_store, open_blob
from shardedstore.storage.markers import unmarked
from shardedstore.storage.options import NONE, Options, scheme_of
from shardedstore.storage.publish import (
    is_temporary,
    make_folder,
    name_place,
    remove_temporaries,
    sync_folder,
    write_file,
)
from shardedstore.storage.request_metrics import list_pages, read_whole, request
from shardedstore.storage.retry import patiently
from shardedstore.storage.urls import is_remote

if TYPE_CHECKING:
    from obstore import ListResult, ObjectMeta
    from obstore.store import ObjectStore

STORAGE_ERRORS = (OSError, BaseError)
SYNC_SECONDS = 1.0  # between two syncs of a local file that is appended to
MOST_REMOVED = 1000  # objects per request
FLUSH_SECONDS = 5.0  # between two objects written by one appender
STARTED, ENDED = "0", "end"  # labels in object names: an appender's start marker and its last object


class Append(Protocol):
    """Appends lines to the files of one appender."""

    def __call__(self, line: bytes) -> None:
        """Append a line, which is durable after some seconds, after `flush`, or at the end of the appender."""

    def flush(self) -> None:
        """Make all appended lines durable."""


class Folder(Protocol):
    """A folder. File names are relative paths with forward slashes."""

    @property
    def url(self) -> str:
        """The folder's path or URL."""

    def names(self, path: str = "") -> list[str]:
        """Return the sorted names of files and folders directly below a path.

        The list is empty if the folder does not exist, or lies on a web server, which can't be listed.
        """

    def listed(self, path: str = "") -> tuple[frozenset[str], frozenset[str]]:
        """Return the names of the files and of the folders directly below a path, as `names` does."""

    def sizes(self, path: str = "") -> Iterator[tuple[str, int]]:
        """List all files below a path, and yield their names and sizes in bytes."""

    def nbytes(self, name: str) -> int | None:
        """Return the size of a file in bytes, or None if it does not exist."""

    def read(self, name: str) -> bytes:
        """Return a file's content, or raise FileNotFoundError."""

    def write(self, name: str, data: bytes, *, create: bool = False) -> None:
        """Write a file.

        With `create`, FileExistsError is raised if the file exists. In an object store, an existing object with equal
        content is accepted.
        """

    def remove(self, name: str) -> None:
        """Remove a file that this project wrote, if it exists."""

    def remove_all(self, names: Sequence[str]) -> None:
        """Remove many files that this project wrote.

        Local folders are not synced, so some files may reappear after a power loss.
        """

    def links(self, names: Iterable[str]) -> list[str]:
        """Return the names that are symbolic links, or lie behind one."""

    def remove_empty(self, paths: Iterable[str]) -> None:
        """Remove folders that are empty, and their parents that then are, but not this folder."""

    def blob(self, name: str) -> ByteSource:
        """Open a file for random access.

        FileNotFoundError is raised here or at the first read if the file does not exist.
        """

    def claim(self, name: str) -> bool:
        """Create the first file of an appender, or return False if it exists already."""

    def appender(self, name: str, claimed: str = "") -> AbstractContextManager[Append]:
        """Return a context manager that gives a function to append lines.

        The lines go to one local file, or to several objects that share a prefix.

        Parameters
        ----------
        name : str
            The beginning of the file's name.
        claimed : str
            The end of a name that the caller has claimed. By default the file gets a new, unique name.
        """

    def clean(self) -> None:
        """Remove incomplete files that killed processes left."""


def later() -> str:
    """Return a unique suffix for file names, which sorts after earlier ones if clocks agree."""
    return f"{time.time_ns():016x}{secrets.token_hex(4)}"


def open_folder(url: str, options: Options = NONE) -> Folder:
    """Return a folder, which need not exist yet."""
    return RemoteFolder(url, options) if is_remote(url) else LocalFolder(url)


@dataclass(frozen=True)
class LocalFolder:
    """A folder on a local disk. Written files are synced."""

    url: str

    def names(self, path: str = "") -> list[str]:
        # docstring inherited
        try:
            return sorted(os.listdir(os.path.join(self.url, path)))
        except FileNotFoundError:
            return []

    def listed(self, path: str = "") -> tuple[frozenset[str], frozenset[str]]:
        # docstring inherited
        files, folders = set[str](), set[str]()
        with suppress(FileNotFoundError, PermissionError), os.scandir(os.path.join(self.url, path)) as entries:
            for entry in entries:
                (folders if entry.is_dir() else files).add(entry.name)
        return frozenset(files), frozenset(folders)

    def sizes(self, path: str = "") -> Iterator[tuple[str, int]]:
        # docstring inherited
        top = os.path.join(self.url, path)
        for parent, _, names in os.walk(top):
            start = os.path.relpath(parent, self.url)
            for name in names:
                if not is_temporary(name):
                    with suppress(FileNotFoundError):  # another process may remove it
                        size = os.stat(os.path.join(parent, name)).st_size
                        yield os.path.normpath(os.path.join(start, name)), size

    def nbytes(self, name: str) -> int | None:
        # docstring inherited
        return nbytes_of(os.path.join(self.url, name))

    def read(self, name: str) -> bytes:
        # docstring inherited
        with open(os.path.join(self.url, name), "rb") as file:
            return file.read()

    def write(self, name: str, data: bytes, *, create: bool = False) -> None:
        # docstring inherited
        write_file(os.path.join(self.url, name), data, create=create)

    def remove(self, name: str) -> None:
        # docstring inherited
        with suppress(FileNotFoundError):
            os.unlink(os.path.join(self.url, name))
            sync_folder(os.path.dirname(os.path.join(self.url, name)))

    def remove_all(self, names: Sequence[str]) -> None:
        # docstring inherited
        for name in names:
            with suppress(FileNotFoundError):
                os.unlink(os.path.join(self.url, name))

    def links(self, names: Iterable[str]) -> list[str]:
        # docstring inherited
        root, real = os.path.realpath(self.url), cache(os.path.realpath)
        paths = ((name, os.path.join(root, name)) for name in names)
        return [
            name for name, path in paths if real(os.path.dirname(path)) != os.path.dirname(path) or os.path.islink(path)
        ]

    def remove_empty(self, paths: Iterable[str]) -> None:
        # docstring inherited
        for path in sorted(set(paths), key=len, reverse=True):
            folder = path
            with suppress(OSError):
                while folder:
                    os.rmdir(os.path.join(self.url, folder))
                    folder = os.path.dirname(folder)

    def blob(self, name: str) -> ByteSource:
        # docstring inherited
        return open_blob(os.path.join(self.url, name))

    def claim(self, name: str) -> bool:
        # docstring inherited
        path = os.path.join(self.url, f"{name}.jsonl")
        make_folder(os.path.dirname(path))
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
        except FileExistsError:
            return False
        return True

    @contextmanager
    def appender(self, name: str, claimed: str = "") -> Iterator[Append]:
        """Give a function that appends a line to a file.

        The file is synced after a line if the last sync is more than a second old, and at the end of the block.
        """
        append = _LocalAppend(os.path.join(self.url, f"{name}-{claimed or later()}.jsonl"), is_claimed=bool(claimed))
        try:
            yield append
        finally:
            append.close()

    def clean(self) -> None:
        # docstring inherited
        remove_temporaries(self.url)


@dataclass(frozen=True)
class RemoteFolder:
    """A folder in an object store: the objects that share a prefix."""

    url: str
    options: Options = NONE

    @property
    def store(self) -> ObjectStore:
        """The client. It is not pickled."""
        return object_store(self.url, self.options)

    def names(self, path: str = "") -> list[str]:
        # docstring inherited
        files, folders = self.listed(path)
        return sorted(files | folders)

    def listed(self, path: str = "") -> tuple[frozenset[str], frozenset[str]]:
        # docstring inherited
        if scheme_of(self.url) == "https":
            return frozenset(), frozenset()
        start = f"{path}/" if path else ""

        def looked() -> ListResult[Sequence[ObjectMeta]]:
            with request("LIST"):
                return obstore.list_with_delimiter(self.store, path or None)

        found = patiently(looked)

        def names(paths: Iterable[str]) -> frozenset[str]:
            return frozenset(name for one in paths if (name := one.removeprefix(start).strip("/")))

        return names(object_["path"] for object_ in found["objects"]), names(found["common_prefixes"])

    def sizes(self, path: str = "") -> Iterator[tuple[str, int]]:
        # docstring inherited

        def listed() -> list[tuple[str, int]]:
            batches = list_pages(obstore.list(self.store, prefix=path or None))
            return [(found["path"], found["size"]) for batch in batches for found in self.unmarked(batch)]

        yield from patiently(listed)

    def unmarked(self, batch: Sequence[ObjectMeta]) -> Iterator[ObjectMeta]:
        """Yield the objects that are not folder markers.

        Ledger segments are never markers, so empty ones are not checked by requests.
        """
        kinds = groupby(lambda found: found["path"].endswith(".jsonl"), batch)
        yield from kinds.get(True, ())
        yield from unmarked(self.store, kinds.get(False, ()))

    def nbytes(self, name: str) -> int | None:
        # docstring inherited
        try:
            with request("HEAD"):
                return obstore.head(self.store, name)["size"]
        except FileNotFoundError:
            return None

    def read(self, name: str) -> bytes:
        # docstring inherited
        return read_whole(lambda: obstore.get(self.store, name).bytes())

    def write(self, name: str, data: bytes, *, create: bool = False) -> None:
        # docstring inherited
        try:
            with request("PUT", len(data)):
                obstore.put(self.store, name, data, mode="create" if create else "overwrite", use_multipart=False)
        except BaseError as error:
            if not create:
                raise
            # The object may exist although the put failed: the reply was lost, and the client's retry was refused.
            if self.nbytes(name) == len(data) and self.read(name) == data:
                return
            if not isinstance(error, AlreadyExistsError | PreconditionError):
                raise
            raise FileExistsError(errno.EEXIST, "the object exists already", f"{self.url}/{name}") from None

    def remove(self, name: str) -> None:
        # docstring inherited
        with suppress(FileNotFoundError), request("DELETE"):
            obstore.delete(self.store, name)

    def remove_all(self, names: Sequence[str]) -> None:
        # docstring inherited
        for some in partition_all(MOST_REMOVED, names):
            try:
                with request("DELETE"):
                    obstore.delete(self.store, list(some))
            except FileNotFoundError:
                for name in some:
                    self.remove(name)

    def links(self, names: Iterable[str]) -> list[str]:
        # docstring inherited
        return []

    def remove_empty(self, paths: Iterable[str]) -> None:
        """Do nothing: an object store has no folders."""

    def blob(self, name: str) -> ByteSource:
        # docstring inherited
        return RemoteObject(self.store, name)

    def claim(self, name: str) -> bool:
        # docstring inherited
        mine = secrets.token_bytes(8).hex().encode()  # no newline, so that readers of records skip it
        try:
            self.write(f"{name}-{STARTED}.jsonl", mine, create=True)
        except FileExistsError:
            return False
        return True

    @contextmanager
    def appender(self, name: str, claimed: str = "") -> Iterator[Append]:
        """Give a function that appends a line to objects that share a prefix.

        Lines are stored at most every five seconds, and at the end of the block. Each flush writes one object. A start
        marker without an end marker means that the writer died.
        """
        append = _RemoteAppend(self, f"{name}-{claimed or later()}")
        if not claimed:
            self.write(f"{append.stem}-{STARTED}.jsonl", b"")
        try:
            yield append
        finally:
            append.put(ENDED)

    def clean(self) -> None:
        """Do nothing: an incomplete put or upload leaves no object."""


class _LocalAppend:
    """Appends lines to a file, which is synced if the last sync is more than `SYNC_SECONDS` old."""

    def __init__(self, path: str, *, is_claimed: bool) -> None:
        self.path, self._synced = path, time.monotonic()
        self._flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | (0 if is_claimed else os.O_CREAT | os.O_EXCL)
        self._descriptor: int | None = None
        make_folder(os.path.dirname(path))

    def __call__(self, line: bytes) -> None:
        if self._descriptor is None:
            self._descriptor = os.open(self.path, self._flags, 0o666)
        try:
            written = os.write(self._descriptor, line)
        except OSError as error:
            name_place(error, self.path)
            raise
        if written != len(line):
            raise OSError(errno.ENOSPC, "a record could not be written whole: is the disk full?", self.path)
        if time.monotonic() - self._synced > SYNC_SECONDS:
            os.fsync(self._descriptor)
            self._synced = time.monotonic()

    def flush(self) -> None:
        """Sync the file and the folder that it is in."""
        if self._descriptor is not None:
            os.fsync(self._descriptor)
            sync_folder(os.path.dirname(self.path))
            self._synced = time.monotonic()

    def close(self) -> None:
        """Sync and close the file."""
        if self._descriptor is not None:
            try:
                self.flush()
            finally:
                os.close(self._descriptor)


class _RemoteAppend:
    """Stores lines in numbered objects, one for each flush."""

    def __init__(self, folder: RemoteFolder, stem: str) -> None:
        self.folder, self.stem = folder, stem
        self._lines: list[bytes] = []
        self._count, self._flushed = 0, time.monotonic()

    def __call__(self, line: bytes) -> None:
        self._lines.append(line)
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Store the lines in an object of their own."""
        if self._lines:
            self._count += 1
            self.put(str(self._count))

    def put(self, label: str) -> None:
        """Store the lines in the object with a label."""
        self.folder.write(f"{self.stem}-{label}.jsonl", b"".join(self._lines))
        self._lines.clear()
        self._flushed = time.monotonic()
