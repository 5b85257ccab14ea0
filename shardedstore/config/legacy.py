"""Where the components of a config are that shardedstore 0.3.1 wrote, and whether it may name them.

All relative paths started from one working directory then, and so they start from one folder now: the first in which all of
them are, so that what an old copy elsewhere lacks is never made up from another.
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

from shardedstore.config.legacy_document import Old, OldSharded, OldShards, OldStore, check_keys, parse_document
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

DOCUMENTS = (".zgroup", ".zarray")  # of which the root of each store of zarr 2 has one


class Around(NamedTuple):
    """What is around a config: where relative paths may start from, and which other places may be named, None for all.

    `options` are those of the config's folder, and so of what is in it.
    """

    root: str | None = None
    folder: str | None = None
    allow: tuple[str, ...] | None = None
    options: Options = NONE
    here: str | None = None

    def starts(self) -> dict[str, str | None]:
        """Return the three places that relative paths may start from, by what they are."""
        return {"root=": self.root, "the config's folder": self.folder, "the working directory": self.here}

    def may_name(self, url: str) -> bool:
        """Tell whether the config may name a place; one from the network must not lead to the working directory."""
        if is_remote(url) and ".." in url.split("/"):
            return False
        own = (self.root, self.folder, None if is_remote(self.folder or "") else self.here)
        return self.allow is None or any(is_within(url, place) for place in (*self.allow, *own) if place is not None)

    def place(self, store: OldStore, url: str) -> Place:
        """Return the place of a store, reached as the config is where it is in the config's folder."""
        return store.kind(url, self.options if self.folder is not None and is_within(url, self.folder) else NONE)


def look_around(
    root: str | None = None, folder: str | None = None, allow: Iterable[str] | None = None, options: Options = NONE
) -> Around:
    """Return what is around a config now."""
    here = None
    with suppress(OSError):  # it was removed
        here = os.getcwd()
    return Around(root, folder, None if allow is None else tuple(map(normalize, allow)), options, here)


def find_places(stores: Iterable[OldStore], around: Around) -> dict[OldStore, Place]:
    """Return where each store is.

    Raises
    ------
    ConfigError
        For what is nowhere, and for what may not be named.
    """
    stores = list(dict.fromkeys(stores))
    absolute = {store: around.place(store, _absolute(store, around)) for store in stores if _is_absolute(store.path)}
    if missing := _first_missing(absolute.values()):
        raise ConfigError(
            f"the config names {missing}: shardedstore 0.3.1 wrote absolute paths, so if the store was moved, write where it "
            "is now, or paths relative to the config"
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
            f"load it with allow=[{url!r}], or with allow=[...] of a folder that it lies in"
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
        "the config's relative paths are found together in none of three places:\n"
        + "".join(f"  {reason}\n" for reason in reasons)
        + "say root=, the folder that they start from, or allow=[...] of what they may lead to"
        + ("; of an FSStore, shardedstore 0.3.1 left out the scheme, such as s3://: write it before the path" * lost)
    )


def _join(start: str, path: str) -> str:
    """Return where a relative path leads from a folder.

    >>> _join("/data/old", "../a.zarr"), _join("s3://bucket/old", "a b/../c.zarr")
    ('/data/a.zarr', 's3://bucket/old/c.zarr')
    """
    if not is_remote(start):
        return os.path.normpath(os.path.join(start, path))
    name = posixpath.normpath(path)
    return object_url(start, "" if name == "." else name)


def _first_missing(places: Iterable[Place]) -> str | None:
    """Return what is wrong with the first place that is not there, by one look at each, many at once."""
    with ThreadPoolExecutor(AT_ONCE) as threads:
        return next((missing for missing in threads.map(_missing, places) if missing is not None), None)


def _missing(place: Place) -> str | None:
    if not is_remote(place.url):
        is_there = os.path.isdir if place.is_folder else os.path.isfile
        return None if is_there(place.url) else f"{place.url!r}, which is not there"
    urls = [join_url(place.url, name) for name in DOCUMENTS] if place.is_folder else [place.url]
    try:
        is_found = any(nbytes_of(url, place.options) is not None for url in urls)
    except (UsageError, *STORAGE_ERRORS) as error:
        return f"{place.url!r}, which can't be read: {explain(error)}"
    return None if is_found else f"{place.url!r}, which is not there"


Places = Mapping[OldStore, Place]

SPARED = "to open all else, take such arrays out of the config's array_shards and array_shard_dims, and their folders out of the base"


def parse_legacy(
    document: object,
    root: str | None = None,
    folder: str | None = None,
    allow: Iterable[str] | None = None,
    options: Options = NONE,
) -> Config:
    """Return the config that stands for one of shardedstore 0.3.1; the metadata of arrays that are in shards is read.

    Parameters
    ----------
    document : dict
        What its ``get_config`` returned.
    root, folder : str, optional
        The folders, or URLs, that relative paths start from: they are tried in this order, and the working directory then.
    allow : iterable of str, optional
        Other places that the config may name; None is everywhere, for documents of the program's own.
    options : Options
        Those of `folder`.

    Raises
    ------
    ConfigError
        For what is not as 0.3.1 wrote it, for what is not there or may not be named, and for arrays that it corrupted.
    """
    try:
        old = parse_document(document)
        places = find_places(old.stores(), look_around(root, folder, allow, options))
        config = _config(old, places)
        check_keys(old, config)
    except RecursionError:
        raise ConfigError("the config can't be read: its stores are nested too deeply") from None
    return config


