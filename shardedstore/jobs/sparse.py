"""Find the chunks of sparse arrays, whose grids have far more places than there are files.

A few places are probed first. If most of them are empty, the array is listed once. In all other arrays each place of the grid counts
as a chunk. A listing of too many files ends early.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from itertools import islice
from operator import methodcaller

from zarr.abc.store import Store
from zarr.core.sync import sync

from shardedstore.fields import MOST
from shardedstore.storage.retry import patiently
from shardedstore.stores.locations import Location, Mount
from shardedstore.stores.reader import reader_of
from shardedstore.zarr.grid import Blocks, Coords
from shardedstore.zarr.paths import join

MANY = 1000  # places of a grid, up to which all are looked at
PROBES = 16  # places that are looked at before an array is listed
MOST_FOUND = 2  # chunks at these places, of an array that is sparse
PLACES_PER_FILE = 10  # from this on, a listing is less work than a look at each place
MOST_LISTED = 100_000  # files

Chunks = dict[Coords, tuple[Coords, ...]]  # by block, in C order


def find_chunks(mount: Mount, opened: Callable[[Location], Store] = methodcaller("open")) -> Chunks | None:
    """Return the chunks of a sparse array by block; None if the array is not sparse.

    The result has at least one block, so that the array belongs to a shard. `opened` returns the store of a source, which may
    be shared by many arrays.
    """
    blocks, view = mount.blocks, mount.location
    if blocks is None or mount.exceptions or not view.divides_source:
        return None
    places = math.prod(blocks.chunk_grid)
    if places <= MANY or math.prod(blocks.grid) > MOST:
        return None
    most = min(places // PLACES_PER_FILE, MOST_LISTED)
    source, path = view.view
    store = opened(source)
    reader = reader_of(store)
    if reader.guesses or patiently(lambda: sync(_found(store, path, blocks))) > MOST_FOUND:
        return None
    keys = patiently(lambda: list(islice(reader.keys(path, None), most + 1)))
    return None if len(keys) > most else _by_block(blocks, keys, path)


async def _found(store: Store, path: str, blocks: Blocks) -> int:
    """Return the number of chunks at some places that lie far apart in the grid."""
    grid = blocks.chunk_grid
    each = Blocks(grid, (1,) * len(grid), blocks.keys)
    keys = (blocks.keys.encode(each.index(each.count * i // PROBES)) for i in range(PROBES))
    return sum(await asyncio.gather(*(store.exists(join(path, key)) for key in keys)))


def _by_block(blocks: Blocks, keys: list[str], path: str) -> Chunks:
    start = len(path) + 1 if path else 0
    decoded = (blocks.keys.decode(key[start:], blocks.chunk_grid) for key in keys)
    found: dict[Coords, list[Coords]] = {}
    for coords in sorted(coords for coords in decoded if coords is not None):
        found.setdefault(blocks.split(coords)[0], []).append(coords)
    return {block: tuple(chunks) for block, chunks in sorted(found.items())} or {(0,) * len(blocks.chunks): ()}
