"""The timeline of a run, with a bounded number of time bins."""

from __future__ import annotations

from collections.abc import Sequence

from shardedstore.jobs.report import Span, Timeline
from shardedstore.jobs.summary import Summary

PARTS = 120
FIRST = 0.25  # seconds of a bin at first; doubled when the run gets longer
MOST_WORKERS = 48  # rows; all other workers share one row
MOST_SPANS = 400  # shards that are kept individually
OTHERS = "others"


class TimelineBuilder:
    """Adds up tasks in time bins of equal duration; the duration doubles when the run gets longer."""

    def __init__(self) -> None:
        self.width = FIRST
        self._shards, self._failed, self._throttled, self._nbytes = ([0.0] * PARTS for _ in range(4))
        self._busy: dict[str, list[float]] = {}
        self._workers: set[str] = set()
        self._spans: list[Span] | None = []
        self._end = 0.0

    @property
    def workers(self) -> int:
        """The number of worker processes."""
        return len(self._workers)

    def add(self, task: Summary, now: float) -> None:
        """Add a task that has ended, `now` seconds after the start of the run.

        The clocks of workers may differ. So the end of a task is the time of its event, and a worker's clock is used
        only within a task.
        """
        begun = max(0.0, now - task.seconds)
        while now >= self.width * PARTS:
            self._double()
        self._end = max(self._end, now)
        self._throttled[int(now / self.width)] += task.throttled
        self._add_busy(task.worker, begun, now)
        if not task.shards:
            self._failed[int(now / self.width)] += len(task.failures)
            return
        offset = begun - task.shards[0].begun
        last, width, shards, nbytes = int(now / self.width), self.width, self._shards, self._nbytes
        for shard in task.shards:  # a task may have a million shards
            part = int((offset + shard.begun + shard.seconds) / width)
            part = 0 if part < 0 else min(part, last)
            shards[part] += 1
            nbytes[part] += shard.nbytes
            if shard.code:
                self._failed[part] += 1
        if self._spans is not None:
            self._add_spans(task, offset, now)

    def _add_spans(self, task: Summary, offset: float, now: float) -> None:
        assert self._spans is not None
        if len(self._spans) + len(task.shards) > MOST_SPANS:
            self._spans = None
            return
        for shard in task.shards:
            begun = max(0.0, min(now, offset + shard.begun))
            self._spans.append(
                Span(task.worker, round(begun, 3), round(shard.seconds, 3), shard.shard, bool(shard.code))
            )

    def _add_busy(self, worker: str, begun: float, end: float) -> None:
        self._workers.add(worker)
        name = worker if worker in self._busy or len(self._busy) < MOST_WORKERS else OTHERS
        busy = self._busy.setdefault(name, [0.0] * PARTS)
        for part in range(int(begun / self.width), int(end / self.width) + 1):
            busy[part] += max(0.0, min(end, (part + 1) * self.width) - max(begun, part * self.width))

    def _double(self) -> None:
        self.width *= 2
        self._shards, self._failed, self._throttled, self._nbytes = (
            _halved(some) for some in (self._shards, self._failed, self._throttled, self._nbytes)
        )
        self._busy = {worker: _halved(busy) for worker, busy in self._busy.items()}

    def build(self, seconds: float) -> Timeline:
        """Return the timeline of a run of this duration."""
        count = min(PARTS, int(max(seconds, self._end) / self.width) + 1)
        return Timeline(
            self.width,
            _whole(self._shards, count),
            _whole(self._failed, count),
            _whole(self._throttled, count),
            _whole(self._nbytes, count),
            {worker: [round(part, 3) for part in busy[:count]] for worker, busy in sorted(self._busy.items())},
            max(0, len(self._workers) - len(self._busy)) if OTHERS in self._busy else 0,
            self._spans or [],
        )


def _halved(values: Sequence[float]) -> list[float]:
    """Return the sums of pairs; the shorter sequence is padded with zeros."""
    return [*(values[i] + values[i + 1] for i in range(0, PARTS, 2)), *[0.0] * (PARTS // 2)]


def _whole(values: Sequence[float], count: int) -> list[int]:
    """Return counts; an empty list if all are zero."""
    return list(map(int, values[:count])) if any(values) else []
