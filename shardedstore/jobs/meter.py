"""Add up the numbers of a running job, and compute its rate and the time left."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace

from shardedstore.jobs.progress import Progress, Running
from shardedstore.jobs.shards import Plan, Run, Task
from shardedstore.jobs.summary import Summary

WINDOW = 60.0  # seconds of the rate, at least
PART = 0.25  # of the elapsed time, for the rate of long jobs
LEAST_SIZE = 10  # the ended shards may be this much smaller than the others, on average, to foretell their time
MOST_SAMPLES = 512
STALL = 300.0  # seconds without a shard that ends, after which a job may have stalled
STALL_FACTOR = 5  # times the longest task, which a slow job may be silent for


class Meter:
    """Adds up what ends, and returns the progress at any moment, from any thread.

    Parameters
    ----------
    plan : Plan
        The shards of the job.
    clock : callable
        Returns the time in seconds.
    runs : iterable of Run, optional
        The shards to count, if they are a part of the job.

    Attributes
    ----------
    outcome : Summary
        The sum of all summaries so far, without the records.
    """

    def __init__(
        self, plan: Plan, clock: Callable[[], float] = time.monotonic, runs: Iterable[Run] | None = None
    ) -> None:
        self.outcome = Summary()
        counted = list(plan.runs if runs is None else runs)
        self._total = sum(run.stop - run.first for run in counted)
        self._total_decoded = sum(run.decoded_nbytes * (run.stop - run.first) for run in counted)
        self._clock, self._begun, self._lock = clock, clock(), threading.Lock()
        self._last, self._longest = self._begun, 0.0
        self._running: dict[int, tuple[Task, float]] = {}  # by the number of the first shard
        self._workers: dict[str, float] = {}
        self._samples: deque[tuple[float, int]] = deque()

    def handed_out(self, tasks: Iterable[Task]) -> None:
        """Note tasks that the executor gets."""
        with self._lock:
            now = self._clock()
            if len(self._samples) == 1 and not self._running:  # the time to start a cluster is not in the rate
                self._samples[0] = now, self._samples[0][1]
            self._running.update((_first(task), (task, now)) for task in tasks)

    def taken_back(self, task: Task) -> None:
        """Note a task that has ended, or that is split."""
        with self._lock:
            self._running.pop(_first(task), None)

    def add(self, summary: Summary) -> None:
        """Add the summary of a task, or of the shards of earlier runs."""
        with self._lock:
            now = self._clock()
            self.outcome = Summary.total([self.outcome, replace(summary, records={})])
            self._last = now
            if summary.worker:
                self._workers[summary.worker] = now
                self._longest = max(self._longest, summary.seconds)
            self._sample(now)

    def _sample(self, now: float) -> None:
        """Remember the decoded bytes; the first sample is of the shards of earlier runs."""
        self._samples.append((now, self.outcome.decoded_nbytes))
        if len(self._samples) > MOST_SAMPLES:
            self._samples = deque(list(self._samples)[::2])
        since = now - max(WINDOW, PART * (now - self._begun))
        while len(self._samples) > 1 and self._samples[1][0] <= since:
            self._samples.popleft()

    def now(self) -> Progress:
        """Return the current numbers."""
        with self._lock:
            now, sums = self._clock(), self.outcome
            rate = self._rate(now)
            left = self._total_decoded - sums.decoded_nbytes
            idle = now - self._last
            oldest = next(iter(self._running.values()), None)
            return Progress(
                total=self._total,
                done=sums.done,
                skipped=sums.skipped,
                failed=len(sums.failures),
                entries=sums.entries,
                nbytes=sums.nbytes,
                decoded_nbytes=sums.decoded_nbytes,
                total_decoded_nbytes=self._total_decoded,
                retries=sums.retries,
                throttled=sums.throttled,
                workers=self._count_workers(now),
                running=sum(task.segment.count for task, _ in self._running.values()),
                seconds=round(now - self._begun, 3),
                idle_seconds=round(idle, 3),
                rate=rate,
                seconds_left=0.0 if sums.tried >= self._total else left / rate if rate and self._is_telling() else None,
                oldest=None if oldest is None else Running(_name(oldest[0]), round(now - oldest[1], 3)),
                stalled=sums.tried < self._total and idle > max(STALL, STALL_FACTOR * self._longest),
            )

    def _is_telling(self) -> bool:
        """Tell whether the shards that ended are large enough to foretell the others; the base alone often is not."""
        ended, left = self.outcome.tried, self._total - self.outcome.tried
        size, left_size = self.outcome.decoded_nbytes, self._total_decoded - self.outcome.decoded_nbytes
        return size * left * LEAST_SIZE >= left_size * ended

    def _rate(self, now: float) -> float | None:
        if len(self._samples) < 2 or not self.outcome.done:
            return None
        then, before = self._samples[0]
        return (self.outcome.decoded_nbytes - before) / max(now - then, 1e-3)

    def _count_workers(self, now: float) -> int:
        since = now - max(WINDOW, 2 * self._longest)
        return sum(last >= since for last in self._workers.values())


def _first(task: Task) -> int:
    return task.segment.runs[0].number


def _name(task: Task) -> str:
    return next(iter(task.segment.runs[0].shards())).name
