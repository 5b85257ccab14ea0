"""Read the shards of a store, decoded, into sums over stretches of each array's chunks.

A second read returns the chunks of some stretches one by one.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial, reduce
from typing import Any, NamedTuple

import msgspec
from toolz import merge_with

from shardedstore.codecs.digest import MODULUS, DataDigest, Layout
from shardedstore.codecs.migrate_document import shared_attributes
from shardedstore.jobs.open_shard import open_shard, with_component
from shardedstore.jobs.shards import Plan, Run, Segment
from shardedstore.storage.errors import is_transient
from shardedstore.storage.retry import Retries, retry
from shardedstore.stores.entries import Data, Entry, array_folder, read_entries
from shardedstore.stores.hierarchy import Node
from shardedstore.stores.location import OpenSources
from shardedstore.stores.locations import Config
from shardedstore.stores.members import Members
from shardedstore.stores.ome import upgraded
from shardedstore.transforms.base.datasums import Digested, digest_entries
from shardedstore.transforms.base.shard import Shard, whole_key
from shardedstore.verify.levels import ComparedChunks
from shardedstore.verify.stored import MOST_DAMAGED, RETRIES, UNREADABLE, unreadable_shard
from shardedstore.zarr.grid import Coords
from shardedstore.zarr.metadata import METADATA_NAMES, ArrayMeta, parse_json, parse_node
from shardedstore.zarr.paths import is_below, join

PER_STRETCH = 4096  # chunks
ARRAY, GROUP = "array", "group"  # prefixes of descriptions
MOST_STRETCHES = 4096  # for each array


class DataTask(NamedTuple):
    """Some shards of one store to read. With `wanted`, only these stretches of arrays are read, chunk by chunk.

    `shapes` has the shapes of divided arrays. `is_foreign` is True if the other store has another Zarr format. The chunks of the
    arrays in `skipped` are left out.
    """

    segment: Segment
    shapes: dict[str, Coords]
    wanted: dict[str, frozenset[int]] | None = None
    is_foreign: bool = False
    skipped: frozenset[str] = frozenset()


class Damage(NamedTuple):
    """A shard that could not be read, or undecodable chunks in one stored object, which are digested as stored bytes."""

    shard: Shard
    mount_path: str  # path of the shard's mount
    what: str
    path: str | None = None  # the array, for chunks
    key: str | None = None
    kind: str = "damaged"
    chunks: tuple[Coords, ...] = ()


@dataclass
class Taken:
    """Contents of some shards of one store: sums of their arrays' chunks by stretch, and hashes of all other keys.

    `nodes` has descriptions of the groups and arrays in members, whose documents were not read before. `lower` has the
    number of each array's chunks that were digested at a lower level than their array, by level.
    """

    layouts: dict[str, Layout] = field(default_factory=dict)
    sums: dict[str, dict[int, int]] = field(default_factory=dict)
    stored: dict[str, tuple[int, int]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    chunks: dict[str, dict[Coords, int]] = field(default_factory=dict)
    damage: list[Damage] = field(default_factory=list)
    nodes: dict[str, str] = field(default_factory=dict)
    lower: dict[str, dict[str, int]] = field(default_factory=dict)

    def add(self, other: Taken) -> Taken:
        """Add the contents of other shards of the same store."""
        self.layouts |= other.layouts
        for path, sums in other.sums.items():
            mine = self.sums.setdefault(path, {})
            for stretch, value in sums.items():
                mine[stretch] = (mine.get(stretch, 0) + value) % MODULUS
        for path, (count, presence) in other.stored.items():
            before = self.stored.get(path, (0, 0))
            self.stored[path] = before[0] + count, (before[1] + presence) % MODULUS
        self.files |= other.files
        for path, chunks in other.chunks.items():
            self.chunks.setdefault(path, {}).update(chunks)
        self.damage += other.damage
        self.nodes |= other.nodes
        for path, depths in other.lower.items():
            self.lower[path] = merge_with(sum, self.lower.get(path, {}), depths)
        return self

    def is_right(self) -> bool:
        """Whether all shards could be read."""
        return not self.damage

    def digest(self, path: str) -> DataDigest:
        """Return the digest of an array."""
        value = sum(self.sums.get(path, {}).values()) % MODULUS
        return DataDigest(self.layouts[path], value, *self.stored.get(path, (0, 0)))


def data_tasks(
    plan: Plan,
    wanted: dict[str, frozenset[int]] | None = None,
    *,
    is_foreign: bool = False,
    skipped: frozenset[str] = frozenset(),
) -> list[DataTask]:
    """Return the tasks that read a store; with `wanted`, only the shards with data of these arrays.

    The chunks of the arrays in `skipped` are left out.
    """
    mount_paths = None if wanted is None else {mount_path_of(plan.config, path) for path in wanted}
    tasks = []
    for segment in plan.segments():
        kept = (run for run in segment.runs if not (run.blocks and run.path in skipped))
        runs = tuple(
            part for run in kept if mount_paths is None or run.path in mount_paths for part in _holding(run, wanted)
        )
        shapes = {run.path: meta.shape for run in runs if run.blocks and (meta := array_at(plan, run.path)) is not None}
        if runs:
            tasks.append(DataTask(Segment(segment.number, runs), shapes, wanted, is_foreign, skipped))
    return tasks


def _holding(run: Run, wanted: Iterable[str] | None) -> list[Run]:
    """Return the runs of the shards with data of these arrays; only runs of members are reduced."""
    members = run.members
    if members is None or wanted is None:
        return [run]
    start = len(run.path) + 1 if run.path else 0
    found = [members.find(path[start:]) for path in wanted if is_below(path, run.path)]
    numbers = sorted({run.first + members.shard_of(member[0]) for member in found if member is not None})
    return [run.cut(number, number + 1) for number in numbers]


def array_at(plan: Plan, path: str) -> ArrayMeta | None:
    """Return the metadata of an array; None if there is none."""
    node = plan.nodes.get(path)
    return node.meta if node is not None and isinstance(node.meta, ArrayMeta) else None


def mount_path_of(config: Config, path: str) -> str:
    """Return the path of the mount that holds an array's chunks; ``""`` for the base."""
    return next((mount for mount in config.shards if path == mount or is_below(path, mount)), "")


