"""A job from its checks to its config: what is done once, before the first shard and after the last. It knows no Dask."""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import msgspec

from shardedstore.access import StorageOptions, take_options
from shardedstore.chain import Chain
from shardedstore.config import FILE_NAME, Config, Mount, dump
from shardedstore.destination import check_apart, check_new_zarr, check_outputs, check_unused
from shardedstore.errors import CorruptError, DestinationError, ShardError, ShardsFailed
from shardedstore.fingerprint import fingerprint
from shardedstore.folders import open_folder
from shardedstore.grid import block_name
from shardedstore.hierarchy import Node, consolidate, digest, read_nodes
from shardedstore.ledger import (
    ONCE,
    Identity,
    Ledger,
    Record,
    check_destination,
    check_latest,
    open_destination,
    versioned,
)
from shardedstore.locations import Directory, Location
from shardedstore.metadata import ArrayMeta
from shardedstore.names import CONSOLIDATED, check_names
from shardedstore.onezarr import LAST, finish_zarr
from shardedstore.plan import Plan, Run, Segment
from shardedstore.task import MOST_FAILURES, Job, Outcome
from shardedstore.urls import BESIDE, is_remote, join_url, normalize

logger = logging.getLogger("shardedstore")
UNFINISHED = (
    "an earlier run was ended while it wrote to %s: parts of uploads may be stored there that nothing shows and that cost "
    "money. A rule of the bucket removes them: %s"
)
GONE = "what was written is not there any more, or is of another size"


def prepare(
    plan: Plan,
    chain: Chain,
    to: str | None,
    overwrite: bool,
    retries: int,
    storage_options: StorageOptions = None,
    max_failures: int = MOST_FAILURES,
) -> Job:
    """Check everything that can be checked before anything is written, and return the job.

    Raises
    ------
    UsageError
        The one thing that keeps the job from running.
    """
    nodes: Mapping[str, Node] = plan.nodes
    for step in chain.steps:
        step.check(nodes)
        nodes = step.changed(nodes)
    if chain.sink is not None:
        chain.sink.check(nodes)
    destination = to if chain.sink is None else chain.sink.url
    if destination is None:
        return Job(chain, None, retries=retries, max_failures=max_failures)
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
    if chain.sink is None:
        pass
    elif chain.sink.is_one_zarr:
        check_new_zarr(folder, plan, chain.sink)
        folder += BESIDE
    else:
        check_names(plan, chain.sink)
        check_outputs(folder, plan, chain.sink)
    job = Job(chain, folder, retries=retries, options=options, max_failures=max_failures)
    check_destination(job.place, identity(plan, chain), overwrite and not is_one_zarr(chain))
    return job


def identity(plan: Plan, chain: Chain) -> Identity:
    """Return what a job's result is made from."""
    source = hashlib.sha256(dump(plan.config, None) + plan.source.encode()).hexdigest()
    return Identity(source, fingerprint(chain) or f"{ONCE}{secrets.token_hex(16)}")


def is_one_zarr(chain: Chain) -> bool:
    """Tell whether all shards go to one ordinary Zarr."""
    return chain.sink is not None and chain.sink.is_one_zarr


def start(job: Job, wanted: Identity, overwrite: bool) -> Job:
    """Open the destination for writing, and return the job with its generation there.

    What `prepare` saw of it is looked at again: a lazy job may run much later, when another has written there.
    """
    if job.folder is None:
        return job
    one_zarr = is_one_zarr(job.chain)
    if one_zarr:
        check_unused(job.folder.removesuffix(BESIDE), job.options)
    ledger = open_destination(job.place, wanted, overwrite and not one_zarr, again=overwrite and one_zarr)
    if overwrite and one_zarr:  # so that nothing opens a mixture of the old and the new, whenever this job ends
        job.place.remove(FILE_NAME)
        zarr = open_folder(job.folder.removesuffix(BESIDE), job.options)
        for name in reversed(LAST):
            zarr.remove(name)
    if is_remote(job.folder) and ledger.unfinished():
        logger.warning(UNFINISHED, job.folder, bucket_rule(job.folder.removesuffix(BESIDE)))
    return replace(job, generation=ledger.generation)


def bucket_rule(url: str) -> str:
    """Return the rule of a bucket that removes unfinished uploads below a URL, as the store's owner writes it.

    >>> bucket_rule("az://container/out")
    'none is needed: Azure drops blocks that were not committed after a week'
    """
    place = urlsplit(url)
    if place.scheme.startswith(("az", "adl", "abfs")):
        return "none is needed: Azure drops blocks that were not committed after a week"
    prefix = place.path.strip("/") + "/"
    if place.scheme == "gs":
        condition = {"age": 7, "matchesPrefix": [prefix]}
        rules: dict[str, Any] = {
            "rule": [{"action": {"type": "AbortIncompleteMultipartUpload"}, "condition": condition}]
        }
        return json.dumps({"lifecycle": rules})
    abort = {"DaysAfterInitiation": 7}
    rule = {"ID": "unfinished-uploads", "Status": "Enabled", "Filter": {"Prefix": prefix}}
    return json.dumps({"Rules": [{**rule, "AbortIncompleteMultipartUpload": abort}]})


