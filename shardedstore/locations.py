"""Locations: where a component is, as data that stands in a config and that a worker can open.

A location names its kind and its URL, never a class, and holds no credentials.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
from zarr.abc.store import Store
from zarr.storage import LocalStore, ObjectStore

from shardedstore.access import NONE, Options, StorageOptions, take_options
from shardedstore.blobs import object_store
from shardedstore.errors import ConfigError, UsageError
from shardedstore.grid import Blocks, Coords, block_name
from shardedstore.parts import Part
from shardedstore.unlisted import Unlisted
from shardedstore.urls import is_remote, normalize
from shardedstore.views import Block, View
from shardedstore.zips import ZipReadStore


class _Kind(msgspec.Struct, frozen=True, tag_field="kind", forbid_unknown_fields=True):
    pass


class Directory(_Kind, frozen=True, tag="directory", omit_defaults=True, repr_omit_defaults=True):
    """A folder with a file for each key: a local path, a prefix in an object store, or a URL of a web server."""

    url: str
    options: Options = NONE


class Zip(_Kind, frozen=True, tag="zip", omit_defaults=True, repr_omit_defaults=True):
    """A zip with a member for each key, on a local disk or in an object store."""

    url: str
    options: Options = NONE


class ViewOf(_Kind, frozen=True, tag="view"):
    """Everything of another component below a path; of an array that is divided, the blocks."""

    source: Location
    path: str


class PartOf(_Kind, frozen=True, tag="part", omit_defaults=True):
    """What of another component is at or below the paths in `only`, and neither at nor below those in `without`.

    Of the groups above those in `only`, their metadata documents belong to it too; None is everything.
    """

    source: Location
    only: tuple[str, ...] | None = None
    without: tuple[str, ...] = ()


class BlockOf(_Kind, frozen=True, tag="block"):
    """One block of an array of another component that is divided, as an array of its own."""

    source: Location
    path: str
    blocks: Blocks
    block: Coords


@dataclass(frozen=True)
class Opened:
    """A store that has no location, such as one in memory: it can be looked at, but not sent to a worker."""

    store: Store


Place = Directory | Zip
VIEWS = ViewOf | PartOf | BlockOf
if TYPE_CHECKING:
    Location = Directory | Zip | ViewOf | PartOf | BlockOf | Opened
else:
    Location = Directory | Zip | ViewOf | PartOf | BlockOf  # what a config can hold


def locate(source: Store | str | os.PathLike[str], storage_options: StorageOptions = None) -> Location:
    """Return the location of a store, a path or a URL: a name that ends in .zip or .ozx is taken for a zip."""
    if storage_options and isinstance(source, Store):
        raise UsageError(f"storage_options are for a URL, and {source!r} is open already: give them when it is opened")
    match source:
        case View():
            inner = locate(source.store)
            return Opened(source) if isinstance(inner, Opened) else ViewOf(inner, source.path)
        case Part():
            inner = locate(source.store)
            return Opened(source) if isinstance(inner, Opened) else PartOf(inner, source.only, source.without)
        case ZipReadStore():
            return Zip(source.url, source.options)
        case Unlisted():
            return Directory(source.url, source.options)
        case LocalStore():
            return Directory(normalize(source.root))
        case Store():
            return _locate_foreign(source)
    url = normalize(source)
    options = take_options(url, storage_options)
    is_zip = url.lower().endswith((".zip", ".ozx")) and not os.path.isdir(url)
    return Zip(url, options) if is_zip else Directory(url, options)


def _locate_foreign(store: Store) -> Location:
    path = getattr(store, "path", None)
    if type(store).__name__ == "ZipStore" and isinstance(path, str | os.PathLike):
        return Zip(normalize(path))
    return Opened(store)


def url_of(location: Location) -> str | None:
    """Return the URL of a component, of a view that of its source; None for a store that has none."""
    place = origin(location)
    return None if isinstance(place, Opened | VIEWS) else place.url


def origin(location: Location) -> Location:
    """Return what a view or a part is of, through views of views; another location as it is.

    >>> origin(ViewOf(ViewOf(Zip("/data/a.zip"), "t"), "u"))
    Zip(url='/data/a.zip')
    """
    while isinstance(location, VIEWS):
        location = location.source
    return location


def show(location: Location) -> str:
    """Return how messages call a location.

    >>> show(ViewOf(Zip("/data/a.zip"), "t"))
    "'t' in '/data/a.zip'"
    """
    match location:
        case ViewOf(source, path):
            return f"{path!r} in {show(source)}"
        case PartOf(source):
            return show(source)
        case BlockOf(source, path, _, block):
            return f"'{path}[{block_name(block)}]' in {show(source)}"
        case Opened(store):
            return repr(store)
    return repr(location.url)


def open_location(location: Location) -> Store:
    """Open a component for reading."""
    match location:
        case Opened(store):
            return store
        case Directory(url, options):
            if url.startswith(("http://", "https://")):
                return Unlisted(url, options)
            if is_remote(url):
                return ObjectStore(object_store(url, options), read_only=True)
            return LocalStore(url, read_only=True)
        case Zip(url, options):
            return ZipReadStore(url, storage_options=options)
        case ViewOf(source, path):
            return View(open_location(source), path)
        case PartOf(source, only, without):
            return Part(open_location(source), only, without)
        case BlockOf(source, path, blocks, block):
            return Block(open_location(source), path, blocks, block)
    raise AssertionError(location)


def open_block(location: Location, blocks: Blocks, block: Coords) -> Store:
    """Open one block of a divided array: a view gives a part of its source, other locations are templates."""
    if isinstance(location, ViewOf):
        return Block(open_location(location.source), location.path, blocks, block)
    return open_location(at_block(location, block))


def at_block(location: Location, block: Coords) -> Location:
    """Return the location of one block, from the template of all.

    >>> at_block(Zip("/data/t/{block}.zip"), (1, 2))
    Zip(url='/data/t/1/2.zip')
    """

    def filled(place: Place) -> Place:
        return msgspec.structs.replace(place, url=place.url.replace("{block}", block_name(block)))

    return map_places(location, filled)


def map_places(location: Location, change: Callable[[Place], Place]) -> Location:
    """Return a location whose place is changed; of a view or a part, its source's."""
    if isinstance(location, Opened):
        return location
    if isinstance(location, VIEWS):
        return msgspec.structs.replace(location, source=map_places(location.source, change))
    return change(location)


def require_location(location: Location, what: str) -> Location:
    """Return the location, or raise ConfigError for a store that has none."""
    if isinstance(location, Opened):
        raise ConfigError(
            f"{what} is a {type(location.store).__name__}, which has no location that a config could name or a worker "
            "could open: give its path or URL instead of the opened store, or copy what is in memory to a folder first"
        )
    return location
