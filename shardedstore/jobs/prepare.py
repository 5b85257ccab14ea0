"""What one ordinary Zarr has lost since it was written: its files are marked to be made again, its documents put back."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec
from toolz import merge

from shardedstore.config.document import from_dict, to_dict
from shardedstore.errors import DestinationError
from shardedstore.jobs.change_detection import Changed, Recorded, check_level, find_changed
from shardedstore.jobs.destination import (
    check_apart,
    check_lengths,
    check_names,
    check_new_zarr,
    check_outputs,
    check_unused,
)
from shardedstore.jobs.fingerprint import code_digests, described, edited, fingerprint
from shardedstore.jobs.layouts.single_zarr import Listed, put_back, tally_shards, withdraw
from shardedstore.jobs.ledger import Ledger, Record
from shardedstore.jobs.object_sizes import attribute_notices
from shardedstore.jobs.outcome import Outcome
from shardedstore.jobs.result_preview import after, plan_result, plan_zarr
from shardedstore.jobs.shards import Plan, Segment
from shardedstore.jobs.source_comparison import divided_otherwise, marks_of, source_token, unchanged
from shardedstore.jobs.versions import (
    ONCE,
    Identity,
    check_destination,
    claim,
    last_begun,
    ledger_of,
    open_destination,
    read_generation,
)
from shardedstore.jobs.worker import MOST_FAILURES, Job
from shardedstore.notices import merge_notices
from shardedstore.storage.folders import open_folder
from shardedstore.storage.options import StorageOptions, take_options
from shardedstore.storage.unfinished import UNFINISHED, bucket_rule
from shardedstore.storage.urls import BESIDE, is_remote, normalize
from shardedstore.stores.hierarchy import Node
from shardedstore.stores.locations import Config, Location, PartOf, ViewOf
from shardedstore.stores.registry import open_location
from shardedstore.stores.twin_documents import both_notices
from shardedstore.transforms.base.chain import Chain
from shardedstore.transforms.base.single_zarr import WAITING, waiting_name
from shardedstore.transforms.base.variables import check_sizes
from shardedstore.zarr.grid import Coords
from shardedstore.zarr.metadata import ArrayMeta


def mend(job: Job, plan: Plan) -> int:
    """Mark the shards of one ordinary Zarr of which something is gone, and return how many they are.

    By one listing. Documents that were published are put back at once, as a later job may not end that would write them.
    """
    records = {number: record for number, record in job.ledger.read().items() if record.is_done}
    if not records:
        return 0
    lost = frozenset(_lost(job, plan, records))
    if lost:
        job.ledger.mark(lost)
    return len(lost)


def _lost(job: Job, plan: Plan, records: Mapping[int, Record]) -> Iterator[int]:
    sink, waiting = job.chain.sink, {name for name, _ in job.place.sizes(WAITING)}
    assert sink is not None
    assert job.folder is not None
    zarr = open_folder(job.folder.removesuffix(BESIDE), job.options)
    sizes = list(zarr.sizes())
    put_back(job.place, zarr, job.options, {key for key, _ in sizes})
    found = tally_shards(plan_zarr(plan, sink, after(job.chain, plan.nodes)), sizes)
    for run in plan.runs:
        for number, shard in run.shards():
            record = records.get(number)
            if record is None:
                continue
            has_lost = found.get(number, Listed()).has_lost(Listed.written([record]))
            if has_lost or (run.blocks is None and waiting_name(shard) not in waiting):
                yield number


logger = logging.getLogger("shardedstore")

MOST_NAMED = 8

FEW = 8  # segments that are read one by one, where a ledger may have thousands

Found = tuple[Recorded, frozenset[int] | BaseException]

Each = Callable[[Callable[[Recorded], frozenset[int]], list[Recorded]], Iterable[Found]]


def take_over(job: Job, plan: Plan, identity: Identity, stale: frozenset[int] = frozenset()) -> int:
    """Record in a job's ledger what it takes over, and return how many shards of the one before it does not.

    Those in `stale` are left out. It can be done again, and does the same.
    """
    before = last_begun(job.place, read_generation(job.place, identity.after))
    old = ledger_of(job.place, before).read()
    earlier = from_dict(before.config)
    if otherwise := list(divided_otherwise(earlier, plan.config, before.marks, identity.marks)):
        logger.warning(
            "divided otherwise than before, and so made again: %s",
            ", ".join(map(repr, otherwise[:MOST_NAMED]))
            + (f" and {len(otherwise) - MOST_NAMED} more" if len(otherwise) > MOST_NAMED else ""),
        )
    taken: dict[int, Record] = {}
    for then, now in unchanged(earlier, plan.config, before.marks, identity.marks):
        record = old.get(then)
        if record is not None and not record.failed and now not in stale:
            generation = record.generation or before.generation
            taken[now] = msgspec.structs.replace(record, shard=now, generation=generation)
    ledger_of(job.place, identity).inherit(
        (segment.number, records) for segment, records in by_segment(job.segments(plan), taken)
    )
    return sum(not record.failed for record in old.values()) - len(taken)


def by_segment(segments: list[Segment], records: Mapping[int, Record]) -> Iterator[tuple[Segment, list[Record]]]:
    """Yield records with the segments that their shards are in."""
    for segment in segments:
        found = [records[number] for run in segment.runs for number in run.numbers if number in records]
        if found:
            yield segment, found


def find_stale(changed: Changed, plan: Plan, records: Mapping[int, Record], each: Each) -> frozenset[int]:
    """Return the numbers of the recorded shards whose source is not what it was.

    One that was not looked at so closely when it was made is taken to have changed.

    Raises
    ------
    DestinationError
        When a source can't be looked at.
    """
    records = {number: record for number, record in records.items() if not record.failed}
    numbers = ((number, record.source) for number, record in records.items())
    stale = {number for number, source in numbers if not source.startswith(f"{changed} ")}
    tasks: list[Recorded] = []
    for segment, found in by_segment(plan.segments(), {n: r for n, r in records.items() if n not in stale}):
        tasks.append(Recorded(segment, {record.shard: record.source for record in found}))
    for task, result in each(partial(find_changed, changed), tasks):
        if isinstance(result, BaseException):
            raise DestinationError(
                f"whether the source of the shards at {task.segment.label!r} has changed can't be told: {result}; "
                "nothing was written: run the job again, or look at metadata only (changed='metadata')"
            ) from result
        stale |= result
    return frozenset(stale)


def find_unwanted(job: Job, plan: Plan, ledger: Ledger) -> frozenset[int]:
    """Return the numbers of the recorded shards that hold consolidated metadata of groups that are to have none."""
    wanted = {run.number: run.rebuilt.keys() for run in plan.runs if run.division is None}  # no block holds any
    segments = [segment.number for segment in job.segments(plan) if any(run.division is None for run in segment.runs)]
    records = dict[int, Record]()
    with suppress(NotADirectoryError):  # which is told when a record is to be kept
        records = merge(map(ledger.read_segment, segments)) if len(segments) <= FEW else ledger.read()
    return frozenset(number for number in wanted.keys() & records.keys() if not _wants(wanted[number], records[number]))


def _wants(groups: Collection[str], record: Record) -> bool:
    return all(group in groups for group in record.consolidated)


def one_by_one(work: Callable[[Recorded], frozenset[int]], tasks: list[Recorded]) -> Iterator[Found]:
    """Do the tasks here, one after another."""
    for task in tasks:
        yield task, work(task)


logger = logging.getLogger("shardedstore")


def prepare(
    plan: Plan,
    chain: Chain,
    to: str | None,
    overwrite: bool,
    retries: int,
    storage_options: StorageOptions = None,
    max_failures: int = MOST_FAILURES,
    changed: Changed = "metadata",
    digest: bool = False,
) -> tuple[Plan, Job]:
    """Check everything that can be checked before anything is written, and return the plan with its notices, and the job.

    With `digest`, what it writes is digested on its way.

    Raises
    ------
    UsageError
        The one thing that keeps the job from running.
    """
    check_level(changed, plan.config)
    nodes: Mapping[str, Node] = plan.nodes
    notices = list(plan.notices)
    if chain.rewrites:
        notices += both_notices(open_location(_source(plan.config)), nodes)
    bound = []
    for step in chain.steps:
        step.check(nodes)
        notices = [notice for notice in notices if notice.text not in step.settled]
        notices += step.notices(nodes)
        bound.append(step.bound(nodes))
        nodes = step.changed(nodes)
    check_sizes(plan.nodes, nodes)
    if chain.sink is not None:
        chain.sink.check(nodes)
        chain.sink.check_shards(plan.config, nodes)
        notices += chain.sink.notices(nodes)
        notices += () if chain.is_one_zarr else attribute_notices(nodes)
    plan, running = plan._replace(notices=merge_notices(notices)), chain._replace(steps=tuple(bound))
    destination = to if chain.sink is None else chain.sink.url
    if destination is None:
        return plan, Job(running, None, retries=retries, max_failures=max_failures)
    folder = normalize(destination)
    options = take_options(folder, storage_options) if chain.sink is None else chain.sink.options
    if "{block}" in folder:
        raise DestinationError(
            f"the destination {folder!r} has {{block}} in its name, which stands for an index: rename it"
        )
    if urlsplit(folder).scheme in ("http", "https"):
        raise DestinationError(
            f"{folder!r} is a web server, which can only be read: name a folder, s3://, gs:// or az://"
        )
    check_apart(folder, plan.config)
    if chain.sink is not None and not is_remote(folder):
        check_lengths(plan, chain.sink)
    if chain.sink is None:
        pass
    elif chain.sink.is_one_zarr:
        check_new_zarr(folder, plan, chain.sink)
        folder += BESIDE
    else:
        check_names(plan, chain.sink)
        check_outputs(folder, plan, chain.sink)
    shapes = _shapes(plan, nodes) if digest else None
    job = Job(
        running, folder, retries=retries, options=options, max_failures=max_failures, changed=changed, shapes=shapes
    )
    wanted = identity(plan, chain)
    found = check_destination(job.place, wanted, overwrite and not chain.is_one_zarr)
    if found is not None and not (overwrite and chain.is_one_zarr):
        plan = plan._replace(notices=merge_notices([*plan.notices, *edited(found.code, wanted.code, destination)]))
    return plan, job


def _source(config: Config) -> Location:
    """Return where all documents of a config are: of one that divides a source, in its base, which is read faster."""
    base = config.base
    wholes = (base, base.source) if isinstance(base, PartOf) else (base,)
    views = (mount.location for mount in config.shards.values())
    return base if all(isinstance(view, ViewOf) and view.source in wholes for view in views) else config


def _shapes(plan: Plan, nodes: Mapping[str, Node]) -> dict[str, Coords]:
    """Return the shapes that the arrays get that are divided into blocks."""
    metas = ((run.path, nodes[run.path].meta) for run in plan.runs if run.blocks is not None and run.path in nodes)
    return {path: meta.shape for path, meta in metas if isinstance(meta, ArrayMeta)}


def identity(plan: Plan, chain: Chain) -> Identity:
    """Return what a job's result is made from."""
    source = source_token(plan.config, plan.source)
    token = fingerprint(chain) or f"{ONCE}{secrets.token_hex(16)}"
    marks = marks_of(plan.nodes) if chain.sink is not None and chain.sink.can_grow else {}
    planned = plan_result(plan, chain)
    return Identity(
        source,
        token,
        config=to_dict(plan.config),
        marks=marks,
        is_one_zarr=chain.is_one_zarr,
        planned=planned,
        described=described(chain),
        code=code_digests(chain),
    )


