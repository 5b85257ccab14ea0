"""Blocks of arrays in the form of shardedstore 0.3.1: chunk keys without the sharded dimensions.

Version 0.3.1 used the first ``2 * n - 1`` characters of a key as the index of the shard, for ``n`` sharded dimensions. It removed
them and the separator after them from the key. The metadata beside the chunks does not describe an array, so the metadata of the
whole array is used.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta
from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype

from shardedstore.errors import CorruptError
from shardedstore.stores.block import Block, BlockOf, read_block
from shardedstore.stores.entries import Choice, Entry, entries_of
from shardedstore.stores.location import Derived, Location, Place
from shardedstore.stores.ranges import Range, ranges_of
from shardedstore.stores.reader import Tag, reader_of, tags_of
from shardedstore.zarr.grid import block_name
from shardedstore.zarr.metadata import METADATA_NAMES
from shardedstore.zarr.paths import join
from shardedstore.zarr.readonly import DerivedStore


class Squeezed(Derived, frozen=True, tag="squeezed"):
    """One block of an array in the form of shardedstore 0.3.1: its chunk keys lack the sharded dimensions."""

    is_legacy: ClassVar[bool] = True

    array: Annotated[BlockOf, Meta(description="The block whose metadata describes the chunks.")]

    def open(self, *, read_only: bool = True) -> Store:
        # docstring inherited
        array = self.array
        return SqueezedBlock(self.source.open(), Block(array.source.open(), array.path, array.blocks, array.block))

    def show(self) -> str:
        # docstring inherited
        return f"'{self.array.path}[{block_name(self.array.block)}]' in {self.source.show()}"

    def places(self) -> Iterator[Location]:
        # docstring inherited
        yield from self.source.places()
        yield from self.array.places()

    def check(self) -> None:
        # docstring inherited
        self.array.check()
        self.source.check()

    def map_places(self, change: Callable[[Place], Place]) -> Location:
        # docstring inherited
        array = msgspec.structs.replace(self.array, source=self.array.source.map_places(change))
        return Squeezed(self.source.map_places(change), array)

    def __post_init__(self) -> None:
        blocks = self.array.blocks
        if blocks.keys.name != "v2" or len(blocks.chunks) >= len(blocks.chunk_grid):
            raise ValueError("only blocks of Zarr v2 arrays that have a dimension that is not sharded can be squeezed")


class SqueezedBlock(DerivedStore):
    """One block as an array of its own, with the metadata of `array` and the chunks in `store`."""

    def __init__(self, store: Store, array: Block) -> None:
        super().__init__(store)
        self.array = array
        keys, lead = array.blocks.keys, len(array.block)
        self.left_out = (keys.encode(array.block) + keys.separator)[: 2 * lead]

    def __eq__(self, other: object) -> bool:
        return type(other) is SqueezedBlock and (self.store, self.array) == (other.store, other.array)

    def __repr__(self) -> str:
        return f"SqueezedBlock({self.store!r}, {self.array!r})"

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        # docstring inherited
        if key in METADATA_NAMES:
            return await self.array.get(key, prototype, byte_range)
        stored = self.stored_key(key)
        return None if stored is None else await self.store.get(stored, prototype, byte_range)

    async def exists(self, key: str) -> bool:
        # docstring inherited
        if key in METADATA_NAMES:
            return await self.array.exists(key)
        stored = self.stored_key(key)
        return stored is not None and await self.store.exists(stored)

    async def list(self) -> AsyncIterator[str]:
        # docstring inherited
        for name in METADATA_NAMES:
            if await self.array.exists(name):
                yield name
        async for stored in self.store.list():
            local = self.array.local_key(self.left_out + stored)
            if local is not None:
                yield local

    def stored_key(self, key: str) -> str | None:
        """Return the key of a chunk in `store`; None if the key is not a chunk of this block."""
        whole = self.array.whole_key(key)
        return None if whole is None else whole[len(join(self.array.path, self.left_out)) :]

    def stored_keys(self) -> Iterator[str]:
        """Yield the keys in `store` of the possible chunks of this block, in C order of the grid."""
        blocks = self.array.blocks
        whole = blocks.keys.encode_box(blocks.box(self.array.block))
        return (key[len(self.left_out) :] for key in whole)


@entries_of.register
def _(view: SqueezedBlock, _choice: Choice) -> Iterator[Entry]:
    reader, left = reader_of(view.store), math.prod(view.array.blocks.local_grid(view.array.block))
    for entry in read_block(reader_of(view.array.store), view.array, reader.fetch(view.stored_keys())):
        left -= entry.coords is not None
        yield entry
    if left and None in reader.fetch([".zarray"]):  # it describes no array, but each shard has one
        raise CorruptError(
            f"{view.array.path!r} lacks chunks of its block {block_name(view.array.block)!r}, and {view.store!r} is no longer "
            "a shard: is it still there, and mounted?"
        )


@tags_of.register
def _(view: SqueezedBlock) -> Iterator[Tag]:
    return reader_of(view.store).tags(view.stored_keys())


@ranges_of.register
def _(view: SqueezedBlock, keys: Iterable[str]) -> Iterator[Range]:
    return ranges_of(view.store, (view.stored_key(key) or key for key in keys))
