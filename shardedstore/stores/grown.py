"""Checks for arrays that have grown since the config was saved.

The shards of the config do not hold their new chunks, so a read must fail instead of returning fill values.
"""

from __future__ import annotations

import asyncio

from zarr.abc.store import Store

from shardedstore.errors import ConfigError, CorruptError
from shardedstore.zarr.grid import Blocks
from shardedstore.zarr.metadata import ArrayMeta, parse_node
from shardedstore.zarr.paths import join
from shardedstore.zarr.readonly import PROTOTYPE

NAMES = ("zarr.json", ".zarray")

AGAIN = (
    "save the config again from the store that wrote it, or open that one with "
    "ShardedStore(base, shards, array_shard_funcs)"
)


async def check_known(path: str, blocks: Blocks, base: Store) -> None:
    """Raise ConfigError if an array has more chunks than its blocks hold.

    The metadata document in the base says how many chunks the array has now.
    """
    values = await asyncio.gather(*(base.get(join(path, name), PROTOTYPE) for name in NAMES))
    found = {name: value.to_bytes() for name, value in zip(NAMES, values, strict=True) if value is not None}
    try:
        array = parse_node(found, path)
    except CorruptError:  # zarr reports it when the array is opened
        return
    if not isinstance(array, ArrayMeta) or _is_within(array, blocks):
        return
    now = f"{array.chunk_grid} chunks" if array.keys == blocks.keys else f"{array.chunk_grid} chunks of other keys"
    raise ConfigError(
        f"{path!r} has {now} by its document in the base, and {blocks.chunk_grid} by the config, which is older and does not lead "
        f"to the others: {AGAIN}"
    )


def _is_within(array: ArrayMeta, blocks: Blocks) -> bool:
    grid = array.chunk_grid
    if array.keys != blocks.keys or len(grid) != len(blocks.chunk_grid):
        return False
    return all(n <= most for n, most in zip(grid, blocks.chunk_grid, strict=True))
