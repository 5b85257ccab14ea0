"""From what users have, a store, a path or a URL, to the location that a config can name."""

from __future__ import annotations

import os

from zarr.abc.store import Store
from zarr.storage import LocalStore

from shardedstore.components.foreign import locate_foreign
from shardedstore.components.http_store import HTTPReadStore
from shardedstore.components.kinds import Directory, Location, Opened, PartOf, ViewOf, Zip, veiled, view_of
from shardedstore.components.parts import Part
from shardedstore.components.routing import RoutedStore
from shardedstore.components.veiled import Veiled
from shardedstore.components.views import View
from shardedstore.errors import UsageError
from shardedstore.storage.access import StorageOptions, take_options
from shardedstore.storage.urls import normalize
from shardedstore.zips import ZipReadStore
from shardedstore.zips.inside import split_inside


def locate(source: Store | str | os.PathLike[str], storage_options: StorageOptions = None) -> Location:
    """Return the location of a store, a path or a URL: a name that ends in .zip or .ozx is taken for a zip."""
    if storage_options and isinstance(source, Store):
        raise UsageError(f"storage_options are for a URL, and {source!r} is open already: give them when it is opened")
    match source:
        case View() | Part() | Veiled():
            inner = locate(source.store)
            return Opened(source) if isinstance(inner, Opened) else _within(inner, source)
        case RoutedStore():
            return source.config
        case ZipReadStore():
            return view_of(Zip(source.url, source.options), source.path)
        case HTTPReadStore():
            return Directory(source.url, source.options)
        case LocalStore():
            return Directory(normalize(source.root))
        case Store():
            return locate_foreign(source)
    place, path = split_inside(source)
    url = normalize(place)
    options = take_options(url, storage_options)
    if path:
        return ViewOf(Zip(url, options), path)
    is_zip = url.lower().endswith((".zip", ".ozx")) and not os.path.isdir(url)
    return Zip(url, options) if is_zip else Directory(url, options)


def _within(inner: Location, source: View | Part | Veiled) -> Location:
    """Return the location of a part of what is at another location."""
    match source:
        case View():
            return ViewOf(inner, source.path)
        case Part():
            return PartOf(inner, source.only, source.without)
    return veiled(inner, source.veil.paths)
