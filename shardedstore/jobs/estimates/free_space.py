"""The free space at a destination, and a test write."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from shardedstore.jobs.layouts.base import ResultLayout
from shardedstore.jobs.ledger import FOLDER
from shardedstore.storage.errors import explain
from shardedstore.storage.folders import STORAGE_ERRORS, open_folder
from shardedstore.storage.options import Options
from shardedstore.storage.urls import is_remote

TEST = b"shardedstore tests whether it can write here, and removes this file\n"


class Space(NamedTuple):
    """The free space of a local file system.

    Attributes
    ----------
    nbytes : int
        The free bytes. Quotas of users and folders are not known.
    files : int or None
        The free inodes; None if the file system has no limit.
    """

    nbytes: int
    files: int | None


class WriteTest(NamedTuple):
    """The result of a test write: its seconds, and the error, or an empty text."""

    seconds: float
    error: str = ""


def free_space(url: str) -> Space | None:
    """Return the free space below a local path, which need not exist; None for an object store."""
    if not url or is_remote(url):
        return None
    try:
        found = os.statvfs(_existing(url))
    except OSError:
        return None
    return Space(found.f_bavail * found.f_frsize, found.f_favail if found.f_files else None)


def _existing(path: str) -> str:
    """Return a path, or the nearest folder above it that exists."""
    while not os.path.exists(path) and path != os.path.dirname(path):
        path = os.path.dirname(path)
    return path


def try_write(layout: ResultLayout) -> WriteTest:
    """Write a small file to each folder of a destination, read it, and remove it with the folders that were made for it."""
    begun = time.monotonic()
    for url in dict.fromkeys(layout.written_urls):
        with _folders_removed(url):
            error = _try(url, layout.options)
        if error:
            return WriteTest(time.monotonic() - begun, f"{url!r} can't be written to: {error}")
    return WriteTest(time.monotonic() - begun)


def _try(url: str, options: Options) -> str:
    folder, name = open_folder(url, options), f"{FOLDER}-test-{secrets.token_hex(8)}"
    try:
        folder.write(name, TEST, create=True)
        try:
            found = folder.read(name)
        finally:
            folder.remove(name)
    except STORAGE_ERRORS as error:
        return explain(error)
    return "" if found == TEST else "the text that was read differs from the written text"


@contextmanager
def _folders_removed(url: str) -> Iterator[None]:
    """Remove the local folders that are made in the block and are empty at its end."""
    stop = None if is_remote(url) else _existing(url)
    try:
        yield
    finally:
        folder = url
        while stop is not None and folder != stop and len(folder) > len(stop):
            with suppress(OSError):
                os.rmdir(folder)
            folder = os.path.dirname(folder)
