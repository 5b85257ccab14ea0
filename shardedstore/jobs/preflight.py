"""Checks of each process before its first shard: it can read the source and write to the destination."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from shardedstore.errors import UsageError
from shardedstore.jobs.ledger import FOLDER
from shardedstore.jobs.manifest import manifest_name
from shardedstore.storage.blobs import nbytes_of
from shardedstore.storage.errors import explain, status_of
from shardedstore.storage.folders import STORAGE_ERRORS, open_folder
from shardedstore.storage.options import Options
from shardedstore.stores.locations import Config, Location, Place, is_template

WRITABLE = f"{FOLDER}/writable"
MOST_SOURCES = 8
_proven: set[tuple[object, ...]] = set()


def all_places(found: Iterable[Location]) -> Iterator[Place]:
    """Yield the places of components, including components of nested stores."""
    for location in (location.origin for location in found):
        if isinstance(location, Config):
            yield from all_places(inner for _, inner in location.locations())
        elif isinstance(location, Place):
            yield location


def places_of(found: Iterable[Location]) -> tuple[Place, ...]:
    """Return the places of components, up to `MOST_SOURCES`."""
    places = (place for place in dict.fromkeys(all_places(found)) if not is_template(place))
    return tuple(islice(places, MOST_SOURCES))


def source_urls(config: Config) -> list[str]:
    """Return the URLs of the components of a store, including components of nested stores, and the places that they may lead to."""
    places = all_places(location for _, location in config.locations())
    return [url for place in places for url in (place.url, *place.options.allow)]


def find_unreadable(sources: Iterable[Place]) -> str | None:
    """Return the reason why this process can't read a source; None if it can. Success is not checked again."""
    places = tuple(sources)
    return _prove(("read", *places), lambda: next(filter(None, map(_unreadable, places)), None))


def find_unwritable(folder: str, options: Options, generation: int) -> str | None:
    """Return the reason why this process can't write to a job's destination; None if it can.

    It writes an empty file beside the ledger, always the same one. Success is not checked again.
    """
    return _prove(("write", folder, options, generation), lambda: _unwritable(folder, options, generation))


def _prove(what: tuple[object, ...], find: Callable[[], str | None]) -> str | None:
    wanted = (os.getpid(), *what)
    missing = None if wanted in _proven else find()
    if missing is None:
        _proven.add(wanted)
        return None
    return f"{missing} (on {socket.gethostname()}, process {os.getpid()})"


def _unreadable(place: Place) -> str | None:
    try:
        proofs = place.proofs
    except UsageError as error:
        return str(error)
    cause = "it is not there: is it on a file system that all workers share?"
    for url in proofs:
        try:
            if nbytes_of(url, place.options) is not None:
                return None
        except STORAGE_ERRORS as error:
            cause = explain(error)
            if status_of(error) != 403:  # some servers answer 403 for a missing object
                break
    return f"the source {place.url!r} can't be read: {cause}" if proofs else None


def _unwritable(folder: str, options: Options, generation: int) -> str | None:
    place = open_folder(folder, options)
    try:
        if place.nbytes(manifest_name(generation)) is None:
            return (
                f"the destination {folder!r} is not the one that the job was started with: is it on a file system that "
                "all workers share?"
            )
        place.write(WRITABLE, b"")
    except STORAGE_ERRORS as error:
        return f"the destination {folder!r} can't be written to: {explain(error)}"
    return None
