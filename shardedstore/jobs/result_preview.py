"""What a job is going to make, as its file says from the start: enough to open what it has made half-way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from shardedstore.config.document import to_dict
from shardedstore.jobs.ledger import Record
from shardedstore.jobs.shards import Plan, Run, target_of
from shardedstore.storage.urls import normalize, object_url
from shardedstore.stores.hierarchy import Node
from shardedstore.stores.locations import Config, Directory, Location, Mount, ViewOf, veiled
from shardedstore.stores.members import Members
from shardedstore.transforms.base.chain import Chain, Sink
from shardedstore.zarr.grid import Blocks
from shardedstore.zarr.metadata import ArrayMeta
from shardedstore.zarr.paths import join

Mixes = Literal["blocks", "arrays", "end"]


class Planned(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a job's result can stand in for its source before all of it is there, and where it is going to be.

    `mixes` is ``"blocks"`` where shards of both go together as they are, ``"arrays"`` where an array must be of one or the
    other, and ``"end"`` where all must. `config` is the result's as a JSON document, with the names of generation 1 and
    URLs relative to the destination; it is empty for one ordinary Zarr, and for a function, whose records tell.
    """

    mixes: Mixes = "end"
    config: dict[str, Any] = {}


def plan_result(plan: Plan, chain: Chain) -> Planned:
    """Return what a chain is going to make of a source."""
    if chain.function is not None:
        return Planned("arrays")
    sink = chain.sink
    if sink is None or sink.is_one_zarr:
        return Planned()
    nodes, folder = after(chain, plan.nodes), normalize(sink.url)

    def mount(run: Run) -> Mount:
        name = target_of(sink, run)
        blocks = run.blocks and _blocks_after(run.blocks, nodes.get(run.path))
        return Mount(held(sink.location(object_url(folder, name)), run.members), blocks, members=run.members)

    base, *others = ((run.path, mount(run)) for run in plan.runs)
    formats = {path: node.meta.zarr_format for path, node in plan.nodes.items()}
    kept = all(formats.get(path) == node.meta.zarr_format for path, node in nodes.items())
    mixes: Mixes = "end" if not kept else "arrays" if chain.steps else "blocks"
    return Planned(mixes, to_dict(Config(base[1].location, dict(others)), folder))


def plan_zarr(plan: Plan, sink: Sink, nodes: Mapping[str, Node]) -> Config:
    """Return one ordinary Zarr that a sink makes, divided into the shards that it is made of; `nodes` are after the steps."""
    zarr = Directory(normalize(sink.url), sink.options)

    def mount(run: Run) -> Mount:
        blocks = run.blocks and sink.blocks(_blocks_after(run.blocks, nodes.get(run.path)))
        return Mount(
            ViewOf(zarr, run.path if run.members is None else join(run.path, "{name}")), blocks, members=run.members
        )

    return Config(zarr, {run.path: mount(run) for run in plan.runs[1:]})


def held(location: Location, members: Members | None) -> Location:
    """Return where members are that stand together at a location; what is no such thing is there itself."""
    return location if members is None or members.together == 1 else ViewOf(location, "{name}")


def veiled_base(location: Location, run: Run, records: Mapping[int, Record]) -> Location:
    """Return where a base is, as its record says that it was written."""
    record = records.get(run.number)
    divided = (path for path, division in (run.mounted or {}).items() if isinstance(division, Blocks))
    return veiled(location, divided) if record is not None and record.veiled else location


def after(chain: Chain, nodes: Mapping[str, Node]) -> Mapping[str, Node]:
    """Return a source's metadata as the steps of a chain leave it."""
    for step in chain.steps:
        nodes = step.changed(nodes)
    return nodes


def _blocks_after(blocks: Blocks, node: Node | None) -> Blocks:
    if node is None or not isinstance(node.meta, ArrayMeta) or node.meta.keys is None:
        return blocks
    return msgspec.structs.replace(node.blocks or blocks, keys=node.meta.keys)
