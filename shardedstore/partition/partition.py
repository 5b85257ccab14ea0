"""A Zarr that does not lie at the root of a zip, as people make zips of folders."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress

from zarr.abc.store import Store
from zarr.core.sync import sync

from shardedstore.errors import PartitionError
from shardedstore.notices import Notice, merge_notices
from shardedstore.partition.patterns import (
    AUTOMATIC,
    BASE,
    WHOLE,
    Paths,
    Pattern,
    Shards,
    parse_paths,
    parse_shards,
)
from shardedstore.partition.selection import absent, check_found, check_optional, find, some_of
from shardedstore.partition.shapes import automatic, is_too_small, overflowing, shape_of, to_blocks
from shardedstore.storage.folders import STORAGE_ERRORS
from shardedstore.stores.entries import is_unsaid, unlike_key
from shardedstore.stores.hierarchy import NOT_NODES, Node, only_named, read_nodes
from shardedstore.stores.locations import Config, Location, Mount, PartOf, ViewOf, Zip
from shardedstore.stores.members import MountIndex
from shardedstore.stores.part import DOCUMENTS, Part
from shardedstore.stores.registry import open_location
from shardedstore.text import parse_size
from shardedstore.zarr.grid import Blocks
from shardedstore.zarr.metadata import ArrayMeta, GroupMeta
from shardedstore.zarr.paths import is_below, join, parents
from shardedstore.zips import ZipReadStore
from shardedstore.zips.index import join_inside

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

    >>> from shardedstore.stores.locations import Zip
    >>> part = part_at(PartOf(Zip("/a.zip"), ("a", "g/b"), ("g/b/c",)), "g")
    >>> part.only, part.without
    (('g/b',), ('g/b/c',))
    """
    only = tuple(kept for kept in part.only or () if is_below(kept, path))
    return PartOf(part.source, only or None, tuple(left for left in part.without if is_below(left, path)))


def divide(source: Location, shards: Shards, include: Paths | None = None, exclude: Paths | None = None) -> Config:
    """Return the config of a source, or of a part of it, as a sharded store; see `divide_noting`."""
    return divide_noting(source, shards, include, exclude)[0]


def divide_noting(
    source: Location, shards: Shards, include: Paths | None = None, exclude: Paths | None = None
) -> tuple[Config, tuple[Notice, ...]]:
    """Return the config of a source, or of a part of it, as a sharded store, and warnings about it.

    Its mounts are views, and nothing is copied or listed.

    Raises
    ------
    PartitionError
        For what can't be divided as asked, naming the path, and for patterns that match nothing.
    """
    patterns = parse_shards(shards)
    source, nodes = find_zarr(source)
    _check_patterns(patterns, nodes)
    part = choose(source, nodes, include, exclude)
    notices = [notice for asked in _asked(patterns, include, exclude) for notice in absent(asked, nodes)]
    if part is None:
        mounts, passed = _mounts(nodes, patterns, lambda path: ViewOf(source, path))
        _check_keys(source, nodes, mounts)
        return Config(base=source, shards=mounts), merge_notices([*notices, *passed])
    whole = Part(open_location(source), part.only, part.without)
    kept = {path: node for path, node in nodes.items() if whole.holds(path)}
    for pattern in patterns:
        if pattern.path in nodes and pattern.path not in kept:
            raise PartitionError(
                f"shards names {pattern.text!r}, which include and exclude leave out: take it out of one"
            )

    def view(path: str) -> ViewOf:
        return ViewOf(part_at(part, path) if whole.is_cut(path) else source, path)

    mounts, passed = _mounts(kept, patterns, view)
    _check_keys(source, kept, mounts)
    return Config(base=part, shards=mounts), merge_notices([*notices, *passed])


