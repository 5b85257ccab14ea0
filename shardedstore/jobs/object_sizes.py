"""Checks of object sizes: the base, which each run rewrites, and the attributes that each block repeats."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from dask.utils import format_bytes

from shardedstore.errors import PartitionError, UsageError
from shardedstore.jobs.shards import Plan
from shardedstore.notices import Notice, node_name
from shardedstore.partition.shard_sizes import DEFAULT_SIZE
from shardedstore.stores.hierarchy import Node
from shardedstore.stores.members import MountIndex
from shardedstore.text import count, parse_size
from shardedstore.zarr.attributes import DOCUMENTS, LONGER, MOST, attributes_in, left_out, longest
from shardedstore.zarr.grid import Blocks
from shardedstore.zarr.metadata import ArrayMeta, dump_json

MAX_BASE = DEFAULT_SIZE
MOST_REPEATED = 64 << 20  # bytes of attributes in the objects of an array; more than this gives a notice
NAMED = 3
DIVIDE = (
    "divide them with a smaller size in shards, such as {'*': '128 MiB'}, or name groups and arrays 'whole', which makes each a "
    "shard of its own"
)


def check_base(plan: Plan, max_base: str | int = MAX_BASE, *, is_object: bool) -> Plan:
    """Add a notice to a plan if its base is large; refuse a base that is too large for one object.

    In one ordinary Zarr, the base is not an object, but it is still one task.
    """
    limit = parse_size(max_base) if type(max_base) in (str, int) else None
    if limit is None or limit < 1:
        raise UsageError(f"max_base={max_base!r} is not a size: write one like '4 GiB'")
    nbytes = plan.loads[0].nbytes
    if nbytes <= limit:
        return plan
    if not is_object:
        return plan.noted(
            [
                Notice(
                    f"one task makes the whole base, which holds {format_bytes(nbytes)} decoded of undivided arrays: {DIVIDE}"
                )
            ]
        )
    held = _held(plan)
    more = f" and {len(held) - NAMED:,} more" if len(held) > NAMED else ""
    named = ", ".join(f"{path!r} ({format_bytes(nbytes)})" for nbytes, path in held[:NAMED])
    raise PartitionError(
        f"the base would be one object of {format_bytes(nbytes)} decoded, which is more than max_base={max_base!r}: it holds {named}{more}. "
        f"Best {DIVIDE}; or say max_base='{-(-nbytes // (1 << 30))} GiB'"
    )


def _held(plan: Plan) -> list[tuple[int, str]]:
    """Return the arrays whose chunks are in the base, the largest first."""
    mounted = {path: mount.division for path, mount in plan.config.shards.items()}
    index = MountIndex(mounted)
    return sorted(
        (
            (node.meta.nbytes, path)
            for path, node in plan.nodes.items()
            if isinstance(node.meta, ArrayMeta)
            and index.find(path) is None
            and not isinstance(mounted.get(path), Blocks)
        ),
        reverse=True,
    )


def attribute_notices(nodes: Mapping[str, Node]) -> Iterator[Notice]:
    """Yield a notice for each array whose blocks repeat many bytes of attributes, or lack some attributes."""
    for path, node in nodes.items():
        if node.blocks is None:
            continue
        documents = [(name, data, path) for name, data in node.documents.items() if name in DOCUMENTS]
        most = max((len(data) for _, data, _ in documents), default=0)
        if (
            most <= MOST // LONGER
            and sum(longest(data) for _, data, _ in documents) * node.blocks.count <= MOST_REPEATED
        ):
            continue
        absent = {key: value for document in documents for key, value in left_out(*document).items()}
        left = len(dump_json(absent))
        own = sum(len(dump_json(attributes_in(*document))) for document in documents) - left
        if not absent and own * node.blocks.count <= MOST_REPEATED:
            continue
        each = (
            f"{count(node.blocks.count, 'shard')} of {node_name(path)} carry {format_bytes(own)} of attributes each, "
            f"{format_bytes(own * node.blocks.count)} in all"
        )
        yield Notice(
            f"{each}; only the base holds the other {format_bytes(left)}, and readers of the whole result use the base"
            if absent
            else each
        )
