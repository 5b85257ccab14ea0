"""The ledger: the append-only record of the shards that are done, kept beside them in files of many shards each.

A worker appends to a file of its own for each attempt at a segment, so nothing is ever written by two; a line that a
crash cut short is passed over. ``.shardedstore/job-<n>.json`` says what each of its jobs was.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import msgspec

from shardedstore.errors import DestinationError
from shardedstore.locations import Location
from shardedstore.publish import make_folder, sync_folder, write_file

FOLDER = ".shardedstore"
SYNC_SECONDS = 1.0
PER_FOLDER = 64  # segments
_IDENTITY = re.compile("job-[0-9]+[.]json")
ONCE = "once-"  # what the token of a chain begins with that has no fingerprint, so that no other job is the same


class Record(msgspec.Struct, frozen=True, omit_defaults=True):
    """One shard that is done: its number in the job, what was written, and where if that does not follow from the plan."""

    shard: int
    entries: int
    nbytes: int
    digest: str
    location: Location | None = None


class Identity(msgspec.Struct, frozen=True):
    """What a destination was made from: digests of the source's metadata and division, and of the chain.

    `generation` counts the jobs that wrote to this destination; a later one gives its objects other names.
    """

    source: str
    chain: str
    generation: int = 1


class Ledger(NamedTuple):
    """The records of one generation at a destination."""

    folder: str
    generation: int

    @property
    def _root(self) -> str:
        return os.path.join(self.folder, FOLDER, "ledger", str(self.generation))

    def read(self) -> dict[int, Record]:
        """Return all records by shard number."""
        records: dict[int, Record] = {}
        for name in _names(self._root):
            for file in _names(os.path.join(self._root, name)):
                records.update(_parse(os.path.join(self._root, name, file)))
        return records

    def read_segment(self, segment: int) -> dict[int, Record]:
        """Return the records of one segment."""
        folder = self._folder(segment)
        records: dict[int, Record] = {}
        for file in _names(folder):
            if file.startswith(f"{segment}-"):
                records.update(_parse(os.path.join(folder, file)))
        return records

    @contextmanager
    def writer(self, segment: int) -> Iterator[Callable[[Record], None]]:
        """Give a function that appends a record; what it was given is on the disk when it returns, or with the next one or the
        end if they come within a second.
        """
        folder = self._folder(segment)
        make_folder(folder)
        encode = msgspec.json.Encoder().encode
        path = os.path.join(folder, f"{segment}-{secrets.token_hex(6)}.jsonl")
        descriptor: int | None = None
        synced = time.monotonic()

        def append(record: Record) -> None:
            nonlocal descriptor, synced
            if descriptor is None:
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o666)
            line = encode(record) + b"\n"
            if os.write(descriptor, line) != len(line):
                raise OSError(errno.ENOSPC, "a record could not be written whole: is the disk full?", path)
            if time.monotonic() - synced > SYNC_SECONDS:
                os.fsync(descriptor)
                synced = time.monotonic()

        try:
            yield append
        finally:
            if descriptor is not None:
                os.fsync(descriptor)
                os.close(descriptor)
                sync_folder(folder)

    def _folder(self, segment: int) -> str:
        return os.path.join(self._root, str(segment // PER_FOLDER))


def _names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []


def _parse(path: str) -> Iterator[tuple[int, Record]]:
    decode = msgspec.json.Decoder(Record).decode
    with open(path, "rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                try:
                    record = decode(line)
                except msgspec.DecodeError:
                    continue
                yield record.shard, record


def read_identity(folder: str) -> Identity | None:
    """Return what the latest job at a destination made it from; None where no job ever wrote.

    Raises
    ------
    DestinationError
        For a file that can't be read.
    """
    generations = [int(name[4:-5]) for name in _names(os.path.join(folder, FOLDER)) if _IDENTITY.fullmatch(name)]
    if not generations:
        return None
    path = _identity_path(folder, max(generations))
    try:
        with open(path, "rb") as file:
            return msgspec.json.decode(file.read(), type=Identity)
    except msgspec.DecodeError as error:
        raise DestinationError(f"{path!r} can't be read ({error}): name another destination") from None


def _identity_path(folder: str, generation: int) -> str:
    return os.path.join(folder, FOLDER, f"job-{generation}.json")


def check_destination(folder: str, wanted: Identity, overwrite: bool) -> Identity | None:
    """Return the identity of a job to go on with, or None for a new one, and write nothing.

    Raises
    ------
    DestinationError
        When the folder holds something else and that was not allowed, or can't be read.
    """
    try:
        found = read_identity(folder)
        if found is not None and (found.source, found.chain) == (wanted.source, wanted.chain):
            return found
        if not overwrite and (found is not None or set(_names(folder)) - {FOLDER}):
            raise DestinationError(_foreign(folder, found, wanted))
    except OSError as error:
        raise DestinationError(f"the destination {folder!r} can't be used: {error}") from error
    return None


def open_destination(folder: str, wanted: Identity, overwrite: bool) -> Ledger:
    """Make a destination ready to be written to; see `check_destination`. Nothing that is there is removed or rewritten.

    A new job gets a generation of its own, whose objects have names of their own. It is claimed by making its file,
    which only one of two jobs that start at once can do; the other then finds it there.
    """
    found = check_destination(folder, wanted, overwrite)
    while found is None:
        try:
            generation = _next_generation(folder)
            wanted = msgspec.structs.replace(wanted, generation=generation)
            write_file(_identity_path(folder, generation), msgspec.json.encode(wanted), create=True)
        except FileExistsError:
            pass
        except OSError as error:
            raise DestinationError(f"the destination {folder!r} can't be written to: {error}") from error
        found = check_destination(folder, wanted, overwrite)
    return Ledger(folder, found.generation)


def check_latest(folder: str, generation: int) -> None:
    """Raise DestinationError where another job has taken a destination over: its result stands, whoever ends later."""
    found = read_identity(folder)
    if found is None or found.generation != generation:
        raise DestinationError(
            f"another job took over the destination {folder!r} while this one ran, and its result stands: "
            "name another destination for this one"
        )


def _next_generation(folder: str) -> int:
    """Return 1 for a new destination, and else more than any generation that a name in it looks like, whoever gave it."""
    if not set(_names(folder)) - {FOLDER} and read_identity(folder) is None:
        return 1
    names = (name for _, folders, files in os.walk(folder) for name in (*folders, *files))
    numbers = [int(found[1]) for name in names if (found := re.search(r"~(\d{1,6})(?:\.|$)", name))]
    latest = read_identity(folder)
    return max(1 if latest is None else latest.generation, *numbers, 1) + 1


def _foreign(folder: str, found: Identity | None, wanted: Identity) -> str:
    if found is None:
        what = "holds files that no job of shardedstore wrote"
    elif wanted.chain.startswith(ONCE):
        what = (
            "holds a job's result, and this chain has no stable fingerprint to go on with it "
            "(a function needs a module to be imported from, and step(...) a name and a version)"
        )
    elif found.source != wanted.source:
        what = "holds the result of another source, of another division of it, or of this one before it changed"
    else:
        what = "holds the result of another chain of transforms"
    return f"the destination {folder!r} {what}: name another, or say overwrite=True, which keeps those files beside the new"


def versioned(name: str, generation: int) -> str:
    """Return the name that an object of a later generation has.

    >>> versioned("a/0.zarr.zip", 1), versioned("a/{block}.zarr.zip", 2)
    ('a/0.zarr.zip', 'a/{block}~2.zarr.zip')
    """
    if generation == 1:
        return name
    folder, slash, base = name.rpartition("/")
    stem, dot, rest = base.partition(".")
    return f"{folder}{slash}{stem}~{generation}{dot}{rest}"
