"""The location of a store, a path or a URL that a user names."""

from __future__ import annotations

import os

from zarr.abc.store import Store

from shardedstore.errors import UsageError
from shardedstore.fields import FILE_NAME
from shardedstore.storage.blobs import seems_there
from shardedstore.storage.options import StorageOptions, take_options
from shardedstore.storage.urls import is_zip_name, join_url, normalize
from shardedstore.stores.directory import Directory
from shardedstore.stores.icechunk import STAGE, locate_icechunk
from shardedstore.stores.kerchunk import locate_kerchunk
from shardedstore.stores.kerchunk_parquet import locate_kerchunk_parquet
from shardedstore.stores.locate import locate_store
from shardedstore.stores.location import Location
from shardedstore.stores.view import ViewOf
from shardedstore.stores.zip import Zip
from shardedstore.zips.index import split_inside


def locate(source: Store | str | os.PathLike[str], storage_options: StorageOptions = None) -> Location:
    """Return the location of a store, a path or a URL; a name that ends in .zip or .ozx is a zip.

    A name that ends in .json is a set of references by Kerchunk, if its content is one.

    Raises
    ------
    UsageError
        If `storage_options` are given for an open store.
    """
    if isinstance(source, Store):
        if storage_options:
            raise UsageError(
                f"storage_options are for a URL, and {source!r} is open already: give them when it is opened"
            )
        return locate_store(source)
    if STAGE in os.fspath(source):
        return locate_icechunk(os.fspath(source), storage_options)
    place, path = split_inside(source)
    url = normalize(place)
    if (references := locate_kerchunk(url, storage_options)) is not None:
        return references
    if (parquet := locate_kerchunk_parquet(url, storage_options)) is not None:
        return parquet
    options = take_options(url, storage_options)
    if path:
        return ViewOf(Zip(url, options), path)
    is_zip = is_zip_name(url) and not os.path.isdir(url)
    return Zip(url, options) if is_zip else Directory(url, options)


def has_config(url: str, storage_options: StorageOptions = None) -> bool:
    """Tell whether a normalized URL is a config, or the folder of one; a JSON file of references is none."""
    if url.endswith(".json") and not os.path.isdir(url):
        return locate_kerchunk(url, storage_options) is None
    return seems_there(join_url(url, FILE_NAME), take_options(url, storage_options))


def is_pipeline(text: str) -> bool:
    """Tell whether a URL pipeline names a folder in a zip, or a version of an Icechunk repository."""
    return "|zip:" in text or STAGE in text
