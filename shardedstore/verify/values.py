"""Compare the values of two arrays block by block, for arrays whose chunks have different shapes or fill values.

A block covers whole chunks of both arrays as far as memory allows. Values are compared like digests: every NaN equals every NaN,
zeros of different signs differ, byte order does not matter, and missing chunks hold the fill value.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
import zarr
from zarr.abc.store import Store

from shardedstore.codecs.array_document import parse_array_document
from shardedstore.codecs.codec_config import UNSAFE
from shardedstore.codecs.digest import Array, ElementType, Layout, canonical_bytes
from shardedstore.errors import ChainError
from shardedstore.jobs.shards import Plan
from shardedstore.storage.errors import explain, is_transient
from shardedstore.storage.retry import Retries, retry
from shardedstore.stores.locations import Config
from shardedstore.transforms.base.datasums import element_type
from shardedstore.verify.levels import TEXT_CODECS, ComparedChunks, depth_of
from shardedstore.verify.stored import MOST_DAMAGED, RETRIES
from shardedstore.zarr.grid import Coords
from shardedstore.zarr.metadata import ArrayMeta, parse_json

LEAST_BLOCK, MOST_BLOCK = 8 << 20, 64 << 20  # bytes of a block of one array; a chunk may be larger
BLOCKS = 16  # in a task
SHOWN = 60  # characters of a value

Box = tuple[tuple[int, int], ...]
SideName = Literal["result", "source"]


class ArrayPair(NamedTuple):
    """Two arrays of one shape and data type, whose digests can't be compared.

    Attributes
    ----------
    path : str
        The path of both arrays.
    ours, theirs : Layout
        Their layouts.
    stored : tuple of two shapes
        The shapes of their stored objects.
    types : tuple of two element types
        The types of their elements.
    formats : tuple of two int
        Their Zarr formats.
    fills : tuple of two values
        Their fill values, as the documents have them.
    """

    path: str
    ours: Layout
    theirs: Layout
    stored: tuple[Coords, Coords]
    types: tuple[ElementType, ElementType]
    formats: tuple[int, int]
    fills: tuple[Any, Any]

    @property
    def block(self) -> Coords:
        """The shape of a block."""
        itemsize = max(16 if isinstance(t, str) else t.itemsize for t in self.types)
        return common_block(self.ours.shape, self.stored, itemsize)


def common_block(shape: Coords, chunks: tuple[Coords, Coords], itemsize: int) -> Coords:
    """Return the shape of blocks that hold whole chunks of two grids, as far as memory allows.

    >>> common_block((100, 100), ((4, 10), (6, 100)), 8), common_block((10**6, 10**6), ((1, 1000003), (1009, 997)), 8)
    ((100, 100), (1009, 1000000))
    """
    least = tuple(min(math.lcm(a, b), n) for a, b, n in zip(*chunks, shape, strict=True))
    if math.prod(least) * itemsize > MOST_BLOCK:
        return tuple(min(max(a, b), n) for a, b, n in zip(*chunks, shape, strict=True))
    block = list(least)
    for axis in reversed(range(len(shape))):
        room = LEAST_BLOCK // max(1, math.prod(block) * itemsize)
        block[axis] = min(block[axis] * max(1, room), shape[axis])
    return tuple(block)


def find_pairs(ours: Plan, theirs: Plan) -> dict[str, ArrayPair]:
    """Return the arrays whose chunk shapes or fill values differ, and whose values can be compared, by path."""
    found = {}
    for path in ours.nodes.keys() & theirs.nodes.keys():
        pair = pair_at(ours, theirs, path)
        if pair is not None and pair.ours != pair.theirs:
            found[path] = pair
    return dict(sorted(found.items()))


def pair_at(ours: Plan, theirs: Plan, path: str) -> ArrayPair | None:
    """Return both arrays of a path; None if their values can't be compared."""
    nodes = ours.nodes[path], theirs.nodes[path]
    if any(node.is_sample or not isinstance(node.meta, ArrayMeta) for node in nodes):
        return None
    metas = [node.meta for node in nodes if isinstance(node.meta, ArrayMeta)]
    names = ["zarr.json" if meta.zarr_format == 3 else ".zarray" for meta in metas]
    documents = [parse_json(node.documents[name], path, name) for node, name in zip(nodes, names, strict=True)]
    if metas[0].shape != metas[1].shape or any(_is_special(document) for document in documents):
        return None
    layouts = [ComparedChunks(path, d, meta).layout for d, meta in zip(documents, metas, strict=True)]
    if layouts[0].dtype != layouts[1].dtype or depth_of(layouts[0]) != "decoded":
        return None
    try:
        docs = [parse_array_document(document, path) for document in documents]
    except ChainError:  # codecs that only zarr can decode
        return None
    return ArrayPair(
        path,
        layouts[0],
        layouts[1],
        (docs[0].stored, docs[1].stored),
        (element_type(docs[0]), element_type(docs[1])),
        (docs[0].zarr_format, docs[1].zarr_format),
        (documents[0].get("fill_value"), documents[1].get("fill_value")),
    )


def _is_special(document: Mapping[str, Any]) -> bool:
    """Tell whether zarr can't or must not decode an array."""
    text = msgspec.json.encode([document.get(name) for name in ("filters", "compressor", "codecs")]).decode()
    return any(f'"{name}"' in text for name in (*TEXT_CODECS, *UNSAFE))


