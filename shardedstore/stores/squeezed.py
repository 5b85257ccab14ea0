"""Blocks of arrays as shardedstore 0.3.1 wrote them: in each chunk's key, what stands for the sharded dimensions is missing.

It took the first ``2 * n - 1`` characters of a key for the index of the shard, and left them out with the separator after
them. The metadata beside the chunks is that of no array, so that the array's own stands for it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype

from shardedstore.stores.views import Block
from shardedstore.zarr.metadata import METADATA_NAMES
from shardedstore.zarr.paths import join
from shardedstore.zarr.readonly import ReadOnlyStore


class SqueezedBlock(ReadOnlyStore):
    """One block of one array, as an array of its own: the metadata of `array`, and the chunks that `store` has."""

    def __init__(self, store: Store, array: Block) -> None:
        super().__init__()
        self.store, self.array = store, array
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
        """Return the key in `store` of a chunk of this block; None where the key is no chunk of it."""
        whole = self.array.whole_key(key)
        return None if whole is None else whole[len(join(self.array.path, self.left_out)) :]

    def stored_keys(self) -> Iterator[str]:
        """Yield the keys in `store` that chunks of this block can have, in C order of the grid."""
        blocks = self.array.blocks
        whole = blocks.keys.encode_box(blocks.box(self.array.block))
        return (key[len(self.left_out) :] for key in whole)
