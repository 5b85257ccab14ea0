"""`Shards`, the shards of a store, and `StoredShard`, one of them, to inspect and open separately."""

from __future__ import annotations

import itertools
import operator
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import SupportsIndex, overload

import msgspec
from zarr.abc.store import Store

from shardedstore.display.did_you_mean import did_you_mean
from shardedstore.display.tables import aligned
from shardedstore.errors import CorruptError, NoShardError, UsageError
from shardedstore.partition.patterns import Pattern, parse_paths
from shardedstore.stores.base import Remainder
from shardedstore.stores.locations import (
    Config,
    Group,
    Location,
    Mount,
    at_shard,
    member_at,
    url_of,
)
from shardedstore.stores.members import Division, Members
from shardedstore.text import count, shown
from shardedstore.transforms.base.shard import Shard
from shardedstore.zarr.grid import Blocks, Coords, block_name, parse_block
from shardedstore.zarr.paths import is_below, join


class StoredShard(msgspec.Struct, frozen=True):
    """One shard of a store, and its location.

    Attributes
    ----------
    name : str
        Its name in messages: ``"(base)"``, a path, or a path and the index of a block, like ``"temperature[1/2]"``.
    path : str
        The path that it is mounted at; ``""`` for the base.
    block : tuple of int or None
        The index of the block, if the shard is a block of an array.
    location
        Its location, as in a config.
    """

    name: str
    path: str
    block: Coords | None
    location: Location
    without: dict[str, Division | None] | None = None  # of the base: the mounts on it

    @property
    def kind(self) -> str:
        """The kind of the component, as in a config, such as ``"zip"``; for an opened store, its class."""
        return self.location.kind

    @property
    def url(self) -> str | None:
        """The URL of the component, or of the source of a view; None for a component without a URL."""
        return url_of(self.location)

    @property
    def nbytes(self) -> int | None:
        """The size of a zip in bytes, queried at each access; None for other kinds, which need a listing.

        Raises
        ------
        CorruptError
            If the zip does not exist.
        """
        place = self.location.held
        if not place.is_file:
            return None
        measured = place.measure()
        if measured is None:
            raise CorruptError(
                f"shard {self.name!r} is missing: {self.location.show()} was removed, or is not yet uploaded"
            )
        return measured[1]

    def __repr__(self) -> str:
        return f"<Shard {shown(self.name)}: {self.kind} {shown(self.location.show())}>"

    def open(self) -> Store:
        """Open the shard separately, for reading.

        A block opens as an array of its own. The base opens without its mounts. A shard with several members of a
        collection opens as a group with the names of the members.
        """
        store = self.location.open()
        return Remainder(store, self.without) if self.without else store


def grid_of(mount: Mount) -> Coords:
    """Return the number of a mount's shards along each divided dimension."""
    return (mount.count,) if mount.blocks is None else mount.blocks.grid


def nth_shard(path: str | None, mount: Mount, i: int) -> tuple[Shard, Location]:
    """Return a shard of a mount by its number, and its location; the path is None for the base."""
    match mount.division:
        case None:
            return Shard(path or "", is_base=path is None), mount.location.held if path is None else mount.location
        case Members() as members:
            return _of_members(path or "", mount, members, i)
        case blocks:
            block = blocks.index(i)
            return Shard(path or "", blocks, block), _of_block(mount, blocks, block)


def _of_block(mount: Mount, blocks: Blocks, block: Coords) -> Location:
    return mount.exceptions.get(block_name(block)) or mount.location.at_block(blocks, block)


def _of_members(path: str, mount: Mount, members: Members, i: int) -> tuple[Shard, Location]:
    name, some = members.shard_name(i), members.cut(i, i + 1)
    if members.together == 1:
        return Shard(join(path, name), members=some.names), member_at(mount, i)
    location = at_shard(mount.location, members, name, mount.exceptions)
    together = location.held if location.held != location else Config(Group(), {"": Mount(location, members=some)})
    return Shard(path, members=some.names, bundle=i), together


FIRST, LAST = 4, 1  # numbers of shards at the start and at the end of the repr

