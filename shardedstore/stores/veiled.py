"""Veiled components: some metadata documents have names that other readers do not know.

Some components hold the documents of arrays without their chunks, such as a base and a copy of consolidated metadata. If such a
component were opened alone under the usual names, the arrays would seem to be full of fill values. Design:
docs/design/0016-documents-that-lead-to-nothing.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Annotated

from msgspec import Meta
from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype

from shardedstore.fields import PathText
from shardedstore.storage.urls import BESIDE
from shardedstore.stores.layers import Layer
from shardedstore.stores.locate import locate_store
from shardedstore.stores.location import Derived, Location, Opened
from shardedstore.stores.ranges import Range, ranges_of
from shardedstore.stores.reader import DerivedReader, KeyFilter, Tag, reader_of
from shardedstore.zarr.metadata import CONSOLIDATED_V2, METADATA_NAMES
from shardedstore.zarr.paths import check_path, is_below, join
from shardedstore.zarr.readonly import PROTOTYPE, DerivedStore, read_sync

VEIL = BESIDE  # the suffix of veiled documents
VEILED_ROOTS = (
    "zarr.json" + VEIL,
    ".zarray" + VEIL,
    CONSOLIDATED_V2 + VEIL,
)  # of a divided root, or of consolidated metadata
_NAMES = frozenset((*METADATA_NAMES, CONSOLIDATED_V2))


class Veil:
    """Translation between keys and stored names, given the paths of the veiled nodes.

    Examples
    --------
    >>> veil = Veil(["a/t"])
    >>> veil.stored("a/t/zarr.json"), veil.stored("a/zarr.json"), veil.stored("a/t/c/0")
    ('a/t/zarr.json.shardedstore', 'a/zarr.json', 'a/t/c/0')
    >>> veil.shown("a/t/zarr.json.shardedstore"), veil.shown("a/zarr.json.shardedstore")
    ('a/t/zarr.json', 'a/zarr.json.shardedstore')
    """

    def __init__(self, paths: Iterable[str]) -> None:
        self.paths = frozenset(paths)

    def stored(self, key: str) -> str:
        """Return the stored name of a key in the component."""
        return key + VEIL if self._covers(key) else key

    def shown(self, key: str) -> str:
        """Return the key of a stored name in the component."""
        plain = key.removesuffix(VEIL)
        return plain if plain != key and self._covers(plain) else key

    def _covers(self, key: str) -> bool:
        folder, _, name = key.rpartition("/")
        return name in _NAMES and folder in self.paths

    def documents(self) -> tuple[str, ...]:
        """Return the keys of all possible veiled documents."""
        names = (*METADATA_NAMES, CONSOLIDATED_V2)
        return tuple(join(path, name) for path in sorted(self.paths) for name in names)


class VeiledOf(Derived, frozen=True, tag="veiled"):
    """Another component with some metadata documents under names that other readers do not know."""

    paths: Annotated[
        tuple[PathText, ...], Meta(description="The paths of the groups and arrays whose documents are renamed.")
    ]

    def open(self, *, read_only: bool = True) -> Store:
        # docstring inherited
        return Veiled(self.source.open(), self.paths)

    @property
    def kind(self) -> str:
        # docstring inherited
        return self.source.kind

    def layers(self, path: str) -> Iterator[Layer]:
        # docstring inherited
        return super().layers(path) if path in self.paths else self.source.layers(path)

    @property
    def held(self) -> Location:
        # docstring inherited
        return self.source

    def check(self) -> None:
        # docstring inherited
        for path in filter(None, self.paths):
            check_path(path, "the config's veil of")
        self.source.check()


def veiled(location: Location, paths: Iterable[str]) -> Location:
    """Return the location of a component with veiled documents at some paths.

    Without paths, the location itself is returned.

    >>> from shardedstore.stores.zip import Zip
    >>> veiled(Zip("/out/base.zip"), ["u", "t"]), veiled(Zip("/out/base.zip"), [])
    (VeiledOf(source=Zip(url='/out/base.zip'), paths=('t', 'u')), Zip(url='/out/base.zip'))
    """
    some = tuple(sorted(paths))
    return VeiledOf(location, some) if some else location


class Veiled(DerivedStore):
    """A store whose veiled documents have their usual names again."""

    def __init__(self, store: Store, paths: Iterable[str]) -> None:
        super().__init__(store)
        self.veil = Veil(paths)

    def __eq__(self, other: object) -> bool:
        return type(other) is Veiled and (self.store, self.veil.paths) == (other.store, other.veil.paths)

    def __repr__(self) -> str:
        return f"Veiled({self.store!r})"

    async def get(
        self, key: str, prototype: BufferPrototype = PROTOTYPE, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        # docstring inherited
        return await self.store.get(self.veil.stored(key), prototype, byte_range)

    def get_sync(
        self, key: str, *, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        # docstring inherited
        return read_sync(self.store, self.veil.stored(key), prototype, byte_range)

    async def exists(self, key: str) -> bool:
        # docstring inherited
        return await self.store.exists(self.veil.stored(key))

    async def getsize(self, key: str) -> int:
        # docstring inherited
        return await self.store.getsize(self.veil.stored(key))

    async def list(self) -> AsyncIterator[str]:
        # docstring inherited
        async for key in self.list_prefix(""):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        # docstring inherited
        async for key in self.store.list_prefix(prefix):
            shown = self.veil.shown(key)
            if shown.startswith(prefix):
                yield shown
        for key in await self._unlisted():
            if key.startswith(prefix):
                yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        # docstring inherited
        folder = prefix.strip("/")
        async for name in self.store.list_dir(folder):
            yield self.veil.shown(join(folder, name)).rpartition("/")[2]
        below = (key[len(folder) :].lstrip("/") for key in await self._unlisted() if is_below(key, folder))
        for name in dict.fromkeys(rest.partition("/")[0] for rest in below):
            yield name

    async def _unlisted(self) -> tuple[str, ...]:
        """Return the keys of existing veiled documents if the component can't be listed."""
        if not reader_of(self.store).guesses:
            return ()
        keys = self.veil.documents()
        there = await asyncio.gather(*map(self.exists, keys))
        return tuple(key for key, is_there in zip(keys, there, strict=True) if is_there)


