"""Start a job: check all that can be checked, open the destination, and find the shards that remain to be done."""

from __future__ import annotations

import logging
import secrets
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import msgspec
from toolz import merge

from shardedstore.config.document import to_dict
from shardedstore.errors import DestinationError
from shardedstore.jobs.array_states import states_of
from shardedstore.jobs.change_detection import Changed, Recorded, check_level, find_changed
from shardedstore.jobs.executors.base import Executor, TaskList
from shardedstore.jobs.fingerprint import code_digests, described, edited, fingerprint
from shardedstore.jobs.guards import Guards, check_guards, parse_guards, places_of_mounts
from shardedstore.jobs.job import MOST_FAILURES, Job
from shardedstore.jobs.layouts.base import ResultLayout
from shardedstore.jobs.ledger import MOVED, Ledger, Record
from shardedstore.jobs.move.options import Move
from shardedstore.jobs.move.state import check_destination_of_move
from shardedstore.jobs.moved_source import keep_moved, source_before, was_moved
from shardedstore.jobs.preflight import source_urls
from shardedstore.jobs.result_preview import after
from shardedstore.jobs.shards import Plan, Segment, decoded_nbytes
from shardedstore.jobs.source_comparison import divided_otherwise, marks_of, source_token, unchanged
from shardedstore.jobs.summary import Summary
from shardedstore.jobs.versions import (
    ONCE,
    Identity,
    OvertakenError,
    claim,
    last_begun,
    ledger_of,
    read_generation,
)
from shardedstore.notices import merge_notices
from shardedstore.storage.outputs import UNFINISHED, bucket_rule
from shardedstore.stores.hierarchy import Node
from shardedstore.stores.locations import Config, Location
from shardedstore.stores.twin_documents import both_notices
from shardedstore.transforms.base.chain import Chain
from shardedstore.transforms.base.variables import check_sizes
from shardedstore.zarr.grid import Coords
from shardedstore.zarr.metadata import ArrayMeta

logger = logging.getLogger("shardedstore")

MOST_NAMED = 8

FEW = 8  # segments that are read one by one, where a ledger may have thousands


def take_over(job: Job, plan: Plan, identity: Identity, executor: Executor, stale: frozenset[int] = frozenset()) -> int:
    """Take over records of an earlier job, and return the number of its shards that are not taken over.

    The shards in `stale` are left out. A repeated call has the same effect.
    """
    before = last_begun(job.layout.place, read_generation(job.layout.place, identity.after))
    old = ledger_of(job.layout.place, before).read()
    earlier = identity.source_of(before)
    if otherwise := list(divided_otherwise(earlier, plan.config, before.marks, identity.marks)):
        logger.warning(
            "divided in another way than before, so all of their shards are made again: %s",
            ", ".join(map(repr, otherwise[:MOST_NAMED]))
            + (f" and {len(otherwise) - MOST_NAMED} more" if len(otherwise) > MOST_NAMED else ""),
        )
    taken = find_reusable(plan, before, identity, old)
    taken = {number: record for number, record in taken.items() if number not in stale}
    if was_moved(before, identity):
        taken = keep_moved(job, plan, identity, taken, executor)
    ledger_of(job.layout.place, identity).inherit(
        (segment.number, records) for segment, records in by_segment(job.segments(plan), taken)
    )
    return sum(not record.failed for record in old.values()) - len(taken)


def find_reusable(plan: Plan, before: Identity, identity: Identity, old: Mapping[int, Record]) -> dict[int, Record]:
    """Return the records of an earlier job whose shards are right for this job by their metadata, by number in this job."""
    reusable: dict[int, Record] = {}
    pairs: Iterable[tuple[int, int]]
    if identity.has_moved_from(before):
        pairs = zip(old, old, strict=True)
    else:
        pairs = unchanged(identity.source_of(before), plan.config, before.marks, identity.marks)
    for then, now in pairs:
        record = old.get(then)
        if record is not None and not record.failed:
            generation = record.generation or before.generation
            reusable[now] = msgspec.structs.replace(record, shard=now, generation=generation)
    return reusable


