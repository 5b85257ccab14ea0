"""What stands in a folder: its files or objects, with their sizes and ages, and never through a link."""

from __future__ import annotations

import os
import stat
import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from typing import NamedTuple

import obstore

from shardedstore.config.document import from_dict, parse
from shardedstore.errors import ConfigError, DestinationError, UsageError
from shardedstore.fields import FILE_NAME, FORMAT
from shardedstore.jobs.destination import CONSOLIDATED
from shardedstore.jobs.layouts.registry import layout_of
from shardedstore.jobs.ledger import FOLDER, Record
from shardedstore.jobs.lock import held, superseded
from shardedstore.jobs.partial import Half, find_job_folder, is_finished, read_config, read_half
from shardedstore.jobs.shards import location_of, shard_runs
from shardedstore.jobs.versions import (
    Identity,
    generations,
    identity_name,
    ledger_of,
    read_generation,
    read_identity,
    versioned,
)
from shardedstore.storage.errors import explain
from shardedstore.storage.folders import STORAGE_ERRORS, Folder, RemoteFolder
from shardedstore.storage.options import NONE, Options
from shardedstore.storage.publish import abandoned, is_temporary
from shardedstore.storage.urls import is_remote, is_within, unquote_name
from shardedstore.stores.locations import (
    Config,
    Location,
    url_of,
)
from shardedstore.stores.veiled import VEIL
from shardedstore.zarr.metadata import CONSOLIDATED_V2


class File(NamedTuple):
    """A file or an object; `modified` is in seconds since 1970."""

    nbytes: int
    modified: float


class FileList:
    """The files below a folder, by their names relative to it; those that are links, or behind some, are not seen."""

    def __init__(self, place: Folder) -> None:
        self.place = place
        self.files = dict(_remote(place) if isinstance(place, RemoteFolder) else _local(place.url))
        self._order = sorted(self.files)

    def below(self, folder: str) -> Iterator[str]:
        """Yield the names of the files below a folder."""
        for i in range(bisect_left(self._order, f"{folder}/"), len(self._order)):
            if not self._order[i].startswith(f"{folder}/"):
                return
            yield self._order[i]

    def remove(self, names: Iterable[str]) -> None:
        """Remove files, and the folders that are empty then."""
        gone = list(names)
        self.place.remove_all(gone)
        if not isinstance(self.place, RemoteFolder):
            parents = {name[:i] for name in gone for i, letter in enumerate(name) if letter == "/"}
            for parent in sorted(parents, key=len, reverse=True):
                with suppress(OSError):  # it is not empty
                    os.rmdir(os.path.join(self.place.url, parent))

    def remove_folder(self, name: str) -> None:
        """Remove a folder of empty folders."""
        if not isinstance(self.place, RemoteFolder):
            for parent, _, _ in os.walk(os.path.join(self.place.url, name), topdown=False):
                with suppress(OSError):  # it is not empty
                    os.rmdir(parent)


def _local(folder: str) -> Iterator[tuple[str, File]]:
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            with suppress(FileNotFoundError):
                found = os.lstat(path)
                if stat.S_ISREG(found.st_mode) and not is_temporary(name):
                    yield os.path.relpath(path, folder), File(found.st_size, found.st_mtime)


def _remote(place: RemoteFolder) -> Iterator[tuple[str, File]]:
    for batch in obstore.list(place.store):
        for found in place.unmarked(batch):
            yield found["path"], File(found["size"], found["last_modified"].timestamp())


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


@dataclass(frozen=True)
class Pruned:
    """What was removed, or with a dry run would be: names relative to the destination, and their bytes together.

    Files of locks that others have followed go without being named.

    `kept` says of what no config names either why it stays: it is not as it was written, or was replaced lately.
    """

    names: list[str] = field(default_factory=list)
    nbytes: int = 0
    kept: list[str] = field(default_factory=list)


def prune(url: str, options: Options = NONE, *, older_than: float = 0, dry_run: bool = False) -> Pruned:
    """Remove what no config names of what jobs have written to a folder; see `ShardedStore.prune`."""
    try:
        place = find_job_folder(url, options)
        if place is None:
            raise UsageError(f"no job ever wrote to {url!r}, so nothing there is known to be removable")
        with nullcontext() if dry_run else held(place):
            listed = FileList(place)
            reasons = dict(_removable(place, options, listed, older_than, is_locked=not dry_run))
            names = [name for name, reason in reasons.items() if not reason]
            temporaries = {} if isinstance(place, RemoteFolder) else _temporaries(place.url)
            if not dry_run:
                jobs = [name for name in names if name.startswith(f"{FOLDER}/")]  # what knows the others goes last
                listed.remove([*temporaries, *(name for name in names if name not in jobs)])
                listed.remove(jobs)
                place.remove_all(superseded(place))
                for ledger in {"/".join(name.split("/")[:3]) for name in jobs if name.startswith(f"{FOLDER}/ledger/")}:
                    listed.remove_folder(ledger)
            nbytes = sum(listed.files[name].nbytes for name in names) + sum(temporaries.values())
            kept = [f"{name} {reason}" for name, reason in reasons.items() if reason]
            return Pruned([*names, *temporaries], nbytes, kept)
    except STORAGE_ERRORS as error:
        raise DestinationError(
            f"{url!r} can't be pruned: {explain(error)}; the same call goes on from there"
        ) from error


def _temporaries(folder: str) -> dict[str, int]:
    return {os.path.relpath(path, folder): os.lstat(path).st_size for path in abandoned(folder)}


