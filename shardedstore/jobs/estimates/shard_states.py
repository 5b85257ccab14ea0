"""The shards that a job will make, keep or drop, according to the ledger of an earlier run. Nothing is written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from shardedstore.jobs.change_detection import Changed
from shardedstore.jobs.executors.active import active_executor
from shardedstore.jobs.job import Job
from shardedstore.jobs.ledger import MOVED, Record
from shardedstore.jobs.manifest import JobManifest, last_begun, ledger_of
from shardedstore.jobs.prepare import manifest_of
from shardedstore.jobs.reuse import find_reusable, find_stale, unwanted_among
from shardedstore.jobs.shards import Plan, Run, shard_runs
from shardedstore.stores.locations import Config


@dataclass(frozen=True)
class ShardStates:
    """The shards of a job by their state.

    Attributes
    ----------
    new : int
        The number of shards that were never made, including failed shards.
    changed : int
        The number of shards that are made again because their source or their division has changed.
    lost : int
        The number of shards that are made again because their output is damaged or missing.
    gone : int
        The number of shards of the earlier run that the source no longer has. Their objects stay until `prune`.
    kept : frozenset of int
        The numbers of the shards that are done already.
    compared : "metadata", "listing" or "content"
        The level of comparison between the source and the earlier run.
    is_first : bool
        Whether no earlier run of the job is at the destination.
    rate : float or None
        The bytes that a thread of an earlier run wrote in a second.
    """

    new: int
    changed: int = 0
    lost: int = 0
    gone: int = 0
    kept: frozenset[int] = frozenset()
    compared: Changed = "metadata"
    is_first: bool = True
    rate: float | None = None

    def left(self, run: Run) -> int:
        """Return the number of shards of a run to make."""
        return sum(number not in self.kept for number in run.numbers) if self.kept else run.stop - run.first


class _Earlier(NamedTuple):
    """The job at the destination, its records, and the reusable records by their numbers in this job."""

    config: Config
    generation: int
    records: Mapping[int, Record]
    reusable: Mapping[int, Record]
    is_same: bool
    is_moved: bool


def find_states(job: Job, plan: Plan, overwrite: bool, level: Changed | None) -> ShardStates:
    """Find the states of all shards.

    Parameters
    ----------
    level : "metadata", "listing" or "content", or None
        The most thorough comparison of the source that is allowed. With None, only the ledger is read, and objects at
        the destination are not checked.

    Raises
    ------
    DestinationError
        If the destination or a source can't be read.
    """
    wanted = manifest_of(plan, job)
    found = job.layout.find(wanted, overwrite)
    if found is None:
        return ShardStates(plan.shard_count)
    earlier = _read_earlier(job, plan, wanted, found)
    compares = level == job.changed != "metadata"
    stale = _find_stale(
        job, plan, earlier.reusable, compares=compares and not (earlier.is_moved and level == "listing")
    )
    done = _find_done(job, plan, earlier, looks=level is not None)
    changed, gone = (0, 0) if earlier.is_same else _count_others(plan, earlier)
    return ShardStates(
        new=plan.shard_count - len(earlier.reusable) - changed,
        changed=changed + len(stale),
        lost=len(earlier.reusable.keys() - done - stale),
        gone=gone,
        kept=done - stale,
        compared=job.changed if compares else "metadata",
        is_first=False,
        rate=_rate(earlier.records.values()),
    )


def _read_earlier(job: Job, plan: Plan, wanted: JobManifest, found: JobManifest) -> _Earlier:
    place = job.layout.place
    before = last_begun(place, found)
    records = {number: one for number, one in ledger_of(place, before).read().items() if not one.failed}
    is_same = wanted.is_of(before)
    reusable = records if is_same else find_reusable(plan, before, wanted, records)
    return _Earlier(
        wanted.source_of(before), before.generation, records, reusable, is_same, wanted.was_moved_since(before)
    )


def _find_stale(job: Job, plan: Plan, records: Mapping[int, Record], *, compares: bool) -> frozenset[int]:
    """Return the numbers of records whose source has changed, or was compared at a lower level before."""
    stale = unwanted_among(plan, records) if job.layout.has_objects else frozenset[int]()
    if compares:
        return stale | find_stale(job.changed, plan, records, active_executor())
    if job.changed == "metadata":
        return stale
    return stale | {number for number, one in records.items() if not one.source.startswith(f"{job.changed} ")}


def _find_done(job: Job, plan: Plan, earlier: _Earlier, *, looks: bool) -> frozenset[int]:
    if not looks:
        return frozenset(number for number, one in earlier.reusable.items() if one.is_done)
    job = replace(job, generation=earlier.generation)
    done = job.done(plan.runs, earlier.reusable, job.layout.inventory())
    if job.move is None:
        return done
    return frozenset(number for number in done if earlier.reusable[number].moved == MOVED[-1])


def _count_others(plan: Plan, earlier: _Earlier) -> tuple[int, int]:
    """Return the numbers of finished shards that can't be reused, and of shards missing in the source."""
    then = {(run.mounted is None, run.path): run for run in shard_runs(earlier.config)}
    now = {(run.mounted is None, run.path): run for run in plan.runs}
    changed = gone = 0
    for key, old in then.items():
        run = now.get(key)
        if run is None:
            gone += sum(number in earlier.records for number in old.numbers)
        elif len(old.numbers) != len(run.numbers) or not all(number in earlier.reusable for number in run.numbers):
            made = {shard.block_name for shard in old.shards() if shard.number in earlier.records}
            names = {shard.block_name: shard.number in earlier.reusable for shard in run.shards()}
            changed += sum(name in made and not is_kept for name, is_kept in names.items())
            gone += len(made - names.keys())
    return changed, gone


def _rate(records: Iterable[Record]) -> float | None:
    """Return the bytes that a thread wrote in a second; None if the records do not tell."""
    timed = [(one.nbytes, one.seconds) for one in records if one.nbytes and one.seconds]
    seconds = sum(one for _, one in timed)
    return sum(nbytes for nbytes, _ in timed) / seconds if seconds else None
