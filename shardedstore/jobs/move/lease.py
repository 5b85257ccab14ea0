"""Prevent other workers from reading a source while a move deletes its chunks.

A worker of an ordinary job checks for the marker of a move when its task starts. It checks again after a shard if the
last check is older than `SECONDS`. A move that continues an ordinary job writes the marker, and then waits for longer
than `SECONDS`. When the move deletes the first chunk, ordinary workers can only publish shards that they have read
completely.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from shardedstore.errors import SourceChangedError
from shardedstore.fields import MOVING
from shardedstore.jobs.shards import Run
from shardedstore.storage.folders import STORAGE_ERRORS, Folder, open_folder
from shardedstore.storage.retry import patiently
from shardedstore.stores.locations import Place, is_template

SECONDS = 1.0
WAIT = 2 * SECONDS
MOST_FOLDERS = 8
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # counts the time while the machine sleeps, too


class Lease:
    """Check that no move has begun in the source of some shards; a check is valid for `SECONDS`.

    Parameters
    ----------
    runs : iterable of Run
        The shards, with sources that are not opened.

    Raises
    ------
    SourceChangedError
        If a move has begun.
    """

    def __init__(self, runs: Iterable[Run]) -> None:
        places = dict.fromkeys(run.location.origin for run in runs)
        self._folders = [_folder(place) for place in places if isinstance(place, Place) and _is_movable(place)][
            :MOST_FOLDERS
        ]
        self._looked = 0.0
        self._look()

    def check(self) -> None:
        """Check again if the last check has expired. Call this after a shard is read and before it is published."""
        if self._folders and _now() - self._looked > SECONDS:
            self._look()

    def _look(self) -> None:
        now = _now()
        for folder in self._folders:
            if _has_marker(folder):
                raise SourceChangedError(
                    f"{folder.url!r} is the source of a running move, which deletes its chunks: wait until the move has ended, and use its result"
                )
        self._looked = now


def _has_marker(folder: Folder) -> bool:
    try:
        return patiently(lambda: folder.nbytes(MOVING)) is not None
    except STORAGE_ERRORS:  # without the right to list, some servers answer "denied" for a missing object
        return False


def _now() -> float:
    return time.clock_gettime(_CLOCK)


def _is_movable(place: Place) -> bool:
    return place.is_folder and place.undeletable is None and not is_template(place)


def _folder(place: Place) -> Folder:
    return open_folder(place.url, place.options)
