"""Journal of verified tasks in a folder, so that the same `verify` can resume after an interruption.

Tasks with differences are not recorded. They are verified again, as the data may have been repaired.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, suppress
from datetime import UTC, datetime
from typing import Self, TypeVar

import msgspec

from shardedstore.errors import DestinationError
from shardedstore.jobs.executors.active import active_executor
from shardedstore.jobs.executors.base import TaskList
from shardedstore.jobs.ledger import FOLDER
from shardedstore.storage.errors import explain
from shardedstore.storage.folders import STORAGE_ERRORS, Append, Folder

logger = logging.getLogger("shardedstore")
PLACE = f"{FOLDER}/verify"
OLD = 7 * 86_400  # seconds after which findings expire
BEGAN = ""  # the key of the time when a file was started
VERSION = 3  # increased when the meaning of findings changes
AGAIN = "resume=False (--no-resume) verifies them again"
T = TypeVar("T")
Task = TypeVar("Task")


class Journal:
    """Findings of one verification by task, from this call and earlier ones. Without a folder, they are not stored.

    Parameters
    ----------
    folder : Folder, optional
        The folder of the findings.
    what : iterable of str
        Values that identify this verification.
    must_keep : bool
        Whether a read-only folder is an error (True), or only a note (False).
    again : str
        The way to ignore earlier findings, for the note about them.

    Attributes
    ----------
    is_whole : bool
        Set this when all tasks are verified. The stored findings are then removed.
    notes : list of str
        Reasons why findings could not be stored, and the age of findings from earlier calls.
    """

    def __init__(self, folder: Folder | None, what: Iterable[str], must_keep: bool = False, again: str = AGAIN) -> None:
        self.folder, self._must_keep, self._again = folder, must_keep, again
        self._name = hashlib.sha256(msgspec.json.encode([VERSION, *what])).hexdigest()[:32]
        self.is_whole = False
        self.notes: list[str] = []
        self._earlier: dict[str, msgspec.Raw] = {}
        self._append: Append | None = None
        self._appender: AbstractContextManager[Append] | None = None

    def __enter__(self) -> Self:
        if self.folder is None:
            return self
        self._attempt(self._open, self.folder)
        if self._earlier:
            logger.info("an interrupted call continues: %d tasks were done before", len(self._earlier))
        return self

    def _open(self, folder: Folder) -> None:
        begun = [self._began(folder, name) for name in self._names(folder)]
        appender = folder.appender(f"{PLACE}/{self._name}")
        self._append = appender.__enter__()
        self._appender = appender
        self._append(msgspec.json.encode([BEGAN, time.time()]) + b"\n")
        if self._earlier:
            since = datetime.fromtimestamp(min(filter(None, begun)), UTC).isoformat(timespec="minutes")
            self.notes.append(
                f"{len(self._earlier):,} tasks were done by an interrupted call that started {since}; {self._again}"
            )

    def _began(self, folder: Folder, name: str) -> float | None:
        """Load the findings of a file, unless they have expired; return the time when it was started."""
        found = dict(_lines(folder.read(f"{PLACE}/{name}")))
        began = msgspec.json.decode(found.pop(BEGAN, msgspec.Raw(b"0")), type=float)
        if time.time() - began > OLD:
            folder.remove(f"{PLACE}/{name}")
            return None
        self._earlier.update(found)
        return began

    def __exit__(self, *_: object) -> None:
        if self.folder is not None:
            self._attempt(self._close, self.folder)

    def _close(self, folder: Folder) -> None:
        appender, self._appender = self._appender, None
        if appender is not None:
            appender.__exit__(None, None, None)
            for name in self._names(folder) if self.is_whole else ():
                folder.remove(f"{PLACE}/{name}")

    def _names(self, folder: Folder) -> list[str]:
        return [name for name in folder.names(PLACE) if name.startswith(f"{self._name}-")]

    def _attempt(self, work: Callable[[Folder], object], folder: Folder) -> None:
        try:
            work(folder)
        except STORAGE_ERRORS as error:
            self._append = None
            what = f"the findings can't be stored in {folder.url!r} to resume after an interruption"
            if self._must_keep:
                raise DestinationError(f"{what}: {explain(error)}; name another folder as resume=") from error
            self.notes.append(f"{what}: {explain(error)}; resume= can name another folder")

    def keep(self, key: str, found: object = None) -> None:
        """Store the findings of a task."""
        append = self._append
        if append is not None and self.folder is not None:
            line = msgspec.json.encode([key, found]) + b"\n"
            self._attempt(lambda _: append(line), self.folder)

    def known(self, key: str, kind: type[T]) -> T | None:
        """Return the findings of a task in an earlier call; None if there are none."""
        found = self._earlier.pop(key, None)
        return None if found is None else msgspec.json.decode(found, type=kind)


def _lines(data: bytes) -> Iterator[tuple[str, msgspec.Raw]]:
    decode = msgspec.json.Decoder(tuple[str, msgspec.Raw]).decode
    for line in data.splitlines():
        with suppress(msgspec.DecodeError, UnicodeDecodeError):  # an incomplete line
            yield decode(line)


def run_journaled(
    label: str,
    work: Callable[[Task], T],
    tasks: Iterable[Task],
    key: Callable[[Task], str],
    kind: type[T],
    is_right: Callable[[T], bool],
    journal: Journal,
    urls: Iterable[str],
) -> Iterator[tuple[Task, T | BaseException]]:
    """Yield tasks with their findings or errors: first journaled tasks, then the others, on the active Dask scheduler.

    `key` names a task in the journal. Findings of a `kind` are kept there if they are right, so that damage is found again.
    """
    left = []
    for task in tasks:
        known = journal.known(key(task), kind)
        if known is None:
            left.append(task)
        else:
            yield task, known
    for task, found in active_executor().map_unordered(work, TaskList(label, left), urls):
        if not isinstance(found, BaseException) and is_right(found):
            journal.keep(key(task), found)
        yield task, found
