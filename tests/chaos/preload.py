"""Imports of the process from which schedulers, workers and clients are forked; they start no thread."""

import distributed.deploy
import obstore.store
import zarr.storage

import chaos.work
import shardedstore.jobs.executors.distributed
import shardedstore.jobs.run
import shardedstore.transforms

__all__ = ["chaos", "distributed", "obstore", "shardedstore", "zarr"]
