"""`ToShardingCodec`: pack chunks into objects of the sharding codec, in one ordinary Zarr v3."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import InitVar, dataclass, field
from typing import TYPE_CHECKING

from shardedstore.errors import ChainError
from shardedstore.notices import Notice, node_name
from shardedstore.storage.options import Options, StorageOptions
from shardedstore.stores.hierarchy import Node
from shardedstore.stores.locations import Config, Directory, Location
from shardedstore.text import parse_size
from shardedstore.transforms.base.packing import KEYS, packed, packed_documents
from shardedstore.transforms.base.portable import reader_notices
from shardedstore.transforms.base.shard import Entries, Shard
from shardedstore.transforms.base.single_zarr import write_shard
from shardedstore.transforms.base.sink import Present, Sink, Tally, Written
from shardedstore.zarr.grid import Blocks


@dataclass(frozen=True)
class ToShardingCodec(Sink):
    """Pack chunks into objects of Zarr v3's sharding codec, without decoding them.

    The result is one ordinary Zarr, which any reader of Zarr v3 opens. Each block of a divided array becomes one object.
    Any other large array becomes objects of about `object_size`. The metadata is written when all shards are complete. The
    config and the ledger are in a folder beside the result, ``<url>.shardedstore``.

    If an array already uses the sharding codec and is divided into shards, it gets larger objects with the same inner
    chunks. If it is not divided, it is copied unchanged.

    Parameters
    ----------
    url : str
        The destination: a local path, or a URL that starts with ``s3://``, ``gs://`` or ``az://``.
    object_size : str or int
        The decoded size of the objects of undivided arrays, in bytes or with a unit, such as ``"512 MiB"``. Smaller
        arrays are copied chunk by chunk.
    storage_options : mapping or str, optional
        Options of the object store by obstore's names, or ``"anonymous"``. Secrets are in no repr, graph or file.

    Notes
    -----
    An object appears when it is complete, with its chunks in C order and the index at its end. If all its chunks are
    missing, no object is written. An interrupted job leaves no metadata at the root, so that no reader opens an
    incomplete result. The same call resumes the job.

    zarr 3.4 reads structured elements under the sharding codec, zarr 3.1 does not.

    Examples
    --------
    >>> ToShardingCodec("out.zarr", object_size="256 MiB")
    ToShardingCodec(url='out.zarr', object_size='256 MiB')
    """

    layout = "zarr"
    writes_keys = True
    bytes_per_entry = 16  # the position of a chunk in the index of its object
    can_grow = False  # `object_size` divides arrays by their whole shape, so a grown array changes its objects

    url: str
    object_size: str | int = "1 GiB"
    storage_options: InitVar[StorageOptions] = None
    options: Options = field(init=False, repr=False, compare=False)

    if TYPE_CHECKING:  # `url` also accepts a path, and is stored as text

        def __init__(
            self,
            url: str | os.PathLike[str],
            object_size: str | int = ...,
            storage_options: StorageOptions = None,
        ) -> None: ...

    def __post_init__(self, storage_options: StorageOptions) -> None:
        if not parse_size(self.object_size):
            raise ChainError(f"ToShardingCodec's object_size is {self.object_size!r}: give a size, such as '1 GiB'")
        self.reach(storage_options)

    def check(self, nodes: Mapping[str, Node]) -> None:
        # docstring inherited
        old = [path for path, node in nodes.items() if node.meta.zarr_format == 2]
        if old:
            raise ChainError(
                f"the sharding codec needs Zarr v3, but {node_name(old[0])} is Zarr v2: put MigrateV3() (--v3) "
                "before ToShardingCodec"
            )
        regridded = [path for path, node in nodes.items() if node.is_regridded]
        if regridded:
            raise ChainError(
                f"ToShardingCodec makes one object of each block of the source, but a step changes the shape of the blocks "
                f"of {regridded[0]!r}: run the steps in a separate job, with CopyTo or ToZip"
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
        """Return a division with one object in each block.

        Parameters
        ----------
        blocks : Blocks
            The division of the array into blocks of inner chunks.

        Returns
        -------
        Blocks
            The division of the grid of objects, with as many blocks.
        """
        lead = len(blocks.chunks)
        grid = blocks.grid + (1,) * (len(blocks.chunk_grid) - lead)
        return Blocks(grid, (1,) * lead, KEYS, blocks.stored)

    def is_there(self, url: str, written: Written, present: Present) -> bool:
        """Return True: the job lists all objects once, at its end.

        Parameters
        ----------
        url : str
            The URL or the absolute path of the shard.
        written : Written
            The result of the shard's `write`.
        present : Present
            The inventory of the destination.

        Returns
        -------
        bool
            Always True.
        """
        return True

    @property
    def _size(self) -> int:
        return parse_size(self.object_size) or 0
