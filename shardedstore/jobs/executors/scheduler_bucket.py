"""A token bucket at the scheduler of a cluster, which all workers of a job share."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from distributed import Scheduler, SchedulerPlugin, get_client, get_worker
from distributed.utils import sync

from shardedstore.errors import ClusterError
from shardedstore.jobs.token_bucket import Rates, reserve, wait_until

if TYPE_CHECKING:
    from distributed import Client


class BucketPlugin(SchedulerPlugin):
    """Holds the bucket of a job at the scheduler, and answers its workers."""

    def __init__(self, name: str, rates: Rates) -> None:
        self.name, self._rates, self._free = name, rates, (0.0, 0.0)

    async def start(self, scheduler: Scheduler) -> None:
        """Let workers and clients call the bucket by its name."""
        scheduler.handlers[self.name] = self.reserve
        self._handlers = scheduler.handlers

    def reserve(self, requests: int = 0, nbytes: int = 0, is_end: bool = False) -> float:
        """Reserve tokens, and return the seconds until they may be used; at the end, take no more calls."""
        if is_end:
            self._handlers.pop(self.name, None)
            return 0.0
        now, amounts = time.monotonic(), (requests, nbytes)
        before, self._free = self._free, reserve(self._free, self._rates, now, amounts)
        return max(0.0, wait_until(before, self._rates, amounts) - now)


class SchedulerBucket:
    """The bucket at the scheduler, as the workers and the client of a job see it.

    Parameters
    ----------
    name : str
        The name of the bucket at the scheduler.
    rates : Rates
        The rates of all workers together.
    """

    def __init__(self, name: str, rates: Rates) -> None:
        self.name, self.rates = name, rates
        self._caller: Any = None  # the worker or the client of this process

    def __reduce__(self) -> tuple[type[SchedulerBucket], tuple[str, Rates]]:
        return SchedulerBucket, (self.name, self.rates)

    def use(self, caller: Client) -> None:
        """Call the scheduler by this client."""
        self._caller = caller

    def reserve(self, requests: int, nbytes: int) -> float:
        """Reserve tokens; see `Bucket.reserve`."""
        return self._call(requests=requests, nbytes=nbytes)

    def end(self) -> None:
        """Remove the bucket from the scheduler."""
        with suppress(Exception):  # if the scheduler is gone, its bucket is too
            self._call(is_end=True)

    def _call(self, **amounts: Any) -> float:
        if self._caller is None:
            try:
                self._caller = get_worker()
            except ValueError:
                self._caller = get_client()
        call = getattr(self._caller.scheduler, self.name)
        seconds: float = sync(self._caller.loop, call, **amounts)
        return seconds


@contextmanager
def scheduler_bucket(client: Client, rates: Rates) -> Iterator[SchedulerBucket]:
    """Make a bucket at the scheduler of a cluster, and remove it at the end of the block.

    Raises
    ------
    ClusterError
        If the scheduler can't hold it.
    """
    name = f"shardedstore_bucket_{secrets.token_hex(4)}"
    try:
        client.register_plugin(BucketPlugin(name, rates))
    except Exception as error:
        raise ClusterError(
            f"the scheduler can't hold the limits of requests and bytes ({type(error).__name__}: {error}): install the same "
            "shardedstore in its environment, or leave these limits out"
        ) from error
    bucket = SchedulerBucket(name, rates)
    bucket.use(client)
    try:
        yield bucket
    finally:
        bucket.end()
        with suppress(Exception):
            client.unregister_scheduler_plugin(name)
