"""What a job is going to make, as its file says from the start: enough to open what it has made half-way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from shardedstore.jobs.ledger import Record
from shardedstore.jobs.shards import Run
from shardedstore.stores.hierarchy import Node
from shardedstore.stores.locations import Location, ViewOf, veiled
from shardedstore.stores.members import Members
from shardedstore.transforms.base.chain import Chain
from shardedstore.zarr.grid import Blocks
from shardedstore.zarr.metadata import ArrayMeta

Mixes = Literal["blocks", "arrays", "end"]


class Planned(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a job's result can stand in for its source before all of it is there, and where it is going to be.

    `mixes` is ``"blocks"`` where shards of both go together as they are, ``"arrays"`` where an array must be of one or the
    other, and ``"end"`` where all must. `config` is the result's as a JSON document, with the names of generation 1 and
    URLs relative to the destination; it is empty for one ordinary Zarr, and for a function, whose records tell.
    """

    mixes: Mixes = "end"
    config: dict[str, Any] = {}


def members_at(location: Location, members: Members | None) -> Location:
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


def blocks_after(blocks: Blocks, node: Node | None) -> Blocks:
    """Return the division of an array as the steps of a chain leave it, given its node after them."""
    if node is None or not isinstance(node.meta, ArrayMeta) or node.meta.keys is None:
        return blocks
    return msgspec.structs.replace(node.blocks or blocks, keys=node.meta.keys)
