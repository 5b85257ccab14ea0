"""Steps, sinks and chains: steps change a shard's stream of entries, and a sink writes it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from shardedstore.errors import ChainError
from shardedstore.transforms.base.sink import FunctionSink, Sink
from shardedstore.transforms.base.step import Step


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
