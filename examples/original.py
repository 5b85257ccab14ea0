"""The example of the README of shardedstore 0.3.1: write in shards, read back, and map the shards to zips.

    python examples/original.py [--folder FOLDER] [--zarr-format 2]

Groups and arrays are divided while xarray writes them. Here each chunk along x is a separate shard, as in version 0.3.1. A
shape in elements, or a size along a named dimension, works too, so that chunks need not have the size 1 there.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import warnings
from pathlib import Path

import numpy as np
import xarray as xr
from zarr.storage import LocalStore

from shardedstore import ShardedStore, array_shard_directory_store, to_zip_store_with_prefix

warnings.filterwarnings("ignore", "Consolidated metadata is currently not part", UserWarning)  # in Zarr v3
warnings.filterwarnings("ignore", "The data type .* does not have a Zarr V3 specification")  # texts


def make_tree() -> xr.DataTree:
    """Return a tree of groups, one of them with twice the resolution of another."""
    data = xr.DataArray(np.random.default_rng(0).normal(size=(2, 3)), dims=("x", "y"), coords={"x": [10, 20]})
    coarse = xr.Dataset({"foo": data, "bar": ("x", [1, 2]), "baz": np.pi}).chunk({"x": 1, "y": 2})
    fine = coarse.compute().reindex(x=[10, 12, 14, 16, 18, 20], method="nearest").chunk({"x": 1, "y": 2})
    people = xr.Dataset({"people": ["alice", "bob"], "heights": ("people", [1.57, 1.82])}, coords={"species": "human"})
    return xr.DataTree.from_dict({"simulation/coarse": coarse, "simulation/fine": fine, "/": people})


def main(zarr_format: int) -> None:
    """Write, read, serialize and map, in the working directory."""
    tree = make_tree()

    # a monolithic store for comparison
    single_store = LocalStore("single.zarr")
    tree.to_zarr(single_store, zarr_format=zarr_format, mode="w")

    # a sharded store: two arrays in separate stores, and two arrays with a shard for each x
    sharded_store = ShardedStore(
        LocalStore("base.zarr"),
        {"people": LocalStore("shard1.zarr"), "species": LocalStore("shard2.zarr")},
        {
            "simulation/coarse/foo": (1, array_shard_directory_store("array_shards1")),
            "simulation/fine/foo": ({"x": 2}, array_shard_directory_store("array_shards2")),
        },
    )
    tree.to_zarr(sharded_store, zarr_format=zarr_format, mode="w")

    # serialize and deserialize
    config = json.loads(json.dumps(sharded_store.get_config()))
    sharded_store = ShardedStore.from_config(config)

    # validate
    from_single = xr.open_datatree(single_store, engine="zarr").compute()
    from_sharded = xr.open_datatree(sharded_store, engine="zarr").compute()
    assert from_single.identical(from_sharded)

    # run a transformation over the shards
    zip_sharded_stores = sharded_store.map_shards(to_zip_store_with_prefix("zip_stores"))
    assert from_single.identical(xr.open_datatree(zip_sharded_stores, engine="zarr").compute())

    zips = sorted(Path().glob("zip_stores*/**/*.zip")) + sorted(Path().glob("zip_stores*.zip"))
    print(f"{len(zips)} zips: {', '.join(map(str, zips))}")
    print("All is identical: written in shards, read from the config, and read from the zips.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where to write; a new temporary folder, unless it is given")
    parser.add_argument("--zarr-format", type=int, choices=[2, 3], default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        os.chdir(folder)
        main(options.zarr_format)
        os.chdir("/")
