"""What of an earlier job's result is still right for a source that has changed since, as far as its metadata tells.

A later job of the same chain takes those shards over, and makes the others again under new names.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from shardedstore.config import dump, from_dict
from shardedstore.grid import Blocks, Coords
from shardedstore.hierarchy import Node
from shardedstore.kinds import Config
from shardedstore.metadata import ArrayMeta, dump_json, parse_json
from shardedstore.mounts import parents
from shardedstore.plan import Run, shard_runs

SHAPED = (".zarray", "zarr.json")


class Mark(msgspec.Struct, frozen=True, array_like=True):
    """What tells whether a node is as it was: a digest of its documents without an array's shape, and the shape."""

    digest: str
    shape: Coords | None = None


Marks = Mapping[str, Mark]


def source_token(config: Config, documents: str) -> str:
    """Return what tells a source as it is now, and its division, from others; `documents` is the digest of its metadata."""
    return hashlib.sha256(dump(config, None) + documents.encode()).hexdigest()


def marks_of(nodes: Mapping[str, Node]) -> dict[str, Mark]:
    """Return the marks of groups and arrays by path."""
    return {path: _mark(path, node) for path, node in nodes.items()}


def _mark(path: str, node: Node) -> Mark:
    shape = node.meta.shape if isinstance(node.meta, ArrayMeta) else None
    state = hashlib.blake2b(digest_size=16)
    for name, data in sorted(node.documents.items()):
        if shape is not None and name in SHAPED:
            document: dict[str, Any] = parse_json(data, path, name)
            data = dump_json({key: value for key, value in document.items() if key != "shape"})  # noqa: PLW2901
        state.update(f"{name}\0{len(data)}\0".encode())
        state.update(data)
    return Mark(state.hexdigest(), shape)


def is_same_source(before: Mapping[str, Any], after: Mapping[str, Any], old: Marks, new: Marks) -> bool:
    """Tell whether a config is that of an earlier job's source, divided by the same rule, though it may have changed.

    Arrays that are as they were must be divided as they were.
    """
    earlier, now = from_dict(before), from_dict(after)
    if earlier.base != now.base:
        return False
    changed = _changed(old, new)
    return all(path in changed or earlier.shards.get(path) == mount for path, mount in now.shards.items()) and all(
        path in changed or path in now.shards for path in earlier.shards
    )


def _changed(old: Marks, new: Marks) -> dict[str, bool]:
    """Return the paths at or below which something has changed, and whether it has at the path itself."""
    at = [path for path in old.keys() | new.keys() if old.get(path) != new.get(path)]
    above = {parent: False for path in at for parent in parents(path)}
    return {**above, **dict.fromkeys(at, True)}


def has_only_grown(old: Marks, new: Marks) -> bool:
    """Tell whether all arrays are there that were, as they were or larger, so that one ordinary Zarr can grow with them."""
    for path, mark in old.items():
        now = new.get(path)
        if now is None or (mark.shape is None) != (now.shape is None):
            return False
        if mark.shape is not None and now.shape is not None:
            if mark.digest != now.digest or len(mark.shape) != len(now.shape):
                return False
            if any(after < before for before, after in zip(mark.shape, now.shape, strict=True)):
                return False
    return True


def unchanged(before: Config, now: Config, old: Marks, new: Marks) -> Iterator[tuple[int, int]]:
    """Yield the numbers in an earlier job and in this one of the shards whose source is as it was.

    Of an array that has grown or shrunk, the blocks at its edge before and now are taken to have changed.
    """
    changed = _changed(old, new)
    earlier = {(run.mounted is None, run.path): run for run in shard_runs(before)}
    for run in shard_runs(now):
        then = earlier.get((run.mounted is None, run.path))
        if then is None or then.location != run.location:
            continue
        if run.mounted is not None:
            whole = {path for path, blocks in run.mounted.items() if blocks is None}
            own = (path for path, is_own in changed.items() if is_own)
            if then.mounted == run.mounted and all(whole & {path, *parents(path)} for path in own):
                yield then.number, run.number
        elif run.blocks is None or then.blocks is None:
            if run.blocks == then.blocks and run.path not in changed:
                yield then.number, run.number
        elif run.path in old and run.path in new and old[run.path].digest == new[run.path].digest:
            yield from _same_blocks(then, run, old[run.path].shape or (), new[run.path].shape or ())


def _same_blocks(then: Run, run: Run, old: Coords, new: Coords) -> Iterator[tuple[int, int]]:
    one, other = then.blocks, run.blocks
    assert one is not None
    assert other is not None
    if one.chunks != other.chunks or then.exceptions or run.exceptions or len(old) != len(new):
        return
    lead = len(one.chunks)
    if old[lead:] != new[lead:]:
        return
    spans = []
    for axis in range(lead):
        least = min(one.grid[axis], other.grid[axis])
        spans.append(range(least if old[axis] == new[axis] else least - 1))
    for index in itertools.product(*spans):
        yield then.number + _number(one, index), run.number + _number(other, index)


def _number(blocks: Blocks, index: Coords) -> int:
    number = 0
    for i, n in zip(index, blocks.grid, strict=True):
        number = number * n + i
    return number
