"""The config document of shardedstore 0.3.1: decoded and checked field by field, without imports or access to stores.

It names store classes of zarr 2. Those that keep each key in a file or in a zip entry are supported.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import msgspec

from shardedstore.errors import ConfigError, PartitionError, ShardedStoreError, UsageError
from shardedstore.storage.errors import explain
from shardedstore.storage.folders import STORAGE_ERRORS
from shardedstore.stores.hierarchy import Node, walk
from shardedstore.stores.locations import Config, Directory, Zip
from shardedstore.zarr.grid import Coords
from shardedstore.zarr.metadata import ArrayMeta
from shardedstore.zarr.paths import Mounts

STORES: dict[str, type[Directory | Zip]] = {
    "DirectoryStore": Directory,
    "FSStore": Directory,
    "NestedDirectoryStore": Directory,
    "ZipStore": Zip,
}

_NUMBER = r"(?:0|[1-9][0-9]{0,8})"

_INDEX = re.compile(rf"{_NUMBER}(?:\.{_NUMBER})*|{_NUMBER}(?:/{_NUMBER})*")

Fields = TypeVar("Fields")


@dataclass(frozen=True)
class OldStore:
    """A zarr 2 store: its class and path as given in the document.

    `is_nested` means that the store writes dots in chunk keys as slashes. `is_lower` means that it writes all keys in
    lower case.
    """

    name: str
    path: str
    is_nested: bool = False
    is_lower: bool = False

    @property
    def kind(self) -> type[Directory | Zip]:
        """The kind of location that opens the store."""
        return STORES[self.name]


@dataclass(frozen=True)
class OldShards:
    """The shards of one array, by index.

    `separator` is the separator in the names of shards; None if only one dimension is sharded.
    """

    count: int
    separator: str | None
    stores: dict[Coords, Old]


@dataclass(frozen=True)
class OldSharded:
    """A sharded store: its base, its mounts, and the shards of its arrays."""

    base: Old
    separator: Literal[".", "/"] | None
    shards: dict[str, Old]
    arrays: dict[str, OldShards]

    def stores(self) -> Iterator[OldStore]:
        """Yield all zarr 2 stores in it, including nested ones."""
        for part in (
            self.base,
            *self.shards.values(),
            *(one for array in self.arrays.values() for one in array.stores.values()),
        ):
            if isinstance(part, OldSharded):
                yield from part.stores()
            else:
                yield part


Old = OldStore | OldSharded


class _Arguments(msgspec.Struct):
    args: list[Any]
    kwargs: dict[str, Any]


class _Described(msgspec.Struct):
    name: str
    module: str
    config: _Arguments
    version: str | None = None


class _StoreOptions(msgspec.Struct):
    normalize_keys: bool = False
    key_separator: str = "."


class _ShardedOptions(msgspec.Struct):
    dimension_separator: Literal[".", "/"] | None = None
    shards: dict[str, Any] = {}
    array_shard_dims: dict[str, int] = {}
    array_shards: dict[str, dict[str, Any]] = {}


def is_legacy(document: object) -> bool:
    """Tell whether a JSON document looks like a config of shardedstore 0.3.1."""
    return isinstance(document, dict) and "format" not in document and {"name", "module", "config"} <= document.keys()


def parse_document(document: object, what: str = "the config") -> OldSharded:
    """Parse a config of shardedstore 0.3.1.

    Raises
    ------
    ConfigError
        For any other document. The message names the store and the field.
    """
    described = _fields(document, _Described, what)
    if (described.name, described.module) != ("ShardedStore", "shardedstore"):
        raise ConfigError(f"{what} is for a {described.module}.{described.name}, not for a shardedstore.ShardedStore")
    return _sharded(described.config, "" if what == "the config" else f"{what}: ")


def _sharded(given: _Arguments, within: str) -> OldSharded:
    what = f"{within}the sharded store"
    if len(given.args) != 1:
        raise ConfigError(f"{what} has {len(given.args)} args, but must have one: its base")
    options = _fields(given.kwargs, _ShardedOptions, what)
    try:
        Mounts([*options.shards, *options.array_shards])
    except UsageError as error:
        raise ConfigError(f"{what}: {error}") from None
    if twice := options.shards.keys() & options.array_shards.keys():
        raise ConfigError(f"{what} has {min(twice)!r} both in shards and in array_shards")
    if "" in options.shards:
        raise ConfigError(f"{what} has a shard '', which would hide the base")
    if unknown := options.array_shard_dims.keys() - options.array_shards.keys():
        raise ConfigError(f"{what} has {min(unknown)!r} in array_shard_dims, but not in array_shards")
    return OldSharded(
        _component(given.args[0], f"{within}the base"),
        options.dimension_separator,
        {path: _component(one, f"{within}shard {path!r}") for path, one in options.shards.items()},
        {
            path: _array_shards(path, stores, options.array_shard_dims.get(path), within)
            for path, stores in options.array_shards.items()
        },
    )


def _array_shards(path: str, stores: dict[str, Any], count: int | None, within: str) -> OldShards:
    what = f"{within}array {path!r}"
    indices: dict[str, Coords] = {}
    for name in stores:
        if not _INDEX.fullmatch(name):
            raise ConfigError(
                f"{what} has a shard {name!r}, but names of shards must be indices, such as '0.1' or '0/1'"
            )
        indices[name] = tuple(map(int, re.split(r"[./]", name)))
    counts = {len(index) for index in indices.values()} | ({count} if count is not None else set())
    if len(counts) > 1:
        raise ConfigError(
            f"{what} has array_shard_dims {count}, but shards named like {next(iter(stores))!r}: names must have one number for "
            "each sharded dimension"
        )
    separators = {separator for name in stores for separator in "./" if separator in name}
    if len(separators) > 1:
        raise ConfigError(f"{what} has shards named with '.' and with '/', but must have one separator")
    return OldShards(
        next(iter(counts), 0),
        next(iter(separators), None),
        {indices[name]: _component(one, f"{what}, shard {name!r}") for name, one in stores.items()},
    )


def _component(given: object, what: str) -> Old:
    described = _fields(given, _Described, what)
    if (described.name, described.module) == ("ShardedStore", "shardedstore"):
        return parse_document(given, what)
    if described.name not in STORES or described.module.partition(".")[0] != "zarr":
        raise ConfigError(
            f"{what} is a {described.module}.{described.name}, which is not supported: use shardedstore.ShardedStore, or "
            f"zarr's {', '.join(STORES)}. Copy it to a folder with zarr 2, and name the folder as a DirectoryStore"
        )
    args = described.config.args
    if len(args) != 1 or not _is_path(args[0]):
        raise ConfigError(f"{what} has the args {args!r}, but must have one: its path")
    options = _fields(described.config.kwargs, _StoreOptions, what)
    is_nested = described.name == "FSStore" and options.key_separator == "/"
    return OldStore(described.name, args[0], is_nested, options.normalize_keys)


def _is_path(given: object) -> bool:
    try:
        return isinstance(given, str) and bool(given.encode()) and "\0" not in given
    except UnicodeEncodeError:
        return False


def _fields(given: object, into: type[Fields], what: str) -> Fields:
    try:
        return msgspec.convert(given, into)
    except (msgspec.ValidationError, UnicodeEncodeError) as error:  # JSON can contain names that are not valid Unicode
        raise ConfigError(f"{what} can't be read: {error}") from None


def check_separators(old: OldSharded, config: Config) -> None:
    """Refuse arrays whose chunk keys have slashes although their metadata says dots.

    The metadata is read only if the config can have such arrays.

    Raises
    ------
    ConfigError
        If there are such arrays, or if the metadata cannot be read.
    """
    if old.separator != "/" and not any(store.is_nested for store in old.stores()):
        return
    try:
        nodes = walk(config.open())
    except PartitionError:
        return  # a web server that cannot be listed
    except STORAGE_ERRORS as error:
        raise ConfigError(f"the metadata can't be read: {explain(error)}") from error
    except ShardedStoreError as error:
        raise ConfigError(f"the metadata can't be read: {error}") from None
    for path, node in nodes.items():
        if _has_dots(node) and ((_is_unsaid(node) and old.separator == "/") or _holder(old, path).is_nested):
            raise ConfigError(
                f"the array {path!r} has chunk keys like 0/0, but its metadata does not give this separator, because shardedstore "
                f'0.3.1 took it from the class of the store: write "dimension_separator": "/" into {path}/.zarray'
            )


def _has_dots(node: Node) -> bool:
    keys = node.meta.keys if isinstance(node.meta, ArrayMeta) and len(node.meta.shape) > 1 else None
    return keys is not None and keys.separator == "."


def _is_unsaid(node: Node) -> bool:
    return json.loads(node.documents[".zarray"]).get("dimension_separator") is None


def _holder(old: Old, path: str) -> OldStore:
    """Return the store that holds the metadata of an array."""
    while isinstance(old, OldSharded):
        found = Mounts(old.shards).resolve(path)
        old, path = (old.base, path) if found is None else (old.shards[found[0]], found[1])
    return old
