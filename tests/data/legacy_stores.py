"""Generator of legacy-stores.tar.gz for test_legacy.py, by shardedstore 0.3.1 itself.

In an environment of Python 3.11 with shardedstore 0.3.1, zarr 2.18.7, numcodecs 0.15.2 and fsspec, run in an empty folder::

    python legacy_stores.py && tar czf legacy-stores.tar.gz --exclude='*.tar.gz' *

Configs hold absolute paths, which the archive has as ``@HERE@``.
"""

import json
import os
import warnings

import numpy as np
import zarr
from zarr.storage import DirectoryStore, FSStore, NestedDirectoryStore

from shardedstore import ShardedStore, array_shard_directory_store, to_zip_store_with_prefix

HERE = os.getcwd()
warnings.simplefilter("ignore")


def numbers(shape, dtype="<i4"):
    return (np.arange(np.prod(shape)) % 1009 + 1).reshape(shape).astype(dtype)


def fill(store, arrays):
    """Write arrays through the store as in 0.3.1; chunks have size 1 along sharded dimensions, else 2."""
    root = zarr.open_group(store, mode="a")
    root.attrs["made"] = "by 0.3.1"
    for path, (values, sharded) in arrays.items():
        chunks = [1 if axis < sharded else 2 for axis in range(values.ndim)]
        root.create_dataset(path, data=values, chunks=chunks)


def keep(name, store, arrays, *, corrupt=False):
    """Keep the config and the values if 0.3.1 reads them back correctly."""
    config = json.loads(json.dumps(store.get_config()))
    again = zarr.open_group(ShardedStore.from_config(config), mode="r") if not corrupt else None
    for path, (values, _) in arrays.items():
        assert corrupt or np.array_equal(again[path][:], values), (name, path)
    with open(f"{name}.json", "w") as out:
        out.write(json.dumps(config, indent=1).replace(HERE, "@HERE@"))
    np.savez_compressed(f"{name}.npz", **{path.replace("/", "__"): values for path, (values, _) in arrays.items()})


ARRAYS = {
    "image/s0": (numbers((2, 3, 4, 5)), 2),
    "image/s1": (numbers((4, 5, 3), "<f8"), 1),
    "plain": (numbers((3, 4)), 0),
    "people/heights": (numbers((7,), "|u1"), 0),
}
DIMS = {path: sharded for path, (_, sharded) in ARRAYS.items() if sharded}


def write(name, make, separator, arrays=ARRAYS, *, corrupt=False):
    """Make a store with components that `make` makes at their paths."""
    dims = {path: sharded for path, (_, sharded) in arrays.items() if sharded}
    funcs = {path: (n, lambda chunk, path=path: make(f"{name}/{path}/{chunk}.zarr")) for path, n in dims.items()}
    shards = (
        {"people": make(f"{name}/people.zarr")}
        if "people/heights" in arrays
        else {"beside": make(f"{name}/beside.zarr")}
    )
    store = ShardedStore(make(f"{name}/base.zarr"), shards, funcs, dimension_separator=separator)
    if "beside" in shards:
        zarr.open_group(shards["beside"], mode="w")
    fill(store, arrays)
    keep(name, store, arrays, corrupt=corrupt)
    return store


write("nested", NestedDirectoryStore, "/")
write("fs", FSStore, None, {**ARRAYS, "image/s0": (ARRAYS["image/s0"][0], 0)})
write("fs-slash", lambda path: FSStore(path, dimension_separator="/"), "/")
write("fs-url", lambda path: FSStore(f"file://{HERE}/{path}", key_separator="."), ".")

# Zips by its map_shards, of a store from a config, as map_shards fails for others.
loose = write("loose", lambda path: DirectoryStore(path, dimension_separator="."), ".")
zipped = ShardedStore.from_config(loose.get_config()).map_shards(to_zip_store_with_prefix("zips"))
zipped._update_internal_state()
keep("zips", zipped, ARRAYS)

