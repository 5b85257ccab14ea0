"""The folder that a job writes its small files to, ledger and config: on a local disk or in an object store.

Every file is written whole: it appears with all its content or not at all.
"""

from __future__ import annotations

import errno
import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from toolz import groupby, partition_all

from shardedstore.storage.blobs import ByteSource, RemoteObject, nbytes_of, object_store, open_blob
from shardedstore.storage.errors import patiently
from shardedstore.storage.markers import unmarked
from shardedstore.storage.options import NONE, Options
from shardedstore.storage.publish import (
    is_temporary,
    make_folder,
    name_place,
    remove_temporaries,
    sync_folder,
    write_file,
)
from shardedstore.storage.urls import is_remote

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ObjectStore

STORAGE_ERRORS = (OSError, BaseError)
SYNC_SECONDS = 1.0  # between syncs of what is appended on a local disk
MOST_REMOVED = 1000  # objects at once
FLUSH_SECONDS = 5.0  # between objects of what is appended in an object store
STARTED, ENDED = "0", "end"  # in the names of the objects that one appender leaves
Append = Callable[[bytes], None]


class Folder(Protocol):
    """A folder; names in it are relative, with slashes."""

    @property
    def url(self) -> str:
        """Where it is."""

    def names(self, path: str = "") -> list[str]:
        """Return the names directly below a path, of folders as well, sorted; none where there is no such folder."""

    def sizes(self, path: str = "") -> Iterator[tuple[str, int]]:
        """Yield the names of all files below a path, with their sizes in bytes, by listing."""

    def nbytes(self, name: str) -> int | None:
        """Return the size of a file in bytes; None where there is none."""

    def read(self, name: str) -> bytes:
        """Return a file's content, or raise FileNotFoundError."""

    def write(self, name: str, data: bytes, *, create: bool = False) -> None:
        """Write a file; with `create`, raise FileExistsError where there is one, unless an object holds the same."""

    def remove(self, name: str) -> None:
        """Remove a file that this project wrote; nothing where there is none."""

    def remove_all(self, names: Sequence[str]) -> None:
        """Remove files that this project wrote, many at once: after a loss of power some may be there again."""

    def blob(self, name: str) -> ByteSource:
        """Open a file for reading parts of it, or raise FileNotFoundError, at the latest when it is read."""

    def claim(self, name: str) -> bool:
        """Make the file of an appender; return False where there is one of this name."""

    def appender(self, name: str, claimed: str = "") -> AbstractContextManager[Append]:
        """Give a function that appends lines to a file of its own, or to some whose names begin like it.

        `claimed` is the end of a name that was claimed by the caller alone; without it, the file gets a new name.
        """

    def clean(self) -> None:
        """Remove what killed processes left half written."""


def later() -> str:
    """Return a new end for the name of a file that is appended to: it sorts after earlier ones, as far as clocks agree."""
    return f"{time.time_ns():016x}{secrets.token_hex(4)}"


def open_folder(url: str, options: Options = NONE) -> Folder:
    """Return a folder, which need not be there yet."""
    return RemoteFolder(url, options) if is_remote(url) else LocalFolder(url)


@dataclass(frozen=True)
class LocalFolder:
    """A folder on a local disk: what is written is synced."""

    url: str

    def names(self, path: str = "") -> list[str]:
        # docstring inherited
        try:
            return sorted(os.listdir(os.path.join(self.url, path)))
        except FileNotFoundError:
            return []

    def sizes(self, path: str = "") -> Iterator[tuple[str, int]]:
        # docstring inherited
        top = os.path.join(self.url, path)
        for parent, _, names in os.walk(top):
            start = os.path.relpath(parent, self.url)
            for name in names:
                if not is_temporary(name):
                    with suppress(FileNotFoundError):  # it was removed meanwhile
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
        """Give a function that appends a line to a file: it is on the disk when it returns, or with the next one or the end
        if they come within a second.
        """
        path = os.path.join(self.url, f"{name}-{claimed or later()}.jsonl")
        make_folder(os.path.dirname(path))
        flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | (0 if claimed else os.O_CREAT | os.O_EXCL)
        descriptor: int | None = None
        synced = time.monotonic()

        def append(line: bytes) -> None:
            nonlocal descriptor, synced
            if descriptor is None:
                descriptor = os.open(path, flags, 0o666)
            try:
                written = os.write(descriptor, line)
            except OSError as error:
                name_place(error, path)
                raise
            if written != len(line):
                raise OSError(errno.ENOSPC, "a record could not be written whole: is the disk full?", path)
            if time.monotonic() - synced > SYNC_SECONDS:
                os.fsync(descriptor)
                synced = time.monotonic()

        try:
            yield append
        finally:
            if descriptor is not None:
                os.fsync(descriptor)
                os.close(descriptor)
                sync_folder(os.path.dirname(path))

    def clean(self) -> None:
        # docstring inherited
        remove_temporaries(self.url)


