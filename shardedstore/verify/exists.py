"""Check by a listing that all objects of a result exist, with the sizes in its ledger."""

from __future__ import annotations

import hashlib

from shardedstore.jobs.layouts.result_job import ResultJob
from shardedstore.jobs.layouts.shard_folder import ShardFolder
from shardedstore.stores.locations import Config


class Existing:
    """One listing of a result: its differences from the ledger, and a token of all sizes.

    Parameters
    ----------
    config : Config
        The result.
    job : ResultJob or None
        The job that made it, if its ledger was found.
    """

    def __init__(self, config: Config, job: ResultJob | None) -> None:
        sizes, layout = hashlib.sha256(), ShardFolder if job is None else job.layout
        self.differences = list(layout.compare_listing(config, job, lambda line: sizes.update(line.encode())))
        self.token = sizes.hexdigest()
