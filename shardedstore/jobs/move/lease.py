"""Keep other workers from reading a source while a move deletes its chunks.

A worker of an ordinary job looks for the marker of a move when its task starts, and again after a shard if its last look is older than
`SECONDS`. A move that takes over an ordinary job waits for longer than that after it has written the marker. So when it deletes the
first chunk, each shard that an ordinary worker still publishes was read whole.
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
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # goes on while a machine sleeps


class Lease:
    """The proof that no move has begun in the source of some shards; it holds for `SECONDS`.

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
        """Look again if the proof has expired; call it when a shard was read and is not published yet."""
        if self._folders and _now() - self._looked > SECONDS:
            self._look()

    def _look(self) -> None:
        now = _now()
        for folder in self._folders:
            if _has_marker(folder):
                raise SourceChangedError(
                    f"{folder.url!r} is being moved, and its chunks are deleted: wait until the move has ended, and use its result"
                )
        self._looked = now


def _has_marker(folder: Folder) -> bool:
    try:
        return patiently(lambda: folder.nbytes(MOVING)) is not None
    except STORAGE_ERRORS:  # some servers deny the look at a missing object to readers who may not list
        return False


def _now() -> float:
    return time.clock_gettime(_CLOCK)


def _is_movable(place: Place) -> bool:
    return place.is_folder and place.undeletable is None and not is_template(place)


def _folder(place: Place) -> Folder:
    return open_folder(place.url, place.options)
