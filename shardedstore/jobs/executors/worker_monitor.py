"""Checks of a cluster's workers before the first task, and warnings about a cluster without workers."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from dask.utils import format_bytes

from shardedstore.errors import DestinationError, UsageError
from shardedstore.jobs.executors.base import Check
from shardedstore.text import count

if TYPE_CHECKING:
    from distributed import Client

logger = logging.getLogger("shardedstore")
LOOK = 5.0  # seconds between two checks
ABSENT = 60.0  # seconds without workers before a warning
PROOF_SECONDS = 15.0  # the time in which each worker must answer
SILENT = object()
LEFT = "%s lost (%s), %s left: unfinished shards run again on other workers. Later losses are not told"


@contextmanager
def warn_without_workers(client: Client) -> Iterator[None]:
    """Warn while the block runs if workers leave the cluster, once, and if it has none for `ABSENT` seconds.

    There is one warning each time that all workers are gone.
    """
    ended = threading.Event()
    thread = threading.Thread(target=_watch, args=(client, ended), name="shardedstore-worker-monitor", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()


def _watch(client: Client, ended: threading.Event) -> None:
    gone: float | None = None
    told = is_loss_told = False
    before: set[str] = set()
    while not ended.wait(LOOK):
        with suppress(Exception):  # the job itself reports a lost scheduler
            workers = set(client.nthreads())  # type: ignore[no-untyped-call]
            if before - workers and not is_loss_told:
                lost = before - workers
                logger.warning(LEFT, count(len(lost), "worker"), next(iter(lost)), len(workers))
                is_loss_told = True
            before = workers
            if workers:
                if told:
                    logger.warning("the cluster has workers again, and the job goes on")
                gone, told = None, False
                continue
            gone = gone or time.monotonic()
            if not told and time.monotonic() - gone >= ABSENT:
                logger.warning(
                    "the cluster at %s has had no workers for %d s, and the job waits for them: start some, or see in "
                    "their logs why they ended. The job can also be stopped: the same job goes on later from the finished shards",
                    client.scheduler.address if client.scheduler else "",
                    ABSENT,
                )
                told = True


def check_workers(client: Client, check: Check) -> None:
    """Check that each worker can run the tasks.

    A worker that does not answer within `PROOF_SECONDS` causes a warning only, because each task repeats the check.

    Raises
    ------
    DestinationError
        If workers can't run the tasks. The message names the workers and their reasons.
    UsageError
        If workers lack a package.
    """
    found: dict[str, object] = client.sync(_ask, client, check, PROOF_SECONDS)  # type: ignore[no-untyped-call]
    silent = [worker for worker, what in found.items() if what is SILENT]
    if silent:
        logger.warning(
            "%d of %d workers do not answer: %s; the job begins without them. If they do not come back, end them",
            len(silent), len(found), ", ".join(silent[:4]),
        )  # fmt: skip
    # An OSError means that a worker died meanwhile, which a job survives.
    missing = {worker: what for worker, what in found.items() if isinstance(what, str | BaseException)}
    missing = {worker: what for worker, what in missing.items() if not isinstance(what, OSError)}
    lacking = {worker: what for worker, what in missing.items() if isinstance(what, ImportError)}
    if lacking:
        worker, error = next(iter(lacking.items()))
        raise UsageError(
            f"{len(lacking)} of {len(found)} workers lack a package ({worker}: {error}): install it where the workers run, in the version of "
            "this process"
        )
    if missing:
        shown = "; ".join(f"{worker}: {what}" for worker, what in list(missing.items())[:4])
        raise DestinationError(f"{len(missing)} of {len(found)} workers can't do the job: {shown}")


def check_memory(client: Client, needed: int) -> None:
    """Warn of workers whose memory is too small for a shard in each of their threads.

    Parameters
    ----------
    client : Client
        The client of the cluster.
    needed : int
        The memory of a shard, in bytes; 0 if unknown.
    """
    workers = client.scheduler_info(n_workers=-1)["workers"] if needed else {}
    small = [one for one in workers.values() if 0 < one["memory_limit"] < needed * one["nthreads"]]
    if small:
        least = min(small, key=lambda one: one["memory_limit"] / one["nthreads"])
        logger.warning(
            "%d of %d workers have little memory: %s for %s, and a shard may take %s: give workers more memory or fewer threads, or "
            "divide the source into smaller shards",
            len(small), len(workers), format_bytes(least["memory_limit"]), count(least["nthreads"], "thread"), format_bytes(needed),
        )  # fmt: skip


async def _ask(client: Client, function: Callable[[], object], seconds: float) -> dict[str, object]:
    """Return the result of a function on each worker, its exception, or `SILENT`."""
    workers = list(await client.nthreads())  # type: ignore[no-untyped-call]
    asked = [asyncio.ensure_future(client.run(function, workers=[worker], on_error="return")) for worker in workers]
    if not asked:
        return {}
    await asyncio.wait(asked, timeout=seconds)
    return {worker: _answer(task, worker) for worker, task in zip(workers, asked, strict=True)}


def _answer(task: asyncio.Future[dict[str, object]], worker: str) -> object:
    if not task.done():
        task.cancel()
        return SILENT
    error = task.exception()
    return task.result().get(worker) if error is None else error
