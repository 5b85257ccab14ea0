"""A bounded number of tasks on a cluster, whose futures are released as they end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Self

from shardedstore.errors import ShardedStoreError
from shardedstore.tasks.outcome import Outcome
from shardedstore.tasks.plan import Segment

if TYPE_CHECKING:
    from distributed import Client, Future

PER_THREAD = 2  # tasks in flight for each thread of the cluster
THREADS_SECONDS = 5.0  # between looking how many threads the cluster has


class Window:
    """A bounded number of tasks on a cluster; each call to the scheduler is for all tasks that it can be for."""

    def __init__(self, client: Client, function: Callable[[Segment], Outcome]) -> None:
        from distributed import as_completed

        self.client, self.function = client, function
        self.flying: dict[str, tuple[Future[Outcome], Segment]] = {}
        self._completed = as_completed()  # type: ignore[no-untyped-call]
        self._size, self._sized = 0, -THREADS_SECONDS

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.cancel([future for future, _ in self.flying.values()])  # type: ignore[no-untyped-call]

    def room(self) -> int:
        """Return how many tasks may be launched now."""
        if time.monotonic() - self._sized > THREADS_SECONDS:
            threads = sum(self.client.nthreads().values())  # type: ignore[no-untyped-call]
            self._size, self._sized = PER_THREAD * max(1, threads), time.monotonic()
        return self._size - len(self.flying)

    def launch(self, tasks: list[tuple[Segment, str]]) -> None:
        """Submit some tasks under their names."""
        if tasks:
            segments, keys = (list(some) for some in zip(*tasks, strict=True))
            futures = self.client.map(self.function, segments, key=keys, pure=False)
            self.flying.update((key, (f, s)) for key, f, s in zip(keys, futures, segments, strict=True))
            self._completed.update(futures)  # type: ignore[no-untyped-call]

    def ended(self) -> Iterator[tuple[str, Segment, Outcome | BaseException]]:
        """Wait for some tasks, release them, and yield their names, segments and results."""
        batch = self._completed.next_batch()  # type: ignore[no-untyped-call]
        for future, result in zip(batch, self._results(batch), strict=True):
            _, segment = self.flying.pop(future.key)
            future.release()
            yield future.key, segment, result

    def _results(self, batch: list[Future[Outcome]]) -> list[Outcome | BaseException]:
        """Return what tasks gave, or their exceptions.

        They are asked for here, as `as_completed(with_results=True)` never gives one whose scheduler dies on its way.
        """
        try:
            found = self.client.gather({future.key: future for future in batch}, errors="skip")  # type: ignore[no-untyped-call]
            missing = [future for future in batch if found[future.key] is None]
            for future in missing:
                found[future.key] = future.exception() or CancelledError(future.key)  # type: ignore[no-untyped-call]
        except Exception as error:
            raise _lost() from error
        if self.client.status in ("closing", "closed"):  # so that all results are cancellations, which blame no shard
            raise _lost()
        return [found[future.key] for future in batch]


def _lost() -> ShardedStoreError:
    return ShardedStoreError(
        "the connection to the Dask scheduler is lost: call map_shards with the same arguments again on another cluster, and "
        "it goes on from there"
    )
