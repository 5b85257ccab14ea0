"""Open a Zarr, a zip, a config or a store that a user names, without reading its metadata."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TypeAlias

from obstore.exceptions import BaseError
from zarr.abc.store import Store

from shardedstore.errors import PartitionError
from shardedstore.storage.blobs import nbytes_of
from shardedstore.storage.options import StorageOptions
from shardedstore.storage.urls import is_remote, normalize, similar_path
from shardedstore.store import ShardedStore
from shardedstore.stores.location import is_template
from shardedstore.stores.locations import Config, Location, Place
from shardedstore.stores.recognise import has_config, is_pipeline, locate

AnyZarr: TypeAlias = ShardedStore | Store | str | os.PathLike[str]


def config_at(what: AnyZarr, storage_options: StorageOptions = None) -> Config:
    """Return the config of a store, or of the Zarr, zip or config at a path or URL."""
    if isinstance(what, ShardedStore):
        return what.config
    if isinstance(what, Store) or is_pipeline(os.fspath(what)):
        return Config(locate(what, storage_options))
    url = normalize(what)
    if has_config(url, storage_options):
        return ShardedStore.load(what, allow=[] if is_remote(url) else ["/"], storage_options=storage_options).config
    return Config(locate(what, storage_options))


def check_exists(location: Location) -> None:
    """Raise an error if there is nothing at a location; a location that refuses the question is left to the checks.

    Raises
    ------
    PartitionError
        If the local path, or the file in an object store, does not exist.
    """
    place = location.origin
    if isinstance(place, Place) and not is_template(place) and _is_missing(place):
        raise PartitionError(f"{location.show()} can't be read: {place.url!r} does not exist{similar_path(place.url)}")


def _is_missing(place: Place) -> bool:
    if not is_remote(place.url):
        return not os.path.lexists(place.url)
    with suppress(OSError, BaseError):
        return place.is_file and nbytes_of(place.url, place.options) is None
    return False


def name_of_zarr(what: AnyZarr, config: Config) -> str:
    """Return the name of a Zarr in reports: the user's path or URL if there is one."""
    if isinstance(what, str | os.PathLike):
        return os.fspath(what)
    return config.show() if config.shards else config.base.show().strip("'")