class ValueTask(NamedTuple):
    """Some blocks of two arrays to compare; `first` and `stop` count the blocks in C order."""

    ours: Config
    theirs: Config
    pair: ArrayPair
    first: int
    stop: int

    @property
    def key(self) -> str:
        """The name of the task in a journal."""
        return f"values {self.pair.path} {self.first}+{self.stop - self.first}"

    def boxes(self) -> Iterator[Box]:
        """Yield the blocks."""
        shape, block = self.pair.ours.shape, self.pair.block
        ranges = [range(0, n, b) for n, b in zip(shape, block, strict=True)]
        for starts in itertools.islice(itertools.product(*ranges), self.first, self.stop):
            yield tuple((start, min(start + b, n)) for start, b, n in zip(starts, block, shape, strict=True))


def value_tasks(ours: Plan, theirs: Plan, pairs: Mapping[str, ArrayPair]) -> list[ValueTask]:
    """Return the tasks that compare the values of arrays."""
    tasks = []
    for pair in pairs.values():
        shape, block = pair.ours.shape, pair.block
        count = math.prod(-(-n // b) for n, b in zip(shape, block, strict=True)) if all(shape) else 0
        firsts = range(0, count, BLOCKS)
        tasks += [ValueTask(ours.config, theirs.config, pair, i, min(i + BLOCKS, count)) for i in firsts]
    return tasks


class ValueDifference(msgspec.Struct, frozen=True):
    """The first differing element of a block, both values as text, and the number of differing elements."""

    index: Coords
    found: str
    expected: str
    count: int


class ValueDamage(msgspec.Struct, frozen=True):
    """A part of a block that can't be read on one side: the index of an element in the chunk, and the error."""

    side: SideName
    index: Coords
    error: str
    is_passing: bool = False


class ComparedValues(msgspec.Struct):
    """The differences and the unreadable parts of some blocks."""

    differences: list[ValueDifference] = []
    damage: list[ValueDamage] = []

    def is_right(self) -> bool:
        """Whether all blocks are equal."""
        return not self.differences and not self.damage


def compare_values(task: ValueTask) -> ComparedValues:
    """Compare some blocks. Errors are returned as damage, never raised."""
    arrays = open_pair(task.ours.open(), task.theirs.open(), task.pair)
    found = ComparedValues()
    for box in task.boxes():
        one = compare_box(arrays, task.pair, box)
        found.differences += one.differences
        found.damage += one.damage
    return found


def open_pair(ours: Store, theirs: Store, pair: ArrayPair) -> tuple[Any, Any]:
    """Open both arrays with zarr."""
    stores = zip((ours, theirs), pair.formats, strict=True)
    one, other = (zarr.open_array(s, path=pair.path, mode="r", zarr_format=3 if f == 3 else 2) for s, f in stores)
    return one, other


def compare_box(arrays: tuple[Any, Any], pair: ArrayPair, box: Box) -> ComparedValues:
    """Compare the same elements of two arrays."""
    found = ComparedValues()
    values: list[Array] = []
    for name, array, stored in zip(SIDES, arrays, pair.stored, strict=True):
        try:
            values.append(retry(partial(_read, array, box), Retries(RETRIES)))
        except Exception as error:  # noqa: BLE001 (codecs raise errors of any type)
            found.damage += _damage(name, array, stored, box, error)
    if len(values) == 2 and not found.damage:
        found.differences += _differences(values[0], values[1], pair, box)
    return found


SIDES: tuple[SideName, SideName] = ("result", "source")


def _read(array: Any, box: Box) -> Array:
    return np.asarray(array[tuple(slice(*ends) for ends in box)])


def _damage(name: SideName, array: Any, stored: Coords, box: Box, error: Exception) -> list[ValueDamage]:
    """Return the unreadable stored objects of a block. If each object can be read alone, return the whole block."""
    found = []
    ranges = [range(start // c * c, stop, c) for (start, stop), c in zip(box, stored, strict=True)]
    for starts in itertools.product(*ranges):
        part = tuple((s, min(s + c, n)) for s, c, n in zip(starts, stored, array.shape, strict=True))
        try:
            _read(array, part)
        except Exception as cause:  # noqa: BLE001 (as above)
            found.append(ValueDamage(name, starts, _cause(cause), is_transient(cause)))
        if len(found) == MOST_DAMAGED:
            break
    return found or [ValueDamage(name, tuple(start for start, _ in box), _cause(error), is_transient(error))]


def _cause(error: Exception) -> str:
    return f"{type(error).__name__}: {explain(error)}"


def _differences(one: Array, other: Array, pair: ArrayPair, box: Box) -> list[ValueDifference]:
    sides = [canonical_bytes(array, kind) for array, kind in zip((one, other), pair.types, strict=True)]
    if memoryview(sides[0]) == memoryview(sides[1]):
        return []
    if isinstance(pair.types[0], str):
        differs = one.astype(object) != other.astype(object)
    else:
        views = [np.frombuffer(side, "u1").reshape(one.size, -1) for side in sides]
        differs = (views[0] != views[1]).any(axis=1).reshape(one.shape)
    local = np.unravel_index(int(np.argmax(differs)), one.shape)
    index = tuple(start + int(i) for (start, _), i in zip(box, local, strict=True))
    return [ValueDifference(index, _text(one[local]), _text(other[local]), int(np.count_nonzero(differs)))]


def _text(value: Any) -> str:
    text = str(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."
