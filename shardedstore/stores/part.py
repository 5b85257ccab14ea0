"""Parts: a selection of the groups and arrays of a store.

The other groups and arrays are neither listed nor read.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Container, Iterable, Iterator
from typing import Annotated, Any

from msgspec import Meta
from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype

from shardedstore.fields import BelowRoot
from shardedstore.stores.layers import Layer
from shardedstore.stores.locate import locate_store
from shardedstore.stores.location import Derived, Location, Opened
from shardedstore.stores.ranges import Range, ranges_of
from shardedstore.stores.reader import DerivedReader, KeyFilter, Tag, reader_of
from shardedstore.zarr.metadata import CONSOLIDATED_V2, DOCUMENTS, dump_json, parse_json
from shardedstore.zarr.paths import Mounts, check_path, join, parents
from shardedstore.zarr.readonly import DerivedStore, cut, read_sync


class PartOf(Derived, frozen=True, tag="part", omit_defaults=True):
    """The groups and arrays of another component that are selected by their paths."""

    only: Annotated[
        tuple[BelowRoot, ...] | None,
        Meta(
            description="Paths that are selected with everything below them, and with the metadata of the groups above them; null selects everything."
        ),
    ] = None
    without: Annotated[
        tuple[BelowRoot, ...], Meta(description="Paths that are left out with everything below them.")
    ] = ()

    def open(self, *, read_only: bool = True) -> Store:
        # docstring inherited
        return Part(self.source.open(), self.only, self.without)

    def layers(self, path: str) -> Iterator[Layer]:
        # docstring inherited
        return self.source.layers(path)

    @property
    def whole(self) -> Location:
        # docstring inherited
        return self.source

    @property
    def selection(self) -> str:
        # docstring inherited
        only = "everything" if self.only is None else ", ".join(self.only)
        return only + (f" but {', '.join(self.without)}" if self.without else "")

    @property
    def shared_groups(self) -> frozenset[str]:
        # docstring inherited
        return frozenset(group for path in (*(self.only or ()), *self.without) for group in parents(path))

    def check(self) -> None:
        # docstring inherited
        for path in (*(self.only or ()), *self.without):
            check_path(path, "the config's part of")
        Mounts(self.only or ())
        Mounts(self.without)
        self.source.check()


class Part(DerivedStore):
    """The keys of a store at or below the paths in `only`, except at or below the paths in `without`.

    The metadata documents of the groups above the paths in `only` are included. If `only` is None, everything is selected.
    Consolidated metadata names selected nodes only.

    Examples
    --------
    >>> from zarr.storage import MemoryStore
    >>> part = Part(MemoryStore(), ["a", "g/b"], ["g/b/c"])
    >>> [key for key in ("zarr.json", "x", "x/0", "a/0", "g/zarr.json", "g/b", "g/b/c/0") if part.holds(key)]
    ['zarr.json', 'a/0', 'g/zarr.json', 'g/b']
    """

    def __init__(self, store: Store, only: Iterable[str] | None, without: Iterable[str]) -> None:
        super().__init__(store)
        self.only, self.without = None if only is None else tuple(only), tuple(without)
        self._only = None if self.only is None else Mounts(self.only)
        self._without = Mounts(self.without)

    def __eq__(self, other: object) -> bool:
        return type(other) is Part and (self.store, self.only, self.without) == (other.store, other.only, other.without)

    def __repr__(self) -> str:
        return f"Part({self.store!r})"

    def holds(self, path: str) -> bool:
        """Tell whether a key or a folder, if it exists, is selected."""
        if self._without.resolve(path) is not None:
            return False
        if self._only is None or self._only.resolve(path) is not None or self._only.any_below(path):
            return True
        folder, _, name = path.rpartition("/")
        return name in DOCUMENTS and self._only.any_below(folder)

    def is_cut(self, folder: str) -> bool:
        """Tell whether some paths below a folder are left out."""
        above_some = self._only is not None and self._only.any_below(folder)
        return above_some or self._without.any_below(folder)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        # docstring inherited
        if not self.holds(key):
            return None
        group, _, name = key.rpartition("/")
        if name not in ("zarr.json", CONSOLIDATED_V2) or not self.is_cut(group):
            return await self.store.get(key, prototype, byte_range)
        data = await self.store.get(key, prototype)
        return None if data is None else cut(prototype.buffer.from_bytes(self._trim(data.to_bytes(), key)), byte_range)

    def get_sync(
        self, key: str, *, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        # docstring inherited
        if key.rpartition("/")[2] in ("zarr.json", CONSOLIDATED_V2):
            return super().get_sync(key, prototype=prototype, byte_range=byte_range)
        return read_sync(self.store, key, prototype, byte_range) if self.holds(key) else None

    def _trim(self, data: bytes, key: str) -> bytes:
        """Return a group's document with consolidated metadata of selected nodes only."""
        group, _, name = key.rpartition("/")
        if b'"metadata"' not in data:
            return data
        document = parse_json(data, group, name)
        holder: Any = document if name == CONSOLIDATED_V2 else document.get("consolidated_metadata")
        if not isinstance(holder, dict) or not isinstance(holder.get("metadata"), dict):
            return data
        holder["metadata"] = {path: node for path, node in holder["metadata"].items() if self.holds(join(group, path))}
        return dump_json(document)

    async def exists(self, key: str) -> bool:
        # docstring inherited
        return self.holds(key) and await self.store.exists(key)

    async def list(self) -> AsyncIterator[str]:
        # docstring inherited
        async for key in self.list_prefix(""):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        # docstring inherited
        async for key in self.store.list_prefix(prefix):
            if self.holds(key):
                yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        # docstring inherited
        folder = prefix.strip("/")
        if self.holds(folder):
            async for name in self.store.list_dir(folder):
                if self.holds(join(folder, name)):
                    yield name


