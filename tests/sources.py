"""Source Zarrs for tests: each is built once as a dictionary of keys and bytes, and copied to any kind of store.

`SOURCES` names them all, each with a division into groups, blocks and a base if possible.
"""

from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from obstore.store import MemoryStore as ObstoreMemory
from zarr.abc.store import Store
from zarr.core.buffer import cpu
from zarr.core.sync import sync
from zarr.storage import LocalStore, MemoryStore, ObjectStore, WrapperStore, ZipStore

from shardedstore import ShardedStore
from shardedstore.config.document import to_dict
from shardedstore.stores.locations import Config

if TYPE_CHECKING:
    import xarray as xr

Contents = dict[str, bytes]

# Chunk key encodings: the Zarr format, the name of the encoding, and its separator.
KEYS = {
    "v2.": (2, "v2", "."),
    "v2/": (2, "v2", "/"),
    "v3/": (3, "default", "/"),
    "v3.": (3, "default", "."),
    "v3-v2.": (3, "v2", "."),
    "v3-v2/": (3, "v2", "/"),
}
FORMATS = {2: "v2.", 3: "v3/"}


def add_array(
    group: Any, name: str, data: Any, chunks: tuple[int, ...] = (), dims: tuple[str, ...] | None = None, **options
):
    """Write an array with dimension names in the way of its format."""
    data = np.asarray(data) if not isinstance(data, np.ndarray) else data
    if dims is not None and group.metadata.zarr_format == 3:
        options["dimension_names"] = dims
    elif dims is not None:
        options["attributes"] = {"_ARRAY_DIMENSIONS": list(dims)}
    return group.create_array(name, data=data, chunks=chunks or "auto", **options)


def numbers(*shape: int) -> np.ndarray:
    return np.arange(1, np.prod(shape) + 1, dtype="f4").reshape(shape)


def cube(store: Store, keys: str) -> None:
    """Arrays of three dimensions whose chunks do not divide their shape, at the root and in groups of groups."""
    zarr_format, name, separator = KEYS[keys]
    options = {"chunk_key_encoding": {"name": name, "separator": separator}}
    space = ("time", "y", "x")
    root = zarr.create_group(store, zarr_format=zarr_format, attributes={"title": "a cube"})
    add_array(root, "temperature", numbers(7, 5, 4), (2, 2, 3), space, **options)
    add_array(root, "wind_u", numbers(7, 5, 4), (3, 5, 2), space, **options)
    add_array(root, "wind_v", -numbers(7, 5, 4), (3, 5, 2), space, **options)
    add_array(root, "height", numbers(25), (2,), ("level",), **options)
    add_array(root, "crs", np.array(4326, dtype="i4"), dims=(), **options)
    simulation = root.create_group("simulation", attributes={"model": "x"})
    for resolution, size in ("coarse", 3), ("fine", 6):
        group = simulation.create_group(resolution)
        add_array(group, "field", numbers(size, 4), (2, 2), ("row", "column"), **options)


def missing(store: Store, zarr_format: int) -> None:
    """An array with mostly missing chunks, and one without any chunk."""
    root = zarr.create_group(store, zarr_format=zarr_format)
    data = np.zeros((9, 10), dtype="i2")
    data[4, 5], data[8, 9] = 1, 2
    add_array(root, "sparse", data, (2, 2), ("y", "x"), config={"write_empty_chunks": False})
    add_array(root, "without", np.zeros((9, 10), dtype="i2"), (2, 2), ("y", "x"))


def types(store: Store, zarr_format: int) -> None:
    """Arrays of every kind of element, scalars, and arrays without any element."""
    root = zarr.create_group(store, zarr_format=zarr_format)
    texts = ["ä", "", "a long text", "b", "c"]
    strings = root.create_array("strings", shape=(5,), chunks=(2,), dtype=str)
    strings[:] = np.array(texts, dtype=object)
    add_array(root, "fixed", np.array(texts), (2,))
    add_array(root, "bytes", np.array([b"a", b"bcd", b""]), (2,))
    add_array(root, "dates", np.array(["2000-01-01", "NaT", "1969-12-31"], dtype="M8[s]"), (2,))
    add_array(root, "records", np.array([(1, 2.5), (3, 4.5), (5, 6)], dtype=[("a", "i4"), ("b", "f8")]), (2,))
    add_array(root, "flags", np.array([True, False, True]), (2,))
    add_array(root, "complex", np.array([1j, 2, 3 + 1j]), (2,))
    add_array(root, "scalar", np.array(7.5))
    root.create_array("scalar_string", shape=(), dtype=str, fill_value="unset")
    root.create_array("empty", shape=(0, 3), chunks=(2, 2), dtype="f4")
    root.create_array("empty_1d", shape=(0,), chunks=(2,), dtype="i8")


