"""The files that `prune` keeps for readers of earlier results."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from shardedstore.errors import UsageError
from shardedstore.fields import FILE_NAME
from shardedstore.jobs.destination import CONSOLIDATED
from shardedstore.jobs.file_list import FileList
from shardedstore.jobs.manifest import JobManifest, ledger_of, manifest_name, versioned
from shardedstore.jobs.partial import read_unfinished
from shardedstore.jobs.shards import shard_runs
from shardedstore.storage.folders import Folder
from shardedstore.storage.options import Options
from shardedstore.storage.urls import is_remote, is_within, unquote_name
from shardedstore.stores.locations import Location, url_of
from shardedstore.text import parse_seconds


@dataclass(frozen=True)
class Retention:
    """The earlier results whose files are kept.

    Attributes
    ----------
    keep_last : int
        The number of published results, with the latest one, whose files are kept.
    older_than : float
        The time in seconds for which replaced files are kept; 0 keeps none.
    """

    keep_last: int = 1
    older_than: float = 0.0


NO_RETENTION = Retention()


def parse_retention(keep_last: int, older_than: float | str) -> Retention:
    """Return the checked retention.

    >>> parse_retention(2, "30d")
    Retention(keep_last=2, older_than=2592000.0)

    Raises
    ------
    UsageError
        If `keep_last` is not a positive number, or `older_than` is not an age.
    """
    if type(keep_last) is not int or keep_last < 1:
        raise UsageError(
            f"keep_last={keep_last!r} is not a number of results: write 1 or more, as prune always keeps the latest result"
        )
    seconds = parse_seconds(older_than) if isinstance(older_than, str) else float(older_than)
    if seconds is None or not 0 <= seconds < math.inf:
        raise UsageError(
            f"{older_than!r} is not an age: write a number and one of the units s, m, h, d, w, like 36h or 30d"
        )
    return Retention(keep_last, seconds)


class Retained:
    """The files of a destination that a retention keeps.

    Parameters
    ----------
    place : Folder
        The destination.
    options : Options
        The options of its storage.
    listed : FileList
        All files of the destination.
    jobs : list of JobManifest
        The jobs that wrote there, in order; the latest one is last.
    retention : Retention
        The earlier results whose files are kept.
    is_locked : bool
        Whether the destination's lock has just been written. The newest file then shows the time of the storage.

    Attributes
    ----------
    generations : frozenset of int
        The jobs whose results and ledgers are kept; empty if only the latest result is kept.
    """

    def __init__(
        self,
        place: Folder,
        options: Options,
        listed: FileList,
        jobs: Sequence[JobManifest],
        retention: Retention,
        *,
        is_locked: bool,
    ) -> None:
        self._files, self._retention = listed.files, retention
        now = time.time()
        newest = max((file.modified for file in listed.files.values()), default=now)
        self._until = (min(now, newest) if is_locked else now) - retention.older_than
        self._begun, self._ended = dict[int, float](), dict[int, float]()
        for job in jobs:
            self._begun[job.generation] = self._modified(manifest_name(job.generation))
            if compacted := ledger_of(place, job).compacted():
                self._ended[job.generation] = max(map(self._modified, compacted))
        last = sorted(self._ended)[-retention.keep_last :]
        self.generations = frozenset(last if retention.keep_last > 1 else ())
        self._last = dict[str, int]()
        self._kept = {versioned(CONSOLIDATED, generation) for generation in self.generations}
        earlier = jobs[:-1]
        for job in earlier if retention != NO_RETENTION else ():
            for name in _named(place, options, job):
                self._last[name] = job.generation
                if job.generation in self.generations:
                    self._kept.add(name)

    def reason(self, file: str, name: str, generation: int) -> str:
        """Return the reason to keep a file; empty if the file may be removed.

        Parameters
        ----------
        file : str
            The name of the file.
        name : str
            The name of the object that the file is part of.
        generation : int
            The generation of the job that made the object.
        """
        if name in self._kept:
            return f"belongs to one of the last {self._retention.keep_last} results"
        return "was replaced recently" if self._is_young(file, name, generation) else ""

    def reason_of_age(self, file: str) -> str:
        """Return the reason to keep a file that was not replaced; empty if it was written long ago."""
        is_young = self._retention.older_than and self._files[file].modified > self._until
        return "was written recently" if is_young else ""

    def _is_young(self, file: str, name: str, generation: int) -> bool:
        """Tell whether a file was replaced too recently to be removed."""
        if not self._retention.older_than:
            return False
        since = self._replaced(self._last.get(name, generation))
        return max(since, self._files[file].modified) > self._until

    def _replaced(self, generation: int) -> float:
        """Return the latest time at which a job's result can have been replaced, in seconds since 1970."""
        by = next((later for later in sorted(self._ended) if later > generation), None)
        passed = [number for number in self._begun if by is None or number <= by]
        times = [times[number] for times in (self._begun, self._ended) for number in passed if number in times]
        if by is None:
            times.append(self._modified(FILE_NAME))
        return max(times, default=0.0)

    def _modified(self, name: str) -> float:
        return self._files[name].modified if name in self._files else 0.0


def _named(place: Folder, options: Options, job: JobManifest) -> Iterator[str]:
    """Yield the names of the objects in the result of a job, or in its partial result if it has not ended."""
    if not job.preview.config:
        return
    state = read_unfinished(place, job, options)
    for run in shard_runs(state.source):
        for number, location in state.shards(run):
            if number in state.records and (name := name_in(place, location.held)) is not None:
                yield name


def name_in(place: Folder, location: Location) -> str | None:
    """Return the name of a component in a folder; None if it is not in the folder."""
    url = url_of(location)
    if url is None or not is_within(url, place.url):
        return None
    name = url.removeprefix(place.url.rstrip("/")).lstrip("/")
    return unquote_name(name, url) if is_remote(url) else name
