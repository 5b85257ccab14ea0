"""Whether a result is what it should be: all there, as it was written, and equal to its source in decoded data."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from shardedstore import graph
from shardedstore.config import Config, to_dict
from shardedstore.differences import LEVELS, Difference, Level, Report
from shardedstore.errors import UsageError
from shardedstore.hierarchy import Node
from shardedstore.metadata import ArrayMeta, parse_json
from shardedstore.partition import divide
from shardedstore.plan import Plan, make_plan
from shardedstore.remote_errors import explain
from shardedstore.v3doc import DIMENSIONS, MASKED
from shardedstore.verifycompare import (
    Side,
    compare_chunks,
    compare_damage,
    compare_files,
    compare_layouts,
    find_suspects,
    notes,
    searched,
)
from shardedstore.verifydata import Damage, DataTask, Taken, data_tasks, take, total
from shardedstore.verifyledger import MAKE_AGAIN, Kept, check_exists, find_ledger, shard_runs
from shardedstore.verifystored import UNREADABLE, StoredTask, check_stored, stored_tasks

SHARD_SIZE = "1 GiB"  # of the shards in which a Zarr is read that is not divided
NO_LEDGER = (
    "no ledger of the job that made this result is found beside it, so there is nothing to compare it with: give its source "
    "as against="
)


def verify(config: Config, against: Config | None = None, level: Level | None = None) -> Report:
    """Verify a result; see `ShardedStore.verify`."""
    level = level or ("stored" if against is None else "decoded")
    if level not in LEVELS:
        raise UsageError(f"level={level!r} is not known: say one of {', '.join(LEVELS)}")
    if level == "decoded" and against is None:
        raise UsageError(
            "decoded data are compared with those of the source: give it as against=, or say level='stored' to compare what "
            "is stored with the ledger"
        )
    for given in (config, against):
        if given is not None:
            to_dict(given)  # every component has a location
    kept = find_ledger(config)
    if kept is None and level == "stored":
        raise UsageError(NO_LEDGER)
    is_sum = kept is not None and kept.is_one_zarr  # what is compared key by key need not be added up
    differences = [] if is_sum and level == "decoded" else list(check_exists(config, kept))
    count = sum(run.stop for run in shard_runs(config))
    if level == "exists":
        return Report.of(level, count, differences)
    if level == "stored":
        assert kept is not None
        differences += _stored(config, kept, against, {d.shard for d in differences})
        return Report.of(level, len(kept.records), differences)
    assert against is not None
    return _decoded(config, against, differences)


def _stored(config: Config, kept: Kept, against: Config | None, told: set[str | None]) -> Iterator[Difference]:
    division = None if against is None else make_plan(against)
    tasks = stored_tasks(config, kept, division)
    plans = [Plan(config, {}, (), ()), *([] if division is None else [division])]
    for task, found in graph.each(check_stored, tasks, "verify stored", plans):
        if isinstance(found, BaseException):
            yield _lost(task, found)
        else:
            yield from (difference for difference in found if difference.shard not in told)


def _lost(task: StoredTask | DataTask, error: BaseException) -> Difference:
    """Return the difference of some shards that a task could not look at."""
    names = [shard.name for run in task.segment.runs for _, shard in run.shards()]
    what = f"{', '.join(names)}: could not be looked at: {type(error).__name__}: {error}"
    return Difference("damaged", what, "see the workers' logs, and verify again", shard=names[0])


def _decoded(config: Config, against: Config, differences: list[Difference]) -> Report:
    source = _plan(against)
    count = sum(run.stop for run in shard_runs(config))
    try:
        result = _plan(config)
    except UNREADABLE as error:
        cause = f"the result's metadata can't be read: {type(error).__name__}: {explain(error)}"
        return Report.of("decoded", count, [*differences, Difference("damaged", cause, MAKE_AGAIN)])
    told = {difference.shard for difference in differences}
    ours, theirs = Side("the result", result, _take(result)), Side("the source", source, _take(source))
    suspects = find_suspects(ours, theirs)
    if suspects:
        wanted = searched(suspects)
        ours.taken.chunks = _take(result, wanted).chunks
        theirs.taken.chunks = _take(source, wanted).chunks
    differences += (d for d in compare_damage(ours, theirs) if d.shard not in told)
    differences += _compare_nodes(result, source)
    differences += compare_layouts(ours, theirs)
    differences += compare_chunks(ours, theirs, suspects)
    differences += compare_files(ours, theirs)
    digests = {path: str(ours.taken.digest(path)) for path in sorted(ours.taken.layouts)}
    return Report.of(
        "decoded", count, differences, arrays=len(digests), notes=tuple(notes(ours, theirs)), digests=digests
    )


def _plan(config: Config) -> Plan:
    """Return a plan to read a store by; what is not divided is divided here."""
    return make_plan(config if config.shards else divide(config.base, SHARD_SIZE))


def _take(plan: Plan, wanted: dict[str, frozenset[int]] | None = None) -> Taken:
    """Read a store, or some of it chunk by chunk, on the Dask scheduler that is active."""

    def parts() -> Iterator[Taken]:
        for task, found in graph.each(take, data_tasks(plan, wanted), "verify", [plan]):
            if isinstance(found, Taken):
                yield found
                continue
            lost = _lost(task, found)
            yield Taken(damage=[Damage(str(lost.shard), run.path, lost.what) for run in task.segment.runs])

    return total(parts())


def _compare_nodes(result: Plan, source: Plan) -> Iterator[Difference]:
    """Yield the groups and arrays that one side alone has, and those of other attributes."""
    for path in sorted(result.nodes.keys() | source.nodes.keys()):
        mine, other = result.nodes.get(path), source.nodes.get(path)
        if other is None:
            yield Difference("extra", f"{path!r} is in the result alone", "", array=path)
        elif mine is None:
            yield Difference("missing", f"{path!r} is in the source alone", MAKE_AGAIN, array=path)
        elif isinstance(mine.meta, ArrayMeta) != isinstance(other.meta, ArrayMeta):
            yield Difference("layout", f"{path!r} is a group on one side, and an array on the other", array=path)
        else:
            is_foreign = mine.meta.zarr_format != other.meta.zarr_format
            if _description(mine, path, is_foreign) != _description(other, path, is_foreign):
                what = f"{path!r} has other attributes or names of dimensions than in the source"
                yield Difference("attributes", what, array=path)


def _description(node: Node, path: str, is_foreign: bool) -> str:
    """Return attributes and names of dimensions; without what Zarr v2 and v3 write in ways of their own, if the formats differ."""
    attributes: dict[str, Any]
    if "zarr.json" in node.documents:
        attributes = parse_json(node.documents["zarr.json"], path, "zarr.json").get("attributes") or {}
    else:
        attributes = parse_json(node.documents.get(".zattrs", b"{}"), path, ".zattrs")
    names = node.meta.dimension_names if isinstance(node.meta, ArrayMeta) else None
    if is_foreign:
        attributes = {name: value for name, value in attributes.items() if name not in (DIMENSIONS, MASKED)}
    return json.dumps([attributes, names or ()], sort_keys=True)
