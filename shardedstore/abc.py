"""The protocols that extensions implement, and the types in their signatures.

A step, a sink or a kind of store of one's own imports from here and from `shardedstore`; all other modules are private.
"""

from shardedstore.callbacks import Callback, JobEnd, TaskEnd
from shardedstore.chain import Entries, Shard, Sink, Step, Written
from shardedstore.components.ownkinds import StoreKind
from shardedstore.notices import Notice
from shardedstore.reading.entries import Entry
from shardedstore.reading.hierarchy import Node
from shardedstore.readonly import ReadOnlyStore
from shardedstore.steps.arraystep import ArrayStep

__all__ = [
    "ArrayStep",
    "Callback",
    "Entries",
    "Entry",
    "JobEnd",
    "Node",
    "Notice",
    "ReadOnlyStore",
    "Shard",
    "Sink",
    "Step",
    "StoreKind",
    "TaskEnd",
    "Written",
]
