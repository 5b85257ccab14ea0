"""How a Zarr is divided into shards: from the source's metadata and what the user asks for, to mounts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from shardedstore.config import Config, Mount
from shardedstore.errors import PartitionError
from shardedstore.grid import Blocks, Coords
from shardedstore.hierarchy import Node, read_nodes
from shardedstore.locations import Location, ViewOf
from shardedstore.metadata import ArrayMeta, GroupMeta
from shardedstore.mounts import is_below
from shardedstore.patterns import WHOLE, Pattern, Shards, parse_shards, parse_size


def divide(source: Location, shards: Shards) -> Config:
    """Return the config of a source as a sharded store: its mounts are views, and nothing is copied or listed.

    Raises
    ------
    PartitionError
        For what can't be divided as asked, naming the path.
    """
    patterns = parse_shards(shards)
    nodes = read_nodes(Config(base=source))
    _check_plain(patterns, nodes)
    mounts: dict[str, Mount] = {}
    whole: dict[str, Pattern] = {}
    for path, node in nodes.items():
        pattern = next((p for p in patterns if _applies(p, path, node.meta)), None)
        inside = next((p for p in _parents(path) if p in whole), None)
        if pattern is None:
            continue
        if inside is not None:
            _check_inside(path, pattern, inside, whole[inside])
        elif pattern.rule == WHOLE:
            if path:  # the root is whole as it is: the base
                whole[path] = pattern
                mounts[path] = Mount(ViewOf(source, path))
        else:
            blocks = _blocks(path, node, pattern)
            if blocks is not None:
                mounts[path] = Mount(ViewOf(source, path), blocks)
    return Config(base=source, shards=mounts)


def _check_plain(patterns: list[Pattern], nodes: Mapping[str, Node]) -> None:
    for pattern in patterns:
        if pattern.is_plain and pattern.text not in nodes:
            some = ", ".join(repr(path) for path in list(nodes)[:8] if path)
            raise PartitionError(
                f"shards names {pattern.text!r}, which is no group or array of the source; it has {some or 'none'}"
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


def _parents(path: str) -> Iterable[str]:
    while path:
        path = path.rpartition("/")[0]
        yield path


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
    return _to_blocks(meta, shape)


def _to_blocks(meta: ArrayMeta, shape: Sequence[int]) -> Blocks:
    """Return the blocks of a shape in elements, of which -1 is whole: the last sharded dimension ends the index."""
    assert meta.chunks is not None
    assert meta.keys is not None
    grid = meta.chunk_grid
    lead = max((i for i, size in enumerate(shape) if size != -1), default=0) + 1
    chunks = tuple(n if s == -1 else min(n, -(-s // c)) for n, s, c in zip(grid, shape, meta.chunks, strict=True))
    return Blocks(grid, chunks[:lead], meta.keys)


def shape_of(meta: ArrayMeta, rule: Mapping[str, int] | Sequence[int], path: str) -> Coords:
    """Return the shape in elements, -1 for whole, of the shards that a rule asks for."""
    ndim = len(meta.shape)
    if isinstance(rule, Mapping):
        names = meta.dimension_names or ()
        unknown = [name for name in rule if name not in names]
        if unknown:
            has = ", ".join(map(repr, names)) if any(names) else "no named dimensions"
            raise PartitionError(f"{path!r} has no dimension {unknown[0]!r}: it has {has}")
        shape = tuple(rule.get(name, -1) if name is not None else -1 for name in names)
    else:
        shape = tuple(rule)
        if len(shape) != ndim:
            raise PartitionError(f"shards[{path!r}] has {len(shape)} sizes, and the array has {ndim} dimensions")
    for axis, size in enumerate(shape):
        chunk = meta.chunks[axis] if meta.chunks else 1
        if size == -1 or size >= meta.shape[axis] or size % chunk == 0:
            continue
        below, above = size // chunk * chunk, (size // chunk + 1) * chunk
        named = meta.dimension_names[axis] if meta.dimension_names else None
        near = f"{below} or {above}" if below else f"{above}"
        raise PartitionError(
            f"shards of {path!r} are {size} elements along dimension {named if named is not None else axis!r}, which is not a "
            f"whole number of its chunks of {chunk}: take {near}"
        )
    return shape


def automatic(meta: ArrayMeta, size: int) -> Blocks | None:
    """Return blocks of about `size` decoded bytes, of whole chunks; None for an array that is no larger.

    Leading dimensions are divided first, so that a block is one run of chunks in C order.

    >>> from shardedstore.grid import ChunkKeys
    >>> meta = ArrayMeta(3, (100, 40), (10, 10), ChunkKeys("default", "/"), None, 1)
    >>> automatic(meta, 900).chunks, automatic(meta, 250).chunks, automatic(meta, 10_000)
    ((2,), (1, 2), None)
    """
    if meta.chunks is None or meta.keys is None or not meta.shape or meta.nbytes <= size:
        return None
    chunks: list[int] = []
    for axis, count in enumerate(meta.chunk_grid):
        row = meta.chunk_nbytes * math.prod(meta.chunk_grid[axis + 1 :])
        chunks.append(max(1, min(count, size // row)) if row else count)
        if row <= size:
            break
    return Blocks(meta.chunk_grid, tuple(chunks), meta.keys)