def take(task: DataTask) -> Taken:
    """Read some shards. Errors are returned as damage, never raised."""
    taken = Taken()
    for run in task.segment.runs:
        try:
            opened = _opened(run)
        except UNREADABLE as error:
            taken.damage += [_damage(run, shard, error) for shard in run.shards()]
            continue
        for shard in run.shards():
            try:
                taken.add(retry(partial(_take_shard, opened, shard, task), Retries(RETRIES)))
            except UNREADABLE as error:
                taken.damage.append(_damage(run, shard, error))
    return taken


def _opened(run: Run) -> Run:
    """Return a run with an open source. The directory of a zip is read once for all shards in it."""
    return msgspec.structs.replace(run, location=OpenSources().shared(run.location))


def _damage(run: Run, shard: Shard, error: Exception) -> Damage:
    found = unreadable_shard(shard, error)
    return Damage(shard, run.path, found.what, kind=found.kind)


def _take_shard(run: Run, shard: Shard, task: DataTask) -> Taken:
    """Read one shard, up to the first damage.

    Raises
    ------
    Exception
        If the error is temporary.
    """
    taken = Taken()
    consolidated = None if shard.members else run.consolidated  # dropped, as steps may have changed the described nodes
    documents = _Documents(shard)
    try:
        entries = read_entries(open_shard(run, shard), shard.blocks, shard.block, consolidated)
        if task.skipped:
            entries = (entry for entry in entries if not _is_skipped(entry, shard, task.skipped))
        for digested in digest_entries(entries, with_component(run, shard), task.shapes, ComparedChunks):
            if not documents.take(digested.entry):
                _note(taken, digested, run, shard, task.wanted)
            elif digested.layout is not None:
                taken.layouts[digested.path] = digested.layout
        if task.wanted is None:
            documents.describe(taken, task.is_foreign)
    except Exception as error:
        if is_transient(error):
            raise
        taken.damage.append(_damage(run, shard, error))
    return taken


def _is_skipped(entry: Entry, shard: Shard, skipped: frozenset[str]) -> bool:
    return entry.coords is not None and join(shard.path, array_folder(entry)) in skipped


