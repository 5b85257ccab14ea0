"""What the shards of a store hold, decoded: read once into sums over stretches of each array's chunks, and added up.

Read again, the chunks of some stretches are told one by one.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial, reduce
from typing import NamedTuple

import msgspec

from shardedstore.chain import Shard
from shardedstore.datadigest import MODULUS, DataDigest, Layout
from shardedstore.datasums import Digested, digest_entries
from shardedstore.entries import read_entries
from shardedstore.grid import Coords
from shardedstore.kinds import Config, Opened, ViewOf
from shardedstore.metadata import METADATA_NAMES, ArrayMeta
from shardedstore.mounts import is_below, join
from shardedstore.onezarr import whole_key
from shardedstore.opening import open_location
from shardedstore.plan import Plan, Run, Segment
from shardedstore.sources import open_component
from shardedstore.transient import is_transient
from shardedstore.verifystored import UNREADABLE, patiently, unreadable

PER_STRETCH = 4096  # chunks
MOST_STRETCHES = 4096  # of one array


class DataTask(NamedTuple):
    """Some shards of one store; with `wanted`, only those stretches of arrays are looked at, chunk by chunk.

    `shapes` are those of the arrays that are divided.
    """

    segment: Segment
    shapes: dict[str, Coords]
    wanted: dict[str, frozenset[int]] | None = None


class Damage(NamedTuple):
    """What could not be read: a shard, or one chunk of an array."""

    shard: str
    home: str  # the path of the shard's mount
    what: str
    path: str | None = None  # of a chunk
    key: str | None = None
    kind: str = "damaged"


@dataclass
class Taken:
    """What some shards of one store hold: sums of their arrays' chunks by stretch, and hashes of all other keys."""

    layouts: dict[str, Layout] = field(default_factory=dict)
    sums: dict[str, dict[int, int]] = field(default_factory=dict)
    stored: dict[str, tuple[int, int]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    chunks: dict[str, dict[Coords, int]] = field(default_factory=dict)
    damage: list[Damage] = field(default_factory=list)

    def add(self, other: Taken) -> Taken:
        """Add what other shards of the same store hold."""
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
        return self

    def is_right(self) -> bool:
        """Tell whether all could be read."""
        return not self.damage

    def digest(self, path: str) -> DataDigest:
        """Return the digest of an array."""
        value = sum(self.sums.get(path, {}).values()) % MODULUS
        return DataDigest(self.layouts[path], value, *self.stored.get(path, (0, 0)))


def data_tasks(plan: Plan, wanted: dict[str, frozenset[int]] | None = None) -> list[DataTask]:
    """Return the tasks that read a store; with `wanted`, those shards alone that hold some of these arrays."""
    homes = None if wanted is None else {home(plan.config, path) for path in wanted}
    tasks = []
    for segment in plan.segments():
        runs = tuple(run for run in segment.runs if homes is None or run.path in homes)
        shapes = {run.path: meta.shape for run in runs if run.blocks and (meta := array_at(plan, run.path)) is not None}
        if runs:
            tasks.append(DataTask(Segment(segment.number, runs), shapes, wanted))
    return tasks


def array_at(plan: Plan, path: str) -> ArrayMeta | None:
    """Return what is known of an array; None where there is none."""
    node = plan.nodes.get(path)
    return node.meta if node is not None and isinstance(node.meta, ArrayMeta) else None


def home(config: Config, path: str) -> str:
    """Return the path of the mount that holds an array's chunks, or of the base."""
    return next((mount for mount in config.shards if path == mount or is_below(path, mount)), "")


def take(task: DataTask) -> Taken:
    """Read some shards. What can't be read is told, never raised."""
    taken = Taken()
    for run in task.segment.runs:
        try:
            opened = _opened(run)
        except UNREADABLE as error:
            taken.damage += [_damage(run, shard, error) for _, shard in run.shards()]
            continue
        for _, shard in run.shards():
            try:
                taken.add(patiently(partial(_take_shard, opened, shard, task)))
            except UNREADABLE as error:
                taken.damage.append(_damage(run, shard, error))
    return taken


def _opened(run: Run) -> Run:
    """Return a run whose source is open, so that the directory of a zip is read once for all of its shards."""
    if not isinstance(run.location, ViewOf):
        return run
    opened = Opened(open_location(run.location.source))
    return msgspec.structs.replace(run, location=ViewOf(opened, run.location.path))


def _damage(run: Run, shard: Shard, error: Exception) -> Damage:
    found = unreadable(shard.name, error)
    return Damage(shard.name, run.path, found.what, kind=found.kind)


def _take_shard(run: Run, shard: Shard, task: DataTask) -> Taken:
    """Read one shard, up to what is damaged.

    Raises
    ------
    Exception
        For an error that may pass.
    """
    taken = Taken()
    try:
        entries = read_entries(open_component(run, shard), shard.blocks, shard.block, run.consolidated)
        for digested in digest_entries(entries, shard, task.shapes):
            _note(taken, digested, run, shard, task.wanted)
    except Exception as error:
        if is_transient(error):
            raise
        taken.damage.append(_damage(run, shard, error))
    return taken


def _note(
    taken: Taken, digested: Digested, run: Run, shard: Shard, wanted: Mapping[str, frozenset[int]] | None
) -> None:
    entry, path, layout, found, damage = digested
    if damage is not None:
        taken.damage.append(Damage(shard.name, run.path, damage, path, whole_key(entry, shard)))
    if layout is not None:
        taken.layouts[path] = layout
    if layout is None or entry.coords is None:
        if wanted is None and (shard.block is None or not is_document_key(entry.key)):
            taken.files[join(shard.path, entry.key)] = hashlib.blake2b(entry.data, digest_size=16).digest()
        return
    of = _stretch_of(layout)
    for index, (value, presence) in found:
        stretch = of(index)
        if wanted is not None:
            if stretch in wanted.get(path, ()) and value:
                taken.chunks.setdefault(path, {})[index] = value
            continue
        sums = taken.sums.setdefault(path, {})
        sums[stretch] = (sums.get(stretch, 0) + value) % MODULUS
        count, places = taken.stored.get(path, (0, 0))
        taken.stored[path] = count + 1, (places + presence) % MODULUS


@lru_cache(maxsize=64)
def _stretch_of(layout: Layout) -> Callable[[Coords], int]:
    """Return the function that tells in which stretch of its array a chunk is, in C order.

    >>> of = _stretch_of(Layout((100, 100), (1, 1), "", ""))
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
    """Add up what was read of one store."""
    return reduce(Taken.add, parts, Taken())
