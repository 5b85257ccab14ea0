"""What an interrupted `verify` has found to be right, kept in a folder, so that the same call goes on from there.

What differed is not kept: it is looked at again, as it may have been mended.
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
from shardedstore.jobs.ledger import FOLDER
from shardedstore.storage.errors import explain
from shardedstore.storage.folders import STORAGE_ERRORS, Append, Folder

logger = logging.getLogger("shardedstore")
PLACE = f"{FOLDER}/verify"
OLD = 7 * 86_400  # seconds after which what was found is not believed any more
BEGAN = ""  # the key of the time at which a file was begun
VERSION = 3  # raised when what is kept means something else
T = TypeVar("T")


class Journal:
    """The findings of one verify by task, from earlier calls and this one; with no folder, none are kept.

    Parameters
    ----------
    folder : Folder, optional
    what : iterable of str
        All that tells this verify from another.
    must_keep : bool
        Whether a folder that can't be written to is an error, or only a note.

    Attributes
    ----------
    is_whole : bool
        To be set when nothing is left to be looked at: what was kept is then removed.
    notes : list of str
        What keeps findings from being kept, and since when those are that were.
    """

    def __init__(self, folder: Folder | None, what: Iterable[str], must_keep: bool = False) -> None:
        self.folder, self._must_keep = folder, must_keep
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
            logger.info("verify goes on: %d tasks were found to be right before", len(self._earlier))
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
                f"{len(self._earlier):,} tasks were found to be right by a verify that began {since} and was interrupted; "
                "resume=False (--no-resume) looks at them again"
            )

    def _began(self, folder: Folder, name: str) -> float | None:
        """Take what a file has kept, unless it is too old to be believed; return when it was begun."""
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
            what = f"what was found can't be kept in {folder.url!r}, so that this could go on after an interruption"
            if self._must_keep:
                raise DestinationError(f"{what}: {explain(error)}; name another folder as resume=") from error
            self.notes.append(f"{what}: {explain(error)}; a folder for it can be named as resume=")

    def keep(self, key: str, found: object = None) -> None:
        """Keep what a task has found."""
        append = self._append
        if append is not None and self.folder is not None:
            line = msgspec.json.encode([key, found]) + b"\n"
            self._attempt(lambda _: append(line), self.folder)

    def known(self, key: str, kind: type[T]) -> T | None:
        """Return what a task has found in an earlier call, if it has."""
        found = self._earlier.pop(key, None)
        return None if found is None else msgspec.json.decode(found, type=kind)


def _lines(data: bytes) -> Iterator[tuple[str, msgspec.Raw]]:
    decode = msgspec.json.Decoder(tuple[str, msgspec.Raw]).decode
    for line in data.splitlines():
        with suppress(msgspec.DecodeError, UnicodeDecodeError):  # of one that is torn
            yield decode(line)
