"""Parts of another store, as components of their own: nothing is copied, and chunks are not listed before they must."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Container, Iterator
from functools import lru_cache
from typing import Protocol

from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype

from shardedstore.errors import CorruptError
from shardedstore.stores.members import Division, Members, MountIndex
from shardedstore.zarr.grid import Blocks, Coords, block_name
from shardedstore.zarr.metadata import METADATA_NAMES, ArrayMeta, crop_document, parse_node
from shardedstore.zarr.paths import join
from shardedstore.zarr.readonly import PROTOTYPE, ReadOnlyStore, cut

MOST_NAMES = 100_000


class View(ReadOnlyStore):
    """Everything of a store below a path."""

    def __init__(self, store: Store, path: str) -> None:
        super().__init__()
        self.store, self.path = store, path

    def __eq__(self, other: object) -> bool:
        return type(other) is View and (self.store, self.path) == (other.store, other.path)

    def __repr__(self) -> str:
        return f"View({self.store!r}, {self.path!r})"

    async def get(
        self, key: str, prototype: BufferPrototype = PROTOTYPE, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        # docstring inherited
        return await self.store.get(join(self.path, key), prototype, byte_range)

    async def exists(self, key: str) -> bool:
        # docstring inherited
        return await self.store.exists(join(self.path, key))

    async def list(self) -> AsyncIterator[str]:
        # docstring inherited
        async for key in self.list_prefix(""):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        # docstring inherited
        start = f"{self.path}/" if self.path else ""
        async for key in self.store.list_prefix(start + prefix):
            yield key.removeprefix(start)

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        # docstring inherited
        async for name in self.store.list_dir(join(self.path, prefix.rstrip("/"))):
            yield name


class Left(Protocol):
    """What of a store is left for a component that leaves something out."""

    def holds(self, key: str) -> bool:
        """Tell whether a key, if it exists, is part of it."""

    def is_mounted(self, folder: str) -> bool:
        """Tell whether nothing below a folder is part of it."""

    def is_cut(self, folder: str) -> bool:
        """Tell whether a folder is best listed name by name, as there are folders below that are no part of it."""

    def chunk_names(self, folder: str) -> Container[str]:
        """Return the names of the files in a folder that `holds` denies; asked for each, it would take ten times as long."""


class Remainder(ReadOnlyStore):
    """What of a store is left for the base: the keys that no mounted component holds.

    A block's mount holds chunks only: the array's metadata, and whatever lies beside its chunks, is the base's.
    """

    def __init__(self, store: Store, mounted: dict[str, Division | None]) -> None:
        super().__init__()
        self.store, self.mounted = store, mounted
        self.homes = MountIndex(mounted)
        self.mounts = self.homes.mounts

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
        return folder in self.homes

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
    """What `_numbers` returns where a set would take too much memory."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.isdecimal() and str(int(name)) == name and int(name) < self.count


class _ChunkNames(Container[str]):
    """The keys of an array whose chunks all stand in one folder."""

    def __init__(self, blocks: Blocks) -> None:
        self.blocks = blocks

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.blocks.keys.decode(name, self.blocks.chunk_grid) is not None


class Block(ReadOnlyStore):
    """One block of one array, as an array of its own: cropped metadata, and chunks that count from zero."""

    def __init__(
        self, store: Store, path: str, blocks: Blocks, block: Coords, chunks: tuple[Coords, ...] | None = None
    ) -> None:
        super().__init__()
        self.store, self.path, self.blocks, self.block = store, path, blocks, block
        self.chunks = chunks  # that are there, of a sparse array that was listed

    def places(self) -> Iterator[Coords]:
        """Yield the coordinates in the whole array of the chunks that there may be, in C order."""
        return itertools.product(*self.blocks.box(self.block)) if self.chunks is None else iter(self.chunks)

    def keys(self) -> Iterator[str]:
        """Yield the keys in the array of these chunks."""
        keys = self.blocks.keys
        return keys.encode_box(self.blocks.box(self.block)) if self.chunks is None else map(keys.encode, self.chunks)

    def local_keys(self) -> Iterator[str]:
        """Yield the keys in the block of these chunks."""
        blocks = self.blocks
        if self.chunks is None:
            return blocks.keys.encode_box([range(len(span)) for span in blocks.box(self.block)])
        return (blocks.keys.encode(blocks.split(coords)[1]) for coords in self.chunks)

    def __eq__(self, other: object) -> bool:
        return type(other) is Block and vars(self).items() >= vars(other).items()

    def __repr__(self) -> str:
        return f"Block({self.store!r}, {self.path!r}, {block_name(self.block)!r})"

    async def get(
        self, key: str, prototype: BufferPrototype = PROTOTYPE, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        # docstring inherited
        if key in METADATA_NAMES:
            data = await self.store.get(join(self.path, key), prototype)
            return (
                None
                if data is None
                else cut(prototype.buffer.from_bytes(self.document(key, data.to_bytes())), byte_range)
            )
        whole = self.whole_key(key)
        return None if whole is None else await self.store.get(whole, prototype, byte_range)

    async def exists(self, key: str) -> bool:
        # docstring inherited
        whole = join(self.path, key) if key in METADATA_NAMES else self.whole_key(key)
        return whole is not None and await self.store.exists(whole)

    async def list(self) -> AsyncIterator[str]:
        # docstring inherited
        for name in METADATA_NAMES:
            if await self.store.exists(join(self.path, name)):
                yield name
        async for key in self.store.list_prefix(f"{self.path}/" if self.path else ""):
            local = self.local_key(key.removeprefix(f"{self.path}/"))
            if local is not None:
                yield local

    def whole_key(self, key: str) -> str | None:
        """Return the key in the whole store of a chunk of this block; None where the key is no chunk of it."""
        local = self.blocks.keys.decode(key, self.blocks.local_grid(self.block))
        return None if local is None else join(self.path, self.blocks.keys.encode(self.blocks.join(self.block, local)))

    def local_key(self, key: str) -> str | None:
        """Return the key in this block of a chunk of the array; None where it lies in another block."""
        coords = self.blocks.keys.decode(key, self.blocks.chunk_grid)
        if coords is None:
            return None
        block, local = self.blocks.split(coords)
        return self.blocks.keys.encode(local) if block == self.block else None

    def document(self, name: str, data: bytes) -> bytes:
        """Return one of the array's metadata documents as this block has it."""
        if name in (".zattrs", ".zgroup"):
            return data
        meta, grid = parse_node({name: data}, self.path), self.blocks.chunk_grid
        keys = self.blocks.keys
        if not isinstance(meta, ArrayMeta) or meta.chunks is None or (meta.chunk_grid, meta.keys) != (grid, keys):
            raise CorruptError(
                f"{self.path!r} was divided as an array of {grid} chunks, but its {name} describes another, or other keys than "
                f"{keys.encode((0,) * len(grid))!r}: partition the source again"
            )
        return crop_document(data, self.blocks.crop(meta.shape, meta.chunks, self.block), self.path, name)
