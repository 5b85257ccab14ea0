"""The groups and arrays of a store, as `ShardedStore.info` returns them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from shardedstore.jobs.estimates.amounts import Amount
from shardedstore.zarr.grid import Coords


@dataclass(frozen=True)
class StoredGroup:
    """A group of a store.

    Attributes
    ----------
    path : str
        Its path; ``""`` for the root.
    zarr_format : int
        2 or 3.
    is_implicit : bool
        Whether it has no document.
    is_consolidated : bool
        Whether its document has consolidated metadata.
    shards : int
        The number of shards that are mounted at its path; 0 if it is a part of another shard or of the base.
    is_sample : bool
        Whether it belongs to the first member of a collection, which represents all members.

    See Also
    --------
    StoreInfo : Its `nodes` are the groups and arrays of a store.

    Examples
    --------
    >>> StoredGroup("simulation", 3, shards=1).shards
    1
    """

    path: str
    zarr_format: int
    is_implicit: bool = False
    is_consolidated: bool = False
    shards: int = 0
    is_sample: bool = False


@dataclass(frozen=True)
class StoredArray:
    """An array of a store.

    Attributes
    ----------
    path : str
        Its path; ``""`` for the root.
    zarr_format : int
        2 or 3.
    dtype, codecs : str
        The data type and the codecs.
    shape : tuple of int
        Its shape.
    chunks : tuple of int or None
        The shape of a chunk, or of an outer chunk of the sharding codec; None if the chunk grid is unknown.
    dims : tuple of str or None
        The names of the dimensions; None if they have none.
    nbytes : int
        The size of the decoded data in bytes.
    files : Amount
        The number of files with chunks; ``"most"`` by the metadata, ``"exact"`` if they were counted.
    stored : Amount or None
        The size of these files in bytes; None if they were not counted.
    mount : str or None
        The path of the shard or shards that hold it; None for the base.
    shards : int
        The number of shards that are mounted at its path; 0 if it is a part of another shard or of the base.
    shard_shape : tuple of int or None
        The shape of a shard in elements; None if the array is not divided.
    is_sample : bool
        Whether it belongs to the first member of a collection, which represents all members.

    See Also
    --------
    StoreInfo : Its `arrays` are the arrays of a store.

    Examples
    --------
    >>> array = StoredArray(
    ...     "t", 3, "float32", "none", (720, 4), (24, 4), None, 11520, Amount(30, "most"), shard_shape=(240, 4)
    ... )
    >>> array.chunk_nbytes, array.shard_nbytes
    (384, 3840)
    """

    path: str
    zarr_format: int
    dtype: str
    codecs: str
    shape: Coords
    chunks: Coords | None
    dims: tuple[str | None, ...] | None
    nbytes: int
    files: Amount
    stored: Amount | None = None
    mount: str | None = None
    shards: int = 0
    shard_shape: Coords | None = None
    is_sample: bool = False

    @property
    def chunk_nbytes(self) -> int:
        """The size of a decoded chunk in bytes."""
        return self._part(self.shape if self.chunks is None else self.chunks)

    @property
    def shard_nbytes(self) -> int:
        """The size of a decoded shard of this array in bytes; of an undivided array the whole size."""
        return self._part(self.shape if self.shard_shape is None else self.shard_shape)

    def _part(self, shape: Coords) -> int:
        return round(self.nbytes * math.prod(shape) / max(1, math.prod(self.shape)))
