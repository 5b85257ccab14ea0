"""How a Zarr is divided into shards: from the source's metadata and what the user asks for, to mounts."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from shardedstore.components.kinds import Config, Location, Mount, ViewOf
from shardedstore.components.opening import open_location
from shardedstore.components.parts import Part
from shardedstore.dividing.automatic import automatic
from shardedstore.dividing.blockshape import shape_of, to_blocks
from shardedstore.dividing.choose import choose, part_at, some_of
from shardedstore.dividing.inside import find_zarr
from shardedstore.dividing.patterns import WHOLE, Paths, Pattern, Shards, parse_shards, parse_size
from shardedstore.errors import PartitionError
from shardedstore.grid import Blocks
from shardedstore.metadata import ArrayMeta, GroupMeta
from shardedstore.mounts import is_below, join, parents
from shardedstore.reading.entries import is_unsaid, unlike_key
from shardedstore.reading.hierarchy import Node


def divide(source: Location, shards: Shards, include: Paths | None = None, exclude: Paths | None = None) -> Config:
    """Return the config of a source, or of a part of it, as a sharded store.

    Its mounts are views, and nothing is copied or listed.

    Raises
    ------
    PartitionError
        For what can't be divided as asked, naming the path.
    """
    patterns = parse_shards(shards)
    source, nodes = find_zarr(source)
    _check_globs(patterns, nodes)
    part = choose(source, nodes, include, exclude)
    if part is None:
        mounts = _mounts(nodes, patterns, lambda path: ViewOf(source, path))
        _check_keys(source, nodes, mounts)
        return Config(base=source, shards=mounts)
    whole = Part(open_location(source), part.only, part.without)
    kept = {path: node for path, node in nodes.items() if whole.holds(path)}
    for pattern in patterns:
        if pattern.text in nodes and pattern.text not in kept:
            raise PartitionError(
                f"shards names {pattern.text!r}, which include and exclude leave out: take it out of one"
            )

    def view(path: str) -> ViewOf:
        return ViewOf(part_at(part, path) if whole.is_cut(path) else source, path)

    mounts = _mounts(kept, patterns, view)
    _check_keys(source, kept, mounts)
    return Config(base=part, shards=mounts)


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


def _mounts(nodes: Mapping[str, Node], patterns: list[Pattern], view: Callable[[str], ViewOf]) -> dict[str, Mount]:
    _check_plain(patterns, nodes)
    mounts: dict[str, Mount] = {}
    whole: dict[str, Pattern] = {}
    for path, node in nodes.items():
        pattern = next((p for p in patterns if _applies(p, path, node.meta)), None)
        inside = next((p for p in parents(path) if p in whole), None)
        if pattern is None:
            continue
        if inside is not None:
            _check_inside(path, pattern, inside, whole[inside])
        elif pattern.rule == WHOLE:
            if path:  # the root is whole as it is: the base
                whole[path] = pattern
                mounts[path] = Mount(view(path))
        else:
            blocks = _blocks(path, node, pattern)
            if blocks is not None:
                mounts[path] = Mount(view(path), blocks)
    return mounts


def _check_globs(patterns: list[Pattern], nodes: Mapping[str, Node]) -> None:
    for pattern in patterns:
        if not any(map(pattern.matches, nodes)) and not pattern.is_plain:
            raise PartitionError(
                f"shards names the glob {pattern.text!r}, which matches no group or array of the source; it has "
                f"{some_of(nodes)}"
            )


def _check_plain(patterns: list[Pattern], nodes: Mapping[str, Node]) -> None:
    for pattern in patterns:
        if pattern.is_plain and pattern.text not in nodes:
            raise PartitionError(
                f"shards names {pattern.text!r}, which is no group or array of the source; it has {some_of(nodes)}"
            )
        if isinstance(pattern.rule, Mapping) and not pattern.is_plain:
            metas = [node.meta for path, node in nodes.items() if pattern.matches(path)]
            names = {name for meta in metas if isinstance(meta, ArrayMeta) for name in meta.dimension_names or ()}
            unknown = [name for name in pattern.rule if name not in names]
            if unknown:
                raise PartitionError(
                    f"shards[{pattern.text!r}] names the dimension {unknown[0]!r}, which no array that it matches has"
                )


def _check_inside(path: str, pattern: Pattern, parent: str, whole: Pattern) -> None:
    if pattern.specificity > whole.specificity:
        raise PartitionError(
            f"shards overlap: {parent!r} is one whole shard by {whole.text!r}, and {pattern.text!r} names {path!r} "
            "inside it: leave one of them out"
        )


def _applies(pattern: Pattern, path: str, meta: ArrayMeta | GroupMeta) -> bool:
    """Tell whether a pattern says how to divide a node.

    A size for a group holds for all arrays below; a glob with dimensions only means the arrays that have them.
    """
    rule = pattern.rule
    if rule == WHOLE:
        return pattern.matches(path)
    if isinstance(rule, str | int):
        return pattern.matches(path) or (pattern.is_plain and is_below(path, pattern.text))
    if pattern.is_plain or not pattern.matches(path):
        return pattern.text == path
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
