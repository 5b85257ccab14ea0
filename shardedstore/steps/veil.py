"""The stream of a base on its way to an object of its own, in which nothing is to be taken for an array without chunks."""

from __future__ import annotations

from collections.abc import Iterable

from shardedstore.chain import Entries, Shard
from shardedstore.components.veiled import Veil
from shardedstore.errors import ChainError
from shardedstore.metadata import CONSOLIDATED_V2
from shardedstore.mounts import Mounts


def veil(entries: Entries, shard: Shard, mounted: Iterable[str]) -> Entries:
    """Yield the entries of a base with the documents of divided arrays under names that no other reader looks for.

    Consolidated metadata that no group of the source is known to have is left out, where it may lead to what is mounted.

    Raises
    ------
    ChainError
        For a file that has such a name already.
    """
    names, mounts = Veil(shard.divided), Mounts(mounted)
    for entry in entries:
        if entry.coords is not None:
            yield entry
            continue
        if names.shown(entry.key) != entry.key:
            raise ChainError(
                f"{entry.key!r} has the name under which the metadata of a divided array is kept: move it out of the source, "
                "or leave the array out with exclude="
            )
        folder, _, name = entry.key.rpartition("/")
        if name != CONSOLIDATED_V2 or not mounts.any_below(folder):
            yield entry._replace(key=names.stored(entry.key))
