"""Transform Zarrs of any size with Dask, shard by shard, and open the result as one Zarr.

The public names are those in ``__all__`` of ``shardedstore``, ``shardedstore.abc``, ``shardedstore.transforms`` and
``shardedstore.zips``. All other modules are private, and may change in any release.
"""

from shardedstore.checks.diff import StructureDiff, diff
from shardedstore.checks.report import CheckReport
from shardedstore.checks.run import check
from shardedstore.choose.codec_comparison import CodecComparison, CodecRow
from shardedstore.errors import (
    ChainError,
    ClusterError,
    ConfigError,
    CorruptError,
    DestinationError,
    Failures,
    GuardsFailed,
    HoleError,
    JobStopped,
    LockedError,
    MoveError,
    NoShardError,
    PartitionError,
    ShardedStoreError,
    ShardError,
    ShardsFailed,
    SourceChangedError,
    TemporaryError,
    UsageError,
    Violation,
)
from shardedstore.jobs.estimates.estimate import Estimate
from shardedstore.jobs.estimates.prices import Prices
from shardedstore.jobs.guards import Guards
from shardedstore.jobs.job_list import list_jobs
from shardedstore.jobs.job_plan import JobPlan
from shardedstore.jobs.limits import Limits
from shardedstore.jobs.move.options import Move
from shardedstore.jobs.records import Records
from shardedstore.jobs.records_report import ShardRecord
from shardedstore.jobs.report import Report
from shardedstore.jobs.status import JobStatus, job_status
from shardedstore.jobs.stop_signal import StopSignal
from shardedstore.jobs.store_info import StoreInfo
from shardedstore.jobs.stored_nodes import StoredArray, StoredGroup
from shardedstore.jobs.summary import Summary
from shardedstore.jobs.trial import Trial
from shardedstore.notices import Notice
from shardedstore.partition.access import AccessCost
from shardedstore.partition.suggest import ArraySuggestion, Suggestion
from shardedstore.storage.attributes import ObjectAttributes
from shardedstore.store import ShardedStore
from shardedstore.stores.custom import StoreKind
from shardedstore.transforms.base.array_step import ArrayStep
from shardedstore.transforms.base.sink import Sink
from shardedstore.transforms.base.step import Step, step
from shardedstore.transforms.zip_store import to_zip_store, to_zip_store_with_prefix
from shardedstore.writing.arrayshards import array_shard_directory_store, array_shard_store
from shardedstore.zarr.readonly import ReadOnlyStore

__version__ = "0.4.0"

__all__ = [
    "AccessCost",
    "ArrayStep",
    "ArraySuggestion",
    "ChainError",
    "CheckReport",
    "ClusterError",
    "CodecComparison",
    "CodecRow",
    "ConfigError",
    "CorruptError",
    "DestinationError",
    "Estimate",
    "Failures",
    "Guards",
    "GuardsFailed",
    "HoleError",
    "JobPlan",
    "JobStatus",
    "JobStopped",
    "Limits",
    "LockedError",
    "Move",
    "MoveError",
    "NoShardError",
    "Notice",
    "ObjectAttributes",
    "PartitionError",
    "Prices",
    "ReadOnlyStore",
    "Records",
    "Report",
    "ShardError",
    "ShardRecord",
    "ShardedStore",
    "ShardedStoreError",
    "ShardsFailed",
    "Sink",
    "SourceChangedError",
    "Step",
    "StopSignal",
    "StoreInfo",
    "StoreKind",
    "StoredArray",
    "StoredGroup",
    "StructureDiff",
    "Suggestion",
    "Summary",
    "TemporaryError",
    "Trial",
    "UsageError",
    "Violation",
    "__version__",
    "array_shard_directory_store",
    "array_shard_store",
    "check",
    "diff",
    "job_status",
    "list_jobs",
    "step",
    "to_zip_store",
    "to_zip_store_with_prefix",
]
