"""What a user asks for with `include=` and `exclude=`: patterns, resolved to the paths of a source."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from zarr.abc.store import Store
from zarr.core.sync import sync

from shardedstore.components.kinds import Location, PartOf
from shardedstore.components.opening import open_location
from shardedstore.components.parts import DOCUMENTS, Part
from shardedstore.dividing.found import check_found, check_optional, some_of
from shardedstore.dividing.patterns import Paths, parse_paths
from shardedstore.errors import PartitionError
from shardedstore.metadata import ArrayMeta
from shardedstore.mounts import is_below, join, parents
from shardedstore.reading.hierarchy import NOT_NODES, Node, only_named


def choose(source: Location, nodes: Mapping[str, Node], include: Paths | None, exclude: Paths | None) -> PartOf | None:
    """Return what of a source is included and not excluded; None for all of it.

    Raises
    ------
    PartitionError
        For a path that is not there, and where nothing would be left.
    """
    only = None if include is None else matching(include, nodes, "include")
    without = [] if exclude is None else matching(exclude, nodes, "exclude")
    if only == [""]:
        only = None
    if only is None and not without:
        return None
    if without != [""]:
        store = open_location(source)
        if only is not None:
            included = Part(store, only, ())
            without = [path for path in without if included.holds(path)]
            only = sorted([*only, *_beside(store, only, nodes)])
        part = Part(store, only, without)
        if any(isinstance(node.meta, ArrayMeta) and part.holds(path) for path, node in nodes.items()):
            return PartOf(source, part.only, part.without)
    raise PartitionError(
        f"include={include!r} and exclude={exclude!r} leave no array of the source; it has {some_of(filter(None, nodes))}"
    )


def matching(paths: Paths, nodes: Mapping[str, Node], what: str) -> list[str]:
    """Return the highest of the nodes that some paths and globs match."""
    found: dict[str, None] = {}
    for pattern in parse_paths(paths, what):
        check_optional(pattern, nodes, what)
        found |= dict.fromkeys(check_found(pattern, nodes, what, only_named(nodes)))
    return sorted(path for path in found if not any(parent in found for parent in parents(path)))


def _beside(store: Store, only: Iterable[str], nodes: Mapping[str, Node]) -> Iterator[str]:
    """Yield what is no node in the groups above some paths, such as a file that tells of the data."""

    async def names(group: str) -> list[str]:
        return [name async for name in store.list_dir(group)]

    for group in {group: None for path in only for group in parents(path)}:
        for name in sync(names(group)):
            if name not in DOCUMENTS and name not in NOT_NODES and join(group, name) not in nodes:
                yield join(group, name)


def part_at(part: PartOf, path: str) -> PartOf:
    """Return a part of the same source that is the same below a path: with the paths that matter there.

    >>> from shardedstore.components.kinds import Zip
    >>> part = part_at(PartOf(Zip("/a.zip"), ("a", "g/b"), ("g/b/c",)), "g")
    >>> part.only, part.without
    (('g/b',), ('g/b/c',))
    """
    only = tuple(kept for kept in part.only or () if is_below(kept, path))
    return PartOf(part.source, only or None, tuple(left for left in part.without if is_below(left, path)))
