"""Compare the decoded data of two stores with any divisions into shards.

Sums over stretches of each array's chunks are compared first. If the sums of a stretch differ, its chunks are compared one by
one.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from typing import NamedTuple

import msgspec

from shardedstore.jobs.differences import MAKE_AGAIN, Difference
from shardedstore.jobs.shards import Plan
from shardedstore.stores.hierarchy import Node
from shardedstore.stores.members import Members
from shardedstore.stores.ome import levels_of
from shardedstore.transforms.base.shard import Shard
from shardedstore.verify.data import (
    ARRAY,
    PER_STRETCH,
    Damage,
    Taken,
    array_at,
    compared_attributes,
    description,
    is_document_key,
    mount_path_of,
    stretch_of,
)
from shardedstore.verify.levels import Depth, depth_of
from shardedstore.verify.stored import LOOK_AGAIN
from shardedstore.zarr.grid import Coords
from shardedstore.zarr.metadata import CONSOLIDATED_V2, ArrayMeta, GroupMeta
from shardedstore.zarr.paths import join

MOST_SEARCHED = 16  # the most stretches of an array that are searched for differing chunks
MOST_NAMED = 100  # the most differing chunks of an array that are named
MEND = f"copy the named data from the source; or, if a job of this package made the result, {MAKE_AGAIN}"
CALLED = {"chunks": "finest chunk grid", "fill": "fill value", "dtype": "data type"}  # the fields of a layout
CAUSES = ("shape", "dtype", "chunks", "fill")  # fields of a layout; the first that differs is named
WHY = "its data type, fill value or codecs are unknown"
MEND_SOURCE = "the source can't be read there: repair it, or compare with another copy"


class Side(NamedTuple):
    """One of the two compared stores: its name in messages, its plan, and the data read from it."""

    name: str
    plan: Plan
    taken: Taken
    is_source: bool = False

    def misses(self, path: str) -> bool:
        """Check for unread shards that may hold data of an array; then chunks only seem missing."""
        at = mount_path_of(self.plan.config, path)
        return any(at == damage.mount_path for damage in self.taken.damage if damage.path is None)

    def misses_member(self, path: str) -> bool:
        """Check whether a node may be in an unread member."""
        return path not in self.plan.nodes and self.misses(path)

    def knows(self, path: str) -> bool:
        """Check whether a node is known by its metadata; a node inside an array is known only by its data."""
        return path in self.plan.nodes or path in self.taken.layouts

    @property
    def zarr_format(self) -> int:
        """The Zarr format of the root."""
        return self.plan.nodes[""].meta.zarr_format

    def nodes(self) -> dict[str, Node | str]:
        """Return the groups and arrays by path; nodes in members as descriptions."""
        known = {path: node for path, node in self.plan.nodes.items() if not node.is_sample}
        return {**known, **self.taken.nodes}

    def place(self, path: str, index: Coords, chunks: Coords | None = None) -> tuple[Shard, str]:
        """Return the shard and the key of the stored object that holds a chunk, in a grid of `chunks`."""
        at = mount_path_of(self.plan.config, path)
        meta = array_at(self.plan, path)
        mount = self.plan.config.shards.get(at)
        if mount is not None and mount.members is not None:
            return _shard_of(at, mount.members, path), path
        if meta is None or meta.chunks is None or meta.keys is None:
            return Shard(at, is_base=not at), path
        chunks = self.taken.layouts[path].chunks if chunks is None else chunks
        stored = tuple(i * c // s for i, c, s in zip(index, chunks, meta.chunks, strict=True))
        if mount is None:
            shard = Shard("", is_base=True)
        elif mount.blocks is None:
            shard = Shard(at)
        else:
            shard = Shard(at, mount.blocks, mount.blocks.split(stored)[0])
        return shard, join(path, meta.keys.encode(stored))


def _shard_of(at: str, members: Members, path: str) -> Shard:
    """Return the shard that holds an array in a member."""
    found = members.find(path[len(at) :].lstrip("/"))
    if found is None:
        return Shard("", is_base=True)
    if members.together == 1:
        return Shard(join(at, members.names[found[0]]))
    return Shard(at, bundle=members.shard_of(found[0]))


class Suspects:
    """Chunks that may differ: stretches of arrays with different sums, and the single chunks of some stretches.

    Parameters
    ----------
    ours, theirs : Side
        The two stores, with the chunks of the stretches that `searched` returns.
    stretches : mapping of str to set of int
        Stretches with different sums, by path; see `find_suspects`.
    """

    def __init__(self, ours: Side, theirs: Side, stretches: Mapping[str, frozenset[int]]) -> None:
        self.ours, self.theirs, self.stretches = ours, theirs, stretches
        self._searched, self._comparable = searched(stretches), set(_comparable(ours, theirs))

    def is_equal(self, path: str, index: Coords) -> bool:
        """Check whether a chunk is known to be equal on both sides, as decoded data or as stored bytes."""
        if path not in self._comparable:
            return False
        stretch = stretch_of(self.ours.taken.layouts[path])(index)
        if stretch not in self.stretches.get(path, ()):
            return True
        mine, other = (side.taken.chunks.get(path, {}).get(index) for side in (self.ours, self.theirs))
        return stretch in self._searched[path] and mine == other

    def damage(self, side: Side) -> Iterator[Damage]:
        """Yield the damage of one side, except undecodable chunks with equal stored bytes on both sides."""
        for damage in side.taken.damage:
            path = damage.path
            if path is None or not all(self.is_equal(path, index) for index in damage.chunks):
                yield damage

    def damaged(self, path: str) -> set[Coords]:
        """Return the chunks of an array that `damage` names on either side."""
        told = (damage for side in (self.ours, self.theirs) for damage in self.damage(side) if damage.path == path)
        return {index for damage in told for index in damage.chunks}


def compare_damage(suspects: Suspects) -> Iterator[Difference]:
    """Yield the damage of both sides, except chunks that are equally damaged."""
    for side in (suspects.ours, suspects.theirs):
        for shard, _, what, path, key, kind, chunks in suspects.damage(side):
            text = f"{side.name}: {what}" if shard.name in what else f"{side.name}: {shard.name}: {what}"
            advice = LOOK_AGAIN if kind == "unread" else MEND_SOURCE if side.is_source else MEND
            chunk = chunks[0] if len(chunks) == 1 else None
            where = {"array": path, "key": key, "chunk": chunk, "cause": what, "is_of_source": side.is_source}
            yield Difference.of(shard, kind, text, advice, **where)


def compare_files(ours: Side, theirs: Side) -> Iterator[Difference]:
    """Yield the files outside zarr's documents and chunks that exist on one side only, or differ."""
    documents = ours.plan.nodes[""].meta.zarr_format == theirs.plan.nodes[""].meta.zarr_format
    mine, other = (_files(side, documents) for side in (ours, theirs))
    for key in sorted(mine.keys() | other.keys()):
        if key not in other and not theirs.misses(key):
            yield Difference("extra", f"{key!r} is in {ours.name} only", "", key=key, found=_digest(mine[key]))
        elif key not in mine and not ours.misses(key):
            yield Difference(
                "missing", f"{key!r} is in {theirs.name} only", MEND, key=key, expected=_digest(other[key])
            )
        elif mine.get(key) != other.get(key) and key in mine and key in other:
            what, sides = f"{key!r} holds other bytes than in {theirs.name}", (_digest(mine[key]), _digest(other[key]))
            yield Difference("data", what, MEND, key=key, found=sides[0], expected=sides[1])


