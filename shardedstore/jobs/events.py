"""The events of a running job, and the calls of its callbacks."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Self

from shardedstore.jobs.callbacks import Callback, JobEnd, TaskEnd
from shardedstore.jobs.meter import Meter
from shardedstore.jobs.summary import Summary
from shardedstore.storage.request_metrics import RequestMeter, add_requests, metered

if TYPE_CHECKING:
    from shardedstore.jobs.job_plan import JobPlan

TICK = 1.0  # seconds between two calls of `Callback.on_progress`
logger = logging.getLogger("shardedstore")


class Events:
    """Calls the callbacks of a job from its start to its end, one at a time.

    Attributes
    ----------
    meter : Meter
        The numbers of the job.
    is_whole : bool
        Whether the whole job runs, and not a part of it. A part leaves no file of failures.
    """

    def __init__(self, callbacks: list[Callback], plan: JobPlan, meter: Meter, *, is_whole: bool = True) -> None:
        self.callbacks, self.plan, self.meter, self.is_whole = callbacks, plan, meter, is_whole
        self._started: list[Callback] = []
        self._requests = RequestMeter()
        self._metered = metered(self._requests)
        self._one_at_a_time = threading.RLock()
        self._ended = threading.Event()
        self._ticker = threading.Thread(target=self._tick, name="shardedstore-progress", daemon=True)

    def __enter__(self) -> Self:
        self._metered.__enter__()
        try:
            for callback in self.callbacks:
                self._started.append(callback)
                callback.on_job_start(self.plan)
        except BaseException as error:
            self.end(error)
            raise
        if any(_wants_progress(callback) for callback in self.callbacks):
            self._ticker.start()
        return self

    def add(self, summary: Summary) -> None:
        """Report the summary of shards that have ended."""
        self.meter.add(summary)
        event = TaskEnd(summary, self.meter.now())
        with self._one_at_a_time:
            for callback in self.callbacks:
                callback.on_task_end(event)

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self.end(error)

    def end(self, error: BaseException | None) -> None:
        """Report the end of the job to all callbacks that were called at its start.

        The first exception of a callback is raised after all calls, unless the job itself has an error.
        """
        self._ended.set()
        if self._ticker.is_alive():
            self._ticker.join()
        self._metered.__exit__(None, None, None)
        own, job = self._requests.sums, self.meter.outcome
        job = replace(job, requests=add_requests([job.requests, own]))
        listed = self.plan.failures_url if job.failures and self.is_whole else None
        event = JobEnd(job, self.meter.now(), error, own, listed)
        raised = list(self._failures_at_end(event))
        if raised and error is None:
            raise raised[0]

    def _failures_at_end(self, event: JobEnd) -> Iterator[BaseException]:
        for callback in self._started:
            try:
                callback.on_job_end(event)
            except Exception as failed:  # noqa: BLE001 (raised by `end`, unless the job itself has an error)
                logger.warning("%r fails at the end of the job: %s: %s", callback, type(failed).__name__, failed)
                yield failed

    def _tick(self) -> None:
        """Call `on_progress` until the job ends."""
        callbacks = [callback for callback in self.callbacks if _wants_progress(callback)]
        while not self._ended.wait(TICK):
            progress = self.meter.now()
            for callback in list(callbacks):
                try:
                    with self._one_at_a_time:
                        callback.on_progress(progress)
                except Exception as failed:  # noqa: BLE001 (the job goes on without this callback's progress)
                    logger.warning("%r shows no more progress: %s: %s", callback, type(failed).__name__, failed)
                    callbacks.remove(callback)


def _wants_progress(callback: Callback) -> bool:
    return type(callback).on_progress is not Callback.on_progress
