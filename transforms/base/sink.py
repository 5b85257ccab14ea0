"""The protocol of sinks, which write a shard."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import ClassVar, Protocol

import msgspec
from zarr.abc.store import Store

from shardedstore.notices import Notice
from shardedstore.storage.crc import crc32
from shardedstore.storage.options import NONE, Options, StorageOptions, take_options
from shardedstore.storage.urls import normalize
from shardedstore.stores.hierarchy import Node
from shardedstore.stores.locations import AnyLocation, Config, Location
from shardedstore.transforms.base.shard import Entries, Shard
from shardedstore.zarr.grid import Blocks


class Written(msgspec.Struct, frozen=True):
    """Result of writing a shard: the numbers of entries and bytes, and a digest of the stored bytes.

    The ledger keeps it. A later run finds by it that the shard is done.

    Attributes
    ----------
    entries : int
        The number of entries.
    nbytes : int
        The size of the written object or objects, in bytes.
    digest : str
        A digest of the keys, sizes and CRC-32s of the entries; equal entries have equal digests.
    location : AnyLocation or None
        The location, if it does not follow from the shard's place.
    names : int
        The sum of `name_crc` over all keys; 0 unless the same folder also holds other shards.

    See Also
    --------
    Sink.write : Returns it.

    Examples
    --------
    >>> written = Written(entries=3, nbytes=512, digest="6d0f")
    >>> written.entries, written.nbytes, written.location
    (3, 512, None)
    """

    entries: int
    nbytes: int
    digest: str
    location: AnyLocation | None = None
    names: int = 0


BASE = "__base__"  # replaces the path of the base in names


class Present(Protocol):
    """Inventory of a destination: listed once, or queried per object."""

    def nbytes(self, url: str) -> int | None:
        """Return the size of a file or object in bytes; None if it does not exist."""

    def below(self, url: str) -> tuple[int, int]:
        """Return the number of files below a folder and their size in bytes; zeros if there are none."""


class ChainEnd:
    """The end of a chain: a sink, or a function of stores.

    Attributes
    ----------
    layout : str
        The layout of the result: ``"shards"`` for a folder of shards, ``"zarr"`` for one ordinary Zarr, ``"zip"`` for
        one zip, ``"function"`` for the stores that a function returns.
    can_grow : bool
        Whether a shard's object depends only on the shard's data and metadata, so that it stays valid when the rest of
        the source changes.
    needs_empty : bool
        Whether the end also receives the blocks of sparse arrays that have no chunks.
    rewrites_documents : bool
        Whether the end may change metadata documents.
    writes_keys : bool
        Whether each key becomes an object of its own. Otherwise a shard is one object.
    bytes_per_entry : int
        The number of bytes that the format adds for each entry.
    """

    writes_keys: ClassVar[bool] = False
    bytes_per_entry: ClassVar[int] = 0
    layout: str = "shards"
    can_grow = True
    needs_empty = False
    rewrites_documents = False

    @property
    def fingerprint_parts(self) -> tuple[object, ...]:
        """The parts of the fingerprint, in their places."""
        return (self,)

    def check(self, nodes: Mapping[str, Node]) -> None:
        """Raise ChainError if a source with this metadata can't be written.

        Parameters
        ----------
        nodes : mapping of str to Node
            The groups and arrays of the source by path, as the previous steps change them.

        Raises
        ------
        ChainError
            If the source can't be written.
        """

    def notices(self, nodes: Mapping[str, Node]) -> Iterable[Notice]:
        """Return warnings about a source, by its metadata, which the user sees before the job runs.

        Parameters
        ----------
        nodes : mapping of str to Node
            The groups and arrays of the source by path, as the previous steps change them.

        Returns
        -------
        iterable of Notice
            The warnings; none by default.
        """
        return ()

    def check_shards(self, config: Config, nodes: Mapping[str, Node]) -> None:
        """Raise ChainError if a source that is divided into these shards can't be written.

        Parameters
        ----------
        config : Config
            The config of the source, with its shards.
        nodes : mapping of str to Node
            The groups and arrays of the source by path, as the previous steps change them.

        Raises
        ------
        ChainError
            If these shards can't be written.
        """

    def gathered(self, config: Config) -> Config:
        """Return the source's config with the sink's shards, which may combine several shards of the source.

        Parameters
        ----------
        config : Config
            The config of the source, with its shards.

        Returns
        -------
        Config
            The config with the shards that are written; by default the same.
        """
        return config


class Sink(ChainEnd, ABC):
    """A sink writes a shard's stream of entries, and names the location of the result.

    Attributes
    ----------
    version : str
        Part of the fingerprint. Increase it when the written bytes change.
    url : str
        The destination. The config and the ledger are there; with the layout ``"zarr"`` they are in a folder beside it.
    options : Options
        Options of the object store.
    writes_keys : bool
        Whether each key becomes an object of its own. Otherwise a shard is one object. The estimate of a plan uses it.
    bytes_per_entry : int
        The number of bytes that the format adds for each entry, for the estimate of a plan.

    See Also
    --------
    shardedstore.transforms.ToZip : A sink that writes a zip for each shard.
    shardedstore.transforms.CopyTo : A sink that writes keys.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> from shardedstore.stores.locations import Zip
    >>> from shardedstore.transforms.base.zip_shard import write_zip
    >>> @dataclass(frozen=True)
    ... class ToPlainZip(Sink):
    ...     url: str
    ...
    ...     def target(self, path, blocked):
    ...         return f"{path or '__base__'}{'/{block}' if blocked else ''}.zip"
    ...
    ...     def location(self, url):
    ...         return Zip(url)
    ...
    ...     def write(self, entries, shard, url):
    ...         return write_zip(entries, url)
    ...
    ...     def is_there(self, url, written, present):
    ...         return present.nbytes(url) == written.nbytes
    >>> ToPlainZip("out").target("temperature", True)
    'temperature/{block}.zip'
    """

    version: ClassVar[str] = "1"
    url: str
    options: Options = NONE

    @property
    def rewrites_documents(self) -> bool:  # type: ignore[override]
        """Whether the sink changes metadata documents of one ordinary Zarr."""
        return type(self).documents is not Sink.documents

    def reach(self, storage_options: StorageOptions) -> None:
        """Set `url` and `options` from the user's arguments; call it in ``__post_init__`` of a frozen dataclass.

        Parameters
        ----------
        storage_options : mapping, str or None
            Options of the object store. Public ones become `options`; secret ones stay in this process and its workers.

        Raises
        ------
        UsageError
            If the URL or an option is not known.
        """
        object.__setattr__(self, "url", os.fspath(self.url))
        object.__setattr__(self, "options", take_options(normalize(self.url), storage_options))

    @abstractmethod
    def target(self, path: str | None, blocked: bool) -> str:
        """Return the name of a shard's object, relative to the destination.

        Parameters
        ----------
        path : str or None
            The shard's path; None for the base.
        blocked : bool
            Whether the name holds ``{block}``, which stands for the index of a block or the name of a collection's member.

        Returns
        -------
        str
            The name, with ``/`` between folders. Different shards have different names.
        """

    def base_target(self, is_part: bool) -> str:
        """Return the name of the base's object.

        Parameters
        ----------
        is_part : bool
            Whether other shards are mounted on the base.

        Returns
        -------
        str
            The name, relative to the destination.
        """
        return self.target(None, False)

    @abstractmethod
    def location(self, url: str) -> Location:
        """Return the location of a shard that `write` wrote at a URL.

        Parameters
        ----------
        url : str
            The URL or the absolute path of the shard.

        Returns
        -------
        Location
            The description in the config, which opens the shard as a store.
        """

    @abstractmethod
    def write(self, entries: Entries, shard: Shard, url: str) -> Written:
        """Write a shard; after an exception, no reader finds an incomplete shard at its URL.

        It may run twice at the same time for one shard. Equal entries must give equal bytes.

        Parameters
        ----------
        entries : iterator of Entry
            The entries of the shard, metadata first. They are read from the source one by one.
        shard : Shard
            The place of the shard.
        url : str
            The URL or the absolute path of the shard.

        Returns
        -------
        Written
            The numbers of entries and bytes, and the digest, for the ledger.

        Raises
        ------
        Exception
            Any error fails the shard. A temporary error is retried.
        """

    def documents(self, documents: dict[str, bytes], config: Config) -> dict[str, bytes]:
        """Return the new metadata documents of one ordinary Zarr.

        Parameters
        ----------
        documents : dict of str to bytes
            The documents after the steps, by key.
        config : Config
            The config of the source, with its shards.

        Returns
        -------
        dict of str to bytes
            The documents that are written, by key; by default the same.
        """
        return documents

    def blocks(self, blocks: Blocks) -> Blocks:
        """Return the division of an array's new chunks in one ordinary Zarr into the same blocks.

        Parameters
        ----------
        blocks : Blocks
            The division of the array after the steps.

        Returns
        -------
        Blocks
            The division of the written chunks, with as many blocks; by default the same.
        """
        return blocks

    @abstractmethod
    def is_there(self, url: str, written: Written, present: Present) -> bool:
        """Check by names and sizes that a shard still exists.

        Parameters
        ----------
        url : str
            The URL or the absolute path of the shard.
        written : Written
            The result of the shard's `write`.
        present : Present
            The inventory of the destination: ``nbytes(url)`` of an object, and ``below(url)`` of a folder.

        Returns
        -------
        bool
            False makes the shard again.
        """


def name_crc(key: str, nbytes: int) -> int:
    """Return a number for a key and its size; sums of these identify sets of keys in any order."""
    return crc32(f"{key}\0{nbytes}".encode())


class Tally:
    """Counter and digest of the entries that a sink writes: of their keys, sizes and CRC-32s.

    With `named`, the attribute `names` is the sum of `name_crc` over all entries. It doubles the time of a call.
    """

    def __init__(self, *, named: bool = False) -> None:
        self.entries = self.nbytes = self.names = 0
        self._named = named
        self._state = hashlib.blake2b(digest_size=16)

    def add(self, key: str, nbytes: int, crc: int) -> None:
        """Count one entry."""
        self.entries += 1
        self.nbytes += nbytes
        if self._named:
            self.names += name_crc(key, nbytes)
        self._state.update(f"{key}\0{nbytes}\0{crc}\n".encode())

    def written(self, nbytes: int) -> Written:
        """Return the record of a shard whose object has `nbytes` bytes."""
        return Written(self.entries, nbytes, self._state.hexdigest(), names=self.names)


@dataclasses.dataclass(frozen=True)
class FunctionSink(ChainEnd):
    """A function of stores at the end of a chain, as in shardedstore 0.3.1: it writes its stores itself."""

    func: StoreFunction

    layout = "function"
    can_grow = False
    needs_empty = True

    @property
    def fingerprint_parts(self) -> tuple[object, ...]:
        """The function in the second place, as in version 0.4."""
        return (None, self.func)


StoreFunction = Callable[[Store, str, str | None], Store]
