"""The folders directly below a path of a store: where a walk looks for groups and arrays.

A kind of store that tells folders from files names folders alone; another names both, as zarr's stores do.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator

import obstore
from zarr.abc.store import Store
from zarr.storage import LocalStore, ObjectStore

from shardedstore.stores.part import Part
from shardedstore.stores.veiled import Veiled
from shardedstore.stores.views import View
from shardedstore.zarr.metadata import ArrayMeta
from shardedstore.zarr.paths import join
from shardedstore.zips import ZipReadStore

MOST_CHUNKS = 1000  # names in an array's folder, where the file system does not tell that there are folders among them
LINKS = 2  # of a folder without folders in it; file systems that do not count them have 1


async def subfolders(store: Store, path: str) -> AsyncIterator[str]:
    """Yield the names of the folders below a path, or of all that is there; one listing, not of what is further below."""
    match store:
        case Part():
            async for name in subfolders(store.store, path):
                if store.holds(path) and store.holds(join(path, name)):
                    yield name
        case Veiled():
            async for name in subfolders(store.store, path):
                yield name
        case View():
            async for name in subfolders(store.store, join(store.path, path)):
                yield name
        case LocalStore():
            for name in _of_folder(os.path.join(store.root, path)):
                yield name
        case ZipReadStore():
            for name in dict.fromkeys(_of_names(store, f"{path}/" if path else "")):
                yield name
        case ObjectStore():
            found = await obstore.list_with_delimiter_async(store.store, prefix=path or None)
            for folder in found["common_prefixes"]:
                yield folder.rstrip("/").rpartition("/")[2]
        case _:
            async for name in store.list_dir(path):
                yield name


def _of_folder(folder: str) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            yield from [entry.name for entry in entries if entry.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return


def _of_names(store: ZipReadStore, start: str) -> Iterator[str]:
    for key in store.names(start):
        name, slash, _ = key[len(start) :].partition("/")
        if slash:
            yield name


async def inner_folders(store: Store, path: str, array: ArrayMeta) -> AsyncIterator[str]:
    """Yield the names of the folders in an array's own that hold no chunks of it, where they are known without listing chunks.

    A zip knows all its names, and a local folder tells whether there are folders in it; nothing else is listed.
    """
    whole, at = store, path
    while isinstance(whole, Part | Veiled | View):
        whole, at = whole.store, join(whole.path, at) if isinstance(whole, View) else at
    is_cheap = isinstance(whole, ZipReadStore) or (
        isinstance(whole, LocalStore) and _is_cheap(os.path.join(whole.root, at), array)
    )
    if is_cheap:
        async for name in subfolders(store, path):
            if not _is_of_chunks(name, array):
                yield name


def _is_cheap(folder: str, array: ArrayMeta) -> bool:
    links = os.stat(folder).st_nlink
    return links > LINKS or (links < LINKS and array.chunk_count <= MOST_CHUNKS)


def _is_of_chunks(name: str, array: ArrayMeta) -> bool:
    """Tell whether a folder may hold chunks: also by the separator that metadata of v2 need not say."""
    if array.keys is not None and array.keys.name == "default":
        return name == "c"
    return name == "c" or (name.isdecimal() and len(array.shape) > 1)