def _digest(value: bytes | int) -> dict[str, str]:
    """Return the digest of a file or a chunk, as a difference holds it."""
    return {"digest": value.hex() if isinstance(value, bytes) else f"{value:x}"}


def _files(side: Side, documents: bool) -> dict[str, bytes]:
    """Return the files of a side that are neither documents of known nodes nor their consolidated metadata.

    Other files with names of documents are returned only with `documents`.
    """

    def is_file(key: str) -> bool:
        folder, _, name = key.rpartition("/")
        if name == CONSOLIDATED_V2:
            return folder not in side.plan.nodes
        return not is_document_key(key) or (documents and not side.knows(folder))

    return {key: value for key, value in side.taken.files.items() if is_file(key)}


def compare_layouts(ours: Side, theirs: Side, by_values: Container[str] = ()) -> Iterator[Difference]:
    """Yield the arrays whose digests can't be compared, as shape, chunk grid, data type or fill value differ.

    The arrays in `by_values` are left out.
    """
    for path in sorted(ours.taken.layouts.keys() & theirs.taken.layouts.keys()):
        if path in by_values:
            continue
        one, other = ours.taken.layouts[path], theirs.taken.layouts[path]
        for name in CAUSES:
            mine, its = getattr(one, name), getattr(other, name)
            if mine != its:
                called = CALLED.get(name, name)
                what = f"{path!r} has the {called} {mine} in {ours.name} and {its} in {theirs.name}: the data can't be compared"
                yield Difference("layout", what, array=path, found={name: mine}, expected={name: its})
                break


