"""A preview of a job's result in its manifest, from which an unfinished result can be opened."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from shardedstore.jobs.ledger import Record
from shardedstore.jobs.shards import Plan, Run
from shardedstore.stores.hierarchy import Node
from shardedstore.stores.locations import Location, ViewOf, veiled
from shardedstore.stores.members import Members
from shardedstore.transforms.base.chain import Chain
from shardedstore.zarr.grid import Blocks
from shardedstore.zarr.metadata import ArrayMeta

Mixes = Literal["blocks", "arrays", "end"]


class ResultPreview(msgspec.Struct, frozen=True, omit_defaults=True):
    """The planned locations of a result, and the way in which it can be combined with its source before it is complete.

    Attributes
    ----------
    mixes : "blocks", "arrays" or "end"
        The unit that comes either from the result or from the source: each shard, each array, or the whole Zarr.
    config : dict
        The config of the result as a JSON document, with the names of generation 1 and URLs relative to the destination. It is
        empty for one ordinary Zarr, and for a function, whose records have the locations.
    """

    mixes: Mixes = "end"
    config: dict[str, Any] = {}


def members_at(location: Location, members: Members | None) -> Location:
    """Return the location of members that share one object; other locations are returned as they are."""
    return location if members is None or members.together == 1 else ViewOf(location, "{name}")


def veiled_base(location: Location, run: Run, records: Mapping[int, Record]) -> Location:
    """Return the location of a base, veiled if its record says so."""
    record = records.get(run.number)
    divided = (path for path, division in (run.mounted or {}).items() if isinstance(division, Blocks))
    return veiled(location, divided) if record is not None and record.veiled else location


def after(chain: Chain, plan: Plan) -> Mapping[str, Node]:
    """Return the metadata of a source after the steps of a chain; a checked plan holds it."""
    if plan.nodes_after is not None:
        return plan.nodes_after
    nodes: Mapping[str, Node] = plan.nodes
    for step in chain.steps:
        nodes = step.changed(nodes)
    return nodes


def blocks_after(blocks: Blocks, node: Node | None) -> Blocks:
    """Return the division of an array after the steps of a chain, given its node after them."""
    if node is None or not isinstance(node.meta, ArrayMeta) or node.meta.keys is None:
        return blocks
    return msgspec.structs.replace(node.blocks or blocks, keys=node.meta.keys)
