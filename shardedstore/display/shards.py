"""One shard of a store, to look at and to open alone; and where each shard of a mount is."""

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
from shardedstore.errors import CorruptError, NoShardError, UsageError
from shardedstore.partition.patterns import Pattern, parse_paths
from shardedstore.storage.blobs import nbytes_of
from shardedstore.stores.locations import (
    BlockOf,
    Config,
    Group,
    Location,
    Mount,
    Opened,
    Own,
    VeiledOf,
    ViewOf,
    Zip,
    at_block,
    at_shard,
    member_at,
    object_of,
    show,
    url_of,
)
from shardedstore.stores.members import Division, Members
from shardedstore.stores.registry import open_location
from shardedstore.stores.views import Remainder
from shardedstore.text import columns, count, shown
from shardedstore.transforms.base.chain import Shard
from shardedstore.zarr.grid import Blocks, Coords, block_name, parse_block
from shardedstore.zarr.paths import is_below, join


class StoredShard(msgspec.Struct, frozen=True):
    """One shard of a store, and where it is.

    Attributes
    ----------
    name : str
        How messages call it: ``"(base)"``, a path, or a path and the index of a block, like ``"temperature[1/2]"``.
    path : str
        Where it is mounted; ``""`` for the base.
    block : tuple of int or None
        The index of the block, of an array that is divided.
    location
        Where it is, as a config names it.
    """

    name: str
    path: str
    block: Coords | None
    location: Location
    without: dict[str, Division | None] | None = None  # of the base: what is mounted on it

    @property
    def kind(self) -> str:
        """What kind of component it is, as a config names it, such as ``"zip"``; of an opened store, its class."""
        return kind_of(self.location)

    @property
    def url(self) -> str | None:
        """The URL of the component, of a view that of its source; None for a component that has none."""
        return url_of(self.location)

    @property
    def nbytes(self) -> int | None:
        """The size in bytes of a zip, which is asked for each time; None for all else, where it would take a listing.

        Raises
        ------
        CorruptError
            When the zip is not there.
        """
        place = object_of(self.location)
        if not isinstance(place, Zip):
            return None
        nbytes = nbytes_of(place.url, place.options)
        if nbytes is None:
            raise CorruptError(
                f"shard {self.name!r} is not there: {show(self.location)} was removed, or is not yet uploaded"
            )
        return nbytes

    def __repr__(self) -> str:
        return f"<Shard {shown(self.name)}: {self.kind} {shown(show(self.location))}>"

    def open(self) -> Store:
        """Open it alone, to be read: a block as an array of its own, and the base without what is mounted on it.

        Several stores of a collection that are one shard are there by their names.
        """
        store = open_location(self.location)
        return Remainder(store, self.without) if self.without else store


def grid_of(mount: Mount) -> Coords:
    """Return the number of a mount's shards along each of the dimensions that they are divided along."""
    return (mount.count,) if mount.blocks is None else mount.blocks.grid


def nth_shard(path: str | None, mount: Mount, i: int) -> tuple[Shard, Location]:
    """Return one of the shards of a mount by its number in it, and where it is; the path is None for the base."""
    match mount.division:
        case None:
            return Shard(path or "", is_base=path is None), object_of(
                mount.location
            ) if path is None else mount.location
        case Members() as members:
            return _of_members(path or "", mount, members, i)
        case blocks:
            block = blocks.index(i)
            return Shard(path or "", blocks, block), _of_block(mount, blocks, block)


def _of_block(mount: Mount, blocks: Blocks, block: Coords) -> Location:
    if (exception := mount.exceptions.get(block_name(block))) is not None:
        return exception
    if isinstance(mount.location, ViewOf):
        return BlockOf(mount.location.source, mount.location.path, blocks, block)
    return at_block(mount.location, block)


def _of_members(path: str, mount: Mount, members: Members, i: int) -> tuple[Shard, Location]:
    name, some = members.shard_name(i), members.cut(i, i + 1)
    if members.together == 1:
        return Shard(join(path, name), members=some.names), member_at(mount, i)
    location = at_shard(mount.location, members, name, mount.exceptions)
    together = holder(location) or Config(Group(), {"": Mount(location, members=some)})
    return Shard(path, members=some.names, bundle=i), together


def holder(location: Location) -> Location | None:
    """Return what holds several stores of a collection by their names, and nothing else; None where each is elsewhere."""
    return location.source if isinstance(location, ViewOf) and location.path == "{name}" else None