class VeiledReader(DerivedReader[Veiled]):
    """Reads a veiled component by the reader of the component."""

    def keys(self, path: str, kept: KeyFilter | None) -> Iterator[str]:
        """Yield the keys below a path; if the component can't be listed, each veiled document is requested."""
        yield from map(self.store.veil.shown, self.whole.keys(path, kept))
        if self.guesses:
            wanted = [key for key in self.store.veil.documents() if is_below(key, path)]
            found = zip(wanted, self.fetch(wanted), strict=True)
            yield from (key for key, data in found if data is not None and (kept is None or kept.holds(key)))

    def fetch(self, keys: Iterable[str]) -> Iterator[bytes | None]:
        """Read the values of keys by their stored names."""
        return self.whole.fetch(map(self.store.veil.stored, keys))

    def tags(self, keys: Iterable[str]) -> Iterator[Tag]:
        """Yield sizes and tags, with the stored names."""
        return self.whole.tags(map(self.store.veil.stored, keys))

    def tags_below(self, path: str, kept: KeyFilter | None) -> Iterator[Tag]:
        """Yield sizes and tags, with the stored names."""
        return self.whole.tags_below(path, kept)


reader_of.register(Veiled, VeiledReader)


@locate_store.register
def _(store: Veiled) -> Location:
    inner = locate_store(store.store)
    return Opened(store) if inner.is_open else veiled(inner, store.veil.paths)


@ranges_of.register
def _(store: Veiled, keys: Iterable[str]) -> Iterator[Range]:
    return ranges_of(store.store, map(store.veil.stored, keys))