# One sharded store inside another: as the base, and as a shard.
inner = ShardedStore(
    DirectoryStore("inner/base.zarr", dimension_separator="."),
    {"people": DirectoryStore("inner/people.zarr", dimension_separator=".")},
    {"image/s1": (1, array_shard_directory_store("inner/s1", dimension_separator="."))},
    dimension_separator=".",
)
deep = ShardedStore(
    DirectoryStore("inner/deep.zarr", dimension_separator="."),
    array_shard_funcs={"v": (1, array_shard_directory_store("inner/v", dimension_separator="."))},
    dimension_separator=".",
)
outer = ShardedStore(
    inner,
    {"deep": deep},
    {"image/s0": (2, array_shard_directory_store("inner/s0", dimension_separator="."))},
    dimension_separator=".",
)
arrays = {**ARRAYS, "deep/v": (numbers((5, 4)), 1)}
fill(outer, arrays)
keep("inner", outer, arrays)

# Keys in lower case.
lower = {"Image/S1": (ARRAYS["image/s1"][0], 1), "Plain": ARRAYS["plain"], "People/Heights": ARRAYS["people/heights"]}
base = DirectoryStore("lower/base.zarr", normalize_keys=True, dimension_separator=".")
store = ShardedStore(
    base,
    {"People": DirectoryStore("lower/people.zarr", normalize_keys=True, dimension_separator=".")},
    {"Image/S1": (1, array_shard_directory_store("lower/s1", normalize_keys=True, dimension_separator="."))},
)
fill(store, lower)
keep("lower", store, lower)

# It writes at most ten chunks along a sharded dimension correctly: indices of two digits collide.
dotted = lambda path: DirectoryStore(path, dimension_separator=".")  # noqa: E731
write("ten", dotted, ".", {"t": (numbers((10, 3)), 1)})
write("twelve", dotted, ".", {"t": (numbers((12, 3)), 1)}, corrupt=True)
write(
    "twelve-slash",
    lambda path: FSStore(path, dimension_separator="/"),
    "/",
    {"t": (numbers((2, 12, 3)), 2)},
    corrupt=True,
)
write(
    "eleven", dotted, ".", {"t": (numbers((11, 3)), 1), "u": (numbers((2, 11, 3)), 2)}
)  # separately, the last is kept apart
write("twelve-first", dotted, ".", {"t": (numbers((12, 3, 3)), 2)})  # its 10.0 and 11.0 are in the base, uncropped
write("twelve-whole", DirectoryStore, None, {"t": (numbers((2, 12, 3)), 2)})  # all of it in the base

# An array that was replaced by a smaller one, and one that existed before it was sharded, with blocks in the base.
write("shrunk", dotted, ".", {"t": (numbers((6, 3)), 1)})
store = ShardedStore(
    dotted("shrunk/again.zarr"),
    {"beside": dotted("shrunk/beside.zarr")},
    {"t": (1, lambda chunk: dotted(f"shrunk/t/{chunk}.zarr"))},
)
store.array_shards["t"] = {str(i): dotted(f"shrunk/t/{i}.zarr") for i in range(6)}
small = {"t": (numbers((4, 3)) + 5, 1)}
fill(store, small)
keep("shrunk", store, small)
store = ShardedStore(dotted("part/base.zarr"), {"beside": dotted("part/beside.zarr")})
zarr.open_group(store.shards["beside"], mode="w")
fill(store, {"t": (numbers((4, 3)), 1)})
store.array_shards, store.array_shard_dims = {"t": {"1": dotted("part/t/1.zarr")}}, {"t": 1}
store._update_internal_state()
store.array_shards["t"]["1"][".zarray"] = store.base["t/.zarray"]
zarr.open_array(store, path="t")[1:3] = numbers((2, 3)) + 99
values = numbers((4, 3))
values[1:3] = numbers((2, 3)) + 99
keep("part", store, {"t": (values, 1)})

# Facts that zarr 2 took from the store's class: an FSStore that splits keys at dots, and metadata without a separator.
store = ShardedStore(dotted("cut/base.zarr"), {"people": FSStore("cut/people.zarr", dimension_separator="/")})
arrays = {"people/map": (numbers((4, 4)), 0)}
fill(store, arrays)
keep("cut", store, arrays)
store = ShardedStore(NestedDirectoryStore("unsaid/base.zarr"), {"people": NestedDirectoryStore("unsaid/people.zarr")})
fill(store, arrays)
document = json.loads(store.shards["people"]["map/.zarray"])
del document["dimension_separator"]
store.shards["people"]["map/.zarray"] = json.dumps(document).encode()
keep("unsaid", store, arrays)
