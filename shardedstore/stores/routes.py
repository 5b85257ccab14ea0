"""Which component holds a key, and the key inside it: tables that are filled with what is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from shardedstore.stores.members import Members
from shardedstore.stores.mount import Mount
from shardedstore.zarr.grid import Blocks, ChunkKeys, Coords
from shardedstore.zarr.paths import Mounts, check_key

MOST_NUMBERS = 1 << 16  # that a table keeps
Value = TypeVar("Value")
Address = tuple[
    str | None, Coords | None
]  # a component: the path that it is mounted at, None for the base, and its block
BASE: Address = (None, None)


class Routes:
    """The components of a sharded store by key.

    Examples
    --------
    >>> from shardedstore.zarr.grid import ChunkKeys
    >>> from shardedstore.stores.locations import Directory
    >>> blocks = Blocks((7, 2), (3,), ChunkKeys("default", "/"))
    >>> routes = Routes({"t": Mount(Directory("t/{block}.zarr"), blocks), "g": Mount(Directory("g.zarr"))})
    >>> routes.find("t/c/4/1"), routes.find("t/c/7/1"), routes.find("g/a/zarr.json")
    ((('t', (1,)), 'c/1/1'), ((None, None), 't/c/7/1'), (('g', None), 'a/zarr.json'))
    """

    def __init__(self, mounts: Mapping[str, Mount]) -> None:
        self.mounts = Mounts(mounts)
        self._places = {path: _place(path, mount) for path, mount in mounts.items()}
        self._last: tuple[str, Address | Chunks | Names] | None = (
            None  # the mount that was asked for last: likely the next one's too
        )

    def change(self, path: str, mount: Mount | None) -> None:
        """Take what is mounted at a path now; None for nothing."""
        self._places.pop(path, None)
        if mount is not None:
            self._places[path] = _place(path, mount)
        self.mounts, self._last = Mounts(self._places), None

    def route(self, key: str) -> tuple[Address, str]:
        """Return what `find` does, or raise UsageError for what is no key: a component might take it for another's file."""
        last = self._last
        if last is not None and type(last[1]) is Chunks and key.startswith(last[0]):  # what is asked for most, in short
            chunk = last[1].find(key[len(last[0]) :])
            if chunk is not None:
                return chunk
        found = self.find(key)
        path = found[0][0]
        if path is None or type(self._places[path]) is not Chunks:  # whose keys are worked out
            check_key(key)
        return found

    def find(self, key: str) -> tuple[Address, str]:
        """Return the component of a key, and the key inside it."""
        last = self._last
        if last is not None and key.startswith(last[0]):
            place, rest = last[1], key[len(last[0]) :]
        else:
            found = self.mounts.resolve(key)
            if found is None:
                return BASE, key
            path, rest = found
            place = self._places[path]
            if path:
                self._last = (f"{path}/", place)
        if isinstance(place, tuple):
            return (place, rest) if rest else (BASE, key)  # a mount's own path is no key inside it
        return place.find(rest) or (BASE, key)


def _place(path: str, mount: Mount) -> Address | Chunks | Names:
    if mount.members is not None:
        return Names(path, mount.members)
    return (path, None) if mount.blocks is None else Chunks(path, mount.blocks)


class Names:
    """The keys of members: the number of each stands where a block's index does."""

    def __init__(self, path: str, members: Members) -> None:
        self._path, self._members = path, members

    def find(self, key: str) -> tuple[Address, str] | None:
        """Return the member that holds a key, and the key inside it; None where none does."""
        found = self._members.find(key)
        return ((self._path, (found[0],)), found[1]) if found is not None and found[1] else None


class Chunks:
    """The chunks of an array that is divided, by their keys: what comes before the last leading dimension, and the rest."""

    def __init__(self, path: str, blocks: Blocks) -> None:
        self._separator = blocks.keys.separator
        self._first = 2 if blocks.keys.name == "default" else 0  # where numbers begin: "c/0/0", "0.0"
        self._others = range(1, len(blocks.chunks))
        self._heads, self._tails = _Heads(path, blocks), _Tails(blocks)

    def find(self, key: str) -> tuple[Address, str] | None:
        """Return the block that holds a chunk, and the chunk's key inside it; None where the key is no chunk of the grid."""
        end = key.find(self._separator, self._first)
        for _ in self._others:
            if end >= 0:
                end = key.find(self._separator, end + 1)
        if end < 0:
            end = len(key)
        try:
            place, start = self._heads[key[:end]]
            return place, start + self._tails[key[end:]]
        except KeyError:
            return None


class _Table(dict[str, Value]):
    """A dict that works out what it lacks, and forgets all when it grows too large."""

    def __missing__(self, key: str) -> Value:
        value = self.work_out(key)
        if len(self) >= MOST_NUMBERS:
            self.clear()
        self[key] = value
        return value

    def work_out(self, key: str) -> Value:
        """Return the value of a key, or raise KeyError."""
        raise NotImplementedError


class _Heads(_Table[tuple[Address, str]]):
    """Of the beginning of a chunk's key, along the leading dimensions: its block, and how the key begins there."""

    def __init__(self, path: str, blocks: Blocks) -> None:
        super().__init__()
        self._path, self._blocks = path, blocks

    def work_out(self, key: str) -> tuple[Address, str]:
        # docstring inherited
        blocks = self._blocks
        coords = blocks.keys.decode(key, blocks.chunk_grid[: len(blocks.chunks)])
        if coords is None:
            raise KeyError(key)
        block, local = blocks.split(coords)
        return (self._path, block), blocks.keys.encode(local)


class _Tails(_Table[str]):
    """What follows in a chunk's key, along the dimensions that are whole in each block: as it is."""

    def __init__(self, blocks: Blocks) -> None:
        super().__init__()
        self._grid = blocks.chunk_grid[len(blocks.chunks) :]
        self._keys = ChunkKeys("v2", blocks.keys.separator)

    def work_out(self, key: str) -> str:
        # docstring inherited
        is_chunk = self._keys.decode(key[1:], self._grid) is not None if self._grid else not key
        if not is_chunk:
            raise KeyError(key)
        return key
