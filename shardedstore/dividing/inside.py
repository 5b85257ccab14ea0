"""A Zarr that does not lie at the root of a zip, as people make zips of folders."""

from __future__ import annotations

from contextlib import suppress

from shardedstore.components.kinds import Config, Location, ViewOf, Zip
from shardedstore.components.opening import open_location
from shardedstore.errors import PartitionError
from shardedstore.mounts import join
from shardedstore.reading.hierarchy import Node, read_nodes
from shardedstore.storage.folders import STORAGE_ERRORS
from shardedstore.zips import ZipReadStore
from shardedstore.zips.inside import join_inside

SHOWN = 9  # of the Zarrs in a zip that a message names


def find_zarr(source: Location) -> tuple[Location, dict[str, Node]]:
    """Return a source with its nodes: of a zip without a Zarr at its root, the only one that lies below.

    Raises
    ------
    PartitionError
        Where there is no Zarr, or where there are several in folders of a zip.
    """
    try:
        return source, read_nodes(Config(base=source))
    except PartitionError:
        inner = _only_zarr(source)
        if inner is None:
            raise
    return inner, read_nodes(Config(base=inner))


def _only_zarr(source: Location) -> Location | None:
    """Return where the only Zarr below the root of a zip is; None for what is no zip, and where there is none."""
    place, path = (source.source, source.path) if isinstance(source, ViewOf) else (source, "")
    store = open_location(source) if isinstance(place, Zip) else None
    if not isinstance(store, ZipReadStore):
        return None
    with suppress(*STORAGE_ERRORS):
        found = store.zarrs()
        if len(found) > 1:
            raise _several(store, found)
        return ViewOf(place, join(path, found[0])) if found and found[0] else None
    return None


def _several(store: ZipReadStore, found: list[str]) -> PartitionError:
    names = [join_inside(store.url, join(store.path, path)) for path in found[:SHOWN]]
    more = f" and {len(found) - SHOWN:,} more" if len(found) > SHOWN else ""
    return PartitionError(
        f"{store.url!r} holds {len(found):,} Zarrs in folders of it: name one of them, {', '.join(map(repr, names))}{more}"
    )
