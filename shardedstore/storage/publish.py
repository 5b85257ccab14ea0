"""One file on a local disk that appears whole, and is on the disk, or does not appear at all."""

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

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  # of writing, and never of reading
TEMPORARY = ".shardedstore-"
ABANDONED_SECONDS = 86_400  # the age at which another machine's temporary is taken to be left behind
_TEMPORARY = re.compile(rf"{re.escape(TEMPORARY)}(.*)-[0-9]+-[0-9a-f]{{8}}\.tmp")


@contextmanager
def published(path: str, *, create: bool = False, sync: bool = True) -> Iterator[int]:
    """Open a temporary file beside `path`, and rename it to `path` when the block ends without an exception.

    The file and then its folder are synced, so that what is seen under the final name survives a loss of power. An
    exception removes the temporary file; a process that is killed leaves it, unlocked.

    Parameters
    ----------
    create : bool
        Raise FileExistsError where there is a file already, also where another process makes it at this moment.
    sync : bool
        False where the caller syncs the whole file system after the last of many files.

    Yields
    ------
    int
        The descriptor of the temporary file, open for reading and writing.
    """
    folder = os.path.dirname(path)
    name = f"{TEMPORARY}{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}.tmp"
    temporary = os.path.join(folder, name)
    make_folder(folder)
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
    """Say in an error of a disk that can't be written to where that was: the system tells no path for a descriptor."""
    if isinstance(error, OSError) and error.errno in FULL and error.filename is None:
        error.filename = path


def _create_locked(path: str) -> int:
    """Make a file that is locked as long as this process lives and has it open."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        with suppress(OSError):  # some network file systems have no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.exists(path):
            return descriptor
        os.close(descriptor)  # it was taken for an abandoned one before it was locked


def remove_temporaries(folder: str) -> None:
    """Remove what killed processes left below a folder, and nothing that a process still writes to."""
    for path in abandoned(folder):
        with suppress(OSError):
            os.unlink(path)


def abandoned(folder: str) -> Iterator[str]:
    """Yield the paths of what killed processes left below a folder.

    That is: temporaries of this machine that are not locked, and those of other machines when they are a day old.
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
    """Tell whether a file's name is that of a temporary."""
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
    """Make a folder and those above it, each so that it survives a loss of power."""
    if path and not os.path.isdir(path):
        parent = os.path.dirname(path)
        make_folder(parent)
        os.makedirs(path, exist_ok=True)
        sync_folder(parent or ".")


def sync_folder(path: str) -> None:
    """Make the names in a folder survive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def synced_file_system(path: str) -> Iterator[None]:
    """Put everything on the disk that the block wrote to the file system of a folder: for many files, faster than one by one.

    The kernel tells each open descriptor of what could not be written since it was opened: opened after the block, it
    would miss an error that another process was told of meanwhile.
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