def check_saved(config: Config) -> None:
    """Refuse to save a config with arrays as shardedstore 0.3.1 wrote them.

    Raises
    ------
    ConfigError
        Where there are some.
    """
    for what, location in config.locations():
        if location.is_legacy:
            raise ConfigError(
                f"{what} is as shardedstore 0.3.1 wrote it, which is read but not saved: map it first, as with "
                "store.map_shards(ToZip(url)), whose result has a config of its own"
            )


def _config(old: OldSharded, places: Places) -> Config:
    base = _location(old.base, places)
    shards = {path: Mount(_location(one, places)) for path, one in old.shards.items()}
    for path, array in old.arrays.items():
        at = path.lower() if isinstance(old.base, OldStore) and old.base.is_lower else path
        if at in shards:
            raise ConfigError(f"the config has {path!r} twice: its base writes all keys in lower case")
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
    """Refuse shards of arrays that were written to a place of another component: they have overwritten one another."""
    found = [("the base", old.base), *((f"shard {path!r}", one) for path, one in old.shards.items())]
    owners = {places[one].url: what for what, one in found if isinstance(one, OldStore)}
    for path, array in old.arrays.items():
        for index, one in array.stores.items():
            if not isinstance(one, OldStore):
                continue
            what, url = f"shard {path!r}, block {block_name(index)!r}", places[one].url
            if url in owners:
                raise ConfigError(
                    f"{owners[url]} and {what} are both in {url!r}: shardedstore 0.3.1 has written the chunks of one over those of "
                    f"the other, and what is there is not what was written. Write them anew from where they came from; {SPARED}"
                )
            owners[url] = what


def _location(old: Old, places: Places) -> Location:
    return _config(old, places) if isinstance(old, OldSharded) else places[old]


def _mount(path: str, array: OldShards, base: Location, places: Places) -> Mount | None:
    """Return what is mounted for an array: views of the base, and exceptions for what is in a shard; None where nothing is."""
    meta = _read_array(path, base) if array.stores else None
    if meta is None or 0 in meta.shape:
        return None
    assert meta.keys is not None
    if not array.count < len(meta.shape):
        raise ConfigError(
            f"the array {path!r} has {len(meta.shape)} dimensions, and its shards are named for {array.count}: is it another "
            "one now?"
        )
    if array.separator not in (None, meta.keys.separator):
        return None  # 0.3.1 compared them with keys like 0.0 where the names are like 0/0: all chunks are in the base
    blocks = Blocks(meta.chunk_grid, (1,) * array.count, meta.keys)
    _check_collisions(path, array, blocks)
    exceptions: dict[str, Location] = {}
    for block, stored_in in _blocks_in_shards(array, blocks):
        whole = BlockOf(base, path, blocks, block)
        exceptions[block_name(block)] = Squeezed(_location(array.stores[stored_in], places), whole)
    return Mount(ViewOf(base, path), blocks, exceptions) if exceptions else None


def _check_collisions(path: str, array: OldShards, blocks: Blocks) -> None:
    """Refuse an array some of whose chunks have overwritten others: 10 and 11, say, are both 1 by their first characters."""
    length, most = blocks.grid[-1], _most(blocks)
    longest = max((index[-1] + 1 for index in array.stores), default=0)
    if max(length, longest) > most:
        raise ConfigError(
            f"the array {path!r} has {max(length, longest)} chunks along dimension {array.count - 1}, which is sharded: "
            f"shardedstore 0.3.1 took each index for one digit, so that chunks from index 10 on have overwritten others, and "
            f"what is there is not what was written. Write {path!r} anew from where it came from; {SPARED}"
        )


def _most(blocks: Blocks) -> int:
    """Return how many chunks it kept apart along the last sharded dimension: with dots one more, as .0 is not 0 in a folder."""
    return 11 if blocks.keys.separator == "." else 10


def _blocks_in_shards(array: OldShards, blocks: Blocks) -> Iterator[tuple[Coords, Coords]]:
    """Yield the blocks that are in shards, each with the index of its shard: that of its first characters."""
    for index in sorted(array.stores):
        if max(index) < 10 and blocks.within(index):
            yield index, index
            tenth = (*index[:-1], 10)
            if index[-1] == 1 and blocks.within(tenth):
                yield tenth, index


def _read_array(path: str, base: Location) -> ArrayMeta:
    """Return the metadata of an array, which the base has."""
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
        raise ConfigError(f"the config has shards of {where}, and there is no such array: is it another base?")
    return meta