def _check_keys(source: Location, nodes: Mapping[str, Node], mounts: Mapping[str, Mount]) -> None:
    """Refuse to divide an array of zarr 2 that left the separator of its chunk keys to a NestedDirectoryStore."""
    store = open_location(source)
    for path, mount in mounts.items():
        meta = nodes[path].meta
        if mount.blocks is None or not isinstance(meta, ArrayMeta) or not is_unsaid(meta, nodes[path].documents):
            continue
        key = unlike_key(store, path, meta)
        if key is not None:
            raise PartitionError(
                f"{path!r} can't be divided: its chunks have keys like {key!r}, which its metadata does not say; write "
                f'"dimension_separator": "/" into {join(path, ".zarray")}, or leave it whole'
            )


def _asked(patterns: list[Pattern], include: Paths | None, exclude: Paths | None) -> Iterator[list[Pattern]]:
    yield patterns
    yield from (parse_paths(paths, "") for paths in (include, exclude) if paths is not None)


def _mounts(
    nodes: Mapping[str, Node], patterns: list[Pattern], view: Callable[[str], ViewOf]
) -> tuple[dict[str, Mount], list[Notice]]:
    mounts: dict[str, Mount] = {}
    whole: dict[str, Pattern] = {}
    passing = _passing(patterns, nodes)
    passed: list[Notice] = []
    small: dict[str, int] = {}  # the arrays that a size leaves in the base
    for path, node in nodes.items():
        pattern = next(
            (p for p in patterns if _applies(p, path, node.meta) and path not in passing.get(p.text, ())), None
        )
        passed += _passed(patterns, pattern, path, node, passing)
        inside = next((p for p in parents(path) if p in whole), None)
        if pattern is None or pattern.rule == BASE:
            continue
        if inside is not None:
            _check_inside(path, pattern, inside, whole[inside])
        elif any(parent in mounts for parent in parents(path)):
            _check_beside(path, pattern, mounts)
        elif pattern.rule == WHOLE:
            if path:  # the root is whole as it is: the base
                whole[path] = pattern
                mounts[path] = Mount(view(path))
        else:
            blocks = _blocks(path, node, pattern)
            if blocks is not None:
                mounts[path] = Mount(view(path), blocks)
            elif isinstance(node.meta, ArrayMeta) and isinstance(pattern.rule, str | int) and path:
                small[path] = node.meta.nbytes
    mounts |= {path: Mount(view(path)) for path in _overflowing(nodes, mounts, small)}
    return dict(sorted(mounts.items(), key=lambda mount: mount[0].split("/"))), passed


def _overflowing(nodes: Mapping[str, Node], mounts: Mapping[str, Mount], small: dict[str, int]) -> Iterator[str]:
    """Yield the arrays that sizes left in the base and that are more than it can hold."""
    homes = MountIndex({path: mount.division for path, mount in mounts.items()})
    others = sum(
        node.meta.nbytes
        for path, node in nodes.items()
        if isinstance(node.meta, ArrayMeta) and path not in small and path not in mounts and homes.find(path) is None
    )
    arrays = {path for path, node in nodes.items() if isinstance(node.meta, ArrayMeta)}
    alone = {
        path: size
        for path, size in small.items()
        if not homes.mounts.any_below(path) and arrays.isdisjoint(parents(path))
    }
    rest = sum(size for path, size in small.items() if path not in alone)
    return overflowing(alone, others + rest, parse_size(AUTOMATIC) or 0)


def _passing(patterns: list[Pattern], nodes: Mapping[str, Node]) -> dict[str, set[str]]:
    """Return the arrays that each glob with dimensions passes over, as they are too small, where it means others as well."""
    found: dict[str, set[str]] = {}
    for pattern in patterns:
        if isinstance(pattern.rule, Mapping) and not pattern.is_plain:
            metas = {
                path: node.meta
                for path, node in nodes.items()
                if isinstance(node.meta, ArrayMeta) and _applies(pattern, path, node.meta)
            }
            largest = max((meta.nbytes for meta in metas.values()), default=0)
            small = {path for path, meta in metas.items() if is_too_small(meta, pattern.rule, largest)}
            found[pattern.text] = small if len(small) < len(metas) else set()
    return found


