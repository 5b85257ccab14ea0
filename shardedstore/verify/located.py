"""Name the element, both values, both keys and both URLs of differing data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

import msgspec

from shardedstore.jobs.differences import Difference
from shardedstore.jobs.shards import object_at
from shardedstore.stores.locations import url_of
from shardedstore.transforms.base.shard import Shard
from shardedstore.verify.compare import MEND, MEND_SOURCE, Side
from shardedstore.verify.stored import LOOK_AGAIN
from shardedstore.verify.values import (
    ArrayPair,
    ComparedValues,
    ValueDamage,
    ValueDifference,
    compare_box,
    open_pair,
    pair_at,
)
from shardedstore.zarr.grid import Coords

MOST_LOCATED = 16  # differing chunks that are searched for their first differing element


def locate_values(differences: Iterable[Difference], ours: Side, theirs: Side) -> Iterator[Difference]:
    """Yield differences; the first ones of differing chunks with their first differing element."""
    left = MOST_LOCATED
    for difference in differences:
        if difference.chunk is None or difference.array is None or left == 0:
            yield difference
            continue
        left -= 1
        yield _located(difference, difference.array, difference.chunk, ours, theirs)


def _located(difference: Difference, path: str, chunk: Coords, ours: Side, theirs: Side) -> Difference:
    with suppress(Exception):  # the difference stands without its values
        pair = pair_at(ours.plan, theirs.plan, path)
        if pair is None:
            return difference
        chunks, shape = pair.ours.chunks, pair.ours.shape
        box = tuple((i * c, min((i + 1) * c, n)) for i, c, n in zip(chunk, chunks, shape, strict=True))
        arrays = open_pair(ours.plan.config.open(), theirs.plan.config.open(), pair)
        (found,) = compare_box(arrays, pair, box).differences
        return _with_values(difference, found, pair, ours, theirs)
    return difference


def _with_values(
    difference: Difference, found: ValueDifference, pair: ArrayPair, ours: Side, theirs: Side
) -> Difference:
    sides = [
        {**(held or {}), "value": value, **_place(side, pair.path, found.index, chunks)}
        for held, value, side, chunks in (
            (difference.found, found.found, ours, pair.ours.chunks),
            (difference.expected, found.expected, theirs, pair.theirs.chunks),
        )
    ]
    what = f"{difference.what}: {_values(found)}"
    return msgspec.structs.replace(difference, what=what, found=sides[0], expected=sides[1])


def _values(found: ValueDifference) -> str:
    more = f", and {found.count - 1:,} more elements differ" if found.count > 1 else ""
    return f"at {found.index} it is {found.found} in the result and {found.expected} in the source{more}"


def _place(side: Side, path: str, index: Coords, chunks: Coords) -> dict[str, Any]:
    """Return the key and the URL of the stored object that holds an element."""
    shard, key = side.place(path, _chunk_of(index, chunks), chunks)
    return {"key": key, "url": _url(side, shard)}


def _chunk_of(index: Coords, chunks: Coords) -> Coords:
    return tuple(i // c for i, c in zip(index, chunks, strict=True))


def _url(side: Side, shard: Shard) -> str | None:
    for run in side.plan.runs:
        if run.path == shard.path and (run.mounted is not None) == shard.is_base:
            with suppress(Exception):  # stores without a URL
                return url_of(object_at(run, shard).origin)
    return None


def value_differences(pair: ArrayPair, found: ComparedValues, ours: Side, theirs: Side) -> Iterator[Difference]:
    """Yield the differences of arrays that were compared block by block."""
    for one in found.differences:
        mine, its = (
            {"value": value, **_place(side, pair.path, one.index, layout.chunks)}
            for value, side, layout in ((one.found, ours, pair.ours), (one.expected, theirs, pair.theirs))
        )
        chunk = _chunk_of(one.index, pair.ours.chunks)
        shard, key = ours.place(pair.path, chunk, pair.ours.chunks)
        what = f"{pair.path!r}: {_values(one)} ({key!r} and {its['key']!r})"
        where = {"array": pair.path, "key": key, "chunk": chunk, "found": mine, "expected": its}
        yield Difference.of(shard, "data", what, MEND, **where)
    for damage in found.damage:
        yield _damaged(pair, damage, ours if damage.side == "result" else theirs)


def _damaged(pair: ArrayPair, damage: ValueDamage, side: Side) -> Difference:
    chunks = (pair.theirs if side.is_source else pair.ours).chunks
    chunk = _chunk_of(damage.index, chunks)
    shard, key = side.place(pair.path, chunk, chunks)
    what = f"{side.name}: {key!r} of {pair.path!r} can't be read, so its block is not compared: {damage.error}"
    kind, advice = ("unread", LOOK_AGAIN) if damage.is_passing else ("damaged", MEND_SOURCE if side.is_source else MEND)
    where = {"array": pair.path, "key": key, "chunk": chunk, "cause": damage.error, "is_of_source": side.is_source}
    return Difference.of(shard, kind, what, advice, **where)


def fill_differences(pair: ArrayPair) -> Iterator[Difference]:
    """Yield the difference of two fill values, which chunks that are missing later would have."""
    if pair.ours.fill != pair.theirs.fill:
        mine, its = pair.fills
        what = f"{pair.path!r} has the fill value {mine!r} in the result and {its!r} in the source"
        yield Difference("layout", what, array=pair.path, found={"fill_value": mine}, expected={"fill_value": its})


def value_note(pair: ArrayPair) -> str:
    """Return the note that an array was compared by values."""
    chunks = f"its chunks are {pair.ours.chunks} in the result and {pair.theirs.chunks} in the source"
    why = chunks if pair.ours.chunks != pair.theirs.chunks else "its fill values differ"
    return f"{pair.path!r} was compared by values, block by block, as {why}"