@dataclass(frozen=True)
class RemoteFolder:
    """A prefix in an object store."""

    url: str
    options: Options = NONE

    @property
    def store(self) -> ObjectStore:
        """The client, which is not pickled."""
        return object_store(self.url, self.options)

    def names(self, path: str = "") -> list[str]:
        # docstring inherited
        start = f"{path}/" if path else ""
        found = patiently(lambda: obstore.list_with_delimiter(self.store, path or None))
        paths = [*found["common_prefixes"], *(object_["path"] for object_ in found["objects"])]
        return sorted({name for path in paths if (name := path.removeprefix(start).strip("/"))})

    def sizes(self, path: str = "") -> Iterator[tuple[str, int]]:
        # docstring inherited

        def listed() -> list[tuple[str, int]]:
            batches = obstore.list(self.store, prefix=path or None)
            return [(found["path"], found["size"]) for batch in batches for found in self.unmarked(batch)]

        yield from patiently(listed)

    def unmarked(self, batch: Sequence[ObjectMeta]) -> Iterator[ObjectMeta]:
        """Yield what is no marker of a folder; the empty objects that `appender` leaves are many, and not asked for."""
        kinds = groupby(lambda found: found["path"].endswith(".jsonl"), batch)
        yield from kinds.get(True, ())
        yield from unmarked(self.store, kinds.get(False, ()))

    def nbytes(self, name: str) -> int | None:
        # docstring inherited
        try:
            return obstore.head(self.store, name)["size"]
        except FileNotFoundError:
            return None

    def read(self, name: str) -> bytes:
        # docstring inherited
        return bytes(obstore.get(self.store, name).bytes())

    def write(self, name: str, data: bytes, *, create: bool = False) -> None:
        # docstring inherited
        if not create:
            obstore.put(self.store, name, data, use_multipart=False)
            return
        try:
            obstore.put(self.store, name, data, mode="create", use_multipart=False)
        except BaseError as error:
            # An answer may have been lost, and the object be there; the client may have asked again, and been refused.
            if self.nbytes(name) == len(data) and self.read(name) == data:
                return
            if not isinstance(error, AlreadyExistsError | PreconditionError):
                raise
            raise FileExistsError(errno.EEXIST, "there is an object already", f"{self.url}/{name}") from None

    def remove(self, name: str) -> None:
        # docstring inherited
        with suppress(FileNotFoundError):
            obstore.delete(self.store, name)

    def remove_all(self, names: Sequence[str]) -> None:
        # docstring inherited
        for some in partition_all(MOST_REMOVED, names):
            try:
                obstore.delete(self.store, list(some))
            except FileNotFoundError:
                for name in some:
                    self.remove(name)

    def blob(self, name: str) -> ByteSource:
        # docstring inherited
        return RemoteObject(self.store, name)

    def claim(self, name: str) -> bool:
        # docstring inherited
        mine = secrets.token_bytes(8).hex().encode()  # without a line's end, so that nothing reads it as a record
        try:
            self.write(f"{name}-{STARTED}.jsonl", mine, create=True)
        except FileExistsError:
            return False
        return True

    @contextmanager
    def appender(self, name: str, claimed: str = "") -> Iterator[Append]:
        """Give a function that appends a line: it is stored when more than five seconds have gone since the last were, or
        with the end. Each time makes an object; one before the first line and one of the end tell an appender that died.
        """
        stem = f"{name}-{claimed or later()}"
        lines: list[bytes] = []
        count, flushed = 0, time.monotonic()
        if not claimed:
            self.write(f"{stem}-{STARTED}.jsonl", b"")

        def flush(label: str) -> None:
            nonlocal flushed
            self.write(f"{stem}-{label}.jsonl", b"".join(lines))
            lines.clear()
            flushed = time.monotonic()

        def append(line: bytes) -> None:
            nonlocal count
            lines.append(line)
            if time.monotonic() - flushed > FLUSH_SECONDS:
                count += 1
                flush(str(count))

        try:
            yield append
        finally:
            flush(ENDED)

    def clean(self) -> None:
        """Do nothing: a put or an upload that did not end leaves no object."""