def _passed(
    patterns: list[Pattern], chosen: Pattern | None, path: str, node: Node, passing: Mapping[str, set[str]]
) -> Iterator[Notice]:
    """Yield a warning where a glob with dimensions comes before what divides an array, and passes over it."""
    before = patterns[: patterns.index(chosen)] if chosen is not None else patterns
    for pattern in before if isinstance(node.meta, ArrayMeta) else ():
        if pattern.text in passing and pattern.matches(path):
            rule = ",".join(f"{name}:{size}" for name, size in dict(pattern.rule).items())  # type: ignore[arg-type]
            yield Notice(
                f"the rule {pattern.text}={rule} passes over arrays without its dimensions, or too small for it",
                (path,),
            )


def _check_patterns(patterns: list[Pattern], nodes: Mapping[str, Node]) -> None:
    for pattern in patterns:
        if pattern.text != "*":
            check_found(pattern, nodes, "shards", only_named(nodes))
        if isinstance(pattern.rule, Mapping) and not pattern.is_plain:
            _check_dimensions(pattern, nodes)


def _check_dimensions(pattern: Pattern, nodes: Mapping[str, Node]) -> None:
    metas = [nodes[path].meta for path in find(pattern, nodes)]
    names = {name for meta in metas if isinstance(meta, ArrayMeta) for name in meta.dimension_names or ()}
    unknown = [name for name in dict(pattern.rule) if name not in names]  # type: ignore[arg-type]
    if unknown and metas:
        raise PartitionError(
            f"shards[{pattern.text!r}] names the dimension {unknown[0]!r}, which no array that it matches has"
        )


def _check_inside(path: str, pattern: Pattern, parent: str, whole: Pattern) -> None:
    if pattern.specificity > whole.specificity:
        raise PartitionError(
            f"shards overlap: {parent!r} is one whole shard by {whole.text!r}, and {pattern.text!r} names {path!r} "
            "inside it: leave one of them out"
        )


def _check_beside(path: str, pattern: Pattern, mounts: Mapping[str, Mount]) -> None:
    """Refuse to divide what is named and lies inside an array that is divided; what else does stays in the base."""
    if pattern.path == path:
        outer = next(parent for parent in parents(path) if parent in mounts)
        raise PartitionError(
            f"shards names {path!r}, which lies inside the array {outer!r}, which is divided: leave one of them out"
        )


def _applies(pattern: Pattern, path: str, meta: ArrayMeta | GroupMeta) -> bool:
    """Tell whether a pattern says how to divide a node.

    A size for a group holds for all arrays below; a glob with dimensions only means the arrays that have them.
    """
    rule = pattern.rule
    if rule == WHOLE:
        return pattern.matches(path)
    if isinstance(rule, str | int):
        return pattern.matches(path) or (pattern.path is not None and is_below(path, pattern.path))
    if pattern.is_plain or not pattern.matches(path):
        return pattern.path == path
    if not isinstance(meta, ArrayMeta):
        return False
    if isinstance(rule, Mapping):
        return set(rule) <= set(meta.dimension_names or ())
    return len(rule) == len(meta.shape)


def _blocks(path: str, node: Node, pattern: Pattern) -> Blocks | None:
    """Return how an array is divided; None where it stays in the base."""
    meta, rule = node.meta, pattern.rule
    if not isinstance(meta, ArrayMeta):
        if pattern.is_plain and not isinstance(rule, str | int):
            raise PartitionError(
                f"{path!r} is a group, and can't be divided by a shape: say 'whole', or name its arrays"
            )
        return None
    if isinstance(rule, str | int):
        size = parse_size(rule)
        return automatic(meta, size or 0)
    shape = shape_of(meta, rule, path)
    if meta.chunks is None or meta.keys is None:
        raise PartitionError(f"{path!r} has a chunk grid or chunk keys that can't be divided: say 'whole'")
    if not all(meta.shape) or not meta.shape:
        return None  # nothing to divide
    return to_blocks(meta, shape)
