"""A shard, as a step and a sink see it, and errors that name its keys in the source."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import msgspec

from shardedstore.errors import CorruptError, ShardedStoreError
from shardedstore.stores.entries import Entry
from shardedstore.zarr.grid import Blocks, Coords, block_name
from shardedstore.zarr.paths import join


class Shard(msgspec.Struct, frozen=True):
    """The place of a shard in the hierarchy, and its size.

    Attributes
    ----------
    path : str
        The shard's path; ``""`` for the base.
    blocks : Blocks or None
        The division of the array, if the shard is a block of an array.
    block : tuple of int or None
        The index of the block.
    is_base : bool
        Whether the shard is the base.
    nbytes : int
        The largest decoded size that the metadata allows, in bytes; 0 if unknown.
    divided : frozenset of str
        Arrays of the base whose chunks are in other shards.
    members : tuple of str
        Names of the members of a collection in this shard: one member, at `path`, or the members of a bundle, below it.
    bundle : int, optional
        The number of the bundle.
    component : str
        Name of the shard's store in messages, if the shard has a store of its own; else empty.
    number : int
        The number of the shard in its job; 0 for the base.

    Examples
    --------
    >>> shard = Shard("temperature", block=(1, 20), nbytes=4096)
    >>> shard.name, shard.block_name, shard.is_base
    ('temperature[1/20]', '1/20', False)
    """

    path: str
    blocks: Blocks | None = None
    block: Coords | None = None
    is_base: bool = False
    nbytes: int = 0
    divided: frozenset[str] = frozenset()
    members: tuple[str, ...] = ()
    bundle: int | None = None
    component: str = ""
    number: int = 0

    @property
    def name(self) -> str:
        """Name of the shard in messages.

        >>> Shard("a/b").name, Shard("", is_base=True).name, Shard("cells", members=("a", "b"), bundle=0).name
        ('a/b', '(base)', 'cells[0]')
        """
        if self.is_base:
            return "(base)"
        is_one = self.block is None and self.bundle is None
        return self.path if is_one else f"{self.path}[{self.block_name}]"

    @property
    def prefix(self) -> str:
        """Beginning of messages about an entry; empty for the base, whose name says less than the key.

        >>> Shard("a/b").prefix, Shard("", is_base=True).prefix
        ("shard 'a/b': ", '')
        """
        return "" if self.is_base else f"shard {self.name!r}: "

    @property
    def block_name(self) -> str:
        """Replacement for ``{block}`` in names and URLs; empty if the shard is alone at its mount's path.

        >>> Shard("t", block=(1, 20)).block_name, Shard("cells/a", members=("a",)).block_name
        ('1/20', 'a')
        """
        if self.bundle is not None:
            return str(self.bundle)
        return self.members[0] if self.members else block_name(self.block)


def whole_key(entry: Entry, shard: Shard) -> str:
    """Return an entry's key in the whole hierarchy.

    >>> from shardedstore.zarr.grid import ChunkKeys
    >>> from shardedstore.zarr.metadata import ArrayMeta
    >>> entry = Entry("c/0", b"", ArrayMeta(3, (8,), (2,), ChunkKeys("default", "/"), None, 4), (3,))
    >>> whole_key(entry, Shard("a", block=(1,))), whole_key(entry, Shard("a"))
    ('a/c/3', 'a/c/0')
    """
    array = entry.array
    if shard.block is not None and entry.coords is not None and array is not None and array.keys is not None:
        return join(shard.path, array.keys.encode(entry.coords))
    return join(shard.path, entry.key)


def shard_source(entry: Entry, shard: Shard) -> str:
    """Return an entry's origin for messages: its key in the source, and its key in the shard's own store.

    >>> from shardedstore.zarr.grid import ChunkKeys
    >>> from shardedstore.zarr.metadata import ArrayMeta
    >>> entry = Entry("c/0", b"", ArrayMeta(3, (8,), (2,), ChunkKeys("default", "/"), None, 4), (3,))
    >>> print(shard_source(entry, Shard("a", block=(1,))))
    'a/c/3'
    >>> print(shard_source(entry, Shard("a", block=(1,), component="'/out/a/1.zarr.zip'")))
    'a/c/3' ('c/0' in '/out/a/1.zarr.zip')
    """
    inside = f" ({entry.key!r} in {shard.component})" if shard.component else ""
    return f"{whole_key(entry, shard)!r}{inside}"


E = TypeVar("E", bound=ShardedStoreError)


def at_entry(error: E, entry: Entry, shard: Shard) -> E:
    """Add the key in the source and the chunk's coordinates to an error, and return it."""
    error.key, error.chunk = whole_key(entry, shard), entry.coords
    return error


RESTORE = "restore it from another copy, or remove it to have the fill value in its place"


def undecodable(entry: Entry, shard: Shard, coders: object, error: Exception) -> CorruptError:
    """Return the error for a chunk or an object of the sharding codec that can't be decoded."""
    where, cause = shard_source(entry, shard), f"{type(error).__name__}: {error}"
    found = CorruptError(f"{shard.prefix}{where} can't be decoded with {coders}: {cause}; {RESTORE}")
    return at_entry(found, entry, shard)


Entries = Iterator[Entry]
