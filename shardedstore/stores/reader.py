"""Readers of many keys, with a fast way for each kind of store.

A key costs hundreds of microseconds with a store's async `get`. Here a local file costs six to eight microseconds, and an
object store has many requests in flight. Each kind of store registers its reader with `reader_of`.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Container, Iterable, Iterator
from functools import singledispatch
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from toolz import partition_all
from zarr.abc.store import Store
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from shardedstore.storage.markers import MARKERS
from shardedstore.storage.requests import IN_FLIGHT
from shardedstore.zarr.metadata import ArrayMeta
from shardedstore.zarr.readonly import DerivedStore

PAGE = 1000  # keys listed at a time

S = TypeVar("S", bound=Store)
D = TypeVar("D", bound=DerivedStore)
Tag = tuple[str, int, str]  # key, bytes, and a text that changes when the value does


class KeyFilter(Protocol):
    """Selection of the keys of a store that belong to a component."""

    def holds(self, key: str) -> bool:
        """Tell whether a key, if it exists, is part of the component."""

    def is_mounted(self, folder: str) -> bool:
        """Tell whether nothing below a folder is part of the component."""

    def is_cut(self, folder: str) -> bool:
        """Tell whether to list a folder name by name, because the component leaves out folders below it."""

    def chunk_names(self, folder: str) -> Container[str]:
        """Return the names of files in a folder that `holds` rejects; calling `holds` for each is ten times slower."""


class StoreReader(Generic[S]):
    """Reads many keys of one store with the store's own methods; kinds of stores override them with faster ones.

    Parameters
    ----------
    store : Store
        The store.

    Attributes
    ----------
    guesses : bool
        Whether `keys` yields all possible chunks, including missing ones.
    has_tags : bool
        Whether `tags` and `tags_below` work.

    Examples
    --------
    >>> import zarr
    >>> store = zarr.storage.MemoryStore()
    >>> array = zarr.create_array(store, name="t", shape=(4,), chunks=(2,), dtype="i4")
    >>> array[:] = 1
    >>> reader = StoreReader(store)
    >>> sorted(reader.keys("t", None))
    ['t/c/0', 't/c/1', 't/zarr.json']
    >>> [value is not None for value in reader.fetch(["t/c/0", "t/c/2"])]
    [True, False]
    """

    guesses = False
    has_tags = False

    def __init__(self, store: S) -> None:
        self.store = store

    def keys(self, path: str, kept: KeyFilter | None) -> Iterator[str]:
        """Yield all keys below a path that are kept, in any order.

        Parameters
        ----------
        path : str
            The path of the folder; empty for the whole store.
        kept : KeyFilter or None
            The keys that are part of the component; None for all.

        Yields
        ------
        str
            A key of the store.
        """
        listed = self.store.list_prefix(f"{path}/" if path else "")
        while some := sync(_take(listed)):
            for key in some:
                if key.endswith("/"):
                    MARKERS.add(key.rstrip("/"))
                elif kept is None or kept.holds(key):
                    yield key

    def fetch(self, keys: Iterable[str]) -> Iterator[bytes | None]:
        """Yield the values of keys, in their order.

        Parameters
        ----------
        keys : iterable of str
            Keys of the store. A reader may take many of them before it yields the first value.

        Yields
        ------
        bytes or None
            The value of a key; None for a missing key.
        """
        prototype = default_buffer_prototype()

        async def get(keys: Iterable[str]) -> list[bytes | None]:
            found = await asyncio.gather(*(self.store.get(key, prototype) for key in keys))
            return [None if value is None else value.to_bytes() for value in found]

        for some in partition_all(IN_FLIGHT, keys):
            yield from sync(get(some))

    def tags(self, keys: Iterable[str]) -> Iterator[Tag]:
        """Yield the sizes and tags of the existing keys, in any order.

        Parameters
        ----------
        keys : iterable of str
            Keys of the store; missing keys are skipped.

        Yields
        ------
        tuple of str, int and str
            The key, the size in bytes, and a text that changes when the value changes.

        Raises
        ------
        NotImplementedError
            If the reader has no tags, as `has_tags` tells.
        """
        raise NotImplementedError(f"{self.store!r} can't be listed with sizes and tags")

    def tags_below(self, path: str, kept: KeyFilter | None) -> Iterator[Tag]:
        """Yield the sizes and tags of the keys that `keys` yields.

        Parameters
        ----------
        path : str
            The path of the folder; empty for the whole store.
        kept : KeyFilter or None
            The keys that are part of the component; None for all.

        Yields
        ------
        tuple of str, int and str
            The key, the size in bytes, and a text that changes when the value changes.

        Raises
        ------
        NotImplementedError
            If the reader has no tags, as `has_tags` tells.
        """
        return self.tags(self.keys(path, kept))

    async def folders(self, path: str) -> AsyncIterator[str]:
        """Yield the names of the folders directly below a path.

        If the store can't distinguish folders from keys, all names are yielded.

        Parameters
        ----------
        path : str
            The path of the folder; empty for the root.

        Yields
        ------
        str
            The name of a folder, without its path.
        """
        async for name in self.store.list_dir(path):
            yield name

    def zarrs(self) -> list[str]:
        """Return the paths of folders that hold a Zarr, if all names are known.

        Returns
        -------
        list of str
            The paths; ``""`` is the store itself. Empty if the names are not known.
        """
        return []

    def knows_folders(self, path: str, array: ArrayMeta) -> bool:
        """Tell whether `folders` is cheap in an array's folder because it lists no chunks.

        Parameters
        ----------
        path : str
            The path of the array.
        array : ArrayMeta
            The metadata of the array.

        Returns
        -------
        bool
            False by default.
        """
        return False


class DerivedReader(StoreReader[D]):
    """Reads a store that is made from another by the reader of the other; a subclass overrides what differs."""

    def __init__(self, store: D) -> None:
        super().__init__(store)
        self.whole = reader_of(store.store)
        self.guesses, self.has_tags = self.whole.guesses, self.whole.has_tags

    def fetch(self, keys: Iterable[str]) -> Iterator[bytes | None]:
        # docstring inherited
        return self.whole.fetch(keys)

    def tags(self, keys: Iterable[str]) -> Iterator[Tag]:
        # docstring inherited
        return self.whole.tags(keys)

    def folders(self, path: str) -> AsyncIterator[str]:
        # docstring inherited
        return self.whole.folders(path)

    def knows_folders(self, path: str, array: ArrayMeta) -> bool:
        # docstring inherited
        return self.whole.knows_folders(path, array)


async def _take(keys: AsyncIterator[str]) -> list[str]:
    taken: list[str] = []
    async for key in keys:
        taken.append(key)
        if len(taken) == PAGE:
            break
    return taken


class Source(NamedTuple):
    """The part of a store that a component is read from.

    Attributes
    ----------
    reader : StoreReader
        The reader of the whole store.
    path : str
        The folder in the store.
    kept : KeyFilter or None
        The keys of the component; None for all.
    divided : container of str
        The paths of arrays whose chunks belong to other components.
    """

    reader: StoreReader[Any]
    path: str = ""
    kept: KeyFilter | None = None
    divided: Container[str] = ()


@singledispatch
def reader_of(store: Store) -> StoreReader[Any]:
    """Return the reader of a store.

    A kind of store registers a faster reader with ``@reader_of.register(Kind)``.

    Parameters
    ----------
    store : Store
        The store.

    Returns
    -------
    StoreReader
        The reader of the kind of store; `StoreReader` itself for an unknown kind.

    Examples
    --------
    >>> from zarr.storage import MemoryStore
    >>> class Tagged(MemoryStore):
    ...     pass
    >>> @reader_of.register(Tagged)
    ... class TaggedReader(StoreReader[Tagged]):
    ...     has_tags = True
    ...
    ...     def tags(self, keys):
    ...         return ((key, len(value), "1") for key, value in zip(keys, self.fetch(keys)) if value is not None)
    >>> type(reader_of(Tagged())).__name__, type(reader_of(MemoryStore())).__name__
    ('TaggedReader', 'StoreReader')
    """
    return StoreReader(store)


@singledispatch
def source_of(store: Store) -> Source:
    """Return the part of a store that a component is read from, so that messages name keys of the whole."""
    return Source(reader_of(store))


@singledispatch
def tags_of(store: Store) -> Iterator[Tag]:
    """Yield the keys of a component with sizes and tags, in any order."""
    source = source_of(store)
    return source.reader.tags_below(source.path, source.kept)


def listing(component: Store) -> str:
    """Return a digest that shows whether a component has changed, made without reading its values.

    The digest covers the keys, their sizes and their tags. The tag of a local file is its modification time and inode, the tag of
    an object is its ETag, and the tag of a zip member is its CRC-32. A local file costs some microseconds, and a thousand objects
    cost one request. For a block, the digest covers its chunks alone, because the array may grow.
    """
    state = hashlib.blake2b(digest_size=16)
    for key, nbytes, tag in sorted(tags_of(component)):
        state.update(f"{key}\0{nbytes}\0{tag}\n".encode())
    return state.hexdigest()
