"""What a transform is: steps that change a shard's stream of entries, and the sink that writes it."""

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
from shardedstore.stores.locations import Config, Location
from shardedstore.zarr.grid import Blocks, Coords, block_name
from shardedstore.zarr.paths import join

Entries = Iterator[Entry]


class Shard(msgspec.Struct, frozen=True):
    """The place of a shard: a path, and for one block of an array its index. The base has the path ``""``.

    `nbytes` is the most that it can take decoded, as far as metadata tells; 0 where nothing is known. `divided` are the
    arrays of the base whose chunks are in shards of their own. `members` are the names of the stores of a collection that
    the shard is: of one, whose own path it then has, or of several below the path, in the bundle of this number.
    `component` is how messages call the shard's own store, where it is no part of the source but a store by itself.
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

    @property
    def name(self) -> str:
        """How messages call the shard.

        >>> Shard("a/b").name, Shard("", is_base=True).name, Shard("cells", members=("a", "b"), bundle=0).name
        ('a/b', '(base)', 'cells[0]')
        """
        if self.is_base:
            return "(base)"
        is_one = self.block is None and self.bundle is None
        return self.path if is_one else f"{self.path}[{self.block_name}]"

    @property
    def block_name(self) -> str:
        """What ``{block}`` stands for in names and URLs; empty for a shard that stands alone at its mount's path.

        >>> Shard("t", block=(1, 20)).block_name, Shard("cells/a", members=("a",)).block_name
        ('1/20', 'a')
        """
        if self.bundle is not None:
            return str(self.bundle)
        return self.members[0] if self.members else block_name(self.block)


def whole_key(entry: Entry, shard: Shard) -> str:
    """Return the key in the whole of an entry of a shard.

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


def source_of(entry: Entry, shard: Shard) -> str:
    """Return how messages call what an entry was read from: by its key in the source, and in a store by itself there.

    >>> from shardedstore.zarr.grid import ChunkKeys
    >>> from shardedstore.zarr.metadata import ArrayMeta
    >>> entry = Entry("c/0", b"", ArrayMeta(3, (8,), (2,), ChunkKeys("default", "/"), None, 4), (3,))
    >>> print(source_of(entry, Shard("a", block=(1,))))
    'a/c/3'
    >>> print(source_of(entry, Shard("a", block=(1,), component="'/out/a/1.zarr.zip'")))
    'a/c/3' ('c/0' in '/out/a/1.zarr.zip')
    """
    inside = f" ({entry.key!r} in {shard.component})" if shard.component else ""
    return f"{whole_key(entry, shard)!r}{inside}"


E = TypeVar("E", bound=ShardedStoreError)


def at_entry(error: E, entry: Entry, shard: Shard) -> E:
    """Return an error that says which key in the source, and which chunk, it is of."""
    error.key, error.chunk = whole_key(entry, shard), entry.coords
    return error


RESTORE = "restore it from another copy, or remove it to have the fill value in its place"


def undecodable(entry: Entry, shard: Shard, coders: object, error: Exception) -> CorruptError:
    """Return the error of a chunk, or an object of the sharding codec, that can't be decoded."""
    where, cause = source_of(entry, shard), f"{type(error).__name__}: {error}"
    found = CorruptError(f"shard {shard.name!r}: {where} can't be decoded with {coders}: {cause}; {RESTORE}")
    return at_entry(found, entry, shard)


class Written(msgspec.Struct, frozen=True):
    """What a sink made of a shard: how many entries and bytes, and a digest of the stored bytes.

    `location` is given where it does not follow from the shard's place, and `names` where the place holds other shards as
    well: the sum of what `name_crc` gives for each key.
    """

    entries: int
    nbytes: int
    digest: str
    location: Location | None = None
    names: int = 0


