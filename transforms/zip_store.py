"""`to_zip_store`: a function of stores for `map_shards`, as shardedstore had it before there were sinks."""

from __future__ import annotations

import os
from dataclasses import dataclass

from zarr.abc.store import Store

from shardedstore.errors import DestinationError
from shardedstore.storage.urls import is_within, normalize, object_url, real_url
from shardedstore.stores.entries import read_entries
from shardedstore.stores.locations import url_of
from shardedstore.stores.recognise import locate
from shardedstore.stores.squeezed import SqueezedBlock
from shardedstore.stores.views import Block, Remainder
from shardedstore.transforms.base.zip_shard import write_zip
from shardedstore.zarr.paths import join
from shardedstore.zips import ZipReadStore

SUFFIX = ".zarr.zip"


def to_zip_store(
    prefix: str | os.PathLike[str], shard_store: Store, shard_path: str, chunk_dims: str | None
) -> ZipReadStore:
    """Write a component to a zip, and return it opened.

    The zip appears when it is whole, in place of one that was there. `ToZip` does the same as a sink, which is to be
    preferred: what is made again there gets a new name, and a job knows what is done.

    Parameters
    ----------
    prefix : str or path
        What the zips' names begin with: a local path, or a URL of an object store, opened as the environment tells.
    shard_store : Store
        The component.
    shard_path, chunk_dims
        Its path and the index of its block, as `map_shards` gives them. The zip is ``<prefix>/<path>/<index>.zarr.zip``,
        without what there is none of: the base's is ``<prefix>.zarr.zip``.

    Raises
    ------
    DestinationError
        Where the zip would be the source, or inside it.
    """
    url = object_url(normalize(prefix), join(shard_path, chunk_dims or "")) + SUFFIX
    place = shard_store.store if isinstance(shard_store, Block | Remainder | SqueezedBlock) else shard_store
    source = url_of(locate(place))
    if source is not None and is_within(real_url(url), real_url(source)):
        raise DestinationError(f"{url!r} would be, or be inside, the source {source!r}: choose another prefix")
    write_zip(read_entries(shard_store), url)
    return ZipReadStore(url)


@dataclass(frozen=True)
class ToZipStore:
    """`to_zip_store` with its prefix: a value that pickles, and that a job can be gone on with by."""

    __name__ = to_zip_store.__name__  # in the names of tasks

    prefix: str

    def __call__(self, shard_store: Store, shard_path: str, chunk_dims: str | None) -> ZipReadStore:
        return to_zip_store(self.prefix, shard_store, shard_path, chunk_dims)

    def __repr__(self) -> str:
        return f"to_zip_store_with_prefix({self.prefix!r})"


def to_zip_store_with_prefix(prefix: str | os.PathLike[str]) -> ToZipStore:
    """Return `to_zip_store` with its prefix, for ``map_shards(to_zip_store_with_prefix(prefix))``.

    With ``to=folder`` as well, `map_shards` writes the config there, and the same call goes on where it was interrupted.

    Examples
    --------
    >>> to_zip_store_with_prefix("/data/zips")
    to_zip_store_with_prefix('/data/zips')
    """
    return ToZipStore(normalize(prefix))
