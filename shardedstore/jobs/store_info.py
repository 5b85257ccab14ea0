"""The groups and arrays of a store, and its division into shards, by the metadata; chunks are counted on request."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from shardedstore.codecs.codec_text import array_words
from shardedstore.jobs.estimates.amounts import Amount, bare_value, plain_value, total_amount
from shardedstore.jobs.estimates.arrays import array_estimates
from shardedstore.jobs.estimates.counting import count_source
from shardedstore.jobs.shards import Plan
from shardedstore.jobs.stored_nodes import StoredArray, StoredGroup
from shardedstore.notices import Notice
from shardedstore.stores.hierarchy import Node
from shardedstore.stores.locations import Config
from shardedstore.stores.members import MountIndex
from shardedstore.zarr.grid import Blocks, Coords
from shardedstore.zarr.metadata import ArrayMeta

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True)
class StoreInfo:
    """The groups and arrays of a store, and its division into shards.

    `ShardedStore.info` returns it. It is shown as a tree: as text, and in a notebook as HTML with a picture of the chunks
    and shards of each array.

    Attributes
    ----------
    name : str
        The store in one line.
    config : Config
        The config of the store.
    nodes : tuple of StoredGroup and StoredArray
        The groups and arrays, parents first.
    shard_count : int
        The number of shards, the base among them.
    path_count : int
        The number of paths at which shards are mounted.
    files : Amount
        The number of files of the whole store, with its metadata; ``"exact"`` if they were counted, else ``"most"``.
    stored : Amount or None
        The size of these files in bytes; None if they were not counted.
    is_consolidated : bool
        Whether the store has consolidated metadata of its own.
    holes : tuple of str
        The names of the shards that are missing.
    notices : tuple of Notice
        Warnings about the division.

    See Also
    --------
    ShardedStore.info : Returns this object.

    Examples
    --------
    >>> import zarr
    >>> from shardedstore import ShardedStore
    >>> source = zarr.storage.MemoryStore()
    >>> _ = zarr.create_array(source, name="t", shape=(720, 4), chunks=(24, 4), dtype="f4", compressors=None)
    >>> info = ShardedStore.partition(source, {"t": (240, -1)}).info()
    >>> info.shard_count, info.nbytes, info.arrays[0].shard_shape, info.arrays[0].files
    (4, 11520, (240, 4), Amount(value=30, basis='most'))
    """

    name: str
    config: Config = field(repr=False)
    nodes: tuple[StoredGroup | StoredArray, ...]
    shard_count: int
    path_count: int
    files: Amount
    stored: Amount | None = None
    is_consolidated: bool = False
    holes: tuple[str, ...] = ()
    notices: tuple[Notice, ...] = ()

    @property
    def arrays(self) -> tuple[StoredArray, ...]:
        """The arrays."""
        return tuple(node for node in self.nodes if isinstance(node, StoredArray))

    @property
    def nbytes(self) -> int:
        """The size of the decoded data of all arrays in bytes."""
        return sum(array.nbytes for array in self.arrays)

    def to_dict(self) -> dict[str, Any]:
        """Return the values as JSON-compatible values.

        Returns
        -------
        dict
            The attributes by name. An amount is a dict of its ``value`` and its ``basis``.
        """
        others = ("name", "shard_count", "path_count", "files", "stored", "is_consolidated", "holes", "nbytes")
        return {
            **{name: plain_value(getattr(self, name)) for name in others},
            "nodes": [
                {"kind": "array" if isinstance(node, StoredArray) else "group", **_fields(node)} for node in self.nodes
            ],
            "notices": [str(notice) for notice in self.notices],
        }

    def to_dataframe(self) -> Any:
        """Return the arrays as a pandas DataFrame, with one row for each array.

        Returns
        -------
        pandas.DataFrame
            The columns are the attributes of `StoredArray`; an amount is its number.

        Raises
        ------
        UsageError
            If pandas is not installed.
        """
        from shardedstore.display.tables import to_frame

        rows = ({name: bare_value(value) for name, value in vars(array).items()} for array in self.arrays)
        return to_frame(rows, "path")

    def __str__(self) -> str:
        from shardedstore.display import info as view

        return view.info_to_text(self, most=None)

    def __repr__(self) -> str:
        from shardedstore.display import info as view

        return view.info_to_text(self)

    def __rich__(self) -> RenderableType:
        from shardedstore.display import info as view

        return view.info_to_rich(self)

    def _repr_html_(self) -> str:
        from shardedstore.display import info as view

        return view.info_to_html(self)


def _fields(node: StoredGroup | StoredArray) -> dict[str, Any]:
    return {name: plain_value(value) for name, value in vars(node).items()}


def info_of(name: str, config: Config, nodes: Mapping[str, Node], notices: Iterable[Notice] = ()) -> StoreInfo:
    """Return the groups and arrays of a store whose metadata was read."""
    found = tuple(_node_infos(config, nodes))
    arrays = [node for node in found if isinstance(node, StoredArray)]
    documents = sum(len(node.documents) for node in nodes.values())
    return StoreInfo(
        name,
        config,
        found,
        shard_count=1 + sum(mount.count for mount in config.shards.values()),
        path_count=len(config.shards),
        files=Amount(documents + sum(array.files.value for array in arrays), "most"),
        is_consolidated=config.consolidated is not None,
        holes=tuple(hole.shard for hole in config.holes()),
        notices=tuple(notices),
    )


def counted(info: StoreInfo, plan: Plan) -> StoreInfo:
    """Return the same with counted files and bytes, by a listing of the store.

    Raises
    ------
    DestinationError
        If the store can't be listed.
    """
    found = count_source(array_estimates(plan, plan.nodes), plan)
    amounts = {array.path: array for array in found.arrays}
    nodes = tuple(
        replace(node, files=amounts[node.path].files, stored=amounts[node.path].stored)
        if isinstance(node, StoredArray)
        else node
        for node in info.nodes
    )
    total = total_amount(array.files for array in amounts.values()) if found.files is None else found.files
    return replace(info, nodes=nodes, files=total or info.files, stored=found.nbytes)


def _node_infos(config: Config, nodes: Mapping[str, Node]) -> Iterator[StoredGroup | StoredArray]:
    index = MountIndex({path: mount.division for path, mount in config.shards.items()})
    for path, node in nodes.items():
        mount = config.shards.get(path)
        shards = 0 if mount is None else mount.count
        if isinstance(node.meta, ArrayMeta):
            mount_path = index.find(path) if mount is None else path
            yield _array(path, node, node.meta, mount_path, shards, None if mount is None else mount.blocks)
        else:
            meta = node.meta
            yield StoredGroup(path, meta.zarr_format, node.is_implicit, meta.consolidated, shards, node.is_sample)


def _array(
    path: str, node: Node, meta: ArrayMeta, mount: str | None, shards: int, blocks: Blocks | None
) -> StoredArray:
    words = array_words(node.documents)
    share = 1.0 if blocks is None else blocks.count / math.prod(blocks.grid)  # less than 1 for a sparse array
    return StoredArray(
        path,
        meta.zarr_format,
        words.dtype,
        words.codecs,
        meta.shape,
        meta.chunks,
        meta.dimension_names,
        meta.nbytes,
        Amount(math.ceil(meta.chunk_count * share), "most"),
        mount=mount,
        shards=shards,
        shard_shape=None if blocks is None or meta.chunks is None else _shard_shape(blocks, meta.shape, meta.chunks),
        is_sample=node.is_sample,
    )


def _shard_shape(blocks: Blocks, shape: Coords, chunks: Coords) -> Coords:
    """Return the shape of a whole block in elements.

    >>> from shardedstore.zarr.grid import ChunkKeys
    >>> _shard_shape(Blocks((4, 2), (3,), ChunkKeys("v2", ".")), (31, 9), (10, 5))
    (30, 9)
    """
    lead = len(blocks.chunks)
    divided = (min(n * size, whole) for n, size, whole in zip(blocks.chunks, chunks, shape, strict=False))
    return (*divided, *shape[lead:])
