"""One file on a local disk that appears whole, and is on the disk, or does not appear at all."""

from __future__ import annotations

import os
import re
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

TEMPORARY = ".tmp-"
_TEMPORARY = re.compile(rf"{re.escape(TEMPORARY)}.*-[0-9]+-[0-9a-f]{{8}}")


@contextmanager
def published(path: str) -> Iterator[int]:
    """Open a temporary file beside `path`, and rename it to `path` when the block ends without an exception.

    The file and then its folder are synced, so that what is seen under the final name survives a loss of power. An
    exception removes the temporary file; a process that is killed leaves it, under a name that tells whose it was.

    Yields
    ------
    int
        The descriptor of the temporary file, open for reading and writing.
    """
    folder = os.path.dirname(path)
    name = f"{TEMPORARY}{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    temporary = os.path.join(folder, name)
    os.makedirs(folder, exist_ok=True)
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        try:
            yield descriptor
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    sync_folder(folder)


def remove_temporaries(folder: str) -> None:
    """Remove what killed processes left below a folder: files of the names that `published` gives, and no others."""
    for parent, _, names in os.walk(folder):
        for name in names:
            if _TEMPORARY.fullmatch(name):
                with suppress(FileNotFoundError):
                    os.unlink(os.path.join(parent, name))


def sync_folder(path: str) -> None:
    """Make the names in a folder survive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_file(path: str, data: bytes) -> None:
    """Publish a small file."""
    with published(path) as descriptor:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