def by_segment(segments: list[Segment], records: Mapping[int, Record]) -> Iterator[tuple[Segment, list[Record]]]:
    """Yield segments with the records of their shards."""
    for segment in segments:
        found = [records[number] for run in segment.runs for number in run.numbers if number in records]
        if found:
            yield segment, found


def find_stale(changed: Changed, plan: Plan, records: Mapping[int, Record], executor: Executor) -> frozenset[int]:
    """Return the numbers of the recorded shards whose source has changed.

    A shard whose record has a weaker comparison counts as changed.

    Raises
    ------
    DestinationError
        If a source can't be read.
    """
    records = {number: record for number, record in records.items() if not record.failed}
    numbers = ((number, record.source) for number, record in records.items())
    stale = {number for number, source in numbers if not source.startswith(f"{changed} ")}
    tasks: list[Recorded] = []
    for segment, found in by_segment(plan.segments(), {n: r for n, r in records.items() if n not in stale}):
        tasks.append(Recorded(segment, {record.shard: record.source for record in found}))
    looked = executor.map_unordered(
        partial(find_changed, changed), TaskList("look", tasks, is_light=changed == "listing"), source_urls(plan.config)
    )
    for task, result in looked:
        if isinstance(result, BaseException):
            raise DestinationError(
                f"whether the source of the shards at {task.segment.label!r} has changed can't be told: {result}; "
                "nothing was written: run the job again, or look at metadata only (changed='metadata')"
            ) from result
        stale |= result
    return frozenset(stale)


def find_unwanted(job: Job, plan: Plan, ledger: Ledger) -> frozenset[int]:
    """Return the numbers of the recorded shards with consolidated metadata of groups that must have none now."""
    segments = [segment.number for segment in job.segments(plan) if any(run.division is None for run in segment.runs)]
    records = dict[int, Record]()
    with suppress(NotADirectoryError):  # which is told when a record is to be kept
        records = merge(map(ledger.read_segment, segments)) if len(segments) <= FEW else ledger.read()
    return unwanted_among(plan, records)


def unwanted_among(plan: Plan, records: Mapping[int, Record]) -> frozenset[int]:
    """Return the numbers of the records whose shards hold consolidated metadata of groups that are to have none."""
    wanted = {run.number: run.rebuilt.keys() for run in plan.runs if run.division is None}  # no block holds any
    return frozenset(number for number in wanted.keys() & records.keys() if not _wants(wanted[number], records[number]))


def _wants(groups: Collection[str], record: Record) -> bool:
    return all(group in groups for group in record.consolidated)


logger = logging.getLogger("shardedstore")


def prepare(
    plan: Plan,
    chain: Chain,
    layout: ResultLayout,
    overwrite: bool,
    retries: int,
    max_failures: int = MOST_FAILURES,
    changed: Changed = "metadata",
    digest: bool = False,
    move: Move | None = None,
    guards: Guards | None = None,
    *,
    moved_from: str = "",
) -> tuple[Plan, Job]:
    """Check everything that can be checked before anything is written, and return the plan with its notices, and the job.

    With `digest`, what it writes is digested on its way.

    Raises
    ------
    UsageError
        The one thing that keeps the job from running.
    GuardsFailed
        If a guard refuses the source.
    """
    guards = parse_guards(guards)
    check_level(changed, plan.config)
    nodes: Mapping[str, Node] = plan.nodes
    notices = list(plan.notices)
    if chain.rewrites:
        notices += both_notices(whole_source(plan.config).open(), nodes)
    bound = []
    for step in chain.steps:
        step.check(nodes)
        notices = [notice for notice in notices if notice.text not in step.settled]
        notices += step.notices(nodes)
        before, nodes = nodes, step.changed(nodes)
        bound.append(step.bound(before))
    check_sizes(plan.nodes, nodes)
    chain.sink.check(nodes)
    chain.sink.check_shards(plan.config, nodes)
    notices += (*chain.sink.notices(nodes), *layout.notices(nodes))
    plan = plan._replace(notices=merge_notices(notices), nodes_after=nodes)
    running = chain._replace(steps=tuple(bound))
    layout.check(plan)
    shapes = _shapes(plan, nodes) if digest else None
    job = Job(
        running,
        layout,
        retries=retries,
        max_failures=max_failures,
        changed=changed,
        shapes=shapes,
        move=move,
        guards=guards,
        moved_from=moved_from,
    )
    wanted = identity(plan, job)
    check_moved(job, wanted)
    found = layout.find(wanted, overwrite)
    if found is not None:
        code = edited(found.code, wanted.code, layout.url)
        plan = plan._replace(notices=merge_notices([*plan.notices, *code]))
    guarded = check_guards(guards, layout.folder, layout.published(), wanted)
    return plan._replace(notices=merge_notices([*plan.notices, *guarded])), job