class _Documents:
    """The documents of the groups and arrays in a shard of members."""

    def __init__(self, shard: Shard) -> None:
        self._shard, self._members = shard, Members(shard.members) if shard.members else None
        self._found: dict[str, dict[str, bytes]] = {}

    def take(self, entry: Entry) -> bool:
        """Take an entry if it is a document; documents of the groups above members are dropped."""
        if self._members is None or entry.coords is not None or not is_document_key(entry.key):
            return False
        folder, _, name = entry.key.rpartition("/")
        if self._shard.bundle is None or self._members.find(folder) is not None:
            self._found.setdefault(folder, {})[name] = bytes(entry.data)
        return True

    def describe(self, taken: Taken, is_foreign: bool) -> None:
        """Note the nodes; documents that do not form a node are treated as other files."""
        for folder, documents in self._found.items():
            path = join(self._shard.path, folder)
            meta = parse_node(documents, path)
            if meta is not None:
                taken.nodes[path] = description(Node(meta, documents), path, is_foreign)
            else:
                taken.files |= {join(path, name): _hash(data) for name, data in documents.items()}


def compared_attributes(node: Node, path: str) -> dict[str, Any]:
    """Return a node's attributes, with those of OME-Zarr 0.4 in the form of 0.5, to compare both versions."""
    if "zarr.json" in node.documents:
        attributes: Any = parse_json(node.documents["zarr.json"], path, "zarr.json").get("attributes") or {}
    else:
        attributes = parse_json(node.documents.get(".zattrs", b"{}"), path, ".zattrs")
    return upgraded(attributes, path)


def description(node: Node, path: str, is_foreign: bool) -> str:
    """Return a digest of a node's kind, attributes and dimension names.

    If `is_foreign` is set, it leaves out facts that Zarr v2 and v3 write differently.
    """
    attributes = compared_attributes(node, path)
    names = node.meta.dimension_names if isinstance(node.meta, ArrayMeta) else None
    if is_foreign:
        attributes = shared_attributes(attributes)
    text = json.dumps([attributes, names or ()], sort_keys=True)
    kind = ARRAY if isinstance(node.meta, ArrayMeta) else GROUP
    return f"{kind} {hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}"


def _hash(data: Data) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def _note(
    taken: Taken, digested: Digested, run: Run, shard: Shard, wanted: Mapping[str, frozenset[int]] | None
) -> None:
    entry, path, layout, found, damage, lower = digested
    if damage is not None and sum(known.path == path for known in taken.damage) < MOST_DAMAGED:
        places = tuple(index for index, _ in lower)
        taken.damage.append(Damage(shard, run.path, damage, path, whole_key(entry, shard), chunks=places))
    for _, depth in lower:
        depths = taken.lower.setdefault(path, {})
        depths[depth] = depths.get(depth, 0) + 1
    if layout is not None:
        taken.layouts[path] = layout
    if layout is None or entry.coords is None:
        if wanted is None and (shard.block is None or not is_document_key(entry.key)):
            taken.files[join(shard.path, entry.key)] = _hash(entry.data)
        return
    of = stretch_of(layout)
    for index, (value, presence) in found:
        stretch = of(index)
        if wanted is not None:
            if stretch in wanted.get(path, ()) and value:
                taken.chunks.setdefault(path, {})[index] = value
            continue
        sums = taken.sums.setdefault(path, {})
        sums[stretch] = (sums.get(stretch, 0) + value) % MODULUS
        count, total = taken.stored.get(path, (0, 0))
        taken.stored[path] = count + 1, (total + presence) % MODULUS


@lru_cache(maxsize=64)
def stretch_of(layout: Layout) -> Callable[[Coords], int]:
    """Return a function that gives the number of a chunk's stretch, in C order.

    >>> of = stretch_of(Layout((100, 100), (1, 1), "", ""))
    >>> of((40, 95)), of((40, 96))
    (0, 1)
    """
    grid = layout.grid
    size = max(PER_STRETCH, -(-math.prod(grid) // MOST_STRETCHES))

    def of(index: Coords) -> int:
        number = 0
        for i, n in zip(index, grid, strict=True):
            number = number * n + i
        return number // size

    return of


def is_document_key(key: str) -> bool:
    """Tell whether a key has the name of a metadata document."""
    return key.rpartition("/")[2] in METADATA_NAMES


def total(parts: Iterable[Taken]) -> Taken:
    """Add up the contents of shards of one store."""
    return reduce(Taken.add, parts, Taken())