def sharding_codec(store: Store) -> None:
    root = zarr.create_group(store)
    add_array(root, "inner", numbers(10, 9), (2, 2), ("y", "x"), shards=(4, 4))


def root_array(store: Store, zarr_format: int) -> None:
    """An array without a group around it."""
    names = {"dimension_names": ("y", "x")} if zarr_format == 3 else {"attributes": {"_ARRAY_DIMENSIONS": ["y", "x"]}}
    zarr.create_array(store, data=numbers(7, 5), chunks=(2, 2), zarr_format=zarr_format, **names)


def consolidated(store: Store, zarr_format: int) -> None:
    """A hierarchy with consolidated metadata at the root and in one group."""
    cube(store, FORMATS[zarr_format])
    zarr.consolidate_metadata(store, path="simulation")
    zarr.consolidate_metadata(store)


def dataset(store: Store, zarr_format: int) -> None:
    """A dataset of xarray with coordinates, encoded times and a text."""
    tree().to_zarr(store, zarr_format=zarr_format, consolidated=True)


def tree() -> xr.DataTree:
    import xarray as xr  # with pandas: processes that run shards do without

    time = np.arange("2020-01-01", "2020-01-08", dtype="M8[D]").astype("M8[ns]")
    cube = xr.Dataset(
        {"temperature": (("time", "y", "x"), numbers(7, 5, 4)), "crs": 4326},
        {"time": time, "y": np.arange(5.0), "x": np.arange(4), "label": ("y", [*"abcde"])},
        {"title": "a dataset"},
    )
    cube["temperature"].encoding["chunks"] = 2, 2, 3
    coarse = cube[["temperature"]].isel(time=slice(3))
    coarse["temperature"].encoding["chunks"] = 1, 5, 4
    return xr.DataTree.from_dict(
        {"/": xr.Dataset(attrs={"title": "a tree"}), "/fine": cube, "/simulation/coarse": coarse}
    )


def others(store: Store, zarr_format: int) -> None:
    """Files unknown to zarr in all places, and chunks outside an array that was made smaller."""
    keys = FORMATS[zarr_format]
    cube(store, keys)
    chunks = "c/" if keys == "v3/" else ""
    for key in (
        "README.txt",
        "OME/METADATA.ome.xml",
        "simulation/notes.txt",
        "simulation/coarse/thumbnail.png",
        "temperature/notes.txt",
        "temperature/scratch/0",
        f"temperature/{chunks}notes",
        "temperature/c/0/.DS_Store",
        "temperature/c/0/0/notes.txt",
        "temperature/c/0/0/01",  # looks like a chunk
        "temperature/0.0.01",
        "temperature/c/0/99/0",  # outside the grid
        "temperature/c/99/0/0",
        "temperature/99.0.0",
        "simulation/coarse/field/c/7/7",
        "simulation/coarse/field/7.7",
    ):
        sync(store.set(key, cpu.Buffer.from_bytes(f"this is {key}".encode())))


@dataclass(frozen=True)
class Source:
    """Builder of a source, its division in tests, and the mounted paths with their numbers of shards."""

    build: Callable[..., None]
    argument: Any
    shards: Any
    mounts: Mapping[str, int]
    for_xarray: bool = True

    def contents(self) -> Contents:
        return build(self.build, self.argument)


DIVISION = {
    "temperature": {"time": 4, "y": 2},
    "wind_*": (3, -1, 2),
    "simulation/*": "whole",
    "height": 40,
    "*": 1 << 20,
}
DIVIDED = {"temperature": 6, "wind_u": 6, "wind_v": 6, "simulation/coarse": 1, "simulation/fine": 1, "height": 3}
BY_TYPE = {  # {"*": 16}, and strings count 16 bytes each
    "strings": 3,
    "fixed": 3,
    "dates": 2,
    "records": 2,
    "complex": 2,
}
SOURCES = {f"cube-{keys}": Source(cube, keys, DIVISION, DIVIDED) for keys in KEYS}
for _format in (2, 3):
    SOURCES |= {
        f"missing-v{_format}": Source(missing, _format, {"*": (4, 4)}, {"sparse": 9, "without": 9}),
        f"types-v{_format}": Source(types, _format, 16, BY_TYPE, for_xarray=False),
        f"root-array-v{_format}": Source(root_array, _format, {"": {"y": 4}}, {"": 2}, for_xarray=False),
        f"consolidated-v{_format}": Source(consolidated, _format, DIVISION, DIVIDED),
        f"others-v{_format}": Source(others, _format, DIVISION, DIVIDED),
        f"dataset-v{_format}": Source(
            dataset,
            _format,
            {"fine/temperature": {"time": 4}, "simulation/**": "whole"},
            {"fine/temperature": 2, "simulation/coarse": 1},
        ),
    }
