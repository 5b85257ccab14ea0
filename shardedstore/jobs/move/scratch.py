"""Limit the shards that are converted and not deleted in the source yet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from shardedstore.jobs.executors.task_sizes import TaskQueue
from shardedstore.jobs.job import Job
from shardedstore.jobs.move.options import Move
from shardedstore.jobs.remaining import Remaining
from shardedstore.jobs.shards import Plan, Segment, Task
from shardedstore.jobs.summary import Summary
from shardedstore.transforms.base.sink import Sink


class Need(NamedTuple):
    """The largest scratch space of one shard of a run at the destination."""

    nbytes: int
    files: int


def needs(job: Job, plan: Plan) -> list[Need]:
    """Return the scratch space that a shard of each run needs."""
    sink = job.chain.sink
    is_file = isinstance(sink, Sink) and sink.location(job.layout.folder).is_file
    files = (
        1 if is_file else -(-load.files // (run.stop - run.first)) + 1
        for run, load in zip(plan.runs, plan.loads, strict=True)
    )
    return [Need(run.nbytes, count) for run, count in zip(plan.runs, files, strict=True)]


class ScratchQueue(TaskQueue):
    """The remaining shards of a move, which are started while the scratch space suffices.

    A started shard reserves its scratch space until its source is deleted. A failed shard keeps the reservation.

    Parameters
    ----------
    move : Move
        The limits.
    needs_by_path : mapping of str or None to Need
        The need of a shard, by the path of its run; None for the base.
    segments : list of Segment
        The shards to run, first the shards that earlier runs left.
    left : frozenset of int
        The shards that earlier runs published and whose source is not deleted. Their scratch space is reserved from the
        start.
    """

    def __init__(
        self,
        move: Move,
        needs_by_path: Mapping[str | None, Need],
        segments: list[Segment],
        left: frozenset[int],
        again: Mapping[int, int],
        name: str,
    ) -> None:
        super().__init__(segments, again, name)
        self._move, self._needs, self._left_before = move, needs_by_path, left
        self._held: dict[int, Need] = {}
        self._nbytes = self._files = 0
        for segment in segments:
            self._hold((number, need) for number, need in self._of(segment) if number in left)

    def __bool__(self) -> bool:
        return super().__bool__() and self._fitting(self._segments[0]) > 0

    def _of(self, segment: Segment) -> Iterator[tuple[int, Need]]:
        paths = ((run, None if run.mounted is not None else run.path) for run in segment.runs)
        return ((number, self._needs[path]) for run, path in paths for number in run.numbers)

    def _hold(self, needs: Iterable[tuple[int, Need]]) -> None:
        for number, need in needs:
            if number not in self._held:
                self._held[number] = need
                self._nbytes, self._files = self._nbytes + need.nbytes, self._files + need.files

    def _free(self, number: int) -> None:
        need = self._held.pop(number, Need(0, 0))
        self._nbytes, self._files = self._nbytes - need.nbytes, self._files - need.files

    def _count(self, segment: Segment, threads: int) -> int:
        return min(super()._count(segment, threads), self._fitting(segment))

    def _fitting(self, segment: Segment) -> int:
        """Return how many of the first shards of a segment fit."""
        nbytes, files, move = self._nbytes, self._files, self._move
        for count, (number, need) in enumerate(self._of(segment)):
            if number not in self._held:
                nbytes, files = nbytes + need.nbytes, files + need.files
                if nbytes > (move.most_bytes or nbytes) or files > (move.scratch_files or files):
                    return count
        return segment.count

    def take(self, threads: int) -> Task:
        """Return the next task, and reserve the scratch space of its shards."""
        task = super().take(threads)
        self._hold(self._of(task.segment))
        return task

    def learn(self, task: Task, outcome: Summary) -> None:
        """Release the scratch space of moved shards and of shards that were not tried."""
        failed = {error.shard for error in outcome.failures}
        shards = [shard for run in task.segment.runs for shard in run.shards()]
        for shard in shards[: outcome.tried]:
            if shard.name not in failed:
                self._free(shard.number)
        for shard in shards[outcome.tried :]:
            if shard.number not in self._left_before:
                self._free(shard.number)
        super().learn(task, outcome)


def queue_of(move: Move, job: Job, plan: Plan, remaining: Remaining) -> ScratchQueue:
    """Return the queue of a move: first the published shards, then the others."""
    left = remaining.segments
    all_left = frozenset(number for segment in left for run in segment.runs for number in run.numbers)
    begun = all_left & remaining.again.keys()
    first = [segment.without(all_left - begun) for segment in left] if begun else []
    then = [segment.without(begun) for segment in left] if begun else left
    segments = [segment for segment in (*first, *then) if segment.runs]
    paths = (None if run.mounted is not None else run.path for run in plan.runs)
    found = dict(zip(paths, needs(job, plan), strict=True))
    return ScratchQueue(move, found, segments, begun, remaining.again, job.chain.name)
