"""Zips with a member for each key, on a local disk or in an object store."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Annotated, ClassVar

from msgspec import Meta
from zarr.abc.store import Store
from zarr.storage import ZipStore

from shardedstore.errors import CorruptError
from shardedstore.fields import Url
from shardedstore.storage.blobs import nbytes_of
from shardedstore.storage.options import NONE, Options
from shardedstore.storage.requests import in_flight
from shardedstore.storage.urls import normalize, url_with_scheme
from shardedstore.stores.layers import Layer
from shardedstore.stores.locate import locate_store
from shardedstore.stores.location import Location, Opened, Place
from shardedstore.stores.ranges import Range, ranges_of
from shardedstore.stores.reader import KeyFilter, StoreReader, Tag, reader_of
from shardedstore.stores.view import open_folder_of, view_of
from shardedstore.zarr.metadata import ArrayMeta
from shardedstore.zips import ZipReadStore

RUN = 2 << 20  # bytes that one request reads at least, if they are neighbours


class Zip(Place, frozen=True, tag="zip", omit_defaults=True, repr_omit_defaults=True):
    """A zip with a member for each key, on a local disk or in an object store."""

    is_file: ClassVar[bool] = True

    url: Annotated[Url, Meta(description="The path or URL; inside the folder of the config it is relative to it.")]
    options: Annotated[Options, Meta(description="The public options of the object store.")] = NONE

    def open(self, *, read_only: bool = True) -> Store:
        # docstring inherited
        return ZipReadStore(self.url, storage_options=self.options)

    @property
    def pipeline(self) -> str:
        # docstring inherited
        return f"{url_with_scheme(self.url)}|zip:"

    def layers(self, path: str) -> Iterator[Layer]:
        # docstring inherited
        yield Layer(view_of(self, path).pipeline, self.options)

    @property
    def files_url(self) -> str | None:
        # docstring inherited
        return self.url

    def measure(self) -> tuple[int, int] | None:
        # docstring inherited
        nbytes = nbytes_of(self.url, self.options)
        return None if nbytes is None else (1, nbytes)


class ZipReader(StoreReader[ZipReadStore]):
    """Reads the members of a zip in the order of the keys; the zip's directory holds all names."""

    has_tags = True

    def keys(self, path: str, kept: KeyFilter | None) -> Iterator[str]:
        """Yield the keys below a path."""
        for key in self.store.names(f"{path}/" if path else ""):
            if kept is None or kept.holds(key):
                yield key

    def fetch(self, keys: Iterable[str]) -> Iterator[bytes | None]:
        """Read member by member, or neighbours together from an object store, and check each CRC."""
        store = self.store
        if not store.is_remote:
            yield from (store.read_sync(key) if store.holds(key) else None for key in keys)
            return
        for values in in_flight(store.read_many, self._runs(keys), _nbytes):
            for value in values:
                if isinstance(value, CorruptError):
                    raise value
                yield value

    def _runs(self, keys: Iterable[str]) -> Iterator[list[str]]:
        """Cut the keys into lists whose values have about `RUN` bytes together."""
        run, nbytes = list[str](), 0
        for key in keys:
            size = self.store.entry_size(key) if self.store.holds(key) else 0
            if run and nbytes + size > RUN:
                yield run
                run, nbytes = [], 0
            run.append(key)
            nbytes += size
        if run:
            yield run

    def tags(self, keys: Iterable[str]) -> Iterator[Tag]:
        """Yield sizes, with the CRC-32 as the tag."""
        store = self.store
        return ((key, store.entry_size(key), str(store.entry_crc(key))) for key in keys if store.holds(key))

    async def folders(self, path: str) -> AsyncIterator[str]:
        # docstring inherited
        start = f"{path}/" if path else ""
        parts = (key[len(start) :].partition("/") for key in self.store.names(start))
        for name in dict.fromkeys(name for name, slash, _ in parts if slash):
            yield name

    def zarrs(self) -> list[str]:
        # docstring inherited
        return self.store.zarrs()

    def knows_folders(self, path: str, array: ArrayMeta) -> bool:
        # docstring inherited
        return True


reader_of.register(ZipReadStore, ZipReader)


def _nbytes(values: list[bytes | CorruptError | None]) -> int:
    return sum(len(value) for value in values if isinstance(value, bytes))


@open_folder_of.register
def _(store: ZipReadStore, path: str) -> Store:
    return store.at(path)


@locate_store.register
def _(store: ZipReadStore) -> Location:
    return view_of(Zip(store.url, store.options), store.path)


@locate_store.register
def _(store: ZipStore) -> Location:
    path: object = store.path  # newer versions of zarr also take an open file
    return Zip(normalize(path)) if isinstance(path, str | os.PathLike) else Opened(store)


@ranges_of.register
def _(store: ZipReadStore, keys: Iterable[str]) -> Iterator[Range]:
    return (Range(store.url, *store.entry_range(key)) for key in keys)
