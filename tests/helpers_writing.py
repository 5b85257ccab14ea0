"""Helpers of writing tests: stores that divide the array 'a', and data for it."""

from pathlib import Path

import numpy as np
import zarr
from zarr.storage import MemoryStore

from shardedstore import ShardedStore, array_shard_directory_store

DATA = np.arange(1, 33, dtype="i4").reshape(8, 4)


def in_memory():
    """A factory of stores in memory that always returns the same store for a block."""
    made = {}

    def factory(block):
        return made.setdefault(block, MemoryStore())

    return factory


def folders(root, shape=1):
    return {"a": (shape, array_shard_directory_store(root / "a"))}


def divided(root, shape=1, shards=None):
    """A store in folders below a root; each call opens it as another process would."""
    return ShardedStore(root / "base", shards, folders(root, shape))


def named(zarr_format):
    """The options that name the dimensions of a new array."""
    return {"dimension_names": ("x", "y")} if zarr_format == 3 else {"attributes": {"_ARRAY_DIMENSIONS": ["x", "y"]}}


def numbers(*shape):
    return np.arange(np.prod(shape), dtype="i4").reshape(shape)


def make(store, data=DATA, chunks=(2, 2), name="a", **options):
    array = zarr.create_array(store, name=name, shape=data.shape, chunks=chunks, dtype=data.dtype, **options)
    array[...] = data
    return array


def values(store, name="a"):
    return zarr.open_group(store, mode="r")[name][...]


def files(folder):
    return sorted(f"{path.relative_to(folder)}" for path in Path(folder).rglob("*") if path.is_file())
