"""A job from its checks to its config: what is done once, before the first shard and after the last. It knows no Dask."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec

from shardedstore.chain import Chain
from shardedstore.components.kinds import Config, Location, PartOf, ViewOf
from shardedstore.components.opening import open_location
from shardedstore.config.document import to_dict
from shardedstore.errors import DestinationError
from shardedstore.grid import Coords
from shardedstore.jobs.codedigest import code_digests, edited
from shardedstore.jobs.destination import check_apart, check_new_zarr, check_outputs, check_unused
from shardedstore.jobs.fingerprint import described, fingerprint
from shardedstore.jobs.names import check_lengths, check_names
from shardedstore.jobs.object_sizes import attribute_notices
from shardedstore.jobs.repair import mend
from shardedstore.jobs.reuse import Each, find_stale, find_unwanted, one_by_one, take_over
from shardedstore.metadata import ArrayMeta
from shardedstore.notices import merge_notices
from shardedstore.reading.hierarchy import Node
from shardedstore.reading.twin_documents import both_notices
from shardedstore.sinks.onezarr import withdraw
from shardedstore.steps.variables import check_sizes
from shardedstore.storage.access import StorageOptions, take_options
from shardedstore.storage.folders import open_folder
from shardedstore.storage.unfinished import UNFINISHED, bucket_rule
from shardedstore.storage.urls import BESIDE, is_remote, normalize
from shardedstore.tasks.change_detection import Changed, check_level
from shardedstore.tasks.generations import ONCE, Identity, check_destination, claim, ledger_of, open_destination
from shardedstore.tasks.outcome import Outcome
from shardedstore.tasks.plan import Plan, Segment
from shardedstore.tasks.result_preview import plan_result
from shardedstore.tasks.source_comparison import marks_of, source_token
from shardedstore.tasks.task import MOST_FAILURES, Job

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
