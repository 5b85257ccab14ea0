"""Steps, sinks and chains: steps change a shard's stream of entries, and a sink writes it."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import ClassVar, NamedTuple, Protocol, TypeVar

import msgspec
from zarr.abc.store import Store

from shardedstore.errors import ChainError, CorruptError, ShardedStoreError
from shardedstore.notices import Notice
from shardedstore.storage.crc import crc32
from shardedstore.storage.options import NONE, Options, StorageOptions, take_options
from shardedstore.storage.urls import normalize
from shardedstore.stores.entries import Entry
from shardedstore.stores.hierarchy import Node
from shardedstore.stores.locations import AnyLocation, Config, Location
from shardedstore.zarr.grid import Blocks, Coords, block_name
from shardedstore.zarr.paths import join

Entries = Iterator[Entry]


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


class Step(ABC):
    """A step changes a shard's stream of entries.

    Subclasses are frozen dataclasses in an importable module, so that they pickle and have a stable fingerprint.

    Attributes
    ----------
    version : str
        Part of the fingerprint. Increase it when the step's output changes.
    settled : tuple of str
        Texts of notices of earlier steps that this step makes unnecessary.
    needs_empty : bool
        Whether the step also gets blocks of sparse arrays without any chunk. Set it to False if the step never makes
        chunks for them.
    is_chunkwise : bool
        Whether the step changes each chunk for itself. A plan then estimates its output from a sample of chunks, and
        its memory from the size of a chunk, not of a shard.
    keeps_values : bool
        Whether the step changes only the codecs of arrays, and keeps their values, chunk grids and Zarr format, so that it can be part of
        a move (see `Move`). A move compares the values in any case.

    See Also
    --------
    step : Make a step from a generator function.
    ArrayStep : Base of steps that change arrays chunk by chunk.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Without(Step):
    ...     ending: str
    ...
    ...     def __call__(self, entries, shard):
    ...         return (entry for entry in entries if not entry.key.endswith(self.ending))
    >>> entries = [Entry("zarr.json", b"{}"), Entry("run.log", b"started")]
    >>> [entry.key for entry in Without(".log")(iter(entries), Shard("a"))]
    ['zarr.json']
    """

    version: ClassVar[str] = "1"
    settled: ClassVar[tuple[str, ...]] = ()
    needs_empty: ClassVar[bool] = True
    is_chunkwise: ClassVar[bool] = False
    keeps_values: ClassVar[bool] = False

    def check(self, nodes: Mapping[str, Node]) -> None:  # noqa: B027 (most steps accept every source)
        """Raise ChainError if the step can't be applied to a source with this metadata.

        Nothing has been written when it is called.

        Parameters
        ----------
        nodes : mapping of str to Node
            The groups and arrays of the source by path, as the previous steps change them.

        Raises
        ------
        ChainError
            If the step can't be applied.
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

    def changed(self, nodes: Mapping[str, Node]) -> Mapping[str, Node]:
        """Return a source's metadata after this step, for the checks of the rest of the chain.

        Parameters
        ----------
        nodes : mapping of str to Node
            The groups and arrays of the source by path, as the previous steps change them.

        Returns
        -------
        mapping of str to Node
            The groups and arrays after this step; by default the same.
        """
        return nodes

    def bound(self, nodes: Mapping[str, Node]) -> Step:
        """Return this step with facts from the whole source's metadata that a shard's own entries lack.

        Parameters
        ----------
        nodes : mapping of str to Node
            The groups and arrays of the source by path, as the previous steps change them.

        Returns
        -------
        Step
            The step that runs in the workers; by default this one.
        """
        return self

    @abstractmethod
    def __call__(self, entries: Entries, shard: Shard) -> Entries:
        """Yield the changed entries in their order, metadata first."""


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


StoreFunction = Callable[[Store, str, str | None], Store]


@dataclasses.dataclass(frozen=True)
class FunctionStep(Step):
    """A step that calls a generator function; see `step`."""

    func: Callable[[Entries, Shard], Entries]
    name: str
    label: str

    def __call__(self, entries: Entries, shard: Shard) -> Entries:
        return self.func(entries, shard)


def step(func: Callable[[Entries, Shard], Entries], *, name: str = "", version: str = "") -> Step:
    """Make a step from a generator function ``(entries, shard) -> entries``.

    Parameters
    ----------
    func : callable
        The function. It must pickle, as it runs in the workers.
    name, version : str
        Identify this function, so that another process can resume the job. Increase the version when the output changes.
        Without a name and a version, another process starts again.

    Returns
    -------
    Step
        A step of a chain.

    Examples
    --------
    >>> def without_logs(entries, shard):
    ...     return (entry for entry in entries if not entry.key.endswith(".log"))
    >>> step(without_logs, name="without logs", version="1").label
    '1'
    """
    return FunctionStep(func, name, version)


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


class Chain(NamedTuple):
    """Zero or more steps and then one sink."""

    steps: tuple[Step, ...]
    sink: Sink | FunctionSink

    @property
    def parts(self) -> tuple[object, ...]:
        """The parts of the fingerprint, in their places."""
        return (*self.steps, *self.sink.fingerprint_parts)

    @property
    def rewrites(self) -> bool:
        """Whether a step or the sink may change metadata documents."""
        return bool(self.steps) or self.sink.rewrites_documents

    @property
    def needs_empty(self) -> bool:
        """Whether the chain may make chunks for blocks without any."""
        return self.sink.needs_empty or any(step.needs_empty for step in self.steps)

    @property
    def name(self) -> str:
        """Prefix of the names of tasks."""
        end = self.sink.fingerprint_parts[-1]
        return getattr(end, "__name__", type(end).__name__)


def parse_chain(transforms: Iterable[object]) -> Chain:
    """Return the chain of some transforms.

    Raises
    ------
    ChainError
        If they are not zero or more steps and then one sink, or one function.
    """
    parts = list(transforms)
    if not parts:
        raise ChainError("map_shards was given no transform: end the chain with a sink, such as ToZip(url)")
    if len(parts) == 1 and callable(parts[0]) and not isinstance(parts[0], Step | Sink | type):
        return Chain((), FunctionSink(parts[0]))
    for part in parts:
        if isinstance(part, type):
            raise ChainError(f"{part.__name__} is a class: make an instance, like {part.__name__}(...)")
        if not isinstance(part, Step | Sink):
            raise ChainError(
                f"{part!r} is neither a step nor a sink: wrap a generator function of entries with step(...), or pass a "
                "function of stores as the only transform"
            )
    sinks = [part for part in parts if isinstance(part, Sink)]
    if not sinks:
        names = ", ".join(type(part).__name__ for part in parts)
        raise ChainError(f"the chain {names} has no sink: end it with one, such as ToZip(url)")
    if len(sinks) > 1 or parts[-1] is not sinks[0]:
        names = ", ".join(type(part).__name__ for part in parts)
        raise ChainError(f"the chain {names} must have one sink, and it must come last")
    return Chain(tuple(part for part in parts if isinstance(part, Step)), sinks[0])
