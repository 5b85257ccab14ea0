"""Slices of a job: fixed parts that run as processes of their own, without a scheduler.

Slurm arrays and Kubernetes Indexed Jobs start them. Any slice may die, run twice, or overlap with another run of itself. An
ordinary run of the same job runs the shards that are left, and publishes the result.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from shardedstore.errors import UsageError
from shardedstore.jobs.job import Job
from shardedstore.jobs.manifest import ONCE, JobManifest
from shardedstore.jobs.shards import Plan, Run, Segment


@dataclass(frozen=True)
class Slice:
    """One of the equal parts of a job.

    Attributes
    ----------
    number : int
        The number of the slice, from 1.
    count : int
        The number of slices.
    """

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def of(self, segments: list[Segment]) -> list[Segment]:
        """Return the shards of the slice.

        Each shard of a job is in one slice. Segments have about equal weight, so slices do as well. If the job has too few
        shards, a slice may have none.
        """
        first, last = _boundary(segments, self, self.number - 1), _boundary(segments, self, self.number)
        found = []
        for i, segment in enumerate(segments):
            start, stop = _within(first, i, segment.count), _within(last, i, segment.count)
            if start < stop:
                kept = segment.cut(stop)[0].cut(start)[1]
                assert kept is not None
                found.append(kept)
        return found

    def runs(self, job: Job, plan: Plan) -> list[Run]:
        """Return the shards of the slice of a job as runs."""
        return [run for segment in self.of(job.segments(plan)) for run in segment.runs]


def _boundary(segments: list[Segment], one: Slice, part: int) -> tuple[int, int]:
    """Return the segment, and the shard in it, at which a part begins."""
    i, rest = divmod(len(segments) * part, one.count)
    return (i, segments[i].count * rest // one.count) if i < len(segments) else (i, 0)


def _within(position: tuple[int, int], i: int, count: int) -> int:
    """Return the shard of segment `i` at which a position lies: 0 if it is before, `count` if it is after."""
    at, shard = position
    return shard if at == i else 0 if at < i else count


def parse_slice(text: str) -> Slice:
    """Return the slice of a text.

    >>> parse_slice("3/40")
    Slice(number=3, count=40)

    Raises
    ------
    UsageError
        If the text is not a slice.
    """
    found = re.fullmatch(r"(\d+)/(\d+)", text.strip())
    return check_slice(int(found[1]), int(found[2]), text) if found else check_slice(0, 0, text)


def check_slice(number: int, count: int, text: str = "") -> Slice:
    """Return a slice, or raise UsageError if there is none of this number."""
    if not 1 <= number <= count:
        text = text or f"{number}/{count}"
        raise UsageError(f"{text!r} is not a slice: write its number and the number of slices, from '1/40' to '40/40'")
    return Slice(number, count)


def check_sliceable(job: Job, wanted: JobManifest, overwrite: bool) -> None:
    """Refuse a job that can't run in slices.

    Raises
    ------
    UsageError
    """
    if job.layout.destination is None:
        raise UsageError(
            "a job without a destination can't run in slices: give it one, which keeps the finished shards"
        )
    if job.move is not None:
        raise UsageError("a move can't run in slices: run it as a whole")
    if overwrite:
        raise UsageError("overwrite=True would start anew in each slice: empty the destination first, or name another")
    if wanted.chain.startswith(ONCE):
        raise UsageError(
            "this chain has no stable fingerprint, so slices would not know one another: a function needs a module to be "
            "imported from, and step(...) a name and a version"
        )
