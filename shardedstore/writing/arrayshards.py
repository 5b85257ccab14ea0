"""Rules that divide new arrays into shards: the shape of the blocks, and the store of each block."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from zarr.abc.store import Store

from shardedstore.errors import UsageError
from shardedstore.partition.shard_sizes import shape_of, to_blocks
from shardedstore.storage.options import StorageOptions, take_options
from shardedstore.storage.urls import join_url, normalize
from shardedstore.stores.locations import Directory, Location, Mount, Place
from shardedstore.stores.recognise import locate
from shardedstore.zarr.grid import Blocks, Coords, block_name, parse_block
from shardedstore.zarr.metadata import ArrayMeta
from shardedstore.zarr.paths import check_path

BLOCK = "{block}"
Shape = int | Mapping[str, int] | Sequence[int]
Factory = Callable[[str], Store]
ArrayShardFuncs = Mapping[str, tuple[Shape, Factory]]


@dataclass(frozen=True)
class ShardFactory:
    """Makes the stores of an array's shards, by the index of their blocks; see `array_shard_store`."""

    template: Directory

    def __call__(self, chunk_dims: str) -> Store:
        url = self.template.url.replace(BLOCK, chunk_dims)
        return msgspec.structs.replace(self.template, url=url).open(read_only=False)

    def __repr__(self) -> str:
        return f"array_shard_store({self.template.url!r})"


def array_shard_store(url: str | os.PathLike[str], storage_options: StorageOptions = None) -> ShardFactory:
    """Return a factory of shards' stores below a URL, for ``ShardedStore(base, shards, {path: (shape, factory)})``.

    Parameters
    ----------
    url : str or path
        The folder of the shards: a local path, or a URL that starts with ``s3://``, ``gs://`` or ``az://``. The shard of
        the block 1/2 is ``<url>/1/2.zarr``. If the URL holds ``{block}``, the index replaces it instead.
    storage_options : mapping or str, optional
        Options of the object store by obstore's names, or ``"anonymous"``. Secrets stay in this process, and are not
        pickled: workers need them in their environment.

    Returns
    -------
    ShardFactory
        A function from the index of a block, such as ``"1/2"``, to the store of its shard.

    Examples
    --------
    >>> array_shard_store("/data/shards")
    array_shard_store('/data/shards/{block}.zarr')
    """
    place = normalize(url)
    options = take_options(place, storage_options)
    return ShardFactory(Directory(place if BLOCK in place else join_url(place, f"{BLOCK}.zarr"), options))


def array_shard_directory_store(prefix: str | os.PathLike[str]) -> ShardFactory:
    """Return a factory of folders, such as ``<prefix>/1/2.zarr`` for the block 1/2.

    Parameters
    ----------
    prefix : str or path
        The folder of the shards; see `array_shard_store`.

    Returns
    -------
    ShardFactory
        A function from the index of a block, such as ``"1/2"``, to the store of its shard.

    See Also
    --------
    array_shard_store : Also for object stores, with options.

    Examples
    --------
    >>> array_shard_directory_store("/data/shards")
    array_shard_store('/data/shards/{block}.zarr')
    """
    return array_shard_store(prefix)


@dataclass(frozen=True)
class Rule:
    """Rule to divide one array: into single chunks along leading dimensions, or into blocks of a shape in elements."""

    path: str
    shape: Shape
    factory: Factory

    def mount(self, meta: ArrayMeta, old: Mount | None) -> Mount | None:
        """Return the mount of an array, with the existing stores of its blocks; None if it has no chunks.

        Raises
        ------
        PartitionError
            If the array can't be divided by this rule.
        UsageError
            If the factory returns something that is not a store, or the same store for two blocks.
        """
        blocks = self.blocks(meta)
        if blocks is None:
            return None
        if isinstance(self.factory, ShardFactory):
            return Mount(self.factory.template, blocks)
        indices = map(blocks.index, range(blocks.count))
        made = {block_name(block): _kept(old, block) or self._make(block_name(block)) for block in indices}
        _check_distinct(self.path, made)
        return to_template(made, blocks)

    def blocks(self, meta: ArrayMeta) -> Blocks | None:
        """Return the division of an array; None if it has no chunks."""
        if meta.chunks is None or meta.keys is None:
            raise UsageError(
                f"{self.path!r} has a chunk grid or chunk keys that can't be divided: leave it out of array_shard_funcs"
            )
        if not isinstance(self.shape, int):
            shape = shape_of(meta, self.shape, self.path)
            return to_blocks(meta, shape) if shape and all(meta.shape) else None
        if not 1 <= self.shape <= len(meta.shape):
            raise UsageError(
                f"array_shard_funcs[{self.path!r}] divides {self.shape} dimensions, but the array has {len(meta.shape)}"
            )
        return Blocks(meta.chunk_grid, (1,) * self.shape, meta.keys) if all(meta.shape) else None

    def _make(self, name: str) -> Location:
        store = self.factory(name)
        if not isinstance(store, Store):
            raise UsageError(
                f"array_shard_funcs[{self.path!r}] returned {store!r} for the block {name!r}, which is not a zarr store"
            )
        location = locate(store)
        if location.written_to is None:
            raise UsageError(
                f"array_shard_funcs[{self.path!r}] returned {store!r} for the block {name!r}, which can't be reopened for "
                "writing: write to folders, such as array_shard_directory_store(prefix), and map these to zips afterwards"
            )
        return location