def _removable(
    place: Folder, options: Options, listed: FileList, older_than: float, *, is_locked: bool
) -> Iterator[tuple[str, str]]:
    """Yield the names of files that no config names, each with the reason why it is kept; empty where it is not."""
    latest = read_identity(place)
    assert latest is not None
    half = read_half(place, latest, options)
    finished = is_finished(place, latest, half, read_config(place, options))
    if not finished and latest.after and not ledger_of(place, latest).has_inherited():
        raise DestinationError(
            f"the last job at {place.url!r} died before it had taken over what an earlier one has done: run it again with the "
            "same arguments, and prune then"
        )
    needed = set(_needed(place, options, None if finished else half))
    earlier = [read_generation(place, number) for number in generations(place) if number < latest.generation]
    named = _named(place, options, earlier) if older_than else ()
    retention = Retention(listed, [*earlier, latest], named, older_than, is_locked=is_locked)
    for identity in earlier:
        number = identity.generation
        is_left = layout_of(identity).leaves_unknown(identity, finished=finished)
        for name, owner, reason in _of_generation(place, options, listed, identity, needed):
            young = "was replaced lately" if retention.is_young(name, owner, number) else ""
            is_left = is_left or bool(reason or young) or name in needed
            if name not in needed:
                yield name, reason or young
        if not is_left and (finished or number != latest.after):
            ledger = ledger_of(place, identity)
            yield from ((name, "") for name in listed.below(FOLDER) if ledger.owns(name))
            yield identity_name(number), ""


def _named(place: Folder, options: Options, jobs: Iterable[Identity]) -> Iterator[tuple[int, str]]:
    """Yield the names of what the results of jobs named, or showed when they had not ended, each with its generation."""
    for job in jobs:
        if job.planned.config:
            half = read_half(place, job, options)
            for run in shard_runs(half.source):
                for number, location in half.shards(run):
                    if number in half.records and (name := _name(place, location.held)) is not None:
                        yield job.generation, name


def _needed(place: Folder, options: Options, unfinished: Half | None) -> Iterator[str]:
    """Yield the names of what a config in the folder names, or a job that has not ended needs."""
    found: list[Location] = []
    for name in place.names():
        if name.endswith(".json") and (config := _config(place, options, name)) is not None:
            found += _places(config)
    if unfinished is not None:
        found += _places(unfinished.source)
        shards = (numbered for run in shard_runs(unfinished.source) for numbered in unfinished.shards(run))
        found += [location for number, location in shards if number in unfinished.records]
    for location in found:
        if (found_name := _name(place, location)) is not None:
            yield found_name


def _config(place: Folder, options: Options, name: str) -> Config | None:
    """Return a config; None for a file that is none, and an error for one of ours that can't be read."""
    try:
        data = place.read(name)
    except (FileNotFoundError, IsADirectoryError):
        return None
    try:
        document = parse(data)
    except ConfigError as error:
        if FORMAT.encode() in data:  # cut short, perhaps
            raise ConfigError(
                f"{name!r} may be a config, and can't be read: {error}; move it away, if it is none"
            ) from None
        return None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        return None
    return from_dict(document, place.url, None, options)


def _places(location: Location) -> Iterator[Location]:
    """Yield the locations that a location is made from in the end, of a config all components, also in sharded stores inside it."""
    if not location.sources:
        yield location
    for source in location.sources:
        yield from _places(source)


def _name(place: Folder, location: Location) -> str | None:
    """Return the name of a component in a folder; None where it is elsewhere."""
    url = url_of(location)
    if url is None or not is_within(url, place.url):
        return None
    name = url.removeprefix(place.url.rstrip("/")).lstrip("/")
    return unquote_name(name, url) if is_remote(url) else name


def _of_generation(
    place: Folder, options: Options, listed: FileList, identity: Identity, needed: set[str]
) -> Iterator[tuple[str, str, str]]:
    """Yield the files of a generation, as far as they are known, each with the name of the object that it belongs to, and with
    the reason why it is not sure to be ours.
    """
    if not identity.planned.config:
        return
    half, generation = read_half(place, identity, options), identity.generation
    for run in shard_runs(half.source):
        template = half.template(run, generation)
        for shard in run.shards():
            location = location_of(run, shard, template).held
            record = half.records.get(shard.number)
            name = _name(place, location)
            if name is None:
                continue
            files = list(listed.below(name)) if location.is_folder else [name]
            files = [file for file in files if file in listed.files]
            if name in needed:
                needed.update(files)
            if files:
                reason = _doubt(listed, files, location, record if _is_own(record, generation) else None, generation)
                yield from ((file, name, reason) for file in files)
    rebuilt = versioned(CONSOLIDATED, generation)
    names = ("zarr.json", CONSOLIDATED_V2)
    documents = (name for name in listed.below(rebuilt) if name.rpartition("/")[2].removesuffix(VEIL) in names)
    for name in documents:
        if rebuilt in needed:
            needed.add(name)
        yield name, rebuilt, ""


def _is_own(record: Record | None, generation: int) -> bool:
    return record is not None and record.location is None and record.generation in (0, generation)


def _doubt(listed: FileList, files: list[str], location: Location, record: Record | None, generation: int) -> str:
    """Return why files are not sure to be what a job wrote; empty where they are."""
    if record is None:
        return "" if generation > 1 and not location.is_folder else "is in no record"
    count, nbytes = len(files), sum(listed.files[file].nbytes for file in files)
    is_as_written = nbytes == record.nbytes and (not location.is_folder or count == record.entries)
    return "" if is_as_written else "is not as it was written, or has others beside it"
