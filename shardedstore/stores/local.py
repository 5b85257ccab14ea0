"""The reader of local folders: plain `open` and `read` calls, the fastest way by far."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import AsyncIterator, Iterable, Iterator

from zarr.storage import LocalStore

from shardedstore.errors import CorruptError
from shardedstore.storage.throttle import spend
from shardedstore.stores.reader import KeyFilter, StoreReader, Tag
from shardedstore.zarr.metadata import ArrayMeta

_READ = os.O_RDONLY | os.O_CLOEXEC
LINKS = 2  # the link count of a folder without subfolders; file systems that do not count subfolders report 1
MOST_CHUNKS = 1000  # a larger array's folder is not listed if the file system does not count subfolders
_DANGLING = "a link to a missing target: mount or restore the target, or remove the link"


class LocalReader(StoreReader[LocalStore]):
    """Reads the files of a `LocalStore`."""

    has_tags = True

    def __init__(self, store: LocalStore) -> None:
        self.root = os.fspath(store.root)

    def keys(self, path: str, kept: KeyFilter | None) -> Iterator[str]:
        """Yield the keys below a path; follow links, and skip folders of other components."""
        folders = [path]
        while folders:
            folder = folders.pop()
            start = f"{folder}/" if folder else ""
            chunks = () if kept is None else kept.chunk_names(folder)
            with os.scandir(f"{self.root}/{folder}") as found:
                for entry in found:
                    name = entry.name
                    if name in chunks and not entry.is_dir(follow_symlinks=False):
                        continue
                    if entry.is_dir():
                        if kept is None or not kept.is_mounted(start + name):
                            self._refuse_cycle(entry)
                            folders.append(start + name)
                    elif entry.is_file() or entry.is_symlink():  # a dangling link is reported when it is read
                        if not name.isascii():
                            self._refuse_bytes(entry)
                        yield start + name

    def _refuse_bytes(self, entry: os.DirEntry[str]) -> None:
        try:
            entry.name.encode()
        except UnicodeEncodeError:
            raise CorruptError(
                f"{entry.path!r} has a name that is not valid UTF-8, so it can't be a key of a Zarr: rename it"
            ) from None

    def _refuse_cycle(self, entry: os.DirEntry[str]) -> None:
        if entry.is_symlink() and f"{entry.path}/".startswith(os.path.realpath(entry.path) + "/"):
            raise CorruptError(f"{entry.path!r} is a link to a folder that it lies in: remove it")

    def fetch(self, keys: Iterable[str]) -> Iterator[bytes | None]:
        """Read file by file, relative to an open folder.

        Keys of one folder follow one another, and short names are faster than long paths.
        """
        here, folder_fd, guess, is_known = None, -1, 1 << 14, False
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
                    if data and not (is_known and len(data) <= guess):
                        guess, is_known = len(data) + (len(data) >> 3) * is_known, True  # with slack where sizes differ
                if data:
                    spend(0, len(data))
                yield data
        finally:
            self._change_folder(folder_fd, None)

    def tags(self, keys: Iterable[str]) -> Iterator[Tag]:
        """Yield sizes, with the modification time and the inode as the tag."""
        for key in keys:
            try:
                found = os.stat(f"{self.root}/{key}")
            except (FileNotFoundError, NotADirectoryError):
                continue
            yield key, found.st_size, f"{found.st_mtime_ns} {found.st_ino}"

    async def folders(self, path: str) -> AsyncIterator[str]:
        # docstring inherited
        try:
            with os.scandir(f"{self.root}/{path}") as entries:
                names = [entry.name for entry in entries if entry.is_dir()]
        except (FileNotFoundError, NotADirectoryError):
            return
        for name in names:
            yield name

    def knows_folders(self, path: str, array: ArrayMeta) -> bool:
        # docstring inherited
        links = os.stat(f"{self.root}/{path}").st_nlink
        return links > LINKS or (links < LINKS and array.chunk_count <= MOST_CHUNKS)

    def _change_folder(self, descriptor: int, folder: str | None) -> int:
        """Close a folder, open another and return its descriptor; -1 for a missing folder."""
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
        """Raise OSError if a folder is missing because of a dangling link: its chunks may exist elsewhere."""
        path = self.root
        for part in ("", *folder.split("/")):
            path = f"{path}/{part}" if part else path
            if os.path.islink(path) and not os.path.exists(path):
                raise OSError(errno.ENXIO, _DANGLING, path)


def _read_file(name: str, folder: int, guess: int) -> bytes | None:
    """Return the content of a file; None if there is no file. `guess` is the expected size in bytes."""
    try:
        descriptor = os.open(name, _READ, dir_fd=folder)
    except FileNotFoundError:
        if not _is_link(name, folder):
            return None
        raise OSError(errno.ENXIO, _DANGLING, name) from None
    try:
        data = os.read(descriptor, guess)
        if more := os.read(descriptor, 1):  # only an empty read proves the end: a read may return too little
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
