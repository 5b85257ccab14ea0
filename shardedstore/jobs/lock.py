"""The lock of a destination: one job at a time, or several slices of one job together.

The lock prevents double work of honest users, on a local disk or in an object store. Correctness never depends on it.

A job holds ``lock-<n>.json`` with the highest number, which only one process can create. The holder counts up in its file
and writes "free" at the end. A slice holds a file of its own, ``slice-<nonce>.json``, and removes it at the end. A holder
first writes its own file, and then looks for others. So of two that start at the same time, at least one sees the other.

Another process may take over if the holder is known to be dead, or if it does not count for `LIFE` seconds while it is
watched. Clocks are never compared. Only numbers with a successor are removed, by `prune`.
"""

from __future__ import annotations

import getpass
import itertools
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from shardedstore.errors import DestinationError, LockedError
from shardedstore.jobs.ledger import FOLDER
from shardedstore.jobs.progress import Progress
from shardedstore.storage.errors import explain
from shardedstore.storage.folders import STORAGE_ERRORS, Folder
from shardedstore.storage.request_metrics import in_context

FIRST = 2.0  # seconds until the first count, which tells the numbers of the job
RENEWAL = 10.0  # seconds between two counts
LIFE = 45.0  # seconds without a count after which a holder is taken to be dead
SKEW = 5.0  # seconds that the clock of another machine may be ahead
LOOK = 1.0  # seconds between two looks
_NAME = re.compile(r"lock-(\d+)\.json")
_SLICE = re.compile(r"slice-[0-9a-f]+\.json")
_mine: set[str] = set()  # nonces of the locks that this process holds or tries to take


class Holder(msgspec.Struct, frozen=True):
    """The holder of a lock.

    Attributes
    ----------
    who, host, since : str
        The user, the host and the start, for messages.
    machine : str
        A text that is equal for two processes that can see each other.
    process : int
        The number of the process.
    begun : float
        The start of the process.
    nonce : str
        A random token of the lock.
    count : int
        A counter that grows while the holder lives.
    free : bool
        Whether the lock was given back.
    job, part : str
        The token of the job and the slice, such as ``"3/40"``; empty for a whole job.
    at : float
        The time of the last heartbeat, in seconds since 1970 by the holder's clock.
    progress : Progress or None
        The numbers of the holder's job at that time; None for another use of the lock.
    ended : str
        The class of the error that the holder ended with; empty if there was none, or if it has not ended.
    """

    who: str
    host: str
    machine: str
    process: int
    begun: float
    since: str
    nonce: str
    count: int = 0
    free: bool = False
    job: str = ""
    part: str = ""
    at: float = 0.0
    progress: Progress | None = None
    ended: str = ""

    @property
    def shown(self) -> str:
        """The holder in messages."""
        part = f"slice {self.part} of " if self.part else ""
        return f"{part}{self.who} on {self.host} (process {self.process}, since {self.since})"


class _Heartbeat:
    """The states of a holder, one for each heartbeat."""

    def __init__(self, holder: Holder, numbers: Callable[[], Progress] | None) -> None:
        self._holder, self._numbers = holder, numbers

    def next(self, ended: str = "") -> Holder:
        """Return the holder with another count, and with the numbers of its job."""
        progress = None if self._numbers is None else self._numbers()
        self._holder = msgspec.structs.replace(
            self._holder, count=self._holder.count + 1, at=time.time(), progress=progress, ended=ended
        )
        return self._holder


@contextmanager
def held(folder: Folder, numbers: Callable[[], Progress] | None = None) -> Iterator[threading.Event]:
    """Hold the lock of a destination for a whole job; the event is set when another job has taken it over.

    With `numbers`, each heartbeat has the numbers of the job, for ``status``.

    Raises
    ------
    LockedError
        If another job or a slice holds it; the message names the holder and its start.
    DestinationError
        If the destination can't be written to.
    """
    with _written_to(folder):
        _refuse_slices(folder)
        number, mine = _take(folder)
    beat, end = _Heartbeat(mine, numbers), ""
    try:
        with _written_to(folder):
            _refuse_slices(folder)
        with _counting(folder, _path(number), beat, lambda: _latest(folder)[0] > number) as lost:
            yield lost
    except BaseException as error:
        end = type(error).__name__
        raise
    finally:
        _mine.discard(mine.nonce)
        _free(folder, number, beat.next(end))


