"""Limits of a job: requests and bytes in a second for all workers together, and memory for each worker."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from shardedstore.errors import UsageError
from shardedstore.jobs.cancellation import LOOK, check_cancelled, sleep
from shardedstore.jobs.token_bucket import Bucket, Rates
from shardedstore.storage.request_metrics import paused
from shardedstore.text import parse_size

if TYPE_CHECKING:
    from shardedstore.jobs.shards import Run

LEAST_BATCH, MOST_BATCH = 0.02, 0.1  # seconds; a process reserves so much of the rate at a time


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Limits of a job.

    The workers of a job share the limits of requests and bytes. Both count what a job reads from its source and writes to its
    destination while its tasks run, with their records. The comparison of a changed source and the publication of the config
    are not limited.

    Parameters
    ----------
    requests_per_second : float, optional
        The most requests to object stores and web servers. A listing counts as one request for each 1000 objects, and an upload
        in parts as one for each part. Repeated attempts inside obstore are not counted.
    bytes_per_second : str, int or float, optional
        The most bytes that are read and written, on local disks too, like ``"200 MiB"``.
    memory : str or int, optional
        The most memory for shards in a worker process, like ``"8 GiB"``. Fewer shards run at a time where they would need more.
        A shard that needs more alone is refused in the plan. A worker takes about 200 MiB besides.

    Examples
    --------
    >>> from shardedstore import Limits
    >>> Limits(requests_per_second=100, bytes_per_second="200 MiB", memory="8 GiB").bytes_per_second
    '200 MiB'
    """

    requests_per_second: Annotated[
        float | None,
        Meta(description="The most requests in a second, for all workers together.", extra={"metavar": "N"}),
    ] = None
    bytes_per_second: Annotated[
        str | int | float | None,
        Meta(
            description="The most bytes read and written in a second, for all workers together, such as '200 MiB'.",
            extra={"metavar": "SIZE"},
        ),
    ] = None
    memory: Annotated[
        str | int | None,
        Meta(
            description="The most memory for shards in each worker, such as '8 GiB'.",
            extra={"option": "--max-memory", "metavar": "SIZE"},
        ),
    ] = None

    def check(self) -> None:
        """Check the values.

        Raises
        ------
        UsageError
            If a limit is not a positive number or size.
        """
        if self.requests_per_second is not None and not 0 < self.requests_per_second < float("inf"):
            raise UsageError(f"requests_per_second={self.requests_per_second!r} is not a positive number: give one")
        for name in ("bytes_per_second", "memory"):
            value = getattr(self, name)
            if value is not None and not _nbytes(value):
                raise UsageError(f"{name}={value!r} is not a size: say a number of bytes, or a text like '200 MiB'")

    @property
    def rates(self) -> Rates | None:
        """The rates for all workers together; None without a limit."""
        if self.requests_per_second is None and self.bytes_per_second is None:
            return None
        return Rates(
            self.requests_per_second, None if self.bytes_per_second is None else _nbytes(self.bytes_per_second)
        )

    @property
    def memory_nbytes(self) -> int | None:
        """The memory for shards in a worker, in bytes."""
        return None if self.memory is None else int(_nbytes(self.memory))


NO_LIMITS = Limits()


def _nbytes(value: str | float) -> float:
    """Return a size in bytes; 0 if it is none."""
    found = parse_size(value) if isinstance(value, str) else value
    return 0 if found is None or isinstance(found, bool) or not 0 < found < float("inf") else found


class _Lease:
    """The tokens of a bucket that this process has reserved."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket, self._lock, self._until = bucket, threading.Lock(), 0.0
        self._left = [0, 0]
        self._share = LEAST_BATCH

    def spend(self, requests: int, nbytes: int) -> None:
        """Wait until so many requests and bytes may go; see `RequestThrottle`."""
        with self._lock:
            limited = zip(self._left, (requests, nbytes), self._bucket.rates, strict=True)
            self._left = [left if rate is None else left - amount for left, amount, rate in limited]
            if min(self._left) < 0:
                self._reserve()
            until = self._until
        if (seconds := until - time.monotonic()) > 0:
            paused(seconds)
            sleep(seconds)

    def _reserve(self) -> None:
        """Reserve the missing amount, and a little more; larger batches if the answer takes longer than the wait."""
        rated = zip(self._left, self._bucket.rates, strict=True)
        short = [max(-left, int((rate or 0) * self._share), 1) if left < 0 else 0 for left, rate in rated]
        begun = time.monotonic()
        seconds = self._bucket.reserve(short[0], short[1])
        is_slow = seconds < 2 * (time.monotonic() - begun)
        self._share = min(MOST_BATCH, 2 * self._share) if is_slow else max(LEAST_BATCH, self._share / 2)
        self._until = max(self._until, begun + seconds)
        self._left = [left + more for left, more in zip(self._left, short, strict=True)]


_leases: dict[str, _Lease] = {}
_making = threading.Lock()


def throttle_of(bucket: Bucket | None) -> _Lease | None:
    """Return the throttle of this process for a bucket; None without a bucket."""
    if bucket is None:
        return None
    with _making:
        if bucket.name not in _leases:
            _leases[bucket.name] = _Lease(bucket)
        return _leases[bucket.name]


def forget(bucket: Bucket) -> None:
    """Forget the throttle of this process for a bucket."""
    with _making:
        _leases.pop(bucket.name, None)


class MemoryShare(msgspec.Struct, frozen=True):
    """The memory for shards in each worker, and the memory that shards need.

    Attributes
    ----------
    most : int
        The memory in bytes.
    needs : dict of int to int
        The memory of one shard, by the number of bits of its decoded size.
    """

    most: int
    needs: dict[int, int]

    def need_of(self, run: Run) -> int:
        """Return the memory that a shard of a run needs, in bytes."""
        return self.needs.get(run.nbytes.bit_length(), 0)


def share_memory(most: int, runs: Sequence[Run], needs: Mapping[int, int]) -> MemoryShare:
    """Return the memory share of a job, from the memory of a shard of each run, by the number of its first shard.

    Raises
    ------
    UsageError
        If one shard alone needs more. The message names the largest.
    """
    largest = max(runs, key=lambda run: needs[run.number])
    if needs[largest.number] > most:
        _refuse(largest, needs[largest.number], most)
    by_size: dict[int, int] = {}
    for run in runs:
        size = run.nbytes.bit_length()
        by_size[size] = max(by_size.get(size, 0), needs[run.number])
    return MemoryShare(most, by_size)


def _refuse(run: Run, need: int, most: int) -> None:
    from dask.utils import format_bytes

    name = "the base" if run.mounted is not None else f"a shard of {run.path!r}"
    raise UsageError(
        f"{name} needs about {format_bytes(need)} of memory, more than the limit of {format_bytes(most)} in a worker: allow "
        "more, or divide the source into smaller shards"
    )


class _Room:
    """The memory that the shards of this process take."""

    def __init__(self) -> None:
        self._used, self._changed = 0, threading.Condition()

    @contextmanager
    def take(self, nbytes: int, most: int, look: Callable[[], None] = check_cancelled) -> Iterator[None]:
        """Wait until there is room for a shard, and hold it in the block; one shard always has room."""
        with self._changed:
            while self._used and self._used + nbytes > most:
                self._changed.wait(LOOK)
                look()
            self._used += nbytes
        try:
            yield
        finally:
            with self._changed:
                self._used -= nbytes
                self._changed.notify_all()


ROOM = _Room()