def _kept(old: Mount | None, block: Coords) -> Location | None:
    if old is None or old.blocks is None or not old.blocks.within(block):
        return None
    return old.exceptions.get(block_name(block)) or old.location.at_block(old.blocks, block)


def _check_distinct(path: str, made: Mapping[str, Location]) -> None:
    seen: dict[object, str] = {}
    for name, location in made.items():
        if (other := seen.setdefault(location.written_to, name)) != name:
            raise UsageError(
                f"array_shard_funcs[{path!r}] returned the same store, {location.show()}, for the blocks {other!r} and "
                f"{name!r}: use the index in the factory, so that each block has its own store"
            )


def check_separate(mounts: Mapping[str, Mount], base: Location | None = None) -> None:
    """Refuse two components in the same writable place, as they would overwrite each other.

    >>> check_separate({"a": Mount(Directory("/x"))}, Directory("/x"))
    Traceback (most recent call last):
    shardedstore.errors.UsageError: the base and 'a' are both in '/x', and would overwrite each other: give each its own place
    """
    found = [] if base is None else [("the base", base)]
    for path, mount in mounts.items():
        found += [(repr(path), location) for location in (mount.location, *mount.exceptions.values())]
    seen: dict[object, str] = {}
    for name, location in found:
        place = location.written_to
        if place is not None and (other := seen.setdefault(place, name)) != name:
            raise UsageError(
                f"{other} and {name} are both in {location.show()}, and would overwrite each other: give each its own place"
            )


def to_template(locations: Mapping[str, Location], blocks: Blocks) -> Mount:
    """Return the mount of an array's blocks, with a template instead of the locations that match it.

    >>> from shardedstore.zarr.grid import ChunkKeys
    >>> to_template(
    ...     {str(i): Directory(f"/0/{i}.zarr") for i in range(3)}, Blocks((3,), (1,), ChunkKeys("v2", "."))
    ... ).location
    Directory(url='/0/{block}.zarr')
    """
    *_, (name, last) = locations.items()
    for template in _templates(last, name):
        rest = {
            other: location
            for other, location in locations.items()
            if template.at_block(blocks, parse_block(other)) != location
        }
        if not rest:
            return Mount(template, blocks)
    return Mount(last, blocks, dict(locations))


def _templates(location: Location, name: str) -> Iterator[Location]:
    """Yield the templates that give this location for a block: with ``{block}`` in place of its index in the URL."""
    if not isinstance(location, Place):
        return
    end = len(location.url)
    while (start := location.url.rfind(name, 0, end)) >= 0:
        url = location.url[:start] + BLOCK + location.url[start + len(name) :]
        yield msgspec.structs.replace(location, url=url)
        end = start + len(name) - 1


def parse_rules(array_shard_funcs: Mapping[str, Any] | None) -> dict[str, Rule]:
    """Return the rules by path; raise UsageError if one is not valid."""
    rules: dict[str, Rule] = {}
    for path, given in (array_shard_funcs or {}).items():
        if not (isinstance(given, tuple | list) and len(given) == 2 and callable(given[1])):
            raise UsageError(
                f"array_shard_funcs[{path!r}] is {given!r}: give the number of sharded dimensions, or the shards' shape in "
                "elements, and a factory, such as (1, array_shard_directory_store(prefix))"
            )
        shape, factory = given
        if isinstance(shape, bool) or not isinstance(shape, int | Mapping | Sequence) or isinstance(shape, str):
            raise UsageError(
                f"array_shard_funcs[{path!r}] divides by {shape!r}: give the number of leading dimensions that are divided "
                "into single chunks, or the shards' shape in elements, as (720, -1) or {'time': 720}"
            )
        rules[path and check_path(path, "array_shard_funcs")] = Rule(path, shape, factory)
    return rules