def find_suspects(ours: Side, theirs: Side) -> dict[str, frozenset[int]]:
    """Return the stretches with different sums, by path."""
    suspects = {}
    for path in _comparable(ours, theirs):
        mine, other = ours.taken.sums.get(path, {}), theirs.taken.sums.get(path, {})
        found = frozenset(i for i in mine.keys() | other.keys() if mine.get(i, 0) != other.get(i, 0))
        if found:
            suspects[path] = found
    return suspects


def _comparable(ours: Side, theirs: Side) -> list[str]:
    one, other = ours.taken.layouts, theirs.taken.layouts
    return sorted(path for path in one.keys() & other.keys() if one[path] == other[path])


def searched(suspects: Mapping[str, frozenset[int]]) -> dict[str, frozenset[int]]:
    """Return the stretches that are searched for differing chunks: the first few of each array."""
    return {path: frozenset(sorted(found)[:MOST_SEARCHED]) for path, found in suspects.items()}


def compare_chunks(suspects: Suspects) -> Iterator[Difference]:
    """Yield the readable chunks that differ, in stretches that were read chunk by chunk on both sides."""
    ours, theirs = suspects.ours, suspects.theirs
    for path, stretches in suspects.stretches.items():
        mine, other = ours.taken.chunks.get(path, {}), theirs.taken.chunks.get(path, {})
        differing = sorted(
            {i for i in mine.keys() | other.keys() if mine.get(i) != other.get(i)} - suspects.damaged(path)
        )
        named = [
            index
            for index in differing
            if (index in mine or not ours.misses(path)) and (index in other or not theirs.misses(path))
        ]
        for index in named[:MOST_NAMED]:
            shard, key = ours.place(path, index)
            if index not in mine:
                kind, text = "missing", f"holds only the fill value, but data in {theirs.name}"
            elif index not in other:
                kind, text = "extra", f"holds data, but only the fill value in {theirs.name}"
            else:
                kind, text = "data", f"holds other data than in {theirs.name}"
            what = f"{path!r}: chunk {index} ({key!r} in shard {shard.name!r}) {text}"
            found, expected = (_digest(side[index]) if index in side else None for side in (mine, other))
            where = {"array": path, "key": key, "chunk": index, "found": found, "expected": expected}
            yield Difference.of(shard, kind, what, MEND, **where)
        left = [f"{len(named) - MOST_NAMED:,} more chunks"] if len(named) > MOST_NAMED else []
        if len(stretches) > MOST_SEARCHED:
            size = f"{len(stretches) - MOST_SEARCHED:,} more stretches of at least {PER_STRETCH:,} chunks"
            left.append(size)
        if left:
            yield Difference("data", f"{path!r}: {' and '.join(left)} differ", MEND, array=path)


def notes(suspects: Suspects) -> Iterator[str]:
    """Yield notes about facts that do not count as differences: stored chunks of fill values, and undecoded data."""
    ours, theirs = suspects.ours, suspects.theirs
    for path in _comparable(ours, theirs):
        mine, other = ours.taken.digest(path), theirs.taken.digest(path)
        if mine.value == other.value and mine.presence != other.presence:
            yield (
                f"{path!r}: {mine.stored:,} chunks are stored in {ours.name} and {other.stored:,} in {theirs.name}; the "
                "others hold only the fill value"
            )
        depth = depth_of(mine.layout)
        if depth != "decoded":
            yield f"{path!r} was compared by its {depth} bytes, as {WHY}"
        for lower, count in sorted(ours.taken.lower.get(path, {}).items()):
            chunks, they = ("1 chunk was", "it") if count == 1 else (f"{count:,} chunks were", "they")
            yield f"{path!r}: {chunks} compared by {lower} bytes, as {they} can't be {_done(depth)}{_first(suspects, path)}"


