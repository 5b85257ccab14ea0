"""Any Zarr as a collection of shards: zipped, recompressed or copied on Dask, one shard a unit of work."""

from shardedstore.arraystep import ArrayStep
from shardedstore.chain import Sink, Step, step
from shardedstore.errors import (
    ChainError,
    ConfigError,
    CorruptError,
    DestinationError,
    PartitionError,
    ShardedStoreError,
    ShardError,
    ShardsFailed,
    UsageError,
)
from shardedstore.store import ShardedStore

__version__ = "0.4.0"

__all__ = [
    "ArrayStep",
    "ChainError",
    "ConfigError",
    "CorruptError",
    "DestinationError",
    "PartitionError",
    "ShardError",
    "ShardedStore",
    "ShardedStoreError",
    "ShardsFailed",
    "Sink",
    "Step",
    "UsageError",
    "__version__",
    "step",
]