class _Kept:
    """The keys of a part, without those that another filter leaves out."""

    def __init__(self, part: Part, kept: KeyFilter | None) -> None:
        self.part, self.kept = part, kept

    def holds(self, key: str) -> bool:
        # docstring inherited
        return self.part.holds(key) and (self.kept is None or self.kept.holds(key))

    def is_mounted(self, folder: str) -> bool:
        # docstring inherited
        return not self.part.holds(folder) or (self.kept is not None and self.kept.is_mounted(folder))

    def is_cut(self, folder: str) -> bool:
        # docstring inherited
        return self.part.is_cut(folder)

    def chunk_names(self, folder: str) -> Container[str]:
        # docstring inherited
        if self.part.is_cut(folder):
            return _LeftOut(self, folder)
        return () if self.kept is None else self.kept.chunk_names(folder)


class _LeftOut(Container[str]):
    def __init__(self, kept: _Kept, folder: str) -> None:
        self.kept, self.folder = kept, folder

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and not self.kept.holds(join(self.folder, name))


class PartReader(DerivedReader[Part]):
    """Reads a part of a store by the reader of the whole."""

    def keys(self, path: str, kept: KeyFilter | None) -> Iterator[str]:
        # docstring inherited
        return self.whole.keys(path, _Kept(self.store, kept))

    def tags_below(self, path: str, kept: KeyFilter | None) -> Iterator[Tag]:
        # docstring inherited
        return self.whole.tags_below(path, _Kept(self.store, kept))

    async def folders(self, path: str) -> AsyncIterator[str]:
        # docstring inherited
        async for name in self.whole.folders(path):
            if self.store.holds(path) and self.store.holds(join(path, name)):
                yield name


reader_of.register(Part, PartReader)


@locate_store.register
def _(store: Part) -> Location:
    inner = locate_store(store.store)
    return Opened(store) if inner.is_open else PartOf(inner, store.only, store.without)


@ranges_of.register
def _(store: Part, keys: Iterable[str]) -> Iterator[Range]:
    return ranges_of(store.store, keys)
