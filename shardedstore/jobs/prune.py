"""Remove the files of jobs that no config names.

A file is removed only if a record says that a job wrote it, and if its size is still the recorded one. Recently replaced
files can be kept for some time. Symbolic links are never followed.
"""

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
    """A file or an object.

    Attributes
    ----------
    nbytes : int
        Its size in bytes.
    modified : float
        The time of its last change, in seconds since 1970.
    """

    nbytes: int
    modified: float


class FileList:
    """The files below a folder, by relative name.

    Symbolic links are left out, and so are the files behind them.
    """

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
        """Remove files, and the folders that become empty."""
        gone = list(names)
        self.place.remove_all(gone)
        if not isinstance(self.place, RemoteFolder):
            parents = {name[:i] for name in gone for i, letter in enumerate(name) if letter == "/"}
            for parent in sorted(parents, key=len, reverse=True):
                with suppress(OSError):  # the folder is not empty
                    os.rmdir(os.path.join(self.place.url, parent))

    def remove_folder(self, name: str) -> None:
        """Remove a folder and its subfolders as far as they are empty."""
        if not isinstance(self.place, RemoteFolder):
            for parent, _, _ in os.walk(os.path.join(self.place.url, name), topdown=False):
                with suppress(OSError):  # the folder is not empty
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
    """The files that were replaced too recently to be removed.

    Parameters
    ----------
    listed : FileList
        All files of the destination.
    jobs : iterable of Identity
        The jobs that wrote there, in order.
    named : iterable of (int, str)
        The names of the objects in the result of each job, with its generation, in order.
    seconds : float
        The time in seconds for which replaced files are kept; 0 keeps none.
    is_locked : bool
        Whether the destination's lock has just been written. The newest file then shows the time of the storage.
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
        """Tell whether a file was replaced too recently to be removed.

        Parameters
        ----------
        file : str
            The name of the file.
        name : str
            The name of the object that the file is part of.
        generation : int
            The generation of the job that made the object.
        """
        if not self._seconds:
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


@dataclass(frozen=True)
class Pruned:
    """The files that `prune` removed, or would remove in a dry run.

    Attributes
    ----------
    names : list of str
        Names relative to the destination. Files of superseded locks are removed as well, and are not listed.
    nbytes : int
        The total size of the files in bytes.
    kept : list of str
        The files that no config names and that are kept, each with the reason: it is not as it was written, or it was
        replaced recently.
    """

    names: list[str] = field(default_factory=list)
    nbytes: int = 0
    kept: list[str] = field(default_factory=list)


def prune(url: str, options: Options = NONE, *, older_than: float = 0, dry_run: bool = False) -> Pruned:
    """Remove the files of jobs that no config names; see `ShardedStore.prune`.

    After a failure, the same call removes the remaining files.

    Parameters
    ----------
    url : str
        The destination of the jobs.
    options : Options
        The options of the storage.
    older_than : float
        The time in seconds for which replaced files are kept; 0 keeps none.
    dry_run : bool
        Whether to only report the files. The lock is not taken then.

    Raises
    ------
    UsageError
        If no job ever wrote to the folder.
    DestinationError
        If the storage fails, if a job holds the lock, or if the last job died before it took over earlier records.
    """
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
                jobs = [
                    name for name in names if name.startswith(f"{FOLDER}/")
                ]  # records and manifests are removed last
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
    """Yield the files that no config names, each with the reason to keep it; empty if there is none."""
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
    """Yield the names of the objects in the results of jobs, each with the generation.

    The partial result of a job that has not ended counts as well.
    """
    for job in jobs:
        if job.planned.config:
            half = read_half(place, job, options)
            for run in shard_runs(half.source):
                for number, location in half.shards(run):
                    if number in half.records and (name := _name(place, location.held)) is not None:
                        yield job.generation, name


def _needed(place: Folder, options: Options, unfinished: Half | None) -> Iterator[str]:
    """Yield the names that a config in the folder or an unfinished job needs."""
    found: list[Location] = []
    for name in place.names():
        if name.endswith(".json") and (config := _config(place, options, name)) is not None:
            found += config.places()
    if unfinished is not None:
        found += unfinished.source.places()
        shards = (numbered for run in shard_runs(unfinished.source) for numbered in unfinished.shards(run))
        found += [location for number, location in shards if number in unfinished.records]
    for location in found:
        if (found_name := _name(place, location)) is not None:
            yield found_name


def _config(place: Folder, options: Options, name: str) -> Config | None:
    """Read a config; None if the file is not a config.

    Raises
    ------
    ConfigError
        If the file looks like a config and can't be parsed.
    """
    try:
        data = place.read(name)
    except (FileNotFoundError, IsADirectoryError):
        return None
    try:
        document = parse(data)
    except ConfigError as error:
        if FORMAT.encode() in data:  # perhaps an incomplete config
            raise ConfigError(
                f"{name!r} may be a config, and can't be read: {error}; move it away, if it is none"
            ) from None
        return None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        return None
    return from_dict(document, place.url, None, options)


def _name(place: Folder, location: Location) -> str | None:
    """Return the name of a component in a folder; None if it is not in the folder."""
    url = url_of(location)
    if url is None or not is_within(url, place.url):
        return None
    name = url.removeprefix(place.url.rstrip("/")).lstrip("/")
    return unquote_name(name, url) if is_remote(url) else name


def _of_generation(
    place: Folder, options: Options, listed: FileList, identity: Identity, needed: set[str]
) -> Iterator[tuple[str, str, str]]:
    """Yield the known files of a generation.

    Each comes with the name of its object, and with the reason to doubt that a job wrote it; empty if there is none.
    Files of needed objects are added to `needed`.
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
    """Return the reason to doubt that files are as a job wrote them; empty if there is none."""
    if record is None:
        return "" if generation > 1 and not location.is_folder else "is in no record"
    count, nbytes = len(files), sum(listed.files[file].nbytes for file in files)
    is_as_written = nbytes == record.nbytes and (not location.is_folder or count == record.entries)
    return "" if is_as_written else "is not as it was written, or has others beside it"
