"""Configs of shardedstore 0.3.1 as configs of today: locate their stores, check permissions, and convert their shards.

All relative paths of such a config start from one working directory. Here they start from one folder: the first one
that contains all the stores. A store that is missing in an old copy is therefore never taken from another place.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import NamedTuple

from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from shardedstore.config.legacy_document import (
    Old,
    OldSharded,
    OldShards,
    OldStore,
    check_separators,
    parse_document,
)
from shardedstore.errors import ConfigError, ShardedStoreError, UsageError
from shardedstore.storage.blobs import nbytes_of
from shardedstore.storage.errors import explain
from shardedstore.storage.folders import STORAGE_ERRORS
from shardedstore.storage.options import NONE, Options
from shardedstore.storage.urls import is_remote, is_within, join_url, normalize, object_url
from shardedstore.stores.locations import (
    BlockOf,
    Config,
    Location,
    Mount,
    Place,
    Squeezed,
    ViewOf,
)
from shardedstore.zarr.grid import Blocks, Coords, block_name
from shardedstore.zarr.metadata import ArrayMeta, parse_node
from shardedstore.zarr.paths import Mounts, join

AT_ONCE = 32

DOCUMENTS = (".zgroup", ".zarray")  # the root of each zarr 2 store has one of these


class Around(NamedTuple):
    """The surroundings of a config: folders for relative paths, and places that it may name.

    Attributes
    ----------
    root : str or None
        The folder that the user gave for relative paths.
    folder : str or None
        The config's folder.
    allow : tuple of str or None
        The places that the config may name; None for all.
    options : Options
        The options of the config's folder, which are also used for stores in it.
    here : str or None
        The working directory.
    """

    root: str | None = None
    folder: str | None = None
    allow: tuple[str, ...] | None = None
    options: Options = NONE
    here: str | None = None

    def starts(self) -> dict[str, str | None]:
        """Return the three folders that relative paths may start from, by description."""
        return {"root=": self.root, "the config's folder": self.folder, "the working directory": self.here}

    def may_name(self, url: str) -> bool:
        """Tell whether the config may name a place.

        A config from the network must not name the working directory.
        """
        if is_remote(url) and ".." in url.split("/"):
            return False
        own = (self.root, self.folder, None if is_remote(self.folder or "") else self.here)
        return self.allow is None or any(is_within(url, place) for place in (*self.allow, *own) if place is not None)

    def place(self, store: OldStore, url: str) -> Place:
        """Return the place of a store; a store in the config's folder gets the folder's options."""
        return store.kind(url, self.options if self.folder is not None and is_within(url, self.folder) else NONE)


def look_around(
    root: str | None = None, folder: str | None = None, allow: Iterable[str] | None = None, options: Options = NONE
) -> Around:
    """Return the current surroundings of a config."""
    here = None
    with suppress(OSError):  # the working directory may have been removed
        here = os.getcwd()
    return Around(root, folder, None if allow is None else tuple(map(normalize, allow)), options, here)


def find_places(stores: Iterable[OldStore], around: Around) -> dict[OldStore, Place]:
    """Return the place of each store.

    Raises
    ------
    ConfigError
        For a store that does not exist, or that the config may not name.
    """
    stores = list(dict.fromkeys(stores))
    absolute = {store: around.place(store, _absolute(store, around)) for store in stores if _is_absolute(store.path)}
    if missing := _first_missing(absolute.values()):
        raise ConfigError(
            f"the config names {missing}: shardedstore 0.3.1 wrote absolute paths, so if the store was moved, write its new "
            "path, or paths relative to the config"
        )
    return absolute | _find_relative([store for store in stores if store not in absolute], around)


def _is_absolute(path: str) -> bool:
    return "://" in path or os.path.isabs(path)


def _absolute(store: OldStore, around: Around) -> str:
    try:
        url = normalize(store.path)
    except UsageError as error:
        raise ConfigError(f"the config's path can't be used: {error}") from None
    if not around.may_name(url):
        raise ConfigError(
            f"the config names {url!r}, which is neither in its own folder nor in the working directory: if that is right, "
            f"load it with allow=[{url!r}], or with allow=[...] of a folder that contains it"
        )
    return url


def _find_relative(stores: list[OldStore], around: Around) -> dict[OldStore, Place]:
    reasons = []
    for what, start in around.starts().items():
        if start is None:
            reasons.append(f"{what} is not known")
            continue
        places = {store: around.place(store, _join(start, store.path)) for store in stores}
        refused = next((place.url for place in places.values() if not around.may_name(place.url)), None)
        if refused is not None:
            reasons.append(f"{what} {start!r}: {refused!r} is outside what the config may name")
        elif missing := _first_missing(places.values()):
            reasons.append(f"{what} {start!r}: {missing}")
        else:
            return places
    lost = any(store.name == "FSStore" for store in stores)
    raise ConfigError(
        "none of three folders contains all stores that the config names by relative paths:\n"
        + "".join(f"  {reason}\n" for reason in reasons)
        + "give the folder that they start from as root=, or the places that they may lead to as allow=[...]"
        + ("; for an FSStore, shardedstore 0.3.1 left out the scheme, such as s3://: write it before the path" * lost)
    )


def _join(start: str, path: str) -> str:
    """Resolve a relative path from a folder.

    >>> _join("/data/old", "../a.zarr"), _join("s3://bucket/old", "a b/../c.zarr")
    ('/data/a.zarr', 's3://bucket/old/c.zarr')
    """
    if not is_remote(start):
        return os.path.normpath(os.path.join(start, path))
    name = posixpath.normpath(path)
    return object_url(start, "" if name == "." else name)


def _first_missing(places: Iterable[Place]) -> str | None:
    """Return a description of the first place that does not exist, or None.

    Places are checked concurrently, by one request each.
    """
    with ThreadPoolExecutor(AT_ONCE) as threads:
        return next((missing for missing in threads.map(_missing, places) if missing is not None), None)


def _missing(place: Place) -> str | None:
    if not is_remote(place.url):
        is_there = os.path.isdir if place.is_folder else os.path.isfile
        return None if is_there(place.url) else f"{place.url!r}, which does not exist"
    urls = [join_url(place.url, name) for name in DOCUMENTS] if place.is_folder else [place.url]
    try:
        is_found = any(nbytes_of(url, place.options) is not None for url in urls)
    except (UsageError, *STORAGE_ERRORS) as error:
        return f"{place.url!r}, which can't be read: {explain(error)}"
    return None if is_found else f"{place.url!r}, which does not exist"


Places = Mapping[OldStore, Place]

SPARED = "to open the rest, remove such arrays from the config's array_shards and array_shard_dims, and their folders from the base"


def parse_legacy(
    document: object,
    root: str | None = None,
    folder: str | None = None,
    allow: Iterable[str] | None = None,
    options: Options = NONE,
) -> Config:
    """Convert a config of shardedstore 0.3.1.

    The metadata of arrays with shards is read.

    Parameters
    ----------
    document : dict
        The document that its ``get_config`` returned.
    root, folder : str, optional
        The folders or URLs from which relative paths start. They are tried in this order, then the working directory.
    allow : iterable of str, optional
        Other places that the config may name. None allows everything, for documents that the program made itself.
    options : Options
        The options of `folder`.

    Raises
    ------
    ConfigError
        For a document that 0.3.1 did not write, for stores that do not exist or may not be named, and for arrays that
        0.3.1 corrupted.
    """
    try:
        old = parse_document(document)
        places = find_places(old.stores(), look_around(root, folder, allow, options))
        config = _config(old, places)
        check_separators(old, config)
    except RecursionError:
        raise ConfigError("the config can't be read: its stores are nested too deeply") from None
    return config


def check_saved(config: Config) -> None:
    """Refuse to save a config with arrays in the form of shardedstore 0.3.1.

    Raises
    ------
    ConfigError
        If there are such arrays.
    """
    for what, location in config.locations():
        if location.is_legacy:
            raise ConfigError(
                f"{what} has the form of shardedstore 0.3.1, which can be read but not saved: map it first, as with "
                "store.map_shards(ToZip(url)), and save the result's config"
            )


def _config(old: OldSharded, places: Places) -> Config:
    base = _location(old.base, places)
    shards = {path: Mount(_location(one, places)) for path, one in old.shards.items()}
    for path, array in old.arrays.items():
        at = path.lower() if isinstance(old.base, OldStore) and old.base.is_lower else path
        if at in shards:
            raise ConfigError(f"the config has {path!r} twice, because its base writes all keys in lower case")
        mount = _mount(at, array, base, places)
        if mount is not None:
            shards[at] = mount
    _check_apart(old, places)
    try:
        Mounts(shards)
    except UsageError as error:
        raise ConfigError(f"the config can't be read: {error}") from None
    return Config(base, shards)


def _check_apart(old: OldSharded, places: Places) -> None:
    """Refuse array shards at the place of another store, because they overwrote each other."""
    found = [("the base", old.base), *((f"shard {path!r}", one) for path, one in old.shards.items())]
    owners = {places[one].url: what for what, one in found if isinstance(one, OldStore)}
    for path, array in old.arrays.items():
        for index, one in array.stores.items():
            if not isinstance(one, OldStore):
                continue
            what, url = f"shard {path!r}, block {block_name(index)!r}", places[one].url
            if url in owners:
                raise ConfigError(
                    f"{owners[url]} and {what} are both in {url!r}: shardedstore 0.3.1 overwrote chunks of one with chunks of the "
                    f"other, so the data are damaged. Write them again from their origin; {SPARED}"
                )
            owners[url] = what


def _location(old: Old, places: Places) -> Location:
    return _config(old, places) if isinstance(old, OldSharded) else places[old]


def _mount(path: str, array: OldShards, base: Location, places: Places) -> Mount | None:
    """Return the mount of an array: a view of the base, with its shards as exceptions.

    Return None if the array has no chunks in shards.
    """
    meta = _read_array(path, base) if array.stores else None
    if meta is None or 0 in meta.shape:
        return None
    assert meta.keys is not None
    if not array.count < len(meta.shape):
        raise ConfigError(
            f"the array {path!r} has {len(meta.shape)} dimensions, but the names of its shards have {array.count}: was the array "
            "replaced?"
        )
    if array.separator not in (None, meta.keys.separator):
        return None  # 0.3.1 compared names with other separators than the keys have, so all chunks are in the base
    blocks = Blocks(meta.chunk_grid, (1,) * array.count, meta.keys)
    _check_collisions(path, array, blocks)
    exceptions: dict[str, Location] = {}
    for block, stored_in in _blocks_in_shards(array, blocks):
        whole = BlockOf(base, path, blocks, block)
        exceptions[block_name(block)] = Squeezed(_location(array.stores[stored_in], places), whole)
    return Mount(ViewOf(base, path), blocks, exceptions) if exceptions else None


def _check_collisions(path: str, array: OldShards, blocks: Blocks) -> None:
    """Refuse an array with chunks that overwrote others.

    shardedstore 0.3.1 used only the first character of an index: 10 and 11 were both 1.
    """
    length, most = blocks.grid[-1], _most(blocks)
    longest = max((index[-1] + 1 for index in array.stores), default=0)
    if max(length, longest) > most:
        raise ConfigError(
            f"the array {path!r} has {max(length, longest)} chunks along dimension {array.count - 1}, which is sharded: "
            f"shardedstore 0.3.1 used only the first digit of each index, so chunks from index 10 on overwrote others, and the "
            f"data are damaged. Write {path!r} again from its origin; {SPARED}"
        )


def _most(blocks: Blocks) -> int:
    """Return the number of chunks that 0.3.1 kept apart along the last sharded dimension.

    With dots it is one more, because .0 and 0 are different names in a folder.
    """
    return 11 if blocks.keys.separator == "." else 10


def _blocks_in_shards(array: OldShards, blocks: Blocks) -> Iterator[tuple[Coords, Coords]]:
    """Yield the blocks that are in shards, each with the index of its shard."""
    for index in sorted(array.stores):
        if max(index) < 10 and blocks.within(index):
            yield index, index
            tenth = (*index[:-1], 10)
            if index[-1] == 1 and blocks.within(tenth):
                yield tenth, index


def _read_array(path: str, base: Location) -> ArrayMeta:
    """Return the metadata of an array in the base."""
    where = f"the array {path!r} in {base.show()}"
    try:
        store, prototype = base.open(), default_buffer_prototype()
        found = {name: sync(store.get(join(path, name), prototype)) for name in (".zarray", ".zattrs")}
        meta = parse_node({name: data.to_bytes() for name, data in found.items() if data is not None}, path)
    except STORAGE_ERRORS as error:
        raise ConfigError(f"{where} can't be read: {explain(error)}") from error
    except ShardedStoreError as error:
        raise ConfigError(f"{where} can't be read: {error}") from None
    if not isinstance(meta, ArrayMeta) or meta.chunks is None or meta.keys is None:
        raise ConfigError(f"the config has shards of {where}, but there is no such array: was the base replaced?")
    return meta
