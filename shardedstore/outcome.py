"""What became of the shards of a task: small, and added up on the way back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from toolz import merge

from shardedstore.errors import ShardError
from shardedstore.locations import Location
from shardedstore.plan import Segment


@dataclass(frozen=True)
class Outcome:
    """What became of some shards; small, and added up on the way back."""

    done: int = 0
    skipped: int = 0
    entries: int = 0
    nbytes: int = 0
    failures: tuple[ShardError, ...] = ()
    locations: dict[int, Location] = field(default_factory=dict)
    retries: int = 0

    @classmethod
    def total(cls, outcomes: Iterable[Outcome]) -> Outcome:
        """Add outcomes up."""
        parts = list(outcomes)
        return cls(
            sum(part.done for part in parts),
            sum(part.skipped for part in parts),
            sum(part.entries for part in parts),
            sum(part.nbytes for part in parts),
            tuple(failure for part in parts for failure in part.failures),
            merge(part.locations for part in parts),
            sum(part.retries for part in parts),
        )

    @classmethod
    def failed(cls, segment: Segment, cause: str) -> Outcome:
        """Return the failure of every shard of a segment, for one cause."""
        shards = (shard for run in segment.runs for _, shard in run.shards())
        return cls(failures=tuple(ShardError(shard.name, cause) for shard in shards))
