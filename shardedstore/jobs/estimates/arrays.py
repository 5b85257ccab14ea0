"""The arrays of a job, before and after the chain, by the metadata alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from shardedstore.codecs.codec_text import array_words
from shardedstore.jobs.estimates.amounts import Amount, plain_value
from shardedstore.jobs.result_preview import after
from shardedstore.jobs.shards import Plan, Run
from shardedstore.stores.hierarchy import Node, nodes_of
from shardedstore.stores.members import MountIndex
from shardedstore.transforms.base.chain import Chain
from shardedstore.transforms.base.sink import Sink
from shardedstore.zarr.grid import Coords
from shardedstore.zarr.metadata import ArrayMeta
from shardedstore.zarr.paths import join


@dataclass(frozen=True)
class ArrayEstimate:
    """An array of a job, before and after the chain.

    Attributes
    ----------
    path : str
        The path of the array. The first member of a collection represents all members.
    mount : str or None
        The path of the group or array whose shards hold the array; None for the base.
    count : int
        The number of arrays: 1, or the number of members of a collection.
    shard_count : int
        The number of shards that the array is divided into; 1 if it is a part of a shard.
    grid : tuple of int or None
        The grid of blocks of a divided array.
    dtype, codecs, chunks : str, str and tuple of int
        The data type, the codecs and the shape of chunks now.
    dtype_after, codecs_after, chunks_after : str, str and tuple of int
        The same after the chain.
    files_after : int
        The most chunks after the chain.
    nbytes, nbytes_after : int
        The sizes of the decoded data, in bytes.
    files : Amount
        The number of files with chunks.
    stored, stored_after : Amount or None
        The sizes of the stored chunks, in bytes; None if they are not known.
    """

    path: str
    mount: str | None
    count: int
    shard_count: int
    grid: Coords | None
    shape: Coords
    shape_after: Coords
    dtype: str
    dtype_after: str
    codecs: str
    codecs_after: str
    chunks: Coords | None
    chunks_after: Coords | None
    files_after: int
    nbytes: int
    nbytes_after: int
    files: Amount
    stored: Amount | None = None
    stored_after: Amount | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes as JSON-compatible values."""
        return {name: plain_value(value) for name, value in vars(self).items()}


def nodes_after(chain: Chain, plan: Plan) -> Mapping[str, Node]:
    """Return the metadata after the steps and the sink of a chain."""
    nodes = after(chain, plan)
    if not isinstance(chain.sink, Sink) or not chain.sink.rewrites_documents:
        return nodes
    documents = {join(path, name): data for path, node in nodes.items() for name, data in node.documents.items()}
    return {**nodes, **nodes_of(chain.sink.documents(documents, plan.config))}


def array_estimates(plan: Plan, nodes: Mapping[str, Node]) -> list[ArrayEstimate]:
    """Return all arrays with their sizes according to the metadata; `nodes` is the metadata after the chain."""
    found, run_of = [], run_index(plan)
    for path, node in plan.nodes.items():
        if isinstance(node.meta, ArrayMeta):
            found.append(_estimate(path, node, nodes.get(path, node), run_of(path)))
    return found


def run_index(plan: Plan) -> Callable[[str], Run]:
    """Return a function that finds the run whose shards hold an array, given its path."""
    index = MountIndex({path: mount.division for path, mount in plan.config.shards.items()})
    runs = {None if run.mounted is not None else run.path: run for run in plan.runs}
    divided = {path: run for path, run in runs.items() if run.blocks is not None}
    return lambda path: divided.get(path) or runs[index.find(path)]


def _estimate(path: str, node: Node, new: Node, run: Run) -> ArrayEstimate:
    meta, made = node.meta, new.meta
    assert isinstance(meta, ArrayMeta)
    assert isinstance(made, ArrayMeta)
    words = array_words(node.documents)
    words_after = words if new.documents is node.documents else array_words(new.documents)
    count = _count(run)
    share = _share(run)
    return ArrayEstimate(
        path=path,
        mount=None if run.mounted is not None else run.path,
        count=count,
        shard_count=1 if run.blocks is None else run.stop - run.first,
        grid=None if run.blocks is None else run.blocks.grid,
        shape=meta.shape,
        shape_after=made.shape,
        dtype=words.dtype,
        dtype_after=words_after.dtype,
        codecs=words.codecs,
        codecs_after=words_after.codecs,
        chunks=meta.chunks,
        chunks_after=made.chunks,
        files_after=math.ceil(made.chunk_count * share) * count,
        nbytes=math.ceil(meta.nbytes * share) * count,
        nbytes_after=math.ceil(made.nbytes * share) * count,
        files=Amount(math.ceil(meta.chunk_count * share) * count, "most"),
    )


def _count(run: Run) -> int:
    """Return the number of arrays that one array represents."""
    return 1 if run.members is None or run.members.parts else len(run.members.names)


def _share(run: Run) -> float:
    """Return the share of an array's chunks that its shards hold; less than 1 for a sparse array."""
    blocks = run.blocks
    if blocks is None or blocks.stored is None:
        return 1
    if run.chunks is not None:
        return sum(map(len, run.chunks.values())) / math.prod(blocks.chunk_grid)
    return blocks.count / math.prod(blocks.grid)
