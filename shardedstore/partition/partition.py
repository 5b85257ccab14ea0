"""Divide a Zarr into shards: find it, choose a part of it, and return a config with its mounts.

A source is a Zarr, or a zip with one Zarr in a folder. `include` and `exclude` choose a part of the source; `shards`
decides how its arrays and groups are divided.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import NamedTuple

from zarr.abc.store import Store
from zarr.core.sync import sync

from shardedstore.errors import PartitionError
from shardedstore.notices import Notice, merge_notices
from shardedstore.partition.patterns import BASE, WHOLE, Paths, Pattern, Shards, parse_paths, parse_shards
from shardedstore.partition.selection import absent, check_found, check_optional, matching_paths, some_of
from shardedstore.partition.shard_sizes import DEFAULT_SIZE, automatic, is_too_small, overflowing, shape_of, to_blocks
from shardedstore.storage.folders import STORAGE_ERRORS
from shardedstore.storage.publish import TEMPORARY
from shardedstore.stores.entries import is_unsaid, unlike_key
from shardedstore.stores.hierarchy import NOT_NODES, Node, only_named, read_nodes
from shardedstore.stores.locations import Config, Location, Mount, PartOf, ViewOf, url_of
from shardedstore.stores.members import MountIndex
from shardedstore.stores.part import Part
from shardedstore.stores.reader import reader_of
from shardedstore.text import parse_size
from shardedstore.zarr.grid import Blocks
from shardedstore.zarr.metadata import DOCUMENTS, ArrayMeta, GroupMeta
from shardedstore.zarr.paths import is_below, join, parents
from shardedstore.zips.index import join_inside

SHOWN = 9  # Zarrs in a zip that a message names


def find_zarr(source: Location) -> tuple[Location, dict[str, Node]]:
    """Return a source and its nodes.

    If the source is a zip without a Zarr at its root, the only Zarr in its folders is returned.

    Raises
    ------
    PartitionError
        If there is no Zarr, or if there are several in folders of a zip.
    """
    try:
        return source, read_nodes(Config(base=source))
    except PartitionError:
        inner = only_zarr(source)
        if inner is None:
            raise
    return inner, read_nodes(Config(base=inner))


def only_zarr(source: Location) -> Location | None:
    """Return the location of the only Zarr in a folder of a zip.

    Return None if the source is not a zip, or has no such Zarr.
    """
    place, path = source.view
    if not place.is_file:
        return None
    with suppress(*STORAGE_ERRORS):
        found = reader_of(source.open()).zarrs()
        if len(found) > 1:
            raise _several(url_of(place) or "", [join(path, folder) for folder in found])
        return ViewOf(place, join(path, found[0])) if found and found[0] else None
    return None


def _several(url: str, found: list[str]) -> PartitionError:
    names = [join_inside(url, path) for path in found[:SHOWN]]
    more = f" and {len(found) - SHOWN:,} more" if len(found) > SHOWN else ""
    return PartitionError(
        f"{url!r} holds {len(found):,} Zarrs in its folders: name one of them, {', '.join(map(repr, names))}{more}"
    )


def choose(source: Location, nodes: Mapping[str, Node], include: Paths | None, exclude: Paths | None) -> PartOf | None:
    """Return the part of a source that is included and not excluded; None for the whole source.

    Raises
    ------
    PartitionError
        If a path does not exist, or if no array would be left.
    """
    only = None if include is None else matching(include, nodes, "include")
    without = [] if exclude is None else matching(exclude, nodes, "exclude")
    if only == [""]:
        only = None
    if only is None and not without:
        return None
    if without != [""]:
        store = source.open()
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
    """Return the nodes that paths and globs match, without nodes below other matches."""
    found: dict[str, None] = {}
    for pattern in parse_paths(paths, what):
        check_optional(pattern, nodes, what)
        found |= dict.fromkeys(check_found(pattern, nodes, what, only_named(nodes)))
    return sorted(path for path in found if not any(parent in found for parent in parents(path)))


def _beside(store: Store, only: Iterable[str], nodes: Mapping[str, Node]) -> Iterator[str]:
    """Yield the files in the groups above some paths that belong to no node, such as a README."""

    async def names(group: str) -> list[str]:
        return [name async for name in store.list_dir(group)]

    for group in {group: None for path in only for group in parents(path)}:
        for name in sync(names(group)):
            is_file = name not in DOCUMENTS and name not in NOT_NODES and not name.startswith(TEMPORARY)
            if is_file and join(group, name) not in nodes:
                yield join(group, name)


def part_at(part: PartOf, path: str) -> PartOf:
    """Return a part of the same source with only the paths that matter below a path.

    >>> from shardedstore.stores.locations import Zip
    >>> part = part_at(PartOf(Zip("/a.zip"), ("a", "g/b"), ("g/b/c",)), "g")
    >>> part.only, part.without
    (('g/b',), ('g/b/c',))
    """
    only = tuple(kept for kept in part.only or () if is_below(kept, path))
    return PartOf(part.source, only or None, tuple(left for left in part.without if is_below(left, path)))


def divide(source: Location, shards: Shards, include: Paths | None = None, exclude: Paths | None = None) -> Config:
    """Return the config of a source, or of a part of it; see `divide_noting`."""
    return divide_noting(source, shards, include, exclude).config


class Divided(NamedTuple):
    """A divided source: its config, its groups and arrays by path, and warnings about the division."""

    config: Config
    nodes: Mapping[str, Node]
    notices: tuple[Notice, ...]


def divide_noting(
    source: Location, shards: Shards, include: Paths | None = None, exclude: Paths | None = None
) -> Divided:
    """Return the config of a source, or of a part of it, its nodes, and warnings about it.

    The mounts are views: nothing is copied or listed.

    Raises
    ------
    PartitionError
        If an array can't be divided as requested, or if a pattern matches nothing. The message names the path.
    """
    patterns = parse_shards(shards)
    source, nodes = find_zarr(source)
    _check_patterns(patterns, nodes)
    part = choose(source, nodes, include, exclude)
    notices = [notice for asked in _asked(patterns, include, exclude) for notice in absent(asked, nodes)]
    if part is None:
        mounts, passed = _mounts(nodes, patterns, lambda path: ViewOf(source, path))
        _check_keys(source, nodes, mounts)
        return Divided(Config(base=source, shards=mounts), nodes, merge_notices([*notices, *passed]))
    whole = Part(source.open(), part.only, part.without)
    kept = {path: node for path, node in nodes.items() if whole.holds(path)}
    for pattern in patterns:
        if pattern.path in nodes and pattern.path not in kept:
            raise PartitionError(
                f"shards names {pattern.text!r}, which include and exclude leave out: remove it from shards, or include it"
            )

    def view(path: str) -> ViewOf:
        return ViewOf(part_at(part, path) if whole.is_cut(path) else source, path)

    mounts, passed = _mounts(kept, patterns, view)
    _check_keys(source, kept, mounts)
    return Divided(Config(base=part, shards=mounts), kept, merge_notices([*notices, *passed]))


def _check_keys(source: Location, nodes: Mapping[str, Node], mounts: Mapping[str, Mount]) -> None:
    """Refuse to divide an array whose chunk keys do not have the separator of its metadata.

    zarr 2 wrote such arrays with a NestedDirectoryStore.
    """
    store = source.open()
    for path, mount in mounts.items():
        meta = nodes[path].meta
        if mount.blocks is None or not isinstance(meta, ArrayMeta) or not is_unsaid(meta, nodes[path].documents):
            continue
        key = unlike_key(store, path, meta)
        if key is not None:
            raise PartitionError(
                f"{path!r} can't be divided: its chunks have keys like {key!r}, but its metadata does not give this separator; "
                f'write "dimension_separator": "/" into {join(path, ".zarray")}, or leave it whole'
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
    small: dict[str, int] = {}  # arrays that are smaller than the size of a shard, and stay in the base
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
            if path:  # the base holds the root
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
    """Yield arrays that become shards because small arrays together are too large for the base."""
    index = MountIndex({path: mount.division for path, mount in mounts.items()})
    others = sum(
        node.meta.nbytes
        for path, node in nodes.items()
        if isinstance(node.meta, ArrayMeta) and path not in small and path not in mounts and index.find(path) is None
    )
    arrays = {path for path, node in nodes.items() if isinstance(node.meta, ArrayMeta)}
    alone = {
        path: size
        for path, size in small.items()
        if not index.mounts.any_below(path) and arrays.isdisjoint(parents(path))
    }
    rest = sum(size for path, size in small.items() if path not in alone)
    return overflowing(alone, others + rest, parse_size(DEFAULT_SIZE) or 0)


def _passing(patterns: list[Pattern], nodes: Mapping[str, Node]) -> dict[str, set[str]]:
    """Return the arrays that are too small for each glob with dimensions.

    If all matched arrays are too small, none is passed over.
    """
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
    """Yield a warning if a more specific glob with dimensions passed over an array."""
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
    metas = [nodes[path].meta for path in matching_paths(pattern, nodes)]
    names = {name for meta in metas if isinstance(meta, ArrayMeta) for name in meta.dimension_names or ()}
    unknown = [name for name in dict(pattern.rule) if name not in names]  # type: ignore[arg-type]
    if unknown and metas:
        raise PartitionError(
            f"shards[{pattern.text!r}] names the dimension {unknown[0]!r}, but no array that it matches has this dimension"
        )


def _check_inside(path: str, pattern: Pattern, parent: str, whole: Pattern) -> None:
    if pattern.specificity > whole.specificity:
        raise PartitionError(
            f"shards overlap: {parent!r} is one whole shard by {whole.text!r}, and {pattern.text!r} names {path!r} "
            "inside it: leave one of them out"
        )


def _check_beside(path: str, pattern: Pattern, mounts: Mapping[str, Mount]) -> None:
    """Refuse to divide a named array inside an array that is divided.

    Other arrays inside stay in the base.
    """
    if pattern.path == path:
        outer = next(parent for parent in parents(path) if parent in mounts)
        raise PartitionError(
            f"shards names {path!r}, which lies inside {outer!r}, an array that is divided: leave one of them out"
        )


def _applies(pattern: Pattern, path: str, meta: ArrayMeta | GroupMeta) -> bool:
    """Tell whether a pattern decides how a node is divided.

    A size for a group applies to all arrays below it. A glob with dimensions applies only to arrays that have them.
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
    """Return the blocks of an array; None if it stays in the base."""
    meta, rule = node.meta, pattern.rule
    if not isinstance(meta, ArrayMeta):
        if pattern.is_plain and not isinstance(rule, str | int):
            raise PartitionError(
                f"{path!r} is a group, which can't be divided by a shape: use 'whole', or name its arrays"
            )
        return None
    if isinstance(rule, str | int):
        size = parse_size(rule)
        return automatic(meta, size or 0)
    shape = shape_of(meta, rule, path)
    if meta.chunks is None or meta.keys is None:
        raise PartitionError(f"{path!r} has a chunk grid or chunk keys that can't be divided: use 'whole'")
    if not all(meta.shape) or not meta.shape:
        return None  # nothing to divide
    return to_blocks(meta, shape)