SOURCES["sharding-codec"] = Source(sharding_codec, None, {"inner": {"y": 8}}, {"inner": 2})


@cache
def build(write: Callable[..., None], argument: Any = None) -> Contents:
    """Return the keys and bytes from a builder."""
    store = MemoryStore()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write(store) if argument is None else write(store, argument)
    return {key: value.to_bytes() for key, value in store._store_dict.items()}


def store_of(config: Config) -> ShardedStore:
    """Return the store that a config describes, opened from its document."""
    return ShardedStore.from_config(to_dict(config))


# Kinds of stores


def to_folder(contents: Contents, folder: Path) -> Path:
    for key, data in contents.items():
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / key).write_bytes(data)
    return folder


def to_zip(contents: Contents, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as file:
        for key, data in contents.items():
            file.writestr(key, data)
    return path


def to_memory(contents: Contents) -> MemoryStore:
    return MemoryStore({key: cpu.Buffer.from_bytes(data) for key, data in contents.items()})


def to_objects(contents: Contents) -> ObjectStore:
    objects = ObstoreMemory()
    for key, data in contents.items():
        objects.put(key, data)
    return ObjectStore(objects)


class Recording(WrapperStore):
    """A store of an unknown kind, which records the calls of its reading methods."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.calls: list[tuple[str, str]] = []

    async def get(self, key, prototype, byte_range=None):
        self.calls.append(("get", key))
        return await super().get(key, prototype, byte_range)

    async def get_partial_values(self, prototype, key_ranges):
        key_ranges = list(key_ranges)
        self.calls += [("get", key) for key, _ in key_ranges]
        return await super().get_partial_values(prototype, key_ranges)

    async def exists(self, key):
        self.calls.append(("exists", key))
        return await super().exists(key)

    async def getsize(self, key):
        self.calls.append(("getsize", key))
        return await super().getsize(key)

    async def is_empty(self, prefix):
        self.calls.append(("is_empty", prefix))
        return await super().is_empty(prefix)

    async def list(self):
        self.calls.append(("list", ""))
        async for key in super().list():
            yield key

    async def list_prefix(self, prefix):
        self.calls.append(("list_prefix", prefix))
        async for key in super().list_prefix(prefix):
            yield key

    async def list_dir(self, prefix):
        self.calls.append(("list_dir", prefix))
        async for name in super().list_dir(prefix):
            yield name


# Arguments for `ShardedStore.partition`, made from the contents and a folder for temporary files.
KINDS: dict[str, Callable[[Contents, Path], Any]] = {
    "path": lambda contents, tmp: to_folder(contents, tmp / "source.zarr"),
    "url": lambda contents, tmp: to_folder(contents, tmp / "a source.zarr").as_uri(),
    "LocalStore": lambda contents, tmp: LocalStore(to_folder(contents, tmp / "source.zarr")),
    "zip": lambda contents, tmp: to_zip(contents, tmp / "source.zarr.zip"),
    "ZipStore": lambda contents, tmp: ZipStore(to_zip(contents, tmp / "source"), mode="r"),
    "MemoryStore": lambda contents, tmp: to_memory(contents),
    "ObjectStore": lambda contents, tmp: to_objects(contents),
    "any": lambda contents, tmp: Recording(to_memory(contents)),
    "ShardedStore": lambda contents, tmp: ShardedStore.partition(to_memory(contents), 100),
}

# Every source in each kind of store with a separate reader, and a few sources in all other kinds.
COMBINATIONS = [
    (source, kind)
    for source in SOURCES
    for kind in KINDS
    if kind in {"path", "zip", "MemoryStore", "ObjectStore"} or source in {"cube-v2.", "cube-v3/", "others-v3"}
]


def groups_of(contents: Contents) -> set[str]:
    """The paths of all groups, from the documents only."""
    found = {key.rpartition("/")[0] for key in contents if key.rpartition("/")[2] == ".zgroup"}
    return found | {
        key.rpartition("/")[0]
        for key, data in contents.items()
        if key.rpartition("/")[2] == "zarr.json" and json.loads(data)["node_type"] == "group"
    }
