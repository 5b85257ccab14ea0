"""The plugin that takes the secret options of object stores to the workers of a cluster."""

from __future__ import annotations

from distributed import Worker, WorkerPlugin

from shardedstore.storage.options import Grants, grant, revoke


class AccessPlugin(WorkerPlugin):
    """Has every worker, also one that comes later, hold what this process holds; its repr shows nothing."""

    def __init__(self, name: str, grants: Grants) -> None:
        self.name, self._grants = name, grants

    def setup(self, worker: Worker) -> None:
        """Hold them in the worker's process."""
        grant(self._grants, self.name)

    def teardown(self, worker: Worker) -> None:
        """Forget them, and none that another job's plugin holds."""
        revoke(self.name)
