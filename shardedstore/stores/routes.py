"""Routes from keys to components, with tables that are filled on demand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import add
from typing import TypeVar

from shardedstore.stores.members import Members
from shardedstore.stores.mount import Mount
from shardedstore.zarr.grid import MOST_NUMBERS, Blocks, ChunkKeys, Coords
from shardedstore.zarr.paths import Mounts, check_key

Value = TypeVar("Value")
Address = tuple[str | None, Coords | None]  # of a component: the path of its mount (None for the base), and its block
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
            None  # the mount of the last key, which is likely the mount of the next
        )

    def change(self, path: str, mount: Mount | None) -> None:
        """Replace the mount at a path; None removes it."""
        self._places.pop(path, None)
        if mount is not None:
            self._places[path] = _place(path, mount)
        self.mounts, self._last = Mounts(self._places), None

    def route(self, key: str) -> tuple[Address, str]:
        """Return the result of `find`, or raise UsageError for an invalid key.

        With an invalid key, a component could read a file of another component.
        """
        last = self._last
        if last is not None and type(last[1]) is Chunks and key.startswith(last[0]):  # the most frequent keys
            chunk = last[1].find(key[len(last[0]) :])
            if chunk is not None:
                return chunk
        found = self.find(key)
        path = found[0][0]
        if path is None or type(self._places[path]) is not Chunks:  # chunk keys were parsed already
            check_key(key)
        return found

    def find(self, key: str) -> tuple[Address, str]:
        """Return the address of a key's component, and the key inside it."""
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
            return (place, rest) if rest else (BASE, key)  # the path of a mount is not a key inside it
        return place.find(rest) or (BASE, key)


def _place(path: str, mount: Mount) -> Address | Chunks | Names:
    if mount.members is not None:
        return Names(path, mount.members)
    return (path, None) if mount.blocks is None else Chunks(path, mount.blocks)


class Names:
    """Routes to the members of a mount; a member's number takes the place of a block's index."""

    def __init__(self, path: str, members: Members) -> None:
        self._path, self._members = path, members

    def find(self, key: str) -> tuple[Address, str] | None:
        """Return the address of a key's member, and the key inside it; None if there is no member."""
        found = self._members.find(key)
        return ((self._path, (found[0],)), found[1]) if found is not None and found[1] else None


class Chunks:
    """Routes to the blocks of a divided array.

    A chunk key has two parts, with a table for each: the leading dimensions, which are divided, and the other dimensions.
    """

    def __init__(self, path: str, blocks: Blocks) -> None:
        self._separator = blocks.keys.separator
        self._first = 2 if blocks.keys.name == "default" else 0  # where numbers begin: "c/0/0", "0.0"
        self._others = range(1, len(blocks.chunks))
        self._heads, self._tails = _Heads(path, blocks), _Tails(blocks)

    def find(self, key: str) -> tuple[Address, str] | None:
        """Return the address of a chunk's block, and the key inside it; None if the key is not in the grid."""
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
    """A dict that computes missing values, and is emptied when it is full."""

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
    """From the first part of a chunk key to its block, and to the first part of the key in the block."""

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
    """From the second part of a chunk key to itself, if it is valid; these dimensions are not divided."""

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


class WholeKeys:
    """From keys in the blocks of a divided array to keys in the whole array.

    >>> whole = WholeKeys(Blocks((7, 2), (3,), ChunkKeys("default", "/"))).of((2,))
    >>> whole("c/0/1"), whole("c/1/1"), whole("zarr.json")
    ('c/6/1', None, None)
    """

    def __init__(self, blocks: Blocks) -> None:
        self._blocks, self._tails = blocks, _Tails(blocks)
        self._undivided = len(blocks.chunk_grid) - len(blocks.chunks)

    def of(self, block: Coords) -> Callable[[str], str | None]:
        """Return the function for the keys of one block; it returns None for other keys than chunks."""
        heads, tails, separator, undivided = (
            _WholeHeads(self._blocks, block),
            self._tails,
            self._blocks.keys.separator,
            self._undivided,
        )

        def whole(key: str) -> str | None:
            head = key.rsplit(separator, undivided)[0]
            try:
                return heads[head] + tails[key[len(head) :]]
            except KeyError:
                return None

        return whole


class _WholeHeads(_Table[str]):
    """From the first part of a chunk key in a block to the first part of the key in the whole array."""

    def __init__(self, blocks: Blocks, block: Coords) -> None:
        super().__init__()
        self._keys, self._offset = blocks.keys, blocks.offset(block)[: len(blocks.chunks)]
        self._grid = blocks.local_grid(block)[: len(blocks.chunks)]

    def work_out(self, key: str) -> str:
        # docstring inherited
        local = self._keys.decode(key, self._grid)
        if local is None:
            raise KeyError(key)
        return self._keys.encode(tuple(map(add, self._offset, local)))
