"""Find shards of an earlier job that can be reused after the metadata of the source changed.

A later job of the same chain takes over these shards, and makes the others again under new names.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping
from operator import contains
from typing import Any

import msgspec

from shardedstore.config.document import dump
from shardedstore.errors import UsageError
from shardedstore.jobs.shards import Plan, Run, shard_runs
from shardedstore.storage.options import NONE
from shardedstore.storage.urls import is_remote, normalize
from shardedstore.stores.hierarchy import Node
from shardedstore.stores.locations import Config, Location, Mount, Place, is_template
from shardedstore.stores.members import MountIndex
from shardedstore.zarr.grid import Blocks, Coords
from shardedstore.zarr.metadata import ArrayMeta, dump_json, parse_json
from shardedstore.zarr.paths import join, parents

SHAPED = (".zarray", "zarr.json")


class Mark(msgspec.Struct, frozen=True, array_like=True):
    """The state of a node: a digest of its documents without the shape of an array, and the shape."""

    digest: str
    shape: Coords | None = None


Marks = Mapping[str, Mark]


def source_token(config: Config, documents: str) -> str:
    """Return a digest of a source and its division; `documents` is the digest of its metadata.

    The consent to places of references is no part of it, so a job continues after a user has given it.
    """
    written = dump(config, None)
    if b'"allow"' in written:
        written = dump(config.map_places(_without_consent), None)
    return hashlib.sha256(written + documents.encode()).hexdigest()


def _without_consent(place: Place) -> Place:
    options = msgspec.structs.replace(place.options, allow=())
    return msgspec.structs.replace(
        place, options=NONE if options == NONE else options
    )  # msgspec omits NONE itself only


def marks_of(nodes: Mapping[str, Node]) -> dict[str, Mark]:
    """Return the marks of groups and arrays by path."""
    return {path: _mark(path, node) for path, node in nodes.items() if not node.is_sample}


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


def moved_place(place: Place, before: str, now: Location) -> Place:
    """Return a place at or below the URL `before` at the present place of the source; another place unchanged."""
    if not isinstance(now, Place):
        return place
    if place.url == before:
        return now if type(now) is type(place) else place
    if place.url.startswith(f"{before}/"):
        return msgspec.structs.replace(place, url=now.url + place.url[len(before) :], options=now.options)
    return place


def is_same_source(earlier: Config, now: Config, old: Marks, new: Marks) -> bool:
    """Tell whether a config names the source of an earlier job, which may have changed since.

    A part of it may be divided in another way. If all of it is, the result is False, because that is probably a mistake.
    """
    if not now.base.is_same(earlier.base):
        return False
    otherwise = set(divided_otherwise(earlier, now, old, new))
    if not otherwise or (earlier.shards.keys() & now.shards.keys()) - otherwise:
        return True
    bases = [next(iter(shard_runs(config))) for config in (earlier, now)]
    return not now.base.is_in_config and _left_out(bases[0]) == _left_out(bases[1])


def lost_members(before: Config, after: Config) -> dict[str, list[str]]:
    """Return the members of collections that disappeared, by the path of the collection."""
    now = {path: frozenset(_names(mount)) for path, mount in after.shards.items()}
    mounts = before.shards.items()
    lost = {path: [name for name in _names(mount) if name not in now.get(path, ())] for path, mount in mounts}
    return {path: names for path, names in lost.items() if names}


def _names(mount: Mount) -> tuple[str, ...]:
    return () if mount.members is None else mount.members.names


def _changed(old: Marks, new: Marks) -> dict[str, bool]:
    """Return the paths with a change at or below them, and whether the path itself has changed."""
    at = [path for path in old.keys() | new.keys() if old.get(path) != new.get(path)]
    above = {parent: False for path in at for parent in parents(path)}
    return {**above, **dict.fromkeys(at, True)}


def has_only_grown(old: Marks, new: Marks) -> bool:
    """Tell whether no array disappeared, shrank or changed, so that one ordinary Zarr can grow in its place."""
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
    """Yield the shards with an unchanged source, by their numbers in an earlier job and in this one.

    If an array has grown or shrunk, the blocks at its old and at its new edge count as changed.
    """
    changed = _changed(old, new)
    earlier = {(run.mounted is None, run.path): run for run in shard_runs(before)}
    for run in shard_runs(now):
        then = earlier.get((run.mounted is None, run.path))
        if then is None or then.location != run.location:
            continue
        if run.mounted is not None:
            index = MountIndex(run.mounted)
            own = (path for path, is_own in changed.items() if is_own)
            is_left_alike = _left_out(then) == _left_out(run) or run.location.is_in_config
            if is_left_alike and all(path in index for path in own):
                yield then.number, run.number
        elif run.members is not None and then.members is not None:
            yield from _same_members(then, run, changed)
        elif run.blocks is None or then.blocks is None:
            if run.blocks == then.blocks and run.path not in changed:
                yield then.number, run.number
        elif run.path in old and run.path in new and old[run.path].digest == new[run.path].digest:
            yield from _same_blocks(then, run, old[run.path].shape or (), new[run.path].shape or ())


def divided_otherwise(before: Config, now: Config, old: Marks, new: Marks) -> Iterator[str]:
    """Yield the paths that exist in both sources and are divided by another rule than before."""
    for path in {**before.shards, **now.shards}:
        if path in old and path in new and _rule(before.shards.get(path)) != _rule(now.shards.get(path)):
            yield path


def _rule(mount: Mount | None) -> object:
    if mount is None:
        return None
    return mount.members.together if mount.members else mount.blocks.chunks if mount.blocks else ()


def _left_out(base: Run) -> dict[str, object]:
    """Return the parts that a base leaves out, by path; all divisions of an array into blocks are equal."""
    divided = (base.mounted or {}).items()
    return {path: Blocks if isinstance(division, Blocks) else division for path, division in divided}


def _same_members(then: Run, run: Run, changed: Mapping[str, bool]) -> Iterator[tuple[int, int]]:
    """Yield the unchanged members, or bundles of the same members, by their numbers in both jobs."""
    assert then.members is not None
    assert run.members is not None
    if then.members.together != run.members.together or then.exceptions != run.exceptions:
        return
    earlier = {(shard.block_name, shard.members): shard.number for shard in then.shards()}
    for shard in run.shards():
        before = earlier.get((shard.block_name, shard.members))
        if before is not None and not any(join(run.path, name) in changed for name in shard.members):
            yield before, shard.number


def _same_blocks(then: Run, run: Run, old: Coords, new: Coords) -> Iterator[tuple[int, int]]:
    one, other = then.blocks, run.blocks
    assert one is not None
    assert other is not None
    if one.chunks != other.chunks or then.exceptions != run.exceptions or len(old) != len(new):
        return
    lead = len(one.chunks)
    if old[lead:] != new[lead:]:
        return
    spans = []
    for axis in range(lead):
        least = min(one.grid[axis], other.grid[axis])
        spans.append(range(least if old[axis] == new[axis] else least - 1))
    for index in itertools.product(*spans) if other.stored is None else map(other.index, range(other.count)):
        if all(map(contains, spans, index)) and one.holds(index):
            yield then.number + one.number(index), run.number + other.number(index)


def check_moved_from(url: str, config: Config) -> str:
    """Return the normalized URL from which a source was moved.

    Raises
    ------
    UsageError
        If the source is not one Zarr with one URL.
    """
    base = config.base.origin
    if not isinstance(base, Place) or is_template(base):
        raise UsageError(
            f"source_moved_from={url!r} needs a source that is one Zarr at one URL, and this is {base.show()}: name another destination"
        )
    return normalize(url)


def source_before(plan: Plan, moved_from: str) -> str:
    """Return the digest that the source of a plan would have at the URL from which it was moved; empty if it was not moved."""
    now = plan.config.base.origin
    if not moved_from or not isinstance(now, Place):
        return ""
    before = msgspec.structs.replace(now, url=moved_from, options=now.options if is_remote(moved_from) else NONE)
    config = plan.config.map_places(lambda place: moved_place(place, now.url, before))
    return source_token(config, plan.source)
