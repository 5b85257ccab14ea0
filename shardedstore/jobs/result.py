"""Shards that may fail: a result that is published with holes, which are recorded, and tried again by the next run."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping

import msgspec

from shardedstore.config.document import dump
from shardedstore.errors import CorruptError, ShardError, ShardsFailed, UsageError
from shardedstore.fields import FILE_NAME
from shardedstore.jobs.destination import CONSOLIDATED
from shardedstore.jobs.layouts.single_zarr import finish_zarr
from shardedstore.jobs.ledger import Record, compact
from shardedstore.jobs.outcome import Outcome
from shardedstore.jobs.prepare import by_segment
from shardedstore.jobs.result_preview import after, held, veiled_base
from shardedstore.jobs.shards import Plan, Run, changed_chunks
from shardedstore.jobs.versions import check_latest, versioned
from shardedstore.jobs.worker import Job
from shardedstore.storage.errors import explain
from shardedstore.storage.folders import STORAGE_ERRORS
from shardedstore.storage.urls import join_url
from shardedstore.stores.hierarchy import Node, consolidate, digest, read_nodes, undocumented
from shardedstore.stores.locations import Config, Directory, Hole, Location, Mount, at_shard, veiled
from shardedstore.stores.veiled import Veil
from shardedstore.transforms.base.chain import Chain, Sink
from shardedstore.zarr.metadata import ArrayMeta, GroupMeta, consolidated_nodes, dump_json, parse_json

logger = logging.getLogger("shardedstore")


def find_accepted(plan: Plan, chain: Chain, names: Iterable[str], most: int) -> frozenset[int]:
    """Return the numbers of the shards that may fail, by their names; `most` is how many others may.

    Raises
    ------
    UsageError
        For names of no shards, and where a result can't have holes.
    """
    wanted = frozenset(names)
    if type(most) is not int or most < 0:
        raise UsageError(f"max_missing={most!r} is not a number of shards: say 0 or more")
    if not wanted and not most:
        return frozenset()
    if chain.sink is None:
        raise UsageError(
            "accept_failed= and max_missing= are for a chain that ends in a sink: a function returns what it made"
        )
    if chain.is_one_zarr:
        raise UsageError(
            f"a shard that is missing from one ordinary Zarr would be read as fill values: {type(chain.sink).__name__} takes no "
            "accept_failed= and max_missing=. Write with ToZip or CopyTo(layout='shards'), whose config knows of holes"
        )
    found = {shard.name: number for run in plan.runs for number, shard in run.shards() if shard.name in wanted}
    for name in sorted(wanted - found.keys()):
        raise UsageError(f"accept_failed has {name!r}, and there is no such shard: they are {_some(plan)}")
    if "(base)" in wanted:
        raise UsageError(
            "the base can't be a hole, as it holds the metadata of what is divided: take it out of accept_failed"
        )
    return frozenset(found.values())


def _some(plan: Plan) -> str:
    run = plan.runs[-1]
    shard = next(shard for _, shard in run.shards())
    return f"named like {shard.name!r}" if run.mounted is None else "none but the base, as nothing is divided"


def accept(job: Job, plan: Plan, outcome: Outcome) -> dict[int, Record]:
    """Return the records of the shards that failed, where that was accepted: holes in the result.

    Raises
    ------
    ShardsFailed
        Where it was not.
    """
    count = len(outcome.failures)
    untried = plan.shard_count - outcome.done - outcome.skipped - count
    causes = {error.shard: error.cause for error in outcome.failures}
    found = {
        number: Record(number, 0, 0, "", failed=causes[shard.name].partition("\n")[0])
        for run in plan.runs
        for number, shard in run.shards()
        if shard.name in causes
    }
    if job.folder is not None:
        _keep(job, plan, found)
    others = found.keys() - job.accepted
    if untried or not (job.accepted or job.max_missing) or 0 in others or len(others) > job.max_missing:
        raise shards_failed(job, outcome.failures, plan.shard_count, untried)
    return found


def _keep(job: Job, plan: Plan, failed: Mapping[int, Record]) -> None:
    """Record what failed, for people who look at the job later."""
    try:
        for segment, records in by_segment(job.segments(plan), failed):
            with job.ledger.writer(segment.number) as append:
                for record in records:
                    append(record)
    except STORAGE_ERRORS as error:  # of which the failures are likely to tell as well
        logger.warning("what failed can't be recorded at %s: %s", job.folder, explain(error))


def shards_failed(job: Job, failures: tuple[ShardError, ...], count: int, untried: int = 0) -> ShardsFailed:
    """Return the error that tells of the shards that failed, of so many in all."""
    again = "" if job.folder is None else ": call map_shards with the same arguments again, and it goes on from there"
    counts = f"{untried:,} were not tried, and " if untried else ""
    text = f"{len(failures):,} of {count:,} shards failed and no config was written; {counts}{count - untried - len(failures):,} are done"
    remedies = Counter(error.remedy for error in failures if error.remedy)
    if untried and remedies:
        text += f"; the job stopped, as the others would fail as well: {remedies.most_common(1)[0][0]}"
    elif untried and 1 < job.max_failures <= len(failures):
        text += f"; the job stopped at max_failures={job.max_failures} (--max-failures)"
    return ShardsFailed(f"{text}{again}", failures)


GONE = "what was written is not there any more, or is of another size"


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
    gone = accept(job, plan, outcome) if outcome.failures else {}
    if digest(read_nodes(plan.config)) != plan.source:
        raise CorruptError(
            "the source's metadata changed while the job ran, so its shards may be of different states; no config was "
            "written: partition the source again, and map it to another destination"
        )
    if changed := changed_chunks(plan):
        if job.folder is not None:
            job.ledger.mark(frozenset().union(*changed.values()))
        raise CorruptError(
            f"chunks of {', '.join(map(repr, changed))} appeared or went while the job ran, so their shards may be of different states; no config was "
            "written: run the job again with the same arguments, and it makes these shards again"
        )
    records = _records(job, plan, outcome, gone)
    if job.chain.sink is not None and job.chain.is_one_zarr:
        config = finish_zarr(job, plan, records, job.chain.sink)
        compact(job.ledger)
        return config
    config = Config(
        base=_mount(job, plan.runs[0], records).location,
        shards={run.path: _mount(job, run, records) for run in plan.runs[1:]},
    )
    nodes = read_nodes(config)
    planned = after(job.chain, plan.nodes)
    mounts = {path: as_now(path, mount, nodes.get(path), planned.get(path)) for path, mount in config.shards.items()}
    config = msgspec.structs.replace(config, shards=mounts)
    if job.folder is None:
        return config
    config = msgspec.structs.replace(config, consolidated=_consolidate(job, plan, nodes))
    check_latest(job.ledger)
    job.place.write(FILE_NAME, dump(config, job.folder))
    check_latest(job.ledger)
    job.place.clean()
    compact(job.ledger)
    return config


def _records(job: Job, plan: Plan, outcome: Outcome, gone: dict[int, Record]) -> dict[int, Record]:
    """Return the record of every shard, each compared with what stands at the destination but for those in `gone`."""
    if job.folder is None:
        return {number: Record(number, 0, 0, "", location) for number, location in outcome.locations.items()}
    records = job.ledger.read()
    done = job.done(plan.runs, records, job.listed())
    if len(done) + len(gone) == plan.shard_count:
        return records | gone
    missing = tuple(
        ShardError(
            shard.name,
            GONE if number in records else "it was not recorded as done",
            code="lost-result",
            path=shard.path,
            block=shard.block,
        )
        for run in plan.runs
        for number, shard in run.shards()
        if number not in done and number not in gone
    )
    raise shards_failed(job, missing, plan.shard_count)


def _mount(job: Job, run: Run, records: dict[int, Record]) -> Mount:
    if job.chain.sink is not None:
        return _written(job, job.chain.sink, run, records)
    located = {shard.block_name: _given(records[number].location) for number, shard in run.shards()}
    if run.division is None:
        return Mount(located[""])
    exceptions = {name: held(location, run.members) for name, location in located.items()}
    return Mount(next(iter(exceptions.values())), run.blocks, exceptions, run.members)


def _written(job: Job, sink: Sink, run: Run, records: dict[int, Record]) -> Mount:
    """Return where a sink has written a run: as the most of its shards, and those of other generations by name."""

    def location(generation: int) -> Location:
        return held(sink.location(job.template(run, generation)), run.members)

    found = Counter(records[number].generation for number in run.numbers if not records[number].failed)
    most, count = next(iter(found.most_common(1)), (0, 0))
    if run.mounted is not None and count:
        return Mount(veiled_base(location(most), run, records))
    if count == len(run.numbers):
        return Mount(location(most), run.blocks, members=run.members)
    exceptions: dict[str, Location] = {}
    for number, shard in run.shards():
        generation, hole = records[number].generation, records[number].failed
        if hole:
            exceptions[shard.block_name] = Hole(shard.name, hole)
        elif generation != most:
            exceptions[shard.block_name] = at_shard(location(generation), run.division, shard.block_name)
    if run.division is None:
        return Mount(exceptions[""])
    return Mount(location(most), run.blocks, exceptions, run.members)


def _given(location: Location | None) -> Location:
    assert location is not None
    return location


def as_now(path: str, mount: Mount, node: Node | None, planned: Node | None) -> Mount:
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
    """Write the consolidated metadata of the groups that get some and have not in their shards, as a component of its own."""
    assert job.folder is not None
    made = {
        path: consolidate(nodes, path, undocumented(plan.nodes, path)) for path in plan.consolidated if path in nodes
    }
    groups = [path for path, (key, data) in made.items() if not _holds(nodes[path], key, data)]
    if not groups:
        return None
    name = versioned(CONSOLIDATED, job.generation)
    for group in groups:
        key, data = made[group]
        job.place.write(f"{name}/{Veil(groups).stored(key)}", data)
    return veiled(Directory(join_url(job.folder, name), job.options), groups)


def _holds(node: Node, key: str, data: bytes) -> bool:
    """Tell whether a group's shard holds this consolidated metadata of it."""
    if not isinstance(node.meta, GroupMeta) or not node.meta.consolidated:
        return False
    path, _, name = key.rpartition("/")
    wanted = consolidated_nodes(parse_json(data, path, name), path, name)
    return dump_json(dict(sorted(node.inherited.items()))) == dump_json(dict(sorted(wanted.items())))  # NaN is not NaN
