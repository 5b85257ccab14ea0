"""Configs that shardedstore 0.3.1 wrote, opened read-only: each becomes an ordinary config.

It kept the shards of an array by the first characters of its chunks' keys, as if each index had one digit. So the blocks
whose index has more are in the base, or have overwritten one another: then the config is refused. The metadata in an array's
shards is wrong, and is never used: the base has the array's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from shardedstore.components.kinds import BlockOf, Config, Location, Mount, Place, Squeezed, ViewOf, locations, show
from shardedstore.components.opening import open_location
from shardedstore.errors import ConfigError, ShardedStoreError, UsageError
from shardedstore.grid import Blocks, Coords, block_name
from shardedstore.legacy.document import Old, OldSharded, OldShards, OldStore, parse_document
from shardedstore.legacy.keys import check_keys
from shardedstore.legacy.places import find_places, look_around
from shardedstore.metadata import ArrayMeta, parse_node
from shardedstore.mounts import Mounts, join
from shardedstore.storage.access import NONE, Options
from shardedstore.storage.folders import STORAGE_ERRORS
from shardedstore.storage.remote_errors import explain

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
    for what, location in locations(config):
        if isinstance(location, Squeezed):
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
    where = f"the array {path!r} in {show(base)}"
    try:
        store, prototype = open_location(base), default_buffer_prototype()
        found = {name: sync(store.get(join(path, name), prototype)) for name in (".zarray", ".zattrs")}
        meta = parse_node({name: data.to_bytes() for name, data in found.items() if data is not None}, path)
    except STORAGE_ERRORS as error:
        raise ConfigError(f"{where} can't be read: {explain(error)}") from error
    except ShardedStoreError as error:
        raise ConfigError(f"{where} can't be read: {error}") from None
    if not isinstance(meta, ArrayMeta) or meta.chunks is None or meta.keys is None:
        raise ConfigError(f"the config has shards of {where}, and there is no such array: is it another base?")
    return meta