def start(job: Job, plan: Plan, wanted: Identity, overwrite: bool, each: Each = one_by_one) -> Job:
    """Open the destination for writing, and return the job with its generation there.

    What `prepare` saw of it is looked at again: a lazy job may run much later, when another has written there. Shards
    that an earlier job made are taken over where their source is as it was; `each` is how the source is looked at.
    The plan's notices are logged.
    """
    for notice in plan.notices:
        logger.warning("%s", notice)
    if job.folder is None:
        return job
    one_zarr = job.chain.is_one_zarr
    if one_zarr:
        check_unused(job.folder.removesuffix(BESIDE), job.options)
    if overwrite and one_zarr:  # so that nothing opens a mixture of the old and the new, whenever this job ends
        check_destination(job.place, wanted, overwrite=False)
        withdraw(job.place, open_folder(job.folder.removesuffix(BESIDE), job.options))
    found = open_destination(job.place, wanted, overwrite and not one_zarr, again=overwrite and one_zarr)
    stale = 0
    if found.after and not ledger_of(job.place, found).has_inherited():
        stale = take_over(job, plan, found)
    changed = frozenset[int]() if one_zarr else find_unwanted(job, plan, ledger_of(job.place, found))
    if job.changed != "metadata" and (records := ledger_of(job.place, found).read()):
        changed |= find_stale(job.changed, plan, records, each)
    if changed:
        code = found.code or wanted.code
        wanted = msgspec.structs.replace(wanted, after=found.generation, code=code)
        found = claim(job.place, wanted, found.generation)
        stale += take_over(job, plan, found, changed)
    if is_remote(job.folder) and ledger_of(job.place, found).unfinished():
        logger.warning(UNFINISHED, job.folder, bucket_rule(job.folder.removesuffix(BESIDE)))
    job = replace(job, generation=found.generation, nonce=found.nonce, stale=stale)
    return replace(job, lost=mend(job, plan)) if one_zarr else job


class Remaining(NamedTuple):
    """The segments that have shards to do, without those that are done; and what is known of all before.

    `again` are the generations of shards that are recorded, and are damaged or not there any more.
    """

    segments: list[Segment]
    before: Outcome
    again: dict[int, int]


def remaining(job: Job, plan: Plan) -> Remaining:
    """Return what is left of a job."""
    segments = job.segments(plan)
    records = {} if job.folder is None else job.ledger.read()
    if not records:
        return Remaining(segments, Outcome(), {})
    done = job.done(plan.runs, records, job.listed())
    left = [segment.without(done) for segment in segments]
    again = {number: records[number].generation for number in records.keys() - done}
    missing = sum(records[number].is_done for number in again)
    return Remaining([segment for segment in left if segment.runs], Outcome(skipped=len(done), missing=missing), again)