def whole_source(config: Config) -> Location:
    """Return the location that has all documents of a config; for a divided source its base, which is read faster."""
    base = config.base
    wholes = (base, base.whole)
    views = (mount.location for mount in config.shards.values())
    return base if all(view.divides_source and view.view[0] in wholes for view in views) else config


def _shapes(plan: Plan, nodes: Mapping[str, Node]) -> dict[str, Coords]:
    """Return the shapes after the chain of the arrays in blocks."""
    metas = ((run.path, nodes[run.path].meta) for run in plan.runs if run.blocks is not None and run.path in nodes)
    return {path: meta.shape for path, meta in metas if isinstance(meta, ArrayMeta)}


def identity(plan: Plan, job: Job) -> Identity:
    """Return the manifest of a job, without its generation."""
    chain, layout = job.chain, job.layout
    return Identity(
        source_token(plan.config, plan.source),
        fingerprint(chain) or f"{ONCE}{secrets.token_hex(16)}",
        config=to_dict(plan.config),
        marks=marks_of(plan.nodes) if chain.sink.can_grow else {},
        must_grow=layout.must_grow,
        planned=layout.planned(plan, chain),
        described=described(chain),
        code=code_digests(chain),
        layout=layout.key,
        arrays=states_of(after(chain, plan)),
        places=places_of_mounts(plan),
        moved_from=job.moved_from,
        source_before=source_before(plan, job.moved_from),
    )


def start_slice(job: Job, plan: Plan, wanted: Identity, executor: Executor) -> Job:
    """Open the destination for a slice, and return the job with its generation there.

    Several slices may do this at the same time. The first one begins the job. If it continues a finished job, it also looks
    for changes of the source; later slices and an ordinary run continue from its records.
    """
    while True:
        try:
            return _begin_slice(job, plan, wanted, executor)
        except OvertakenError:
            continue


def _begin_slice(job: Job, plan: Plan, wanted: Identity, executor: Executor) -> Job:
    check_moved(job, wanted)
    found = job.layout.open(wanted, overwrite=False)
    ledger = job.layout.ledger(found.generation, found.nonce)
    is_first = ledger.is_compacted()
    if found.after and not ledger.has_inherited():
        take_over(job, plan, found, executor)
        is_first = True
    if is_first and (changed := _find_changed(job, plan, ledger, executor)):
        found = _begin_again(job, wanted, found, ledger, changed)
        take_over(job, plan, found, executor, changed)
    return replace(job, generation=found.generation, nonce=found.nonce)


