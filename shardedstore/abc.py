"""The protocols of extensions, and the types in their signatures.

Your own steps, sinks and kinds of stores import from here and from `shardedstore`. All other modules are private.
"""

from shardedstore.callbacks.log import JobLog
from shardedstore.jobs.callbacks import Callback, JobEnd, TaskEnd
from shardedstore.jobs.progress import Progress, Running
from shardedstore.jobs.summary import ShardEnd
from shardedstore.notices import Notice
from shardedstore.storage.request_metrics import RequestSum
from shardedstore.stores.custom import StoreKind
from shardedstore.stores.entries import Entry
from shardedstore.stores.hierarchy import Node
from shardedstore.stores.reader import StoreReader, reader_of
from shardedstore.transforms.base.array_step import ArrayStep
from shardedstore.transforms.base.shard import Entries, Shard
from shardedstore.transforms.base.sink import Sink, Written
from shardedstore.transforms.base.step import Step
from shardedstore.zarr.readonly import ReadOnlyStore, cut

__all__ = [
    "ArrayStep",
    "Callback",
    "Entries",
    "Entry",
    "JobEnd",
    "JobLog",
    "Node",
    "Notice",
    "Progress",
    "ReadOnlyStore",
    "RequestSum",
    "Running",
    "Shard",
    "ShardEnd",
    "Sink",
    "Step",
    "StoreKind",
    "StoreReader",
    "TaskEnd",
    "Written",
    "cut",
    "reader_of",
]
