"""`to_zip_store`: write a zip by a function of stores, as in shardedstore 0.3.1."""

from __future__ import annotations

import os
from dataclasses import dataclass

from zarr.abc.store import Store

from shardedstore.errors import DestinationError
from shardedstore.storage.urls import is_within, normalize, object_url, real_url
from shardedstore.stores.entries import read_entries
from shardedstore.stores.locations import url_of
from shardedstore.stores.recognise import locate
from shardedstore.transforms.base.zip_shard import write_zip
from shardedstore.zarr.paths import join
from shardedstore.zarr.readonly import DerivedStore
from shardedstore.zips import ZipReadStore

SUFFIX = ".zarr.zip"


def to_zip_store(
    prefix: str | os.PathLike[str], shard_store: Store, shard_path: str, chunk_dims: str | None
) -> ZipReadStore:
    """Write a shard to a zip, and return the opened zip.

    The zip appears when it is complete, and replaces an older one. Prefer the sink `ToZip`: it writes new versions under
    new names, and a job can be resumed.

    Parameters
    ----------
    prefix : str or path
        The start of the zips' names: a local path, or a URL of an object store that is opened with the options of the
        environment.
    shard_store : Store
        The shard.
    shard_path : str
        The shard's path, as `map_shards` passes it.
    chunk_dims : str or None
        The index of its block, as `map_shards` passes it. The name of the zip is
        ``<prefix>/<path>/<index>.zarr.zip``, without the parts that are empty: ``<prefix>.zarr.zip`` for the base.

    Returns
    -------
    ZipReadStore
        The zip, opened.

    Raises
    ------
    DestinationError
        If the zip would be the source, or inside it. Nothing was written then.

    See Also
    --------
    ToZip : A sink for jobs that can be resumed.

    Examples
    --------
    >>> import tempfile, zarr
    >>> from shardedstore import to_zip_store
    >>> shard = zarr.storage.MemoryStore()
    >>> _ = zarr.create_group(shard, attributes={"title": "demo"})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     opened = to_zip_store(f"{folder}/zips", shard, "cells", "0")  # the file zips/cells/0.zarr.zip
    ...     opened.names(), zarr.open_group(opened, mode="r").attrs["title"]
    (['zarr.json'], 'demo')
    """
    url = object_url(normalize(prefix), join(shard_path, chunk_dims or "")) + SUFFIX
    origin = shard_store
    while isinstance(origin, DerivedStore):
        origin = origin.store
    source = url_of(locate(origin))
    if source is not None and is_within(real_url(url), real_url(source)):
        raise DestinationError(f"{url!r} would be, or be inside, the source {source!r}: choose another prefix")
    write_zip(read_entries(shard_store), url)
    return ZipReadStore(url)


@dataclass(frozen=True)
class ToZipStore:
    """`to_zip_store` with its prefix: it pickles, and jobs that use it can be resumed."""

    __name__ = to_zip_store.__name__  # in the names of tasks

    prefix: str

    def __call__(self, shard_store: Store, shard_path: str, chunk_dims: str | None) -> ZipReadStore:
        return to_zip_store(self.prefix, shard_store, shard_path, chunk_dims)

    def __repr__(self) -> str:
        return f"to_zip_store_with_prefix({self.prefix!r})"


def to_zip_store_with_prefix(prefix: str | os.PathLike[str]) -> ToZipStore:
    """Return `to_zip_store` with its prefix, for ``map_shards(to_zip_store_with_prefix(prefix))``.

    With ``to=folder``, `map_shards` writes the config to this folder, and the same call resumes an interrupted job.

    Parameters
    ----------
    prefix : str or path
        The start of the zips' names; see `to_zip_store`.

    Returns
    -------
    ToZipStore
        A function for `map_shards`. It pickles.

    Examples
    --------
    >>> to_zip_store_with_prefix("/data/zips")
    to_zip_store_with_prefix('/data/zips')
    """
    return ToZipStore(normalize(prefix))
