"""What a transform is: steps that change a shard's stream of entries, and the sink that writes it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import attrgetter
from typing import Any, ClassVar, NamedTuple

import msgspec
import numpy as np
from zarr.abc.store import Store

from shardedstore.entries import Entry
from shardedstore.errors import ChainError
from shardedstore.grid import Blocks, Coords, block_name
from shardedstore.hierarchy import Node
from shardedstore.locations import Location

Entries = Iterator[Entry]


class Shard(msgspec.Struct, frozen=True):
    """The place of a shard: a path, and for one block of an array its index. The base has the path ``""``."""

    path: str
    blocks: Blocks | None = None
    block: Coords | None = None
    is_base: bool = False

    @property
    def name(self) -> str:
        """How messages call the shard.

        >>> Shard("a/b").name, Shard("", is_base=True).name
        ('a/b', '(base)')
        """
        if self.is_base:
            return "(base)"
        return self.path if self.block is None else f"{self.path}[{block_name(self.block)}]"


class Written(msgspec.Struct, frozen=True):
    """What a sink made of a shard: how many entries and bytes, and a digest of the stored bytes.

    `location` is given where it does not follow from the shard's place.
    """

    entries: int
    nbytes: int
    digest: str
    location: Location | None = None


class Step(ABC):
    """Changes a shard's stream of entries on its way.

    Subclasses are frozen dataclasses in an importable module, so that they pickle and have a stable fingerprint.
    `version` is raised when the bytes that come out change.
    """

    version: ClassVar[str] = "1"

    def check(self, nodes: Mapping[str, Node]) -> None:  # noqa: B027 (most steps accept every source)
        """Raise ChainError where the step makes no sense on a source, given its metadata."""

    def changed(self, nodes: Mapping[str, Node]) -> Mapping[str, Node]:
        """Return a source's metadata as this step leaves it, for what comes after it in the chain to check."""
        return nodes

    @abstractmethod
    def __call__(self, entries: Entries, shard: Shard) -> Entries:
        """Yield the changed entries: metadata first, as they come."""


class Sink(ABC):
    """Writes a shard's stream somewhere, at once or not at all, and tells the location that holds it.

    `url` is the destination: the config and the ledger stand there.
    """

    version: ClassVar[str] = "1"
    url: str

    def check(self, nodes: Mapping[str, Node]) -> None:  # noqa: B027
        """Raise ChainError where the sink makes no sense on a source, given its metadata."""

    @abstractmethod
    def target(self, path: str | None, blocked: bool) -> str:
        """Return the name of a shard's object, relative to the destination.

        The path is None for the base; with `blocked`, ``{block}`` stands for a block's index in the name.
        """

    @abstractmethod
    def location(self, url: str) -> Location:
        """Return the location of what `write` writes at a URL."""

    @abstractmethod
    def write(self, entries: Entries, shard: Shard, url: str) -> Written:
        """Write a shard; an exception leaves nothing under its URL."""

    @abstractmethod
    def is_there(self, url: str, nbytes: int) -> bool:
        """Tell whether what `write` wrote, of `nbytes` bytes, still stands at a URL."""


class Tally:
    """Counts the entries that a sink writes, and digests their keys, sizes and CRC-32s."""

    def __init__(self) -> None:
        self.entries = 0
        self._state = hashlib.blake2b(digest_size=16)

    def add(self, key: str, nbytes: int, crc: int) -> None:
        """Count one entry."""
        self.entries += 1
        self._state.update(f"{key}\0{nbytes}\0{crc}\n".encode())

    def written(self, nbytes: int) -> Written:
        """Return the record of a shard whose object has `nbytes` bytes."""
        return Written(self.entries, nbytes, self._state.hexdigest())


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


def fingerprint(chain: Chain) -> str | None:
    """Return a token of what a chain does to bytes, equal in every process; None where there is no stable one.

    Where the result stands is no part of it, so a destination that was moved is gone on with; nor are fields that are
    not compared, which do not change the bytes.
    """
    tokens = []
    for part in (*chain.steps, chain.sink, chain.function):
        if part is None:
            continue
        token = _token(part)
        if token is None:
            return None
        tokens.append(token)
    return hashlib.sha256(json.dumps(tokens).encode()).hexdigest()


def _token(part: Any) -> list[Any] | None:
    if isinstance(part, FunctionStep):
        return [part.name, part.label] if part.name and part.label else None
    named = part if not isinstance(part, Step | Sink) else type(part)
    module, name = getattr(named, "__module__", "__main__"), getattr(named, "__qualname__", "<")
    if module == "__main__" or "<" in name:
        return None
    options: dict[str, Any] = {}
    is_sink = isinstance(part, Sink)  # whose url is where the result stands, not what it is
    if dataclasses.is_dataclass(part):
        compared = [field.name for field in dataclasses.fields(part) if field.compare]
        options = {name: getattr(part, name) for name in compared}
        if is_sink:
            options.pop("url", None)
    elif isinstance(part, Step | Sink):
        if getattr(part, "__dict__", None):  # options that nothing declares
            return None
    elif attrgetter(name)(sys.modules[module]) is not part:  # a method of an object, or a wrapper with another's name
        return None
    try:
        return [module, name, getattr(part, "version", "1"), {key: _exact(value) for key, value in options.items()}]
    except TypeError:
        return None


def _exact(value: Any) -> Any:
    """Return an option as JSON that tells it from every other; TypeError for what is not plain data.

    >>> _exact((1, "1", None, 0.1)), _exact({"a": b"x"})
    (['int 1', "str '1'", 'NoneType None', 'float 0.1'], [["str 'a'", "bytes b'x'"]])
    """
    if isinstance(value, list | tuple):
        return [_exact(item) for item in value]
    if isinstance(value, Mapping):
        return [[_exact(key), _exact(item)] for key, item in value.items()]
    if isinstance(value, str) and " at 0x" in value:  # the repr of an object that has none of its own
        raise TypeError(value)
    if value is None or value is ... or type(value) in (bool, int, float, complex, str, bytes):
        return f"{type(value).__name__} {value!r}"
    if isinstance(value, np.dtype | np.generic):
        dtype = value if isinstance(value, np.dtype) else value.dtype
        return [str(dtype.descr), "" if isinstance(value, np.dtype) else value.tobytes().hex()]
    token = _token(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else None
    if token is None:
        raise TypeError(type(value).__name__)
    return token
