"""Warns when a cluster has had no workers for a minute: a job would wait for them in silence."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distributed import Client

logger = logging.getLogger("shardedstore")
LOOK = 5.0  # seconds between two looks
ABSENT = 60.0  # seconds without any worker after which it is told


@contextmanager
def attended(client: Client) -> Iterator[None]:
    """Warn while the block runs, once each time, when the cluster has had no worker for a minute."""
    ended = threading.Event()
    thread = threading.Thread(target=_watch, args=(client, ended), name="shardedstore-attendance", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()


def _watch(client: Client, ended: threading.Event) -> None:
    gone: float | None = None
    told = False
    while not ended.wait(LOOK):
        with suppress(Exception):  # a scheduler that is gone is told by the job itself
            if client.nthreads():  # type: ignore[no-untyped-call]
                if told:
                    logger.warning("the cluster has workers again, and the job goes on")
                gone, told = None, False
                continue
            gone = gone or time.monotonic()
            if not told and time.monotonic() - gone >= ABSENT:
                logger.warning(
                    "the cluster at %s has had no workers for %d s, and the job waits for them: start some, or see in "
                    "their logs why they ended. The job can also be stopped: it goes on later from what is done",
                    client.scheduler.address if client.scheduler else "",
                    ABSENT,
                )
                told = True
