"""The groups and arrays of two Zarrs that `include` and `exclude` choose.

A pattern may match in one of both Zarrs only: the other then lacks these groups and arrays.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from shardedstore.errors import UsageError
from shardedstore.partition.partition import divide, find_zarr
from shardedstore.partition.patterns import Paths, Pattern, parse_paths
from shardedstore.partition.selection import some_of
from shardedstore.stores.hierarchy import Node, read_nodes
from shardedstore.stores.locations import Config, Location
from shardedstore.zarr.paths import escape_glob, parents

SHARD_SIZE = "1 GiB"  # of the shards for reading an undivided Zarr


def chosen(paths: Iterable[str], include: Paths | None, exclude: Paths | None) -> set[str]:
    """Return the paths that match, or lie below a match, of `include` and not of `exclude`.

    >>> sorted(chosen(["", "a", "a/x", "b"], ["a"], ["a/x"]))
    ['a']

    Raises
    ------
    UsageError
        If a pattern matches nothing.
    """
    known = set(paths)
    kept = known if include is None else _matched(known, parse_paths(include, "include"), "include")
    return kept if exclude is None else kept - _matched(known, parse_paths(exclude, "exclude"), "exclude")


def _matched(paths: set[str], patterns: Iterable[Pattern], what: str) -> set[str]:
    found: set[str] = set()
    for pattern in patterns:
        tops = {path for path in paths if pattern.matches(path)}
        if not tops and not pattern.optional:
            raise UsageError(
                f"{what} names {pattern.text!r}, which is in neither Zarr; they have {some_of(filter(None, sorted(paths)))}"
            )
        found |= {path for path in paths if not tops.isdisjoint((path, *parents(path)))}
    return found


def choose_both(ours: Config, theirs: Config, include: Paths | None, exclude: Paths | None) -> tuple[Config, Config]:
    """Return the chosen parts of two Zarrs, divided for reading.

    Raises
    ------
    UsageError
        If a pattern matches nothing, or if nothing is left of one Zarr.
    """
    sides = [_nodes(config) for config in (ours, theirs)]
    paths = {path for _, nodes in sides for path in nodes}
    kept = chosen(paths, include, None)
    left = paths - chosen(paths, None, exclude)
    one, other = (_part(location, nodes, None if include is None else kept, left) for location, nodes in sides)
    return one, other


def _nodes(config: Config) -> tuple[Location, dict[str, Node]]:
    return (config, read_nodes(config)) if config.shards else find_zarr(config.base)


def _part(location: Location, nodes: Mapping[str, Node], kept: set[str] | None, left: set[str]) -> Config:
    def here(paths: Iterable[str]) -> list[str]:
        return [escape_glob(path) for path in paths if path in nodes]

    only = None if kept is None else here(kept)
    if only == []:
        raise UsageError(f"include leaves nothing of {location.show()}; it has {some_of(filter(None, nodes))}")
    return divide(location, SHARD_SIZE, only, here(left) or None)
