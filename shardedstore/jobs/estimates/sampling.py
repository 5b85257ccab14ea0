"""Sample the stored size of arrays before and after a chain: pass a few chunks through the chain in this process."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import NamedTuple

from shardedstore.jobs.estimates.amounts import Amount
from shardedstore.jobs.estimates.arrays import ArrayEstimate, run_index
from shardedstore.jobs.prepare import whole_source
from shardedstore.jobs.shards import Plan, Run
from shardedstore.storage.errors import explain
from shardedstore.storage.folders import STORAGE_ERRORS
from shardedstore.stores.entries import Entry
from shardedstore.stores.hierarchy import Node
from shardedstore.stores.reader import reader_of
from shardedstore.transforms.base.chain import Chain
from shardedstore.transforms.base.shard import Shard
from shardedstore.zarr.grid import Coords, index_of
from shardedstore.zarr.metadata import ArrayMeta
from shardedstore.zarr.paths import join

SAMPLE = "64 MiB"  # of decoded chunks
MOST_CHUNKS = 8  # of an array
MOST_ARRAYS = 64
MOST_SECONDS = 20.0  # after this time, no further array is sampled


class Sample(NamedTuple):
    """The results of a sample.

    Attributes
    ----------
    arrays : list of ArrayEstimate
        The arrays.
    rate : float or None
        The bytes that one thread reads, converts and writes in a second.
    failures : tuple of str
        The chunks that could not be read or changed, as sentences.
    """

    arrays: list[ArrayEstimate]
    rate: float | None = None
    failures: tuple[str, ...] = ()


class _Chunks(NamedTuple):
    """Some chunks of an array, evenly spread over its grid."""

    array: ArrayEstimate
    node: Node
    coords: list[Coords]


def sample_arrays(arrays: list[ArrayEstimate], plan: Plan, chain: Chain, limit: int) -> Sample:
    """Read a few chunks of the largest arrays, pass them through the chain, and return arrays with sampled sizes.

    Nothing is written. If a step works on whole shards, the sizes after the chain stay unknown.

    Parameters
    ----------
    limit : int
        The most bytes of decoded chunks that are read.
    """
    chosen = list(_chosen(arrays, plan, limit))
    reader, keys = reader_of(whole_source(plan.config).open()), list(_keys(chosen))
    found: dict[str, ArrayEstimate] = {}
    failures, written, begun = list[str](), 0, time.monotonic()
    try:
        values = zip(keys, reader.fetch(key for _, _, key in keys), strict=True)
        for number, some in groupby(values, lambda one: one[0][0]):
            if time.monotonic() - begun > MOST_SECONDS:
                break
            chunks = chosen[number]
            stored = [(place, data) for (_, place, _), data in some]
            present = [(place, data) for place, data in stored if data is not None]
            try:
                after = _size_after(chain, chunks, present)
            except Exception as error:  # noqa: BLE001 (a user's step or a damaged chunk can raise any error)
                failures.append(f"a sample of {chunks.array.path!r} fails: {type(error).__name__}: {error}")
                after = None
            written += after or 0
            found[chunks.array.path] = _scaled(chunks.array, len(stored), present, after)
    except STORAGE_ERRORS as error:
        failures.append(f"no sample of the source could be read: {explain(error)}")
    seconds = time.monotonic() - begun
    return Sample([found.get(one.path, one) for one in arrays], written / seconds if written else None, tuple(failures))


def _chosen(arrays: list[ArrayEstimate], plan: Plan, limit: int) -> Iterator[_Chunks]:
    """Yield the largest arrays, with coordinates of chunks whose total size is within the limit."""
    run_of = run_index(plan)
    largest = sorted((one for one in arrays if one.nbytes), key=lambda one: one.nbytes, reverse=True)[:MOST_ARRAYS]
    share, left = limit // max(len(largest), 1), limit
    for one in largest:
        node = plan.nodes[one.path]
        assert isinstance(node.meta, ArrayMeta)
        nbytes = max(node.meta.chunk_nbytes, 1)
        if node.meta.keys is None or nbytes > left:
            continue
        coords = _spread(run_of(one.path), node.meta, max(1, min(MOST_CHUNKS, share // nbytes)))
        left -= nbytes * len(coords)
        yield _Chunks(one, node, coords)


def _spread(run: Run, meta: ArrayMeta, count: int) -> list[Coords]:
    """Return the coordinates of evenly spread chunks; existing chunks if they are listed."""
    if run.blocks is not None and run.chunks:
        listed = [chunk for chunks in run.chunks.values() for chunk in chunks]
        return [listed[i] for i in _places(len(listed), count)]
    return [index_of(i, meta.chunk_grid) for i in _places(meta.chunk_count, count)]


def _places(total: int, count: int) -> list[int]:
    """Return evenly spread numbers below `total`.

    >>> _places(100, 4), _places(2, 8), _places(0, 8)
    ([12, 37, 62, 87], [0, 1], [])
    """
    return sorted({total * (2 * i + 1) // (2 * count) for i in range(count)}) if total else []


def _keys(chosen: Sequence[_Chunks]) -> Iterator[tuple[int, Coords, str]]:
    for number, (array, node, coords) in enumerate(chosen):
        assert isinstance(node.meta, ArrayMeta)
        assert node.meta.keys is not None
        for place in coords:
            yield number, place, join(array.path, node.meta.keys.encode(place))


def _size_after(chain: Chain, chunks: _Chunks, found: Sequence[tuple[Coords, bytes]]) -> int | None:
    """Return the bytes of chunks after the steps of a chain; None if a step works on whole shards."""
    if not chain.steps:
        return sum(len(data) for _, data in found)
    if not all(step.is_chunkwise for step in chain.steps):
        return None
    path, (meta, documents) = chunks.array.path, chunks.node[:2]
    assert isinstance(meta, ArrayMeta)
    assert meta.keys is not None
    entries: Iterator[Entry] = iter(
        [
            *(Entry(name, data, meta) for name, data in documents.items()),
            *(Entry(meta.keys.encode(place), data, meta, place) for place, data in found),
        ]
    )
    for step in chain.steps:
        entries = step(entries, Shard(path))
    return sum(memoryview(entry.data).nbytes for entry in entries if entry.coords is not None)


def _scaled(
    array: ArrayEstimate, looked_at: int, found: Sequence[tuple[Coords, bytes]], after: int | None
) -> ArrayEstimate:
    """Return an array with the sizes of all its chunks, scaled from the sampled chunks."""
    share = array.files.value / looked_at
    stored = round(sum(len(data) for _, data in found) * share)
    return replace(
        array,
        stored=Amount(stored, "sampled"),
        stored_after=None if after is None else Amount(round(after * share), "sampled"),
    )