def kind_of(location: Location) -> str:
    """Return the kind of a component, as configs name it, or for a kind of one's own its name; of an opened store, its class.

    >>> kind_of(Zip("/a.zip"))
    'zip'
    """
    if isinstance(location, Opened):
        return type(location.store).__name__
    if isinstance(location, VeiledOf):
        return kind_of(location.source)
    if isinstance(location, Own):
        return location.name
    return str(location.__struct_config__.tag)


FIRST, LAST = 4, 1  # of the shards, in the repr

BASE_NAME = "(base)"

Key = int | str | tuple[int | str, ...]


class Shards(Sequence[StoredShard]):
    """Shards of a store, numbered as jobs number them: the base, and then all that is mounted.

    ``shards[3]`` is a shard by its number, and ``shards["simulation/coarse"]``, ``shards["temperature[1/2]"]`` or
    ``shards["(base)"]`` one by its name. ``shards["temperature"]`` are all blocks of an array, and ``shards["sim*/**"]``
    all that a glob matches, numbered anew. ``shards["temperature", 1, 2]`` is a block by its index, and so is
    ``shards["temperature"][1, 2]``.

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
        """The paths at which shards are mounted; the base has none."""
        return [path for path, _ in self._mounts if path is not None]

    @property
    def grid(self) -> Coords:
        """The number of blocks along each of the leading dimensions, for the blocks of one array; else that of shards."""
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
            For what is not there, which is a KeyError and an IndexError.
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
            f"{key!r} names no shard: say its number, its path or name, a glob, or a path and the index of a block"
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
            raise NoShardError(f"{key!r} is no shard, but there are some below it: {join(key, '**')!r} are all of them")
        raise NoShardError(f"there is no shard {key!r}{did_you_mean(key, self._names())}")

    def _names(self) -> Iterator[str]:
        """Yield what shards can be asked for by: paths, and of collections the names of their stores."""
        for path, mount in self._mounts:
            if mount.members is None:
                yield BASE_NAME if path is None else path
            else:
                yield from (join(path or "", name) for name in mount.members.names)

    def _part(self, path: str | None, index: tuple[object, ...], key: object) -> StoredShard:
        """Return one shard of several by its index, in the grid of an array's blocks or among a collection's stores."""
        mount = self._by_path.get(path)
        if mount is None:
            raise NoShardError(f"there is no shard {path!r}{did_you_mean(path or '', self.paths)}")
        if mount.division is None:
            raise NoShardError(
                f"{path or BASE_NAME!r} is one shard, and {key!r} asks for a part of it: leave the index out"
            )
        grid = grid_of(mount)
        part = tuple(operator.index(i) for i in index if isinstance(i, SupportsIndex))
        if not len(part) == len(index) == len(grid) or not all(0 <= i < n for i, n in zip(part, grid, strict=True)):
            raise NoShardError(f"{path!r} has no shard {key!r}: its grid of shards is {grid}")
        if mount.blocks is None:
            return self._nth(path, mount, part[0])
        if not mount.blocks.holds(part):
            raise NoShardError(f"{path!r} has no shard {key!r}: there are no chunks in this block")
        return self._nth(path, mount, mount.blocks.number(part))

    def _numbered(self, number: int) -> StoredShard:
        count = len(self)
        if not -count <= number < count:
            raise NoShardError(f"there is no shard {number}: there are {count:,}, and numbers begin with 0")
        number %= count
        i = bisect_right(self._starts, number) - 1
        return self._nth(*self._mounts[i], number - self._starts[i])

    def _nth(self, path: str | None, mount: Mount, i: int) -> StoredShard:
        shard, location = nth_shard(path, mount, i)
        return StoredShard(shard.name, shard.path, shard.block, location, self._mounted if path is None else None)

    def table(self) -> list[tuple[str, ...]]:
        """Return the number, the name, the kind and the place of each shard, for people: of many only some."""
        count = len(self)
        numbers = range(count) if count <= FIRST + LAST + 1 else (*range(FIRST), None, *range(count - LAST, count))
        rows: list[tuple[str, ...]] = []
        for number in numbers:
            shard = None if number is None else self._numbered(number)
            rows.append(
                ("...",) if shard is None else (str(number), shown(shard.name), shard.kind, shown(show(shard.location)))
            )
        return rows

    def __repr__(self) -> str:
        lines = columns([(row[0].rjust(len(str(len(self)))), *row[1:]) for row in self.table()])
        return "\n".join([count(len(self), "shard"), *lines])


def _mounts(config: Config) -> Iterator[tuple[str | None, Mount]]:
    yield None, Mount(config.base)
    yield from config.shards.items()
