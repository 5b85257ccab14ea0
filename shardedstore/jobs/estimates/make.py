"""Make the estimate of a job: read the ledger, sample and count the source, and add up the numbers."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from dask.utils import format_bytes

from shardedstore.codecs.array_document import all_but
from shardedstore.errors import DestinationError
from shardedstore.jobs.change_detection import Changed
from shardedstore.jobs.estimates.amounts import Amount, total_amount
from shardedstore.jobs.estimates.arrays import ArrayEstimate, array_estimates, nodes_after
from shardedstore.jobs.estimates.counting import Counted, count_source
from shardedstore.jobs.estimates.estimate import Estimate, MountEstimate, RateBasis
from shardedstore.jobs.estimates.free_space import free_space, try_write
from shardedstore.jobs.estimates.memory import shard_memory
from shardedstore.jobs.estimates.portability import find_portability
from shardedstore.jobs.estimates.prices import Cost, Prices, cost_of
from shardedstore.jobs.estimates.request_counts import RunLoad, count_requests
from shardedstore.jobs.estimates.sampling import Sample, sample_arrays
from shardedstore.jobs.estimates.shard_states import ShardStates, find_states
from shardedstore.jobs.executors.active import active_threads
from shardedstore.jobs.growth import LARGER
from shardedstore.jobs.job import Job
from shardedstore.jobs.shards import Plan
from shardedstore.storage.folders import STORAGE_ERRORS
from shardedstore.stores.hierarchy import Node
from shardedstore.text import count

NAMED = 3  # arrays in a warning


@dataclass(frozen=True)
class Wanted:
    """The inputs of an estimate; see `JobPlan.estimate`. With `level` None, only the ledger is read."""

    count: bool = False
    sample: int = 0
    prices: Prices | None = None
    rate: float | None = None
    threads: int | None = None
    test_write: bool = False
    level: Changed | None = None


@dataclass(frozen=True)
class _Source:
    """The source of a job: its arrays, its files and bytes, and the results of the sample."""

    arrays: list[ArrayEstimate]
    files: Amount
    stored: Amount | None
    sample: Sample


def make_estimate(title: str, chain: str, job: Job, plan: Plan, overwrite: bool, wanted: Wanted) -> Estimate:
    """Make the estimate of a job. Only a test write writes anything.

    Raises
    ------
    DestinationError
        If the destination can't be read, or the source can't be counted.
    """
    states = _states(job, plan, overwrite, wanted.level)
    nodes = nodes_after(job.chain, plan)
    source = _source(job, plan, wanted, nodes)
    loads = _loads(job, plan, source.arrays, states)
    written = _written(loads, source.arrays)
    read = None if source.stored is None else source.stored.times(_share_of_files(loads))
    requests = count_requests(job, plan, loads, states)
    rate, basis = _rate(wanted, states, source.sample)
    memory = shard_memory(job, plan)
    largest = max(plan.runs, key=lambda run: memory[run.number])
    whole = _whole(loads, source.arrays)
    estimate = Estimate(
        title=title,
        chain=chain,
        destination=job.layout.destination,
        shard_count=plan.shard_count,
        states=states,
        overwritten=_overwritten(job, states),
        files=source.files,
        objects=Amount(sum(one.objects for one in loads), "most" if job.chain.sink.writes_keys else "exact"),
        stored=source.stored,
        stored_after=whole,
        read=read,
        written=written,
        nbytes=plan.nbytes,
        requests_to_source=requests.source,
        requests_to_destination=requests.destination,
        memory=memory[largest.number],
        memory_path=None if largest.mounted is not None else largest.path,
        tasks=_tasks(job, plan, states),
        is_move=job.move is not None,
        is_joined=job.layout.joins_shards,
        threads=wanted.threads or active_threads(),
        rate=rate,
        rate_basis=basis,
        cost=None,
        space=free_space(job.layout.url),
        write_test=try_write(job.layout) if wanted.test_write else None,
        warnings=(),
        notices=plan.notices,
        arrays=tuple(source.arrays),
        mounts=tuple(_mount(one, memory) for one in loads),
        portability=find_portability(nodes, not job.chain.sink.writes_keys),
    )
    estimate = replace(estimate, cost=None if wanted.prices is None else _cost(estimate, wanted.prices))
    return replace(estimate, warnings=(*_warnings(estimate), *_larger(source.sample.arrays), *source.sample.failures))


def _states(job: Job, plan: Plan, overwrite: bool, level: Changed | None) -> ShardStates:
    if level is not None:
        return find_states(job, plan, overwrite, level)
    with suppress(DestinationError, *STORAGE_ERRORS):  # the display of a plan must not fail
        return find_states(job, plan, overwrite, None)
    return ShardStates(plan.shard_count)


def _source(job: Job, plan: Plan, wanted: Wanted, nodes: Mapping[str, Node]) -> _Source:
    arrays = array_estimates(plan, nodes)
    sample = sample_arrays(arrays, plan, job.chain, wanted.sample) if wanted.sample else Sample(arrays)
    counted = count_source(sample.arrays, plan) if wanted.count else Counted(sample.arrays)
    filled = list(_filled(counted.arrays, job))
    others = sum(len(data) for node in plan.nodes.values() for data in node.documents.values())
    stored = counted.nbytes or _plus(total_amount(one.stored for one in filled), others)
    return _Source(filled, counted.files or Amount(plan.files, "most"), stored, sample)


def _plus(amount: Amount | None, more: int) -> Amount | None:
    return None if amount is None else Amount(amount.value + more, amount.basis)


def _filled(arrays: list[ArrayEstimate], job: Job) -> Iterator[ArrayEstimate]:
    """Yield arrays; arrays without a sample get the mean ratios of the sampled arrays."""
    before = _ratio((one.stored, one.nbytes) for one in arrays)
    made = _ratio((one.stored_after, one.stored.value) for one in arrays if one.stored is not None)
    for one in arrays:
        stored = one.stored or (None if before is None else Amount(round(one.nbytes * before), "sampled"))
        after = one.stored_after
        if not job.chain.steps:
            after = stored
        elif after is None and stored is not None and made is not None:
            after = Amount(round(stored.value * made), "sampled")
        elif after is None and stored is not None:
            after = Amount(round(stored.value * one.nbytes_after / max(one.nbytes, 1)), "assumed")
        yield replace(one, stored=stored, stored_after=after)


def _ratio(sizes: Iterator[tuple[Amount | None, int]]) -> float | None:
    """Return the sum of the known amounts, divided by the sum of the sizes beside them."""
    known = [(amount.value, nbytes) for amount, nbytes in sizes if amount is not None]
    others = sum(nbytes for _, nbytes in known)
    return sum(value for value, _ in known) / others if others else None


def _by_mount(arrays: list[ArrayEstimate]) -> dict[str | None, list[ArrayEstimate]]:
    found = defaultdict[str | None, list[ArrayEstimate]](list)
    for one in arrays:
        found[one.mount].append(one)
    return found


def _loads(job: Job, plan: Plan, arrays: list[ArrayEstimate], states: ShardStates) -> list[RunLoad]:
    sink, mounts = job.chain.sink, _by_mount(arrays)
    loads = []
    for run, load in zip(plan.runs, plan.loads, strict=True):
        inside = mounts[None if run.mounted is not None else run.path]
        shards = run.stop - run.first
        chunks = sum(one.files_after for one in inside)
        documents = max(0, load.files - sum(one.files.value for one in inside))
        if run.blocks is not None and job.layout.has_objects:
            documents += shards  # each block has a document of its own
        after = total_amount(one.stored_after for one in inside)
        nbytes = sum(one.nbytes_after for one in inside) if after is None else after.value
        objects = chunks + documents if sink.writes_keys else shards
        loads.append(
            RunLoad(run, states.left(run), load, objects, nbytes + sink.bytes_per_entry * (chunks + documents))
        )
    return loads


def _share_of_files(loads: list[RunLoad]) -> float:
    files = sum(one.load.files for one in loads)
    return (
        1 if all(one.share == 1 for one in loads) else sum(one.load.files * one.share for one in loads) / max(files, 1)
    )


def _whole(loads: list[RunLoad], arrays: list[ArrayEstimate]) -> Amount | None:
    known = total_amount(one.stored_after for one in arrays)
    return None if known is None else Amount(sum(one.nbytes for one in loads), _inexact(known))


def _written(loads: list[RunLoad], arrays: list[ArrayEstimate]) -> Amount | None:
    known = total_amount(one.stored_after for one in arrays)
    return None if known is None else Amount(math.ceil(sum(one.nbytes * one.share for one in loads)), _inexact(known))


def _inexact(known: Amount) -> Any:
    return "sampled" if known.basis == "exact" else known.basis


def _overwritten(job: Job, states: ShardStates) -> int:
    """Return the number of shards that replace existing files. In one ordinary Zarr, a shard keeps its keys."""
    return states.lost + (states.changed if job.layout.writes_over else 0)


def _rate(wanted: Wanted, states: ShardStates, sample: Sample) -> tuple[float | None, RateBasis | None]:
    threads = wanted.threads or active_threads()
    if wanted.rate is not None:
        return wanted.rate, "given"
    if states.rate is not None:
        return states.rate * threads, "recorded"
    return (None, None) if sample.rate is None else (sample.rate * threads, "sampled")


def _tasks(job: Job, plan: Plan, states: ShardStates) -> int:
    segments = job.segments(plan)
    if not states.kept:
        return len(segments)
    return sum(any(number not in states.kept for run in one.runs for number in run.numbers) for one in segments)


def _mount(one: RunLoad, memory: Mapping[int, int]) -> MountEstimate:
    run = one.run
    return MountEstimate(
        path=None if run.mounted is not None else run.path,
        shard_count=run.stop - run.first,
        left=one.count,
        grid=None if run.blocks is None else run.blocks.grid,
        files=one.load.files,
        nbytes=one.load.nbytes,
        objects=one.objects,
        memory=memory[run.number],
    )


def _cost(estimate: Estimate, prices: Prices) -> Cost:
    seconds = estimate.seconds
    return cost_of(
        prices,
        estimate.requests_to_source,
        estimate.requests_to_destination,
        None if estimate.read is None else estimate.read.value,
        None if estimate.written is None else estimate.written.value,
        None if estimate.stored_after is None else estimate.stored_after.value,
        None if seconds is None else seconds * estimate.threads,
    )


def _warnings(estimate: Estimate) -> Iterator[str]:
    space, needed_bytes = estimate.space, estimate.needed
    if estimate.is_enough is False and space is not None:
        verb = "needed to write and join the shards" if estimate.is_joined else "written"
        needed = "" if needed_bytes is None else f", and about {format_bytes(needed_bytes)} are {verb}"
        inodes = "" if space.files is None else f" and {space.files:,} files"
        yield f"the destination has room for {format_bytes(space.nbytes)}{inodes}{needed}: make room, or name another destination"
    if estimate.states.gone:
        yield f"the source has {count(estimate.states.gone, 'shard')} less than before: the objects of the missing shards stay until prune removes them"
    if estimate.overwritten:
        yield f"{count(estimate.overwritten, 'shard')} will be written over"
    if estimate.write_test is not None and estimate.write_test.error:
        yield estimate.write_test.error


def _larger(arrays: list[ArrayEstimate]) -> Iterator[str]:
    """Yield a warning about sampled arrays that become larger."""
    larger = [one for one in arrays if _is_larger(one)]
    if larger:
        more = f" and {len(larger) - NAMED:,} more" if len(larger) > NAMED else ""
        yield f"larger than before: {', '.join(map(_growth, larger[:NAMED]))}{more}; leave them out with {all_but([one.path for one in larger])}"


def _is_larger(one: ArrayEstimate) -> bool:
    if one.stored is None or one.stored_after is None or one.stored_after.basis != "sampled":
        return False
    return one.stored_after.value > LARGER * one.stored.value


def _growth(one: ArrayEstimate) -> str:
    assert one.stored is not None
    assert one.stored_after is not None
    return (
        f"{one.path!r} by {one.stored_after.value / one.stored.value - 1:.0%}" if one.stored.value else repr(one.path)
    )
