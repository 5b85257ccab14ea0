"""Views: everything of another store below a path."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from functools import singledispatch
from typing import Annotated, ClassVar

from msgspec import Meta
from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype

from shardedstore.fields import PathText
from shardedstore.storage.urls import quote_name
from shardedstore.stores.block import Block, BlockOf
from shardedstore.stores.layers import Layer
from shardedstore.stores.locate import locate_store
from shardedstore.stores.location import Derived, Location, Opened, is_template
from shardedstore.stores.ranges import Range, ranges_of
from shardedstore.stores.reader import DerivedReader, KeyFilter, Source, Tag, reader_of, source_of
from shardedstore.zarr.grid import Blocks, Coords
from shardedstore.zarr.metadata import ArrayMeta
from shardedstore.zarr.paths import check_path, join
from shardedstore.zarr.readonly import PROTOTYPE, DerivedStore, read_sync


class ViewOf(Derived, frozen=True, tag="view"):
    """Everything below a path of another component; for a divided array, the blocks."""

    is_view: ClassVar[bool] = True
    divides_source: ClassVar[bool] = True

    path: Annotated[PathText, Meta(description="The path of the view's root in the component.")]

    def open(self, *, read_only: bool = True) -> Store:
        # docstring inherited
        store = self.source.open()
        if self.source.is_open:  # one store for many views, each of which reads its keys there
            return View(store, self.path)
        return open_folder_of(store, self.path)

    def show(self) -> str:
        # docstring inherited
        return f"{self.path!r} in {self.source.show()}"

    @property
    def pipeline(self) -> str:
        # docstring inherited
        return f"{self.source.pipeline}{quote_name(self.path)}/" if self.path else self.source.pipeline

    def layers(self, path: str) -> Iterator[Layer]:
        # docstring inherited
        return self.source.layers(join(self.path, path))

    @property
    def view(self) -> tuple[Location, str]:
        # docstring inherited
        return self.source, self.path

    @property
    def held(self) -> Location:
        # docstring inherited
        return self.source if self.path == "{name}" else self

    @property
    def shared_source(self) -> Location | None:
        # docstring inherited
        return None if self.source.is_open or is_template(self) else self.source

    def check(self) -> None:
        # docstring inherited
        if self.path:
            check_path(self.path, "the config's view of")
        self.source.check()

    def at_block(self, blocks: Blocks, block: Coords) -> Location:
        # docstring inherited
        return BlockOf(self.source, self.path, blocks, block)

    def open_block(self, blocks: Blocks, block: Coords, chunks: tuple[Coords, ...] | None = None) -> Store:
        # docstring inherited
        return Block(self.source.open(), self.path, blocks, block, chunks)

    def at_member(self, block: str, name: str) -> Location:
        # docstring inherited
        return ViewOf(self.source.at_member(block, name), self.path.replace("{name}", name))

    @property
    def names_members(self) -> bool:
        # docstring inherited
        return "{name}" in self.path or self.source.names_members


def view_of(location: Location, path: str) -> Location:
    """Return the location of a folder in a component; the component itself for an empty path."""
    return ViewOf(location, path) if path else location


class View(DerivedStore):
    """Everything of a store below a path."""

    def __init__(self, store: Store, path: str) -> None:
        super().__init__(store)
        self.path = path

    def __eq__(self, other: object) -> bool:
        return type(other) is View and (self.store, self.path) == (other.store, other.path)

    def __repr__(self) -> str:
        return f"View({self.store!r}, {self.path!r})"

    async def get(
        self, key: str, prototype: BufferPrototype = PROTOTYPE, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        # docstring inherited
        return await self.store.get(join(self.path, key), prototype, byte_range)

    def get_sync(
        self, key: str, *, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        # docstring inherited
        return read_sync(self.store, join(self.path, key), prototype, byte_range)

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


@singledispatch
def open_folder_of(store: Store, path: str) -> Store:
    """Return a folder of a store as a store of its own."""
    return View(store, path)


class ViewReader(DerivedReader[View]):
    """Reads a folder of a store by the reader of the whole."""

    def keys(self, path: str, kept: KeyFilter | None) -> Iterator[str]:
        # docstring inherited
        start = len(join(self.store.path, "x")) - 1
        below = (key[start:] for key in self.whole.keys(join(self.store.path, path), None))
        return (key for key in below if kept is None or kept.holds(key))

    def fetch(self, keys: Iterable[str]) -> Iterator[bytes | None]:
        # docstring inherited
        return self.whole.fetch(join(self.store.path, key) for key in keys)

    def tags(self, keys: Iterable[str]) -> Iterator[Tag]:
        # docstring inherited
        start = len(join(self.store.path, "x")) - 1
        found = self.whole.tags(join(self.store.path, key) for key in keys)
        return ((key[start:], nbytes, tag) for key, nbytes, tag in found)

    def folders(self, path: str) -> AsyncIterator[str]:
        # docstring inherited
        return self.whole.folders(join(self.store.path, path))

    def knows_folders(self, path: str, array: ArrayMeta) -> bool:
        # docstring inherited
        return self.whole.knows_folders(join(self.store.path, path), array)


reader_of.register(View, ViewReader)


@source_of.register
def _(store: View) -> Source:
    return Source(reader_of(store.store), store.path)


@locate_store.register
def _(store: View) -> Location:
    inner = locate_store(store.store)
    return Opened(store) if inner.is_open else ViewOf(inner, store.path)


@ranges_of.register
def _(store: View, keys: Iterable[str]) -> Iterator[Range]:
    return ranges_of(store.store, (join(store.path, key) for key in keys))
