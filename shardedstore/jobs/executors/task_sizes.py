"""Cut segments into tasks that keep all threads busy, by the measured time of earlier shards."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType

from shardedstore.jobs.shards import Segment, Task
from shardedstore.jobs.summary import Summary
from shardedstore.storage.folders import later

PER_THREAD = 4  # tasks of a job for each thread, if it has enough shards
LEAST_TASKS = 128  # of a lazy job, whose number of threads is not known yet
SHORTEST, LONGEST = 0.2, 2.0  # seconds that a task should take
RATE = 100  # tasks a second that a scheduler handles easily
WORTH = 0.05  # seconds; shorter tasks are not cut, because scheduling them would take longer than they save
NEWEST = 0.5  # weight of the newest measurement


def aim(threads: int) -> float:
    """Return the intended duration of a task, in seconds.

    It grows with the number of threads, so that the scheduler keeps up.

    >>> aim(8), aim(100), aim(1000)
    (0.2, 1.0, 2.0)
    """
    return min(LONGEST, max(SHORTEST, threads / RATE))


class TaskQueue:
    """The remaining shards of a job, as `Tasks` for an executor.

    The first tasks have one shard each. Later tasks have as many shards as fit into the intended duration. Toward the end
    of the job tasks are smaller, so that all threads end at about the same time. Shards of similar size are assumed to
    take the same time.

    Parameters
    ----------
    segments : iterable of Segment
        The shards to run.
    again : mapping of int to int
        The generations of shards that are made again, by shard number; see `Task`.
    name : str
        The name of the job on the dashboard, for example the name of its chain.

    Attributes
    ----------
    seconds : float or None
        The measured duration of a task, in seconds; None before the first measurement.
    is_light : bool
        False: the tasks of a job need a cluster.
    memory : int
        0: the memory of the shards is not known here.
    """

    is_light = False
    memory = 0

    def __init__(
        self, segments: Iterable[Segment], again: Mapping[int, int] = MappingProxyType({}), name: str = ""
    ) -> None:
        self._segments, self._again, self._name = deque(segments), again, name
        self._left = sum(segment.count for segment in self._segments)
        self._given = 0
        self._paces: dict[int, float] = {}  # seconds per shard, by `_size`
        self.seconds: float | None = None

    def __bool__(self) -> bool:
        return bool(self._segments)

    def take(self, threads: int) -> Task:
        """Return the next task of a job that runs on `threads` threads."""
        segment = self._segments.popleft()
        part, rest = segment.cut(self._count(segment, threads))
        if rest is not None:
            self._segments.appendleft(rest)
        self._left -= part.count
        self._given += 1
        numbers = (number for run in part.runs for number in run.numbers) if self._again else ()
        again = {number: self._again[number] for number in numbers if number in self._again}
        return Task(part, later(), 2 * aim(threads), again)

    def _count(self, segment: Segment, threads: int) -> int:
        pace = self._paces.get(_size(segment))
        if pace is None or self._given < PER_THREAD * threads:
            return 1
        fair = self._left / (PER_THREAD * threads)
        return max(1, int(min(aim(threads) / pace, max(fair, WORTH / pace))))

    def learn(self, task: Task, outcome: Summary) -> None:
        """Measure a task that has ended, and take back the shards that it did not try."""
        if not outcome.tried:
            return
        size, pace = _size(task.segment), max(outcome.seconds, 1e-6) / outcome.tried
        self._paces[size] = _newer(self._paces.get(size), pace)
        self.seconds = _newer(self.seconds, outcome.seconds)
        _, rest = task.segment.cut(outcome.tried)
        if rest is not None:
            self._segments.appendleft(rest)
            self._left += rest.count

    def cut_evenly(self, threads: int) -> Iterator[Task]:
        """Yield tasks of equal size for `threads` threads, as for a lazy job, which can't measure."""
        most = max(1, self._left // max(LEAST_TASKS, PER_THREAD * threads))
        for segment in self._segments:
            rest: Segment | None = segment
            while rest is not None:
                part, rest = rest.cut(most)
                yield Task(part)

    def split(self, task: Task) -> list[Task]:
        """Return a task for each shard; it reads the records of all earlier tasks of its segment."""
        return list(map(Task, task.segment.split()))

    def label(self, task: Task) -> str:
        """Return the name of the job, and the path of the task's first shard."""
        return f"{self._name} {task.segment.label.replace('-', '_')}"

    def spans(self, task: Task) -> tuple[str, ...]:
        """Return the name of the job, and the path of the task's first shard."""
        return self._name or "shards", task.segment.label


def _size(segment: Segment) -> int:
    return segment.runs[0].nbytes.bit_length()


def _newer(before: float | None, found: float) -> float:
    return found if before is None else before + NEWEST * (found - before)
