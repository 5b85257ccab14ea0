"""`ToShardingCodec`: one ordinary Zarr v3, in which many chunks are one object of its sharding codec."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import InitVar, dataclass, field
from typing import TYPE_CHECKING

from shardedstore.errors import ChainError
from shardedstore.notices import Notice, node_name
from shardedstore.partition.patterns import parse_size
from shardedstore.storage.options import Options, StorageOptions
from shardedstore.stores.hierarchy import Node
from shardedstore.stores.locations import Config, Directory, Location
from shardedstore.transforms.base.chain import Entries, Present, Shard, Sink, Tally, Written
from shardedstore.transforms.base.packing import KEYS, packed, packed_documents
from shardedstore.transforms.base.portable import reader_notices
from shardedstore.transforms.base.single_zarr import write_shard
from shardedstore.zarr.grid import Blocks


@dataclass(frozen=True)
class ToShardingCodec(Sink):
    """Gather chunks in objects of Zarr v3's sharding codec, without decoding them, in one ordinary Zarr.

    Each shard that is a block of an array becomes one object, and any other large array one for each `object_size` of
    it. Any reader of Zarr v3 opens the result, whose metadata is written when all shards are there; config and ledger
    stand beside it, in ``<url>.shardedstore``.

    An array that uses the sharding codec already gets larger objects of the same inner chunks where it is divided into
    shards, and else is copied as it is.

    Parameters
    ----------
    url : str
        Where to: a local path, or ``s3://``, ``gs://`` or ``az://``.
    object_size : str or int
        The decoded size, such as ``"512 MiB"``, of the objects of arrays that are not divided into shards themselves;
        those that are no larger are copied chunk by chunk.
    storage_options : mapping or str, optional
        Options of the object store by obstore's names, or ``"anonymous"``. What is secret is in no repr, graph or file.

    Notes
    -----
    An object appears when it is whole, with its chunks in C order and the index at its end. One whose chunks are all
    missing is missing as well. What a job that died has left has no metadata at its root, so that nothing opens it, and
    the same call goes on from there.

    Structured elements under the sharding codec are read by zarr 3.4, but not by zarr 3.1.

    Examples
    --------
    >>> ToShardingCodec("out.zarr", object_size="256 MiB")
    ToShardingCodec(url='out.zarr', object_size='256 MiB')
    """

    is_one_zarr = True
    can_grow = False  # what is below the size is divided by it

    url: str
    object_size: str | int = "1 GiB"
    storage_options: InitVar[StorageOptions] = None
    options: Options = field(init=False, repr=False, compare=False)

    if TYPE_CHECKING:  # a path is taken as well, and kept as text

        def __init__(
            self,
            url: str | os.PathLike[str],
            object_size: str | int = ...,
            storage_options: StorageOptions = None,
        ) -> None: ...

    def __post_init__(self, storage_options: StorageOptions) -> None:
        if not parse_size(self.object_size):
            raise ChainError(f"ToShardingCodec's object_size is {self.object_size!r}: say a size, such as '1 GiB'")
        self.reach(storage_options)

    def check(self, nodes: Mapping[str, Node]) -> None:
        # docstring inherited
        old = [path for path, node in nodes.items() if node.meta.zarr_format == 2]
        if old:
            raise ChainError(
                f"the sharding codec is of Zarr v3, and {node_name(old[0])} is Zarr v2: put MigrateV3() (--v3) "
                "before ToShardingCodec"
            )
        regridded = [path for path, node in nodes.items() if node.is_regridded]
        if regridded:
            raise ChainError(
                f"the objects of ToShardingCodec follow the blocks of the source, and those of {regridded[0]!r} get another "
                "shape before: run the steps in a job of their own, with CopyTo or ToZip"
            )

    def notices(self, nodes: Mapping[str, Node]) -> Iterator[Notice]:
        # docstring inherited
        yield from reader_notices(nodes, ["sharded"])

    def target(self, path: str | None, blocked: bool) -> str:
        # docstring inherited
        return path or ""

    def location(self, url: str) -> Location:
        # docstring inherited
        return Directory(url, self.options)

    def write(self, entries: Entries, shard: Shard, url: str) -> Written:
        # docstring inherited
        tally = Tally(named=True)
        return write_shard(
            packed(entries, shard, url, self.options, self._size, tally), shard, url, self.options, tally
        )

    def documents(self, documents: dict[str, bytes], config: Config) -> dict[str, bytes]:
        # docstring inherited
        return packed_documents(documents, config, self._size)

    def blocks(self, blocks: Blocks) -> Blocks:
        """Return blocks of one object each."""
        lead = len(blocks.chunks)
        grid = blocks.grid + (1,) * (len(blocks.chunk_grid) - lead)
        return Blocks(grid, (1,) * lead, KEYS, blocks.stored)

    def is_there(self, url: str, written: Written, present: Present) -> bool:
        """Return True: all that was written is listed once, at the end."""
        return True

    @property
    def _size(self) -> int:
        return parse_size(self.object_size) or 0
