"""One job at a time at a destination: a lock that tells honest people, on a local disk or in an object store.

Correctness never depends on it. The holder has made the file of the highest number, which only one can make; it counts
up in it, and writes "free" at the end. A lock is taken over, by making the next number, when its holder is known to be
dead, or has not counted while it was watched for `LIFE` seconds: clocks are never compared. Only numbers that another has
followed are ever removed, by `prune`.
"""

from __future__ import annotations

import getpass
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from shardedstore.errors import DestinationError, LockedError
from shardedstore.jobs.ledger import FOLDER
from shardedstore.storage.errors import explain
from shardedstore.storage.folders import STORAGE_ERRORS, Folder

RENEWAL = 10.0  # seconds between two counts
LIFE = 45.0  # seconds without a count after which a holder is taken to be dead
LOOK = 1.0  # seconds between two looks
_NAME = re.compile(r"lock-(\d+)\.json")
_mine: set[str] = set()  # the nonces of what this process holds, or tried to take


class Holder(msgspec.Struct, frozen=True):
    """Who holds a lock, for people and for telling one holder from another."""

    who: str
    host: str
    machine: str
    process: int
    begun: float
    since: str
    nonce: str
    count: int = 0
    free: bool = False

    @property
    def shown(self) -> str:
        """How messages call the holder."""
        return f"{self.who} on {self.host} (process {self.process}, since {self.since})"


@contextmanager
def held(folder: Folder) -> Iterator[threading.Event]:
    """Hold the lock of a destination; the event that is given is set when someone else has taken it over.

    Raises
    ------
    DestinationError
        When another job holds it, naming who and since when.
    """
    try:
        number, mine = _take(folder)
    except STORAGE_ERRORS as error:
        raise DestinationError(f"the destination {folder.url!r} can't be written to: {explain(error)}") from error
    ended, lost = threading.Event(), threading.Event()
    thread = threading.Thread(
        target=_count, args=(folder, number, mine, ended, lost), name="shardedstore-lock", daemon=True
    )
    try:
        thread.start()
        yield lost
    finally:
        _mine.discard(mine.nonce)
        ended.set()
        thread.join()
        _free(folder, number, mine)


def _take(folder: Folder) -> tuple[int, Holder]:
    while True:
        number, holder = _latest(folder)
        if holder is not None and not holder.free and _lives(folder, number, holder):
            raise LockedError(
                f"the destination {folder.url!r} is being written to by {holder.shown}: wait for that job, or end it; then "
                "the same call goes on from there"
            )
        mine = _self()
        _mine.add(mine.nonce)
        try:
            _write(folder, number + 1, mine, create=True)
            if _numbers(folder)[-1:] == [
                number + 1
            ]:  # what `superseded` named may have been removed, and is free to make
                return number + 1, mine
        except FileExistsError:
            pass
        except BaseException:  # an interrupt may come when it is made
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
    return Holder(who, socket.gethostname(), _machine(), os.getpid(), begun, since, secrets.token_hex(8))


def _machine() -> str:
    """Return what two processes have in common that can see each other: the machine since it was started, and the container."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    return " ".join(parts)


def _begun(process: int) -> float | None:
    """Return when a process of this machine began; None where there is none, or a dead one that nobody has waited for."""
    import psutil  # type: ignore[import-untyped]

    try:
        found = psutil.Process(process)
        return None if found.status() == psutil.STATUS_ZOMBIE else float(found.create_time())
    except psutil.Error:
        return None


def _latest(folder: Folder) -> tuple[int, Holder | None]:
    number = max(_numbers(folder), default=0)
    return number, _read(folder, number) if number else None


def _numbers(folder: Folder) -> list[int]:
    return sorted(int(found[1]) for name in folder.names(FOLDER) if (found := _NAME.fullmatch(name)))


def superseded(folder: Folder) -> list[str]:
    """Return the names of the files of locks that another has followed: nobody needs them any more."""
    return [_path(number) for number in _numbers(folder)[:-1]]


def _lives(folder: Folder, number: int, holder: Holder) -> bool:
    """Tell whether a holder lives: at once where it is a process of this machine, else by watching it count."""
    if holder.machine == _machine():
        if holder.process == os.getpid():  # what an interrupt or a lost connection kept from being freed is not held
            return holder.nonce in _mine
        begun = _begun(holder.process)  # which moves a little when the clock is set
        return begun is not None and abs(begun - holder.begun) < 2
    until = time.monotonic() + LIFE
    while time.monotonic() < until:
        time.sleep(LOOK)
        now = _read(folder, number)
        if now is None or now.free or now.nonce != holder.nonce:
            return False
        if now.count != holder.count:
            return True
    return False


def _count(folder: Folder, number: int, mine: Holder, ended: threading.Event, lost: threading.Event) -> None:
    count = 0
    while not ended.wait(RENEWAL):
        count += 1
        with suppress(*STORAGE_ERRORS):  # a store that is gone for a while is no reason to end
            _write(folder, number, msgspec.structs.replace(mine, count=count))
            if _latest(folder)[0] > number:
                lost.set()
                return


def _path(number: int) -> str:
    return f"{FOLDER}/lock-{number}.json"


def _write(folder: Folder, number: int, holder: Holder, *, create: bool = False) -> None:
    folder.write(_path(number), msgspec.json.encode(holder), create=create)


def _free(folder: Folder, number: int, mine: Holder) -> None:
    """Say that a lock is free, if it is ours; where that can't be written, it is seen to be dead in time."""
    with suppress(*STORAGE_ERRORS):
        found = _read(folder, number)
        if found is not None and found.nonce == mine.nonce:
            _write(folder, number, msgspec.structs.replace(mine, free=True))


_HOLDER = msgspec.json.Decoder(Holder)


def _read(folder: Folder, number: int) -> Holder | None:
    try:
        return _HOLDER.decode(folder.read(_path(number)))
    except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError):
        return None
