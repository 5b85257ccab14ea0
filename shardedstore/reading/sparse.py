"""Which chunks of a divided array are there, where the grid has far more places than there are files.

Such an array is listed, once. For one that is not so sparse the listing ends early, and all places of the grid count.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice

from zarr.abc.store import Store
from zarr.core.sync import sync

from shardedstore.components.kinds import Mount, ViewOf
from shardedstore.components.opening import open_location
from shardedstore.fields import MOST
from shardedstore.grid import Blocks, Coords
from shardedstore.reading.bulk import StoreBulk, bulk
from shardedstore.storage.transient import patiently

MANY = 10_000_000  # places of a grid, up to which all are looked at: it takes half a minute at most
PLACES_PER_FILE = 10  # from this on, a listing is less work than a look at each place
MOST_LISTED = 100_000  # files

Chunks = dict[Coords, tuple[Coords, ...]]  # by block, in C order


def find_chunks(mount: Mount) -> Chunks | None:
    """Return the chunks that a view of a divided array has, by block; None where all places are to be looked at.

    At least one block is among them, so that the array is always of some shard.
    """
    blocks, view = mount.blocks, mount.location
    if blocks is None or mount.exceptions or not isinstance(view, ViewOf):
        return None
    places = math.prod(blocks.chunk_grid)
    if places <= MANY or math.prod(blocks.grid) > MOST:
        return None
    most = min(places // PLACES_PER_FILE, MOST_LISTED)
    keys = patiently(lambda: list(islice(_keys(open_location(view.source), view.path, most), most + 1)))
    return None if len(keys) > most or None in keys else _by_block(blocks, keys, view.path)


def _keys(store: Store, path: str, most: int) -> Iterator[str | None]:
    """Yield the keys below a path; None for a store that can't be listed."""
    reader = bulk(store)
    if reader.guesses:
        yield None
    elif isinstance(reader, StoreBulk):
        yield from sync(_first(store, path, most + 1))
    else:
        yield from reader.keys(path, None)


async def _first(store: Store, path: str, count: int) -> list[str]:
    found: list[str] = []
    async for key in store.list_prefix(f"{path}/" if path else ""):
        found.append(key)
        if len(found) == count:
            break
    return found


def _by_block(blocks: Blocks, keys: list[str | None], path: str) -> Chunks:
    start = len(path) + 1 if path else 0
    decoded = (blocks.keys.decode(key[start:], blocks.chunk_grid) for key in keys if key is not None)
    found: dict[Coords, list[Coords]] = {}
    for coords in sorted(coords for coords in decoded if coords is not None):
        found.setdefault(blocks.split(coords)[0], []).append(coords)
    return {block: tuple(chunks) for block, chunks in sorted(found.items())} or {(0,) * len(blocks.chunks): ()}