def start(job: Job, plan: Plan, wanted: Identity, overwrite: bool, executor: Executor) -> Job:
    """Open the destination for writing, and return the job with its generation there.

    The destination is checked again, because a lazy job may run much later than `prepare`. Shards of an earlier job are taken
    over if their source is unchanged; the executor runs the tasks that compare the source.
    The plan's notices are logged.
    """
    for notice in plan.notices:
        logger.warning("%s", notice)
    layout = job.layout
    check_moved(job, wanted)
    found, stale = layout.open(wanted, overwrite), 0
    ledger = layout.ledger(found.generation, found.nonce)
    if found.after and not ledger.has_inherited():
        stale = take_over(job, plan, found, executor)
    if changed := _find_changed(job, plan, ledger, executor):
        found = _begin_again(job, wanted, found, ledger, changed)
        ledger = layout.ledger(found.generation, found.nonce)
        stale += take_over(job, plan, found, executor, changed)
    if layout.is_remote and ledger.unfinished():
        logger.warning(UNFINISHED, layout.folder, bucket_rule(layout.url))
    job = replace(job, generation=found.generation, nonce=found.nonce, stale=stale)
    return replace(job, lost=layout.mend(job, plan))


def _find_changed(job: Job, plan: Plan, ledger: Ledger, executor: Executor) -> frozenset[int]:
    """Return the numbers of the recorded shards that must be made again."""
    changed = (
        find_unwanted(job, plan, ledger) if job.layout.has_objects else frozenset[int]()
    )  # others hold no such metadata
    if job.changed != "metadata" and (records := ledger.read()):
        changed |= find_stale(job.changed, plan, records, executor)
    return changed


def _begin_again(job: Job, wanted: Identity, found: Identity, ledger: Ledger, changed: frozenset[int]) -> Identity:
    """Begin a new generation that continues a job whose source has changed."""
    _check_none_moved(ledger, changed)
    code = found.code or wanted.code
    wanted = msgspec.structs.replace(wanted, after=found.generation, code=code)
    return claim(job.layout.place, wanted, found.generation)


def check_moved(job: Job, wanted: Identity) -> None:
    """Refuse a job at a destination with a move that is not its own."""
    if job.layout.destination is not None:
        check_destination_of_move(job.layout.place, wanted, is_move=job.move is not None)


def _check_none_moved(ledger: Ledger, changed: frozenset[int]) -> None:
    """Refuse to make shards again in a new version if shards were moved."""
    if any(record.moved for record in ledger.read().values()):
        raise DestinationError(
            f"{len(changed):,} shards at {ledger.folder.url!r} are to be made again, but a move has begun, and their source may be deleted: give the "
            "same options as before"
        )


class Remaining(NamedTuple):
    """The segments with the shards that are left, and the summary of all other shards.

    `again` are the generations of shards that are recorded, and are damaged or not there any more.
    """

    segments: list[Segment]
    before: Summary
    again: dict[int, int]


def _reason(record: Record) -> str:
    """Return the reason why a recorded shard is made again, as in `Summary.again`."""
    if record.failed:
        return "failed"
    return "marked" if record.marked else "lost"


def remaining(job: Job, plan: Plan, segments: list[Segment] | None = None) -> Remaining:
    """Return the remaining shards of a job, or of some of its segments."""
    segments = job.segments(plan) if segments is None else segments
    runs = [run for segment in segments for run in segment.runs]
    records = job.ledger.read()
    if not records:
        return Remaining(segments, Summary(again={"changed": job.stale} if job.stale else {}), {})
    done = job.done(runs, records, job.layout.inventory())
    if job.move is not None:  # a published shard is not done before its source is deleted
        done = frozenset(number for number in done if records[number].moved == MOVED[-1])
    left = [segment.without(done) for segment in segments]
    again = {n: records[n].generation for run in runs for n in run.numbers if n in records and n not in done}
    gone = again if job.move is None else {}  # a move goes on with what is published
    reasons = Counter(_reason(records[number]) for number in gone)
    reasons.update(changed=job.stale, lost=job.lost, marked=-job.lost)
    before = Summary(
        skipped=len(done),
        missing=sum(records[number].is_done for number in gone),
        decoded_nbytes=decoded_nbytes(runs, done),
        again={reason: number for reason, number in reasons.items() if number > 0},
    )
    return Remaining([segment for segment in left if segment.runs], before, again)
