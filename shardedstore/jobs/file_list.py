"""All files of a destination, as `prune` sees them."""

from __future__ import annotations

import os
import stat
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import NamedTuple

import obstore

from shardedstore.storage.folders import Folder, RemoteFolder
from shardedstore.storage.publish import is_temporary


class File(NamedTuple):
    """A file or an object.

    Attributes
    ----------
    nbytes : int
        Its size in bytes.
    modified : float
        The time of its last change, in seconds since 1970.
    """

    nbytes: int
    modified: float


class FileList:
    """The files below a folder, by relative name.

    Symbolic links are left out, and so are the files behind them.
    """

    def __init__(self, place: Folder) -> None:
        self.place = place
        self.files = dict(_remote(place) if isinstance(place, RemoteFolder) else _local(place.url))
        self._order = sorted(self.files)

    def below(self, folder: str) -> Iterator[str]:
        """Yield the names of the files below a folder."""
        for i in range(bisect_left(self._order, f"{folder}/"), len(self._order)):
            if not self._order[i].startswith(f"{folder}/"):
                return
            yield self._order[i]

    def remove(self, names: Iterable[str]) -> None:
        """Remove files, and the folders that become empty."""
        gone = list(names)
        self.place.remove_all(gone)
        if not isinstance(self.place, RemoteFolder):
            parents = {name[:i] for name in gone for i, letter in enumerate(name) if letter == "/"}
            for parent in sorted(parents, key=len, reverse=True):
                with suppress(OSError):  # the folder is not empty
                    os.rmdir(os.path.join(self.place.url, parent))

    def remove_folder(self, name: str) -> None:
        """Remove a folder and its subfolders as far as they are empty."""
        if not isinstance(self.place, RemoteFolder):
            for parent, _, _ in os.walk(os.path.join(self.place.url, name), topdown=False):
                with suppress(OSError):  # the folder is not empty
                    os.rmdir(parent)


def _local(folder: str) -> Iterator[tuple[str, File]]:
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            with suppress(FileNotFoundError):
                found = os.lstat(path)
                if stat.S_ISREG(found.st_mode) and not is_temporary(name):
                    yield os.path.relpath(path, folder), File(found.st_size, found.st_mtime)


def _remote(place: RemoteFolder) -> Iterator[tuple[str, File]]:
    for batch in obstore.list(place.store):
        for found in place.unmarked(batch):
            yield found["path"], File(found["size"], found["last_modified"].timestamp())