BASE_NAME = "(base)"

Key = int | str | tuple[int | str, ...]


class Shards(Sequence[StoredShard]):
    """The shards of a store, with the same numbers as in jobs: first the base, then all mounts.

    ``shards[3]`` is a shard by its number. ``shards["simulation/coarse"]``, ``shards["temperature[1/2]"]`` and
    ``shards["(base)"]`` are shards by their names. ``shards["temperature"]`` has all blocks of an array, and
    ``shards["sim*/**"]`` all matches of a glob; their numbers start at 0. ``shards["temperature", 1, 2]`` and
    ``shards["temperature"][1, 2]`` are a block by its index.

    Examples
    --------
    >>> from shardedstore.zarr.grid import Blocks, ChunkKeys
    >>> from shardedstore.stores.locations import Zip
    >>> blocks = Blocks((1_000_000, 4), (1, 2), ChunkKeys("default", "/"))
    >>> shards = Shards(Config(Zip("/out/base.zip"), {"t": Mount(Zip("/out/t/{block}.zip"), blocks)}))
    >>> len(shards), shards["t"].grid, shards["t", 7, 1].url
    (2000001, (1000000, 2), '/out/t/7/1.zip')
    >>> shards["t"]
    2,000,000 shards
          0  t[0/0]       zip  '/out/t/0/0.zip'
          1  t[0/1]       zip  '/out/t/0/1.zip'
          2  t[1/0]       zip  '/out/t/1/0.zip'
          3  t[1/1]       zip  '/out/t/1/1.zip'
        ...
    1999999  t[999999/1]  zip  '/out/t/999999/1.zip'
    """

    def __init__(self, config: Config, mounts: Iterable[tuple[str | None, Mount]] | None = None) -> None:
        self._config = config
        self._mounts = list(_mounts(config) if mounts is None else mounts)

    @cached_property
    def _by_path(self) -> dict[str | None, Mount]:
        return dict(self._mounts)

    @cached_property
    def _mounted(self) -> dict[str, Division | None]:
        return {path: mount.division for path, mount in self._config.shards.items()}

    @cached_property
    def _starts(self) -> list[int]:
        return list(itertools.accumulate((mount.count for _, mount in self._mounts), initial=0))

    @property
    def paths(self) -> list[str]:
        """The paths of mounted shards; the base has none."""
        return [path for path, _ in self._mounts if path is not None]

    @property
    def grid(self) -> Coords:
        """The number of blocks along each leading dimension, for the blocks of one array; else the number of shards."""
        return grid_of(self._mounts[0][1]) if len(self._mounts) == 1 else (len(self),)

    def __len__(self) -> int:
        return self._starts[-1]

    def __iter__(self) -> Iterator[StoredShard]:
        for path, mount in self._mounts:
            for i in range(mount.count):
                yield self._nth(path, mount, i)

    def __contains__(self, key: object) -> bool:
        if isinstance(key, StoredShard):
            key = key.name
        try:
            return isinstance(key, str) and bool(self[key])
        except UsageError:
            return False

    @overload
    def __getitem__(self, key: int) -> StoredShard: ...
    @overload
    def __getitem__(self, key: slice) -> list[StoredShard]: ...
    @overload
    def __getitem__(self, key: str | tuple[int | str, ...]) -> StoredShard | Shards: ...
    def __getitem__(self, key: Key | slice) -> StoredShard | Shards | list[StoredShard]:
        """Return shards by number, name, path, glob or the index of a block.

        Raises
        ------
        NoShardError
            If there is no such shard. This error is a KeyError and an IndexError.
        """
        match key:
            case slice():
                return [self[i] for i in range(*key.indices(len(self)))]
            case str():
                return self._named(key)
            case tuple([str(path), *index]) if index:
                return self._part(path, tuple(index), key)
            case tuple() if len(self._mounts) == 1:
                return self._part(self._mounts[0][0], key, key)
            case SupportsIndex():
                return self._numbered(operator.index(key))
        raise NoShardError(
            f"{key!r} names no shard: use a number, a path or name, a glob, or a path and the index of a block"
        )

    def _named(self, key: str) -> StoredShard | Shards:
        path = None if key == BASE_NAME else key
        if path in self._by_path:
            mount = self._by_path[path]
            return self._nth(path, mount, 0) if mount.division is None else Shards(self._config, [(path, mount)])
        if (match := re.fullmatch(r"(.*)\[(\d+(?:/\d+)*)\]", key)) and match[1] in self._by_path:
            return self._part(match[1], parse_block(match[2]), key)
        for path, mount in self._mounts:
            if path is not None and mount.members is not None and is_below(key, path):
                found = mount.members.find(key[len(path) :].lstrip("/"))
                if found is not None and not found[1]:
                    return self._nth(path, mount, mount.members.shard_of(found[0]))
        pattern = Pattern(key, "whole")
        if not pattern.is_plain:
            (pattern,) = parse_paths(key, "shards")
            if matched := [(path, mount) for path, mount in self._mounts if path is not None and pattern.matches(path)]:
                return Shards(self._config, matched)
        if key and any(is_below(path, key) for path in self.paths):
            raise NoShardError(
                f"{key!r} is not a shard, but has shards below it: use {join(key, '**')!r} for all of them"
            )
        raise NoShardError(f"there is no shard {key!r}{did_you_mean(key, self._names())}")

    def _names(self) -> Iterator[str]:
        """Yield the names for suggestions: paths, and the names of the members of collections."""
        for path, mount in self._mounts:
            if mount.members is None:
                yield BASE_NAME if path is None else path
            else:
                yield from (join(path or "", name) for name in mount.members.names)

    def _part(self, path: str | None, index: tuple[object, ...], key: object) -> StoredShard:
        """Return a shard by its index, in the grid of an array's blocks or among the members of a collection."""
        mount = self._by_path.get(path)
        if mount is None:
            raise NoShardError(f"there is no shard {path!r}{did_you_mean(path or '', self.paths)}")
        if mount.division is None:
            raise NoShardError(
                f"{path or BASE_NAME!r} is one shard, but {key!r} names a part of it: leave the index out"
            )
        grid = grid_of(mount)
        part = tuple(operator.index(i) for i in index if isinstance(i, SupportsIndex))
        if not len(part) == len(index) == len(grid) or not all(0 <= i < n for i, n in zip(part, grid, strict=True)):
            raise NoShardError(f"{path!r} has no shard {key!r}: its grid of shards is {grid}")
        if mount.blocks is None:
            return self._nth(path, mount, part[0])
        if not mount.blocks.holds(part):
            raise NoShardError(f"{path!r} has no shard {key!r}: this block has no chunks")
        return self._nth(path, mount, mount.blocks.number(part))

    def _numbered(self, number: int) -> StoredShard:
        count = len(self)
        if not -count <= number < count:
            raise NoShardError(f"there is no shard {number}: there are {count:,} shards, and numbers start at 0")
        number %= count
        i = bisect_right(self._starts, number) - 1
        return self._nth(*self._mounts[i], number - self._starts[i])

    def _nth(self, path: str | None, mount: Mount, i: int) -> StoredShard:
        shard, location = nth_shard(path, mount, i)
        return StoredShard(shard.name, shard.path, shard.block, location, self._mounted if path is None else None)

    def table(self) -> list[tuple[str, ...]]:
        """Return the number, name, kind and place of the shards as rows to show; of many shards, only some."""
        count = len(self)
        numbers = range(count) if count <= FIRST + LAST + 1 else (*range(FIRST), None, *range(count - LAST, count))
        rows: list[tuple[str, ...]] = []
        for number in numbers:
            shard = None if number is None else self._numbered(number)
            rows.append(
                ("...",)
                if shard is None
                else (str(number), shown(shard.name), shard.kind, shown(shard.location.show()))
            )
        return rows

    def __repr__(self) -> str:
        return "\n".join([count(len(self), "shard"), *aligned(self.table(), right=True)])


def _mounts(config: Config) -> Iterator[tuple[str | None, Mount]]:
    yield None, Mount(config.base)
    yield from config.shards.items()
