"""A job from its checks to its config: what is done once, before the first shard and after the last. It knows no Dask."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import replace

import msgspec

from shardedstore.chain import Chain, Sink
from shardedstore.config import FILE_NAME, Config, Mount, dump, locations
from shardedstore.errors import CorruptError, DestinationError, ShardError, ShardsFailed
from shardedstore.fingerprint import fingerprint
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
from shardedstore.locations import Directory, Location, origin, url_of
from shardedstore.metadata import ArrayMeta, GroupMeta
from shardedstore.names import CONSOLIDATED, check_names
from shardedstore.plan import Plan, Run, Segment
from shardedstore.publish import remove_temporaries, write_file
from shardedstore.task import Job, Outcome
from shardedstore.urls import is_remote, normalize

GONE = "what was written is not there any more, or is of another size"


def prepare(plan: Plan, chain: Chain, to: str | None, overwrite: bool, retries: int) -> Job:
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
        return Job(chain, None, retries=retries)
    folder = normalize(destination)
    if "{block}" in folder:
        raise DestinationError(
            f"the destination {folder!r} has {{block}} in its name, which stands for an index: rename it"
        )
    if is_remote(folder):
        raise DestinationError(f"{folder!r} is in an object store, where jobs can't write yet: name a local folder")
    check_apart(folder, plan.config)
    if chain.sink is not None:
        check_names(plan, chain.sink)
        check_outputs(folder, plan, chain.sink)
    check_destination(folder, identity(plan, chain), overwrite)
    return Job(chain, folder, retries=retries)


def identity(plan: Plan, chain: Chain) -> Identity:
    """Return what a job's result is made from."""
    source = hashlib.sha256(dump(plan.config, None) + plan.source.encode()).hexdigest()
    return Identity(source, fingerprint(chain) or f"{ONCE}{secrets.token_hex(16)}")


def check_apart(folder: str, config: Config) -> None:
    """Refuse a destination that is a source, or inside one."""
    real = os.path.realpath(folder)
    for url in sorted({url for _, location in locations(config) if (url := url_of(location)) and not is_remote(url)}):
        source = os.path.realpath(url.partition("{block}")[0].rstrip("/"))
        if f"{real}/".startswith(f"{source}/") and not os.path.isfile(url.replace("{block}", "0")):
            raise DestinationError(
                f"the destination {folder!r} is, or is inside, the source {url!r}: name a folder outside of it"
            )


def check_outputs(folder: str, plan: Plan, sink: Sink) -> None:
    """Refuse a shard whose output would lie in a source that stands in the destination."""
    places = {origin(location) for _, location in locations(plan.config)}
    urls = {place.url.partition("{block}")[0] for place in places if isinstance(place, Directory)}
    sources = {os.path.realpath(url) for url in urls if not is_remote(url)}
    for run in plan.runs:
        name = sink.target(None if run.mounted is not None else run.path, run.blocks is not None)
        place = os.path.realpath(os.path.join(folder, name.partition("{block}")[0] + "0"))
        if any(place[: slash.start()] in sources for slash in re.finditer("/", place)):
            raise DestinationError(
                f"{name!r} of the destination {folder!r} lies inside the source: name another folder"
            )


def start(job: Job, wanted: Identity, overwrite: bool) -> Job:
    """Open the destination for writing, and return the job with its generation there."""
    if job.folder is None:
        return job
    return replace(job, generation=open_destination(job.folder, wanted, overwrite).generation)


def remaining(job: Job, plan: Plan, segments: list[Segment]) -> tuple[list[Segment], int]:
    """Return the segments that have shards to do, without those that are done, and how many are done."""
    if job.folder is None:
        return segments, 0
    records = Ledger(job.folder, job.generation).read()
    if not records:
        return segments, 0
    done = frozenset(
        number
        for run in plan.runs
        for number, shard in run.shards()
        if number in records and job.is_there(shard, records[number])
    )
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
        raise _failed(job, outcome.failures, plan.shard_count)
    if digest(read_nodes(plan.config)) != plan.source:
        raise CorruptError(
            "the source's metadata changed while the job ran, so its shards may be of different states; no config was "
            "written: partition the source again, and map it to another destination"
        )
    records = _records(job, plan, outcome)
    config = Config(
        base=_mount(job, plan.runs[0], records).location,
        shards={run.path: _mount(job, run, records) for run in plan.runs[1:]},
    )
    nodes = read_nodes(config)
    config = msgspec.structs.replace(config, shards={p: _as_now(m, nodes.get(p)) for p, m in config.shards.items()})
    if job.folder is None:
        return config
    config = msgspec.structs.replace(config, consolidated=_consolidate(job, plan, nodes))
    check_latest(job.folder, job.generation)
    write_file(os.path.join(job.folder, FILE_NAME), dump(config, job.folder))
    remove_temporaries(job.folder)
    return config


def _records(job: Job, plan: Plan, outcome: Outcome) -> dict[int, Record]:
    """Return the record of every shard, each compared with what stands at the destination."""
    if job.folder is None:
        return {number: Record(number, 0, 0, "", location) for number, location in outcome.locations.items()}
    records = Ledger(job.folder, job.generation).read()
    missing = tuple(
        ShardError(shard.name, GONE if number in records else "it was not recorded as done")
        for run in plan.runs
        for number, shard in run.shards()
        if number not in records or not job.is_there(shard, records[number])
    )
    if missing:
        raise _failed(job, missing, plan.shard_count)
    return records


def _failed(job: Job, failures: tuple[ShardError, ...], count: int) -> ShardsFailed:
    again = "" if job.folder is None else ": call map_shards with the same arguments again, and it goes on from there"
    return ShardsFailed(
        f"{len(failures)} of {count} shards failed and no config was written; the others are done{again}", failures
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


def _as_now(mount: Mount, node: Node | None) -> Mount:
    """Return a mount with the chunk keys that its array has now, after the chain."""
    if mount.blocks is None or node is None or not isinstance(node.meta, ArrayMeta) or node.meta.keys is None:
        return mount
    return msgspec.structs.replace(mount, blocks=msgspec.structs.replace(mount.blocks, keys=node.meta.keys))


def _consolidate(job: Job, plan: Plan, nodes: dict[str, Node]) -> Location | None:
    """Write the consolidated metadata of the groups that had some, as a component of its own."""
    assert job.folder is not None
    groups = [path for path, node in _groups(plan) if node.consolidated and path in nodes]
    if not groups:
        return None
    folder = os.path.join(job.folder, versioned(CONSOLIDATED, job.generation))
    for group in groups:
        key, data = consolidate(nodes, group, plan.nodes[group].inherited)
        write_file(os.path.join(folder, key), data)
    return Directory(folder)


def _groups(plan: Plan) -> Iterator[tuple[str, GroupMeta]]:
    for path, node in plan.nodes.items():
        if isinstance(node.meta, GroupMeta):
            yield path, node.meta
