"""Publish local files atomically and durably: a file appears synced and complete, or not at all."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  # errors of writing; reading never raises them
TEMPORARY = ".shardedstore-"
ABANDONED_SECONDS = 86_400  # temporary files of other machines count as abandoned at this age
_TEMPORARY = re.compile(rf"{re.escape(TEMPORARY)}(.*)-[0-9]+-[0-9a-f]{{8}}\.tmp")


@contextmanager
def published(path: str, *, create: bool = False, sync: bool = True, beside: str | None = None) -> Iterator[int]:
    """Open a temporary file, and rename it to `path` at the end of the block.

    The temporary file is in the same folder, unless `beside` names another one. The file and then its folder are synced, so a file that is visible at `path`
    survives a power loss. If the block raises an exception, the temporary file is removed. A killed process leaves it
    behind, unlocked.

    Parameters
    ----------
    path : str
        The file to publish.
    create : bool
        Raise FileExistsError if the file exists, even if another process creates it at the same time.
    sync : bool
        False if the caller syncs the whole file system after the last of many files.
    beside : str, optional
        The folder of the temporary file, in the same file system.

    Yields
    ------
    int
        The descriptor of the temporary file, open for reading and writing.
    """
    folder = os.path.dirname(path)
    name = f"{TEMPORARY}{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}.tmp"
    temporary = os.path.join(folder if beside is None else beside, name)
    make_folder(folder)
    make_folder(os.path.dirname(temporary))
    descriptor = _create_locked(temporary)
    try:
        try:
            yield descriptor
            if sync:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if create:
            os.link(temporary, path)
            os.unlink(temporary)
        else:
            os.rename(temporary, path)
    except BaseException as error:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        name_place(error, path)
        raise
    if sync:
        sync_folder(folder)


def name_place(error: BaseException, path: str) -> None:
    """Add the path to an error of a full or read-only disk, if the error has none."""
    if isinstance(error, OSError) and error.errno in FULL and error.filename is None:
        error.filename = path


def _create_locked(path: str) -> int:
    """Create a file that stays locked until it is closed or this process ends."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        with suppress(OSError):  # some network file systems do not support locks
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.exists(path):
            return descriptor
        os.close(descriptor)  # another process removed it as abandoned before it was locked


def remove_temporaries(folder: str) -> None:
    """Remove the abandoned temporary files below a folder."""
    for path in abandoned(folder):
        with suppress(OSError):
            os.unlink(path)


def abandoned(folder: str) -> Iterator[str]:
    """Yield the paths of abandoned temporary files below a folder.

    Temporary files of this machine are abandoned if they are not locked, files of other machines if they are a day old.
    """
    for parent, _, names in os.walk(folder):
        for name in names:
            found = _TEMPORARY.fullmatch(name)
            path = os.path.join(parent, name)
            if found is not None:
                with suppress(OSError):
                    if _is_abandoned(path, found[1]):
                        yield path


def is_temporary(name: str) -> bool:
    """Tell whether a name is that of a temporary file."""
    return _TEMPORARY.fullmatch(name) is not None


def _is_abandoned(path: str, host: str) -> bool:
    if host != socket.gethostname():
        return time.time() - os.stat(path).st_mtime > ABANDONED_SECONDS
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def make_folder(path: str) -> None:
    """Create a folder and its parents, and sync each."""
    if path and not os.path.isdir(path):
        parent = os.path.dirname(path)
        make_folder(parent)
        os.makedirs(path, exist_ok=True)
        sync_folder(parent or ".")


def sync_folder(path: str) -> None:
    """Sync a folder, so that the names in it survive a power loss."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def synced_file_system(path: str) -> Iterator[None]:
    """Sync a folder's whole file system at the end of the block.

    For many files this is faster than syncing each file. The descriptor is opened before the block, because the kernel
    reports a failed write only to descriptors that were open at that time.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield
        syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
        if syncfs is None:
            os.sync()
        elif syncfs(descriptor):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), path)
    finally:
        os.close(descriptor)


def write_file(path: str, data: bytes, *, create: bool = False) -> None:
    """Publish a small file."""
    with published(path, create=create) as descriptor:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
