"""Check all that can be checked before a job writes anything, and make its manifest."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from shardedstore.config.document import to_dict
from shardedstore.jobs.array_states import states_of
from shardedstore.jobs.change_detection import Changed, check_level
from shardedstore.jobs.fingerprint import code_digests, described, edited, fingerprint
from shardedstore.jobs.guards import Guards, check_guards, parse_guards, places_of_mounts
from shardedstore.jobs.job import MOST_FAILURES, Job
from shardedstore.jobs.layouts.base import ResultLayout
from shardedstore.jobs.manifest import ONCE, JobManifest
from shardedstore.jobs.move.options import Move
from shardedstore.jobs.move.state import check_destination_of_move
from shardedstore.jobs.result_preview import after
from shardedstore.jobs.shards import Plan
from shardedstore.jobs.source_comparison import marks_of, source_before, source_token
from shardedstore.notices import Notice, merge_notices
from shardedstore.stores.hierarchy import Node
from shardedstore.stores.locations import Config, Location
from shardedstore.stores.twin_documents import both_notices
from shardedstore.transforms.base.chain import Chain
from shardedstore.transforms.base.variables import check_sizes
from shardedstore.zarr.grid import Coords
from shardedstore.zarr.metadata import ArrayMeta


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

    With `digest`, the job computes digests of the decoded data that it writes.

    Raises
    ------
    UsageError
        The one thing that keeps the job from running.
    GuardsFailed
        If a guard refuses the source.
    """
    guards = parse_guards(guards)
    check_level(changed, plan.config)
    running, nodes, notices = _check_chain(chain, layout, plan)
    plan = plan._replace(notices=merge_notices(notices), nodes_after=nodes)
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
    wanted = manifest_of(plan, job)
    check_moved(job, wanted)
    found = layout.find(wanted, overwrite)
    if found is not None:
        code = edited(found.code, wanted.code, layout.url)
        plan = plan._replace(notices=merge_notices([*plan.notices, *code]))
    guarded = check_guards(guards, layout.folder, layout.published(), wanted)
    return plan._replace(notices=merge_notices([*plan.notices, *guarded])), job


def _check_chain(chain: Chain, layout: ResultLayout, plan: Plan) -> tuple[Chain, Mapping[str, Node], list[Notice]]:
    """Check the metadata before each step; return the chain that runs, the metadata after it, and the notices."""
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
    return chain._replace(steps=tuple(bound)), nodes, notices


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


def manifest_of(plan: Plan, job: Job) -> JobManifest:
    """Return the manifest of a job, without its generation."""
    chain, layout = job.chain, job.layout
    return JobManifest(
        source_token(plan.config, plan.source),
        fingerprint(chain) or f"{ONCE}{secrets.token_hex(16)}",
        config=to_dict(plan.config),
        marks=marks_of(plan.nodes) if chain.sink.can_grow else {},
        must_grow=layout.must_grow,
        preview=layout.preview(plan, chain),
        described=described(chain),
        code=code_digests(chain),
        layout=layout.key,
        arrays=states_of(after(chain, plan)),
        places=places_of_mounts(plan),
        moved_from=job.moved_from,
        source_before=source_before(plan, job.moved_from),
    )


def check_moved(job: Job, wanted: JobManifest) -> None:
    """Refuse a job at a destination with a move that is not its own."""
    if job.layout.destination is not None:
        check_destination_of_move(job.layout.place, wanted, is_move=job.move is not None)
