"""What the process imports that schedulers, workers and clients are forked from: all, and no thread is started."""

import distributed.deploy
import obstore.store
import zarr.storage

import chaos.work
import shardedstore.jobs.executors.plugin
import shardedstore.jobs.run
import shardedstore.transforms

__all__ = ["chaos", "distributed", "obstore", "shardedstore", "zarr"]