class Step(ABC):
    """Changes a shard's stream of entries on its way.

    Subclasses are frozen dataclasses in an importable module, so that they pickle and have a stable fingerprint.
    `version` is raised when the bytes that come out change. With `needs_empty` the step also gets the blocks of sparse arrays
    that have no chunks, as it may make some; set it to False where nothing comes of nothing.
    """

    version: ClassVar[str] = "1"
    settled: ClassVar[tuple[str, ...]] = ()  # texts of notices of steps before it that it leaves no reason for
    needs_empty: ClassVar[bool] = True

    def check(self, nodes: Mapping[str, Node]) -> None:  # noqa: B027 (most steps accept every source)
        """Raise ChainError where the step makes no sense on a source, given its metadata."""

    def notices(self, nodes: Mapping[str, Node]) -> Iterable[Notice]:
        """Return warnings about a source, given its metadata, for the user to read before the job runs."""
        return ()

    def changed(self, nodes: Mapping[str, Node]) -> Mapping[str, Node]:
        """Return a source's metadata as this step leaves it, for what comes after it in the chain to check."""
        return nodes

    def bound(self, nodes: Mapping[str, Node]) -> Step:
        """Return the step that runs on a source, given its metadata: with what a shard's own entries do not tell."""
        return self

    @abstractmethod
    def __call__(self, entries: Entries, shard: Shard) -> Entries:
        """Yield the changed entries: metadata first, as they come."""


BASE = "__base__"  # in names, what stands for the path of the base


class Present(Protocol):
    """What there is at a destination: asked for one by one, or listed before."""

    def nbytes(self, url: str) -> int | None:
        """Return the size of a file or object in bytes; None where there is none."""

    def below(self, url: str) -> tuple[int, int]:
        """Return the number of the files below a folder, and of their bytes; zeros where there is none."""


class Sink(ABC):
    """Writes a shard's stream somewhere, and tells the location that holds it.

    `url` is the destination, and `options` are how it is reached. Config and ledger stand there; where all shards go to
    one ordinary Zarr, which `is_one_zarr` tells, they stand in a folder beside it. `can_grow` tells that a shard's object
    follows from its own data and metadata alone, so that it stays right when the rest of its source changes.
    """

    version: ClassVar[str] = "1"
    is_one_zarr = False
    can_grow = True
    url: str
    options: Options = NONE

    def reach(self, storage_options: StorageOptions) -> None:
        """Set `url` and `options` from what the user of a frozen dataclass gave, in its ``__post_init__``."""
        object.__setattr__(self, "url", os.fspath(self.url))
        object.__setattr__(self, "options", take_options(normalize(self.url), storage_options))

    def check(self, nodes: Mapping[str, Node]) -> None:  # noqa: B027
        """Raise ChainError where the sink makes no sense on a source, given its metadata."""

    def notices(self, nodes: Mapping[str, Node]) -> Iterable[Notice]:
        """Return warnings about a source, given its metadata, for the user to read before the job runs."""
        return ()

    def check_shards(self, config: Config, nodes: Mapping[str, Node]) -> None:  # noqa: B027
        """Raise ChainError where the sink makes no sense on a source that is divided into these shards."""

    def gathered(self, config: Config) -> Config:
        """Return a source divided into the shards that the sink wants, which may be several of it together."""
        return config

    @abstractmethod
    def target(self, path: str | None, blocked: bool) -> str:
        """Return the name of a shard's object, relative to the destination.

        The path is None for the base; with `blocked`, ``{block}`` stands for a block's index in the name, or for the name
        of a collection's member.
        """

    def base_target(self, is_part: bool) -> str:
        """Return the name of the base's object; `is_part` tells that other shards are mounted on it."""
        return self.target(None, False)

    @abstractmethod
    def location(self, url: str) -> Location:
        """Return the location of what `write` writes at a URL."""

    @abstractmethod
    def write(self, entries: Entries, shard: Shard, url: str) -> Written:
        """Write a shard; an exception leaves nothing under its URL, or nothing that anything names."""

    def documents(self, documents: dict[str, bytes], config: Config) -> dict[str, bytes]:
        """Return the metadata documents of one ordinary Zarr, by key, as they are to be; `config` is the source's."""
        return documents

    def blocks(self, blocks: Blocks) -> Blocks:
        """Return how the blocks of an array lie among the chunks of one ordinary Zarr that the sink writes."""
        return blocks

    @abstractmethod
    def is_there(self, url: str, written: Written, present: Present) -> bool:
        """Tell whether what `write` wrote at a URL still stands there, by names and sizes; `written` is what it returned."""


