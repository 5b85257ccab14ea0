"""Blocks: one block of a divided array, as an array of its own.

Nothing is copied, and no chunk is listed before that is necessary.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Annotated, Any, ClassVar

from msgspec import Meta
from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype

from shardedstore.errors import ConfigError, CorruptError
from shardedstore.fields import Index, PathText
from shardedstore.storage.urls import quote_name
from shardedstore.stores.entries import (
    Choice,
    Entry,
    array_documents,
    check_chunk_keys,
    check_unchanged,
    entries_of,
    format_around,
)
from shardedstore.stores.layers import Layer
from shardedstore.stores.location import Derived, Location
from shardedstore.stores.ranges import Range, ranges_of
from shardedstore.stores.reader import StoreReader, Tag, reader_of, tags_of
from shardedstore.zarr.grid import Blocks, Coords, block_name
from shardedstore.zarr.metadata import METADATA_NAMES, ArrayMeta, crop_document, parse_node
from shardedstore.zarr.paths import check_path, join
from shardedstore.zarr.readonly import PROTOTYPE, DerivedStore, cut, read_sync


class BlockOf(Derived, frozen=True, tag="block"):
    """One block of an array of another component, as an array of its own."""

    is_view: ClassVar[bool] = True

    path: Annotated[PathText, Meta(description="The path of the array in the component.")]
    blocks: Annotated[Blocks, Meta(description="The division of the array into blocks.")]
    block: Annotated[tuple[Index, ...], Meta(description="The index of the block.")]

    def open(self, *, read_only: bool = True) -> Store:
        # docstring inherited
        return Block(self.source.open(), self.path, self.blocks, self.block)

    def show(self) -> str:
        # docstring inherited
        return f"'{self.path}[{block_name(self.block)}]' in {self.source.show()}"

    @property
    def pipeline(self) -> str:
        # docstring inherited
        return f"{self.source.pipeline}{quote_name(self.path)}/" if self.path else self.source.pipeline

    def layers(self, path: str) -> Iterator[Layer]:
        # docstring inherited
        box = self.blocks.box(self.block)
        cropped = (layer.cropped(box) for layer in self.source.layers(join(self.path, path)))
        return (layer for layer in cropped if layer is not None)

    @property
    def view(self) -> tuple[Location, str]:
        # docstring inherited
        return self.source, self.path

    def is_in_place(self, blocks: Blocks, block: Coords) -> bool:
        # docstring inherited
        return self.blocks.keys == blocks.keys and self.blocks.box(self.block) == blocks.box(block)

    def check(self) -> None:
        # docstring inherited
        if not self.blocks.within(self.block):
            raise ConfigError(f"the config names {self.show()}, whose grid of blocks is {self.blocks.grid}")
        if self.path:
            check_path(self.path, "the config's view of")
        self.source.check()


class Block(DerivedStore):
    """One block of an array, as an array of its own.

    The metadata is cropped to the block, and the chunk coordinates start at zero.
    """

    def __init__(
        self, store: Store, path: str, blocks: Blocks, block: Coords, chunks: tuple[Coords, ...] | None = None
    ) -> None:
        super().__init__(store)
        self.path, self.blocks, self.block = path, blocks, block
        self.chunks = chunks  # the existing chunks of a sparse array, if it was listed

    def places(self) -> Iterator[Coords]:
        """Yield the coordinates of all possible chunks, in C order.

        The coordinates count in the whole array.
        """
        return itertools.product(*self.blocks.box(self.block)) if self.chunks is None else iter(self.chunks)

    def whole_keys(self) -> Iterator[str]:
        """Yield the keys of these chunks in the whole array."""
        keys = self.blocks.keys
        return keys.encode_box(self.blocks.box(self.block)) if self.chunks is None else map(keys.encode, self.chunks)

    def local_keys(self) -> Iterator[str]:
        """Yield the keys of these chunks in the block."""
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

    def get_sync(
        self, key: str, *, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        # docstring inherited
        whole = None if key in METADATA_NAMES else self.whole_key(key)
        if whole is None:
            return super().get_sync(key, prototype=prototype, byte_range=byte_range)
        return read_sync(self.store, whole, prototype, byte_range)

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
        """Return the key of a chunk in the whole store; None if the key is not a chunk of this block."""
        local = self.blocks.keys.decode(key, self.blocks.local_grid(self.block))
        return None if local is None else join(self.path, self.blocks.keys.encode(self.blocks.join(self.block, local)))

    def local_key(self, key: str) -> str | None:
        """Return the key of a chunk in this block; None if the chunk lies in another block."""
        coords = self.blocks.keys.decode(key, self.blocks.chunk_grid)
        if coords is None:
            return None
        block, local = self.blocks.split(coords)
        return self.blocks.keys.encode(local) if block == self.block else None

    def document(self, name: str, data: bytes) -> bytes:
        """Return a metadata document of the array, cropped to this block."""
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


def read_block(reader: StoreReader[Any], view: Block, stored: Iterator[bytes | None] | None = None) -> Iterator[Entry]:
    """Yield the entries of a block without listing.

    The chunk keys follow from the grid.

    Parameters
    ----------
    reader : StoreReader
        Reads the metadata, and also the chunks unless `stored` is given.
    view : Block
        The block.
    stored : iterator of bytes or None, optional
        The values of the chunks in C order, if they are stored apart from the metadata.
    """
    documents = array_documents(reader, view.path)
    cropped = {name: view.document(name, data) for name, data in documents.items()}
    array = parse_node(cropped, view.path, format_around(reader, view.path, documents))
    assert isinstance(array, ArrayMeta)
    for name, data in cropped.items():
        yield Entry(name, data, array)
    start = f"{view.path}/" if view.path else ""
    chunks = reader.fetch(map(start.__add__, view.whole_keys())) if stored is None else stored
    is_empty = True
    for key, chunk, coords in zip(view.local_keys(), chunks, view.places(), strict=True):
        if chunk is not None:
            is_empty = False
            yield Entry(key, chunk, array, coords)
    check_unchanged(reader, view.path, documents)
    if is_empty and reader.guesses:
        check_chunk_keys(reader, view.path, view.blocks.keys, view.blocks.box(view.block))


@entries_of.register
def _(store: Block, _choice: Choice) -> Iterator[Entry]:
    return read_block(reader_of(store.store), store)


@tags_of.register
def _(store: Block) -> Iterator[Tag]:
    return reader_of(store.store).tags(join(store.path, key) for key in store.whole_keys())


@ranges_of.register
def _(store: Block, keys: Iterable[str]) -> Iterator[Range]:
    return ranges_of(store.store, (store.whole_key(key) or key for key in keys))
