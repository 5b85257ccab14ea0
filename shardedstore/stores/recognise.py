"""The locations of stores that others have opened: zarr's over obstore and fsspec, its zips, and those of other packages.

What is secret of their options is held by this process, as if it had been given for the URL, and is in no location.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import msgspec
import obstore.store as obs
from zarr.abc.store import Store
from zarr.storage import FsspecStore, LocalStore, ObjectStore, ZipStore

from shardedstore.errors import UsageError
from shardedstore.storage.options import SCHEMES, StorageOptions, has_fsspec_names, take_options
from shardedstore.storage.urls import join_url, normalize, quote_name
from shardedstore.stores.custom import locate_own
from shardedstore.stores.http import HTTPReadStore
from shardedstore.stores.locations import Directory, Location, Opened, Own, PartOf, ViewOf, Zip, veiled, view_of
from shardedstore.stores.part import Part
from shardedstore.stores.sharded import RoutedStore
from shardedstore.stores.veiled import Veiled
from shardedstore.stores.views import View
from shardedstore.zips import ZipReadStore
from shardedstore.zips.index import split_inside

_BUCKETS: dict[type[Any], tuple[str, str]] = {  # the scheme, and the option that names the bucket
    obs.S3Store: ("s3", "bucket"),
    obs.GCSStore: ("gs", "bucket"),
    obs.AzureStore: ("az", "container_name"),
}

_ASIDE = ("client_options", "retry_config", "credential_provider")


def locate_foreign(store: Store) -> Location:
    """Return the location of a store that is of none of this package's classes; it is as it was opened where it has none.

    Raises
    ------
    UsageError
        For a store at a URL that holds credentials, and for what a package's kind gives that is no location.
    """
    match store:
        case ZipStore():
            path: object = store.path  # or an open file, for newer versions of zarr
            return Zip(normalize(path)) if isinstance(path, str | os.PathLike) else Opened(store)
        case ObjectStore():
            return _of_obstore(store.store) or Opened(store)
        case FsspecStore():
            return _of_fsspec(store.fs, store.path) or Opened(store)
    return _of_package(store) or Opened(store)


def _of_obstore(client: Any) -> Location | None:
    if isinstance(client, obs.LocalStore):
        return Directory(normalize(client.prefix or "/"))
    if isinstance(client, obs.HTTPStore):
        return _directory(normalize(client.url), _aside(client))
    for kind, (scheme, bucket) in _BUCKETS.items():
        if isinstance(client, kind):
            options = {**client.config, **_aside(client)}
            url = join_url(f"{scheme}://{options.pop(bucket)}", quote_name(client.prefix or ""))
            return _directory(url, options)
    return None


def _aside(client: Any) -> dict[str, Any]:
    found = {name: getattr(client, name, None) for name in _ASIDE}
    return {name: value for name, value in found.items() if value}


def _directory(url: str, options: Mapping[str, Any]) -> Directory:
    url = normalize(url)
    return Directory(url, take_options(url, options))


def _of_fsspec(system: Any, path: str) -> Location | None:
    inner = getattr(system, "sync_fs", system)
    protocol = inner.protocol if isinstance(inner.protocol, str) else inner.protocol[0]
    if protocol in ("file", "local"):
        return Directory(normalize(path))
    scheme = SCHEMES.get(protocol, protocol)
    if not has_fsspec_names(scheme, inner.storage_options):
        return None
    url = path if scheme == "https" else f"{scheme}://{quote_name(path.strip('/'))}"
    return _directory(url, inner.storage_options)


def _of_package(store: Store) -> Location | None:
    found = locate_own(store)
    if found is None:
        return None
    try:
        return msgspec.convert({"kind": "own", **found._asdict(), "url": normalize(found.url)}, Own)
    except (msgspec.ValidationError, TypeError) as error:
        raise UsageError(
            f"the kind of store {found.name!r} located a {type(store).__name__} where it can't be: {error}"
        ) from None


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
