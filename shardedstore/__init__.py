"""Any Zarr as a collection of shards: zipped, recompressed or copied on Dask, one shard a unit of work."""

from shardedstore.chain import Sink, Step, step
from shardedstore.components.ownkinds import StoreKind
from shardedstore.errors import (
    ChainError,
    ConfigError,
    CorruptError,
    DestinationError,
    HoleError,
    NoShardError,
    PartitionError,
    ShardedStoreError,
    ShardError,
    ShardsFailed,
    TemporaryError,
    UsageError,
)
from shardedstore.jobplan import JobPlan
from shardedstore.notices import Notice
from shardedstore.readonly import ReadOnlyStore
from shardedstore.steps.arraystep import ArrayStep
from shardedstore.store import ShardedStore, Summary
from shardedstore.transforms.zip_store import to_zip_store, to_zip_store_with_prefix
from shardedstore.writing.arrayshards import array_shard_directory_store, array_shard_store

__version__ = "0.4.0"

__all__ = [
    "ArrayStep",
    "ChainError",
    "ConfigError",
    "CorruptError",
    "DestinationError",
    "HoleError",
    "JobPlan",
    "NoShardError",
    "Notice",
    "PartitionError",
    "ReadOnlyStore",
    "ShardError",
    "ShardedStore",
    "ShardedStoreError",
    "ShardsFailed",
    "Sink",
    "Step",
    "StoreKind",
    "Summary",
    "TemporaryError",
    "UsageError",
    "__version__",
    "array_shard_directory_store",
    "array_shard_store",
    "step",
    "to_zip_store",
    "to_zip_store_with_prefix",
]