def remaining(job: Job, plan: Plan, segments: list[Segment]) -> tuple[list[Segment], int]:
    """Return the segments that have shards to do, without those that are done, and how many are done."""
    if job.folder is None:
        return segments, 0
    records = Ledger(job.place, job.generation).read()
    if not records:
        return segments, 0
    done = job.done(plan.runs, records, job.listed())
    left = [segment.without(done) for segment in segments]
    return [segment for segment in left if segment.runs], len(done)


def finish(job: Job, plan: Plan, outcome: Outcome) -> Config:
    """Prove that every shard is there, rebuild consolidated metadata, and write the config: the last thing of a job.

    Raises
    ------
    ShardsFailed
        With an error for each shard that failed; no config is written then, and what is done stays done.
    CorruptError
        When the source's metadata is not what it was when the job was planned.
    DestinationError
        When a later job has taken the destination over.
    """
    if outcome.failures:
        tried = outcome.done + outcome.skipped + len(outcome.failures)
        raise _failed(job, outcome.failures, plan.shard_count, plan.shard_count - tried)
    if digest(read_nodes(plan.config)) != plan.source:
        raise CorruptError(
            "the source's metadata changed while the job ran, so its shards may be of different states; no config was "
            "written: partition the source again, and map it to another destination"
        )
    records = _records(job, plan, outcome)
    if job.chain.sink is not None and is_one_zarr(job.chain):
        return finish_zarr(job, plan, records, job.chain.sink)
    config = Config(
        base=_mount(job, plan.runs[0], records).location,
        shards={run.path: _mount(job, run, records) for run in plan.runs[1:]},
    )
    nodes = read_nodes(config)
    planned = _after(job.chain, plan.nodes)
    mounts = {path: _as_now(path, mount, nodes.get(path), planned.get(path)) for path, mount in config.shards.items()}
    config = msgspec.structs.replace(config, shards=mounts)
    if job.folder is None:
        return config
    config = msgspec.structs.replace(config, consolidated=_consolidate(job, plan, nodes))
    check_latest(job.place, job.generation)
    job.place.write(FILE_NAME, dump(config, job.folder))
    job.place.clean()
    return config


def _records(job: Job, plan: Plan, outcome: Outcome) -> dict[int, Record]:
    """Return the record of every shard, each compared with what stands at the destination."""
    if job.folder is None:
        return {number: Record(number, 0, 0, "", location) for number, location in outcome.locations.items()}
    records = Ledger(job.place, job.generation).read()
    done = job.done(plan.runs, records, job.listed())
    missing = tuple(
        ShardError(shard.name, GONE if number in records else "it was not recorded as done")
        for run in plan.runs
        for number, shard in run.shards()
        if number not in done
    )
    if missing:
        raise _failed(job, missing, plan.shard_count)
    return records


def _failed(job: Job, failures: tuple[ShardError, ...], count: int, untried: int = 0) -> ShardsFailed:
    again = "" if job.folder is None else ": call map_shards with the same arguments again, and it goes on from there"
    others = f"{untried} were not tried, and the others are done" if untried else "the others are done"
    return ShardsFailed(
        f"{len(failures)} of {count} shards failed and no config was written; {others}{again}", failures
    )


def _mount(job: Job, run: Run, records: dict[int, Record]) -> Mount:
    if job.chain.sink is not None:
        url = job.template(run.path, run.mounted is not None, run.blocks is not None)
        return Mount(job.chain.sink.location(url), run.blocks)
    located = {shard.block: records[number].location for number, shard in run.shards()}
    if run.blocks is None:
        return Mount(_given(located[None]))
    exceptions = {block_name(block): _given(location) for block, location in located.items()}
    return Mount(next(iter(exceptions.values())), run.blocks, exceptions)


def _given(location: Location | None) -> Location:
    assert location is not None
    return location


def _after(chain: Chain, nodes: Mapping[str, Node]) -> Mapping[str, Node]:
    """Return a source's metadata as the steps of a chain leave it."""
    for step in chain.steps:
        nodes = step.changed(nodes)
    return nodes


def _as_now(path: str, mount: Mount, node: Node | None, planned: Node | None) -> Mount:
    """Return a mount with the chunk keys and the division that its array has now, after the chain."""
    if mount.blocks is None or node is None or not isinstance(node.meta, ArrayMeta) or node.meta.keys is None:
        return mount
    blocks = mount.blocks if planned is None or planned.blocks is None else planned.blocks
    if blocks.chunk_grid != node.meta.chunk_grid:
        raise CorruptError(
            f"{path!r} has a grid of {node.meta.chunk_grid} chunks after the chain, where {blocks.chunk_grid} was planned: "
            "a step changes it and does not say so in what its `changed` returns"
        )
    return msgspec.structs.replace(mount, blocks=msgspec.structs.replace(blocks, keys=node.meta.keys))


def _consolidate(job: Job, plan: Plan, nodes: dict[str, Node]) -> Location | None:
    """Write the consolidated metadata of the groups that get some, as a component of its own."""
    assert job.folder is not None
    groups = [path for path in plan.consolidated if path in nodes]
    if not groups:
        return None
    name = versioned(CONSOLIDATED, job.generation)
    for group in groups:
        key, data = consolidate(nodes, group, plan.nodes[group].inherited)
        job.place.write(f"{name}/{key}", data)
    return Directory(join_url(job.folder, name), job.options)