def name_crc(key: str, nbytes: int) -> int:
    """Return a number for a key and its size: the sum of many tells which keys there are, in whatever order."""
    return crc32(f"{key}\0{nbytes}".encode())


class Tally:
    """Counts the entries that a sink writes, and digests their keys, sizes and CRC-32s.

    With `named`, `names` is the sum of what `name_crc` gives for each; it takes as long as all else.
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
    """A step made of a generator function; see `step`."""

    func: Callable[[Entries, Shard], Entries]
    name: str
    label: str

    def __call__(self, entries: Entries, shard: Shard) -> Entries:
        return self.func(entries, shard)


def step(func: Callable[[Entries, Shard], Entries], *, name: str = "", version: str = "") -> Step:
    """Make a step of a generator function ``(entries, shard) -> entries``.

    Parameters
    ----------
    func : callable
        Must pickle, as it runs in the workers.
    name, version : str
        What tells this function from another, so that a job can be resumed by another process: raise the version
        when the bytes that come out change. Without them, another process starts anew.
    """
    return FunctionStep(func, name, version)


class Chain(NamedTuple):
    """Zero or more steps and then one sink; or one function of stores, the form of the original."""

    steps: tuple[Step, ...]
    sink: Sink | None
    function: StoreFunction | None = None

    @property
    def is_one_zarr(self) -> bool:
        """Tell whether all shards go to one ordinary Zarr."""
        return self.sink is not None and self.sink.is_one_zarr

    @property
    def rewrites(self) -> bool:
        """Tell whether metadata documents may become others: by a step, or by a sink that makes them its own."""
        return bool(self.steps) or (self.sink is not None and type(self.sink).documents is not Sink.documents)

    @property
    def needs_empty(self) -> bool:
        """Tell whether something may come of blocks without chunks."""
        return self.function is not None or any(step.needs_empty for step in self.steps)

    @property
    def name(self) -> str:
        """What task names start with."""
        if self.function is not None:
            return getattr(self.function, "__name__", type(self.function).__name__)
        return type(self.sink).__name__


def parse_chain(transforms: Iterable[object]) -> Chain:
    """Return the chain of some transforms, or raise ChainError where they are none."""
    parts = list(transforms)
    if not parts:
        raise ChainError("map_shards was given no transform: end the chain with a sink, such as ToZip(url)")
    if len(parts) == 1 and callable(parts[0]) and not isinstance(parts[0], Step | Sink | type):
        return Chain((), None, parts[0])
    for part in parts:
        if isinstance(part, type):
            raise ChainError(f"{part.__name__} is a class: make one of it, like {part.__name__}(...)")
        if not isinstance(part, Step | Sink):
            raise ChainError(
                f"{part!r} is neither a step nor a sink: wrap a generator function of entries with step(...); "
                "a function of stores stands alone"
            )
    sinks = [part for part in parts if isinstance(part, Sink)]
    if not sinks:
        names = ", ".join(type(part).__name__ for part in parts)
        raise ChainError(f"the chain {names} has no sink: end it with one, such as ToZip(url)")
    if len(sinks) > 1 or parts[-1] is not sinks[0]:
        names = ", ".join(type(part).__name__ for part in parts)
        raise ChainError(f"the chain {names} must have one sink, and it must come last")
    return Chain(tuple(part for part in parts if isinstance(part, Step)), sinks[0])
