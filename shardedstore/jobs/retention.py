"""Since when nothing names what earlier jobs have left, which is what its age is counted from.

A reader may have opened a config a moment before another took its place, however long ago its objects were written. When
that was is known from the times of change of the files that jobs write: one when it begins, and one when its config is
there. They are the storage's own, so that no two clocks are compared. Where they are not known or disagree, the latest that
it can have been counts.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from shardedstore.config.document import FILE_NAME
from shardedstore.storage.filelist import FileList
from shardedstore.tasks.generations import Identity, identity_name, ledger_of


class Retention:
    """Which files are too young to be removed.

    Parameters
    ----------
    listed : FileList
        All files of the destination.
    jobs : iterable of Identity
        The jobs that wrote there, in order.
    named : iterable of (int, str)
        What the result of each job named, by its generation, in order.
    seconds : float
        How long what is replaced is kept; with 0 nothing is.
    is_locked : bool
        Whether the destination's lock has just been written, which tells the time at the storage.
    """

    def __init__(
        self,
        listed: FileList,
        jobs: Iterable[Identity],
        named: Iterable[tuple[int, str]],
        seconds: float,
        *,
        is_locked: bool,
    ) -> None:
        self._files, self._seconds = listed.files, seconds
        now = time.time()
        newest = max((file.modified for file in listed.files.values()), default=now)
        self._until = (min(now, newest) if is_locked else now) - seconds
        self._begun, self._ended = dict[int, float](), dict[int, float]()
        for job in jobs:
            self._begun[job.generation] = self._modified(identity_name(job.generation))
            if compacted := ledger_of(listed.place, job).compacted():
                self._ended[job.generation] = max(map(self._modified, compacted))
        self._last = {name: generation for generation, name in named} if seconds else {}

    def is_young(self, file: str, name: str, generation: int) -> bool:
        """Tell whether a file of an object, which a job of this generation made under a name, is to be kept for now."""
        if not self._seconds:
            return False
        since = self._replaced(self._last.get(name, generation))
        return max(since, self._files[file].modified) > self._until

    def _replaced(self, generation: int) -> float:
        """Return the latest moment at which the result of a job can have been replaced."""
        by = next((later for later in sorted(self._ended) if later > generation), None)
        passed = [number for number in self._begun if by is None or number <= by]
        times = [times[number] for times in (self._begun, self._ended) for number in passed if number in times]
        if by is None:
            times.append(self._modified(FILE_NAME))
        return max(times, default=0.0)

    def _modified(self, name: str) -> float:
        return self._files[name].modified if name in self._files else 0.0