@contextmanager
def held_by_slice(
    folder: Folder, job: str, part: str, numbers: Callable[[], Progress] | None = None
) -> Iterator[threading.Event]:
    """Hold the lock of a destination for a slice, together with other slices of the same job.

    Parameters
    ----------
    folder : Folder
        The destination.
    job : str
        The token of the job.
    part : str
        The slice, for messages.
    numbers : callable, optional
        Returns the numbers of the slice, for ``status``.

    Raises
    ------
    LockedError
        If a whole job or a slice of another job holds it.
    DestinationError
        If the destination can't be written to.
    """
    mine = msgspec.structs.replace(_self(), job=job, part=part)
    path = f"{FOLDER}/slice-{mine.nonce}.json"
    _mine.add(mine.nonce)
    try:
        with _written_to(folder):
            folder.write(path, msgspec.json.encode(mine))
            number, holder = _latest(folder)
            if holder is not None:
                _refuse(folder, {_path(number): holder})
            _refuse_slices(folder, job)
        with _counting(folder, path, _Heartbeat(mine, numbers), lambda: _is_taken(folder, number)) as lost:
            yield lost
    finally:
        _mine.discard(mine.nonce)
        with suppress(*STORAGE_ERRORS):
            folder.remove(path)


@contextmanager
def _written_to(folder: Folder) -> Iterator[None]:
    try:
        yield
    except STORAGE_ERRORS as error:
        raise DestinationError(f"the destination {folder.url!r} can't be written to: {explain(error)}") from error


@contextmanager
def _counting(folder: Folder, path: str, beat: _Heartbeat, is_lost: Callable[[], bool]) -> Iterator[threading.Event]:
    """Count up in the file of a lock until the block ends; the event is set when the lock is lost."""
    ended, lost = threading.Event(), threading.Event()

    def count() -> None:
        pauses = itertools.chain([min(FIRST, RENEWAL)], itertools.repeat(RENEWAL))
        while not ended.wait(next(pauses)):
            with suppress(*STORAGE_ERRORS):  # a server that is away for a while is no reason to end
                _write(folder, path, beat.next())
                if is_lost():
                    lost.set()
                    return

    thread = threading.Thread(target=in_context(count), name="shardedstore-lock", daemon=True)
    thread.start()
    try:
        yield lost
    finally:
        ended.set()
        thread.join()


def _refuse_slices(folder: Folder, job: str = "") -> None:
    """Raise LockedError if a slice of another job lives, and remove the files of dead slices."""
    found = ((path, _read(folder, path)) for path in _slices(folder))
    others = {path: holder for path, holder in found if holder is not None and (not job or holder.job != job)}
    _refuse(folder, others)
    for path in others:
        folder.remove(path)


def _refuse(folder: Folder, holders: Mapping[str, Holder]) -> None:
    living = _living(folder, holders)
    if living is not None:
        raise LockedError(
            f"the destination {folder.url!r} is being written to by {living.shown}: wait for that job, or end it; then "
            "the same call goes on from there"
        )


def _take(folder: Folder) -> tuple[int, Holder]:
    while True:
        number, holder = _latest(folder)
        if holder is not None:
            _refuse(folder, {_path(number): holder})
        mine = _self()
        _mine.add(mine.nonce)
        try:
            _write(folder, _path(number + 1), mine, create=True)
            if _numbers(folder)[-1:] == [
                number + 1
            ]:  # `prune` may have removed the number, so that it could be created
                return number + 1, mine
        except FileExistsError:
            pass
        except BaseException:  # an interrupt may come after the file is created
            _mine.discard(mine.nonce)
            _free(folder, number + 1, mine)
            raise
        _mine.discard(mine.nonce)


def _self() -> Holder:
    try:
        who = getpass.getuser()
    except (KeyError, OSError):
        who = f"user {os.getuid()}"
    since = datetime.now(UTC).isoformat(timespec="seconds")
    begun = _begun(os.getpid()) or 0
    nonce = secrets.token_hex(8)
    return Holder(who, socket.gethostname(), _machine(), os.getpid(), begun, since, nonce, at=time.time())


