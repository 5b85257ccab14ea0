"""The data that every task of a job needs, without Dask."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from shardedstore.jobs.change_detection import Changed
from shardedstore.jobs.guards import Guards
from shardedstore.jobs.layouts.base import ResultLayout
from shardedstore.jobs.ledger import Ledger, Record
from shardedstore.jobs.limits import NO_LIMITS, Limits, MemoryShare
from shardedstore.jobs.move.options import Move
from shardedstore.jobs.preflight import places_of
from shardedstore.jobs.shards import Plan, Run, Segment
from shardedstore.jobs.token_bucket import Bucket
from shardedstore.storage.attributes import NO_ATTRIBUTES, ObjectAttributes
from shardedstore.storage.inventory import Asked
from shardedstore.stores.locations import Location
from shardedstore.transforms.base.chain import Chain
from shardedstore.transforms.base.sink import Present
from shardedstore.zarr.grid import Coords

MOST_FAILURES = 1000


@dataclass(frozen=True)
class Job:
    """The data that every task needs: small, without open stores and credentials.

    Attributes
    ----------
    chain : Chain
        The steps and the sink.
    layout : ResultLayout
        The layout of the result at the destination.
    generation : int
        The number of the job at the destination, from 1.
    nonce : str
        The random token in the job's manifest. It shows a task whether the destination now belongs to another job.
    retries : int
        The most retries of a shard; refusals of a busy server do not count.
    max_failures : int
        The number of failed shards that ends the job.
    changed : Changed
        The level of change detection in the source.
    stale : int
        The number of shards that are made again because the source has changed.
    lost : int
        The number of shards of one ordinary Zarr that are made again because files are missing.
    shapes : dict of str to tuple of int, or None
        The shapes of the divided arrays after the chain; None if the decoded data is not digested.
    partial : bool
        Whether the result shows the source for failed shards.
    accepted : frozenset of int
        The numbers of the shards that may fail. The result is then published with holes.
    max_missing : int
        The most other shards that may fail.
    move : Move or None
        The options of a move, which deletes the source.
    guards : Guards
        The checks that run before the result replaces the published one.
    objects : ObjectAttributes
        The attributes of the objects of shards.
    limits : Limits
        The limits of requests, bytes and memory.
    bucket : Bucket or None
        The token bucket that the workers share while the job runs; None without a limit.
    memory : MemoryShare or None
        The memory for shards in each worker; None without a limit.
    moved_from : str
        The URL from which the source was moved to its present one; empty if it was not moved.
    """

    chain: Chain
    layout: ResultLayout
    generation: int = 1
    nonce: str = ""
    retries: int = 2
    max_failures: int = MOST_FAILURES
    changed: Changed = "metadata"
    stale: int = 0
    lost: int = 0
    shapes: dict[str, Coords] | None = None
    partial: bool = False
    accepted: frozenset[int] = frozenset()
    max_missing: int = 0
    move: Move | None = None
    guards: Guards = field(default_factory=Guards)
    objects: ObjectAttributes = NO_ATTRIBUTES
    limits: Limits = NO_LIMITS
    bucket: Bucket | None = None
    memory: MemoryShare | None = None
    moved_from: str = ""

    @property
    def ledger(self) -> Ledger:
        """The ledger of the job."""
        return self.layout.ledger(self.generation, self.nonce)

    def done(
        self, runs: Iterable[Run], records: Mapping[int, Record], present: Present | None = None
    ) -> frozenset[int]:
        """Return the numbers of the recorded, unmarked shards whose objects exist.

        If `present` has no listing, each object is looked up by itself.
        """
        if not records:
            return frozenset()
        present = present or Asked(self.layout.options)
        return frozenset(number for run in runs for number in self.layout.present(run, records, self, present))

    def segments(self, plan: Plan) -> list[Segment]:
        """Return a plan's segments; they are smaller if the destination is an object store."""
        return plan.segments(to_remote=self.layout.is_remote)

    def find_missing(self, locations: Iterable[Location]) -> str | None:
        """Return the reason why this process can't run the job; None if it can."""
        return self.layout.find_missing(self.generation, places_of(locations))
