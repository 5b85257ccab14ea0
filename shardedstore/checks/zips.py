"""Checks of zips as containers: the directory, members of one name, and compressed members."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from shardedstore.checks.finding import Finding
from shardedstore.errors import CorruptError
from shardedstore.storage.blobs import open_blob
from shardedstore.storage.options import Options
from shardedstore.text import count
from shardedstore.zips.index import STORED, Archive

SHOWN = 3  # names in one message
ZIP_CHECKS: list[Callable[[Archive], Iterator[Finding]]] = []


def zip_check(check: Callable[[Archive], Iterator[Finding]]) -> Callable[[Archive], Iterator[Finding]]:
    """Register a check of each zip."""
    ZIP_CHECKS.append(check)
    return check


@zip_check
def names_are_unique(archive: Archive) -> Iterator[Finding]:
    """Find several members of one name."""
    if archive.repeated:
        yield Finding(
            "zip-duplicate",
            f"{archive.url!r} has several members of {_names(archive.repeated)}",
            count=len(archive.repeated),
        )


@zip_check
def members_are_stored(archive: Archive) -> Iterator[Finding]:
    """Find compressed members, of which readers can't request byte ranges."""
    packed = tuple(name for name, entry in archive.entries.items() if entry.method != STORED)
    if packed:
        what = f"{archive.url!r} has {count(len(packed), 'compressed member')}: {_names(packed)}"
        yield Finding("zip-compressed", what, count=len(packed))


def check_zip(url: str, options: Options) -> list[Finding]:
    """Return the findings of all registered checks of a zip."""
    try:
        archive = Archive.open(url, open_blob(url, options))
    except CorruptError as error:
        return [Finding("zip-directory", str(error))]
    return [finding for check in ZIP_CHECKS for finding in check(archive)]


def _names(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(map(repr, names[:SHOWN])) + more