def _done(depth: Depth) -> str:
    return "decompressed" if depth == "decompressed" else "decoded"


def _first(suspects: Suspects, path: str) -> str:
    """Return the error of the first chunk that can't be decoded on either side."""
    for damage in suspects.ours.taken.damage:
        if damage.path == path and all(suspects.is_equal(path, index) for index in damage.chunks):
            return f" ({damage.what})"
    return ""


def compared_by(ours: Side, theirs: Side) -> dict[str, str]:
    """Return the level of comparison of each array, by path: the level of most of its chunks."""
    return {path: _mostly(ours.taken, path) for path in _comparable(ours, theirs)}


def _mostly(taken: Taken, path: str) -> str:
    lower = taken.lower.get(path, {})
    if 2 * sum(lower.values()) > taken.stored.get(path, (0, 0))[0]:
        return max(lower, key=lambda depth: lower[depth])
    return depth_of(taken.layouts[path])


def compare_nodes(ours: Side, theirs: Side) -> Iterator[Difference]:
    """Yield the groups and arrays that exist on one side only, or have different attributes."""
    mine, its = ours.nodes(), theirs.nodes()
    axes = _axes(mine) | _axes(its)
    mine, its = _named(mine, axes), _named(its, axes)
    is_foreign = ours.zarr_format != theirs.zarr_format
    for path in sorted(mine.keys() | its.keys()):
        one, other = mine.get(path), its.get(path)
        if other is None:
            if not theirs.misses_member(path) and path not in theirs.taken.layouts:
                yield Difference("extra", f"{path!r} is in the result only", "", array=path, found=_kind(one))
        elif one is None:
            if not ours.misses_member(path) and path not in ours.taken.layouts:
                yield Difference("missing", f"{path!r} is in the source only", MEND, array=path, expected=_kind(other))
        elif _is_array(one) != _is_array(other):
            what = f"{path!r} is a group on one side and an array on the other"
            yield Difference("layout", what, array=path, found=_kind(one), expected=_kind(other))
        elif isinstance(one, Node) and isinstance(other, Node) and one.is_implicit and not other.is_implicit:
            what = f"the group {path!r} has a document in the source only"
            yield Difference("missing", what, MEND, array=path, expected=_kind(other))
        elif _described(one, path, is_foreign) != _described(other, path, is_foreign):
            what = f"{path!r} has other attributes or names of dimensions than in the source"
            yield Difference("attributes", what, array=path)


Nodes = dict[str, Node | str]


def _axes(nodes: Nodes) -> dict[str, tuple[str, ...]]:
    """Return the names of the dimensions of images' levels, from the metadata of groups of OME-Zarr."""
    groups = {path: node for path, node in nodes.items() if isinstance(node, Node) and isinstance(node.meta, GroupMeta)}
    found = ((path, compared_attributes(node, path).get("ome")) for path, node in groups.items())
    return {join(path, level): names for path, ome in found if isinstance(ome, dict) for level, names in levels_of(ome)}


def _named(nodes: Nodes, axes: dict[str, tuple[str, ...]]) -> Nodes:
    """Return the nodes, with dimension names from OME-Zarr for arrays without dimension names."""

    def named(path: str, node: Node | str) -> Node | str:
        if isinstance(node, str) or not isinstance(node.meta, ArrayMeta) or node.meta.dimension_names is not None:
            return node
        return node._replace(meta=msgspec.structs.replace(node.meta, dimension_names=axes.get(path)))

    return {path: named(path, node) for path, node in nodes.items()} if axes else nodes


def _kind(node: Node | str | None) -> dict[str, str] | None:
    """Return the kind of a node, as a difference holds it."""
    return None if node is None else {"node": "array" if _is_array(node) else "group"}


def _is_array(node: Node | str) -> bool:
    return node.startswith(ARRAY) if isinstance(node, str) else isinstance(node.meta, ArrayMeta)


def _described(node: Node | str, path: str, is_foreign: bool) -> str:
    return node if isinstance(node, str) else description(node, path, is_foreign)