def _machine() -> str:
    """Return a text that is equal for two processes that can see each other: host, boot and process namespace."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    return " ".join(parts)


def _begun(process: int) -> float | None:
    """Return the start of a process of this machine; None for no process or a zombie."""
    import psutil  # type: ignore[import-untyped]

    try:
        found = psutil.Process(process)
        return None if found.status() == psutil.STATUS_ZOMBIE else float(found.create_time())
    except psutil.Error:
        return None


def _latest(folder: Folder) -> tuple[int, Holder | None]:
    number = max(_numbers(folder), default=0)
    return number, _read(folder, _path(number)) if number else None


def _is_taken(folder: Folder, number: int) -> bool:
    """Tell whether a whole job has taken a lock with a higher number."""
    latest, holder = _latest(folder)
    return latest > number and holder is not None and not holder.free


def _numbers(folder: Folder) -> list[int]:
    return sorted(int(found[1]) for name in folder.names(FOLDER) if (found := _NAME.fullmatch(name)))


def _slices(folder: Folder) -> list[str]:
    return [f"{FOLDER}/{name}" for name in folder.names(FOLDER) if _SLICE.fullmatch(name)]


def last_holder(folder: Folder) -> Holder | None:
    """Return the last holder of the lock of a destination, also if it has ended; None if there was none."""
    return _latest(folder)[1]


def slice_holders(folder: Folder) -> list[Holder]:
    """Return the slices that hold the lock of a destination, also if they died."""
    return [holder for path in _slices(folder) if (holder := _read(folder, path)) is not None]


def seems_to_live(holder: Holder) -> bool | None:
    """Tell whether a holder lives, without waiting; None if its clock leaves it open.

    A holder on another machine lives if its last heartbeat is recent by this machine's clock.
    """
    if holder.free:
        return False
    if holder.machine == _machine():
        return _lives_here(holder)
    return True if -SKEW <= time.time() - holder.at <= LIFE else None


def superseded(folder: Folder) -> list[str]:
    """Return the names of the lock files that have a successor, so that they can be removed."""
    return [_path(number) for number in _numbers(folder)[:-1]]


def _living(folder: Folder, holders: Mapping[str, Holder]) -> Holder | None:
    """Return a holder that lives; None if all are free or dead.

    Processes of this machine are looked up. Others are watched all at once.
    """
    watched = dict[str, Holder]()
    for path, holder in holders.items():
        if holder.free:
            continue
        if holder.machine != _machine():
            watched[path] = holder
        elif _lives_here(holder):
            return holder
    until = time.monotonic() + LIFE
    while watched and time.monotonic() < until:
        time.sleep(LOOK)
        for path, holder in list(watched.items()):
            now = _read(folder, path)
            if now is None or now.free or now.nonce != holder.nonce:
                del watched[path]
            elif now.count != holder.count:
                return holder
    return None


def _lives_here(holder: Holder) -> bool:
    """Tell whether a holder on this machine lives."""
    if holder.process == os.getpid():  # an interrupt or a lost connection may have kept the lock from being freed
        return holder.nonce in _mine
    begun = _begun(holder.process)  # which moves a little when the clock is set
    return begun is not None and abs(begun - holder.begun) < 2


def _path(number: int) -> str:
    return f"{FOLDER}/lock-{number}.json"


def _write(folder: Folder, path: str, holder: Holder, *, create: bool = False) -> None:
    folder.write(path, msgspec.json.encode(holder), create=create)


def _free(folder: Folder, number: int, mine: Holder) -> None:
    """Mark our lock as free. If that fails, other jobs can take the lock after `LIFE` seconds."""
    with suppress(*STORAGE_ERRORS):
        found = _read(folder, _path(number))
        if found is not None and found.nonce == mine.nonce:
            _write(folder, _path(number), msgspec.structs.replace(mine, free=True))


_HOLDER = msgspec.json.Decoder(Holder)


def _read(folder: Folder, path: str) -> Holder | None:
    try:
        return _HOLDER.decode(folder.read(path))
    except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError):
        return None
