"""The base of a sharded store: the keys that no mounted component holds."""

from __future__ import annotations

from collections.abc import AsyncIterator, Container
from functools import lru_cache

from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype

from shardedstore.stores.members import Division, Members, MountIndex
from shardedstore.stores.reader import Source, reader_of, source_of
from shardedstore.zarr.grid import Blocks
from shardedstore.zarr.paths import join
from shardedstore.zarr.readonly import PROTOTYPE, DerivedStore

MOST_NAMES = 100_000


class Remainder(DerivedStore):
    """The keys of a store that no mounted component holds.

    The mount of a block holds chunks only. The metadata of the array, and any other file beside its chunks, belong to the base.
    """

    def __init__(self, store: Store, mounted: dict[str, Division | None]) -> None:
        super().__init__(store)
        self.mounted = mounted
        self.index = MountIndex(mounted)
        self.mounts = self.index.mounts

    def __eq__(self, other: object) -> bool:
        return type(other) is Remainder and (self.store, self.mounted) == (other.store, other.mounted)

    def __repr__(self) -> str:
        return f"Remainder({self.store!r}, without {len(self.mounted)} mounts)"

    def holds(self, key: str) -> bool:
        # docstring inherited
        found = self.mounts.resolve(key)
        if found is None:
            return True
        division = self.mounted[found[0]]
        if isinstance(division, Members):
            return division.find(found[1]) is None
        return division is not None and division.keys.decode(found[1], division.chunk_grid) is None

    def is_mounted(self, folder: str) -> bool:
        # docstring inherited
        return folder in self.index

    def is_cut(self, folder: str) -> bool:
        # docstring inherited
        return False

    def chunk_names(self, folder: str) -> Container[str]:
        # docstring inherited
        path, rest = self.mounts.resolve(folder) or ("", "")
        blocks = self.mounted.get(path)
        if not isinstance(blocks, Blocks):
            return ()
        if blocks.keys.separator == ".":
            return () if rest else _ChunkNames(blocks)
        is_last = blocks.keys.decode(join(rest, "0"), blocks.chunk_grid) is not None
        return _numbers(blocks.chunk_grid[-1]) if is_last else ()

    async def get(
        self, key: str, prototype: BufferPrototype = PROTOTYPE, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        # docstring inherited
        return await self.store.get(key, prototype, byte_range) if self.holds(key) else None

    async def exists(self, key: str) -> bool:
        # docstring inherited
        return self.holds(key) and await self.store.exists(key)

    async def list(self) -> AsyncIterator[str]:
        # docstring inherited
        async for key in self.store.list():
            if self.holds(key):
                yield key


@lru_cache(maxsize=8)
def _numbers(count: int) -> Container[str]:
    return frozenset(map(str, range(count))) if count <= MOST_NAMES else _Numbers(count)


class _Numbers(Container[str]):
    """The numbers below `count` in text, without the memory of a set."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.isdecimal() and str(int(name)) == name and int(name) < self.count


class _ChunkNames(Container[str]):
    """The chunk keys of an array whose chunks all lie in one folder."""

    def __init__(self, blocks: Blocks) -> None:
        self.blocks = blocks

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.blocks.keys.decode(name, self.blocks.chunk_grid) is not None


@source_of.register
def _(store: Remainder) -> Source:
    return Source(reader_of(store.store), kept=store, divided=store.mounted)
