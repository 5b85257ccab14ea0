"""Remove unused files of jobs: files that no config names.

A file is removed only if a record says that a job wrote it, and if its size is still the
recorded one. `Retention` keeps files for readers of earlier results. Symbolic links are never followed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from shardedstore.config.document import from_dict, parse
from shardedstore.errors import ConfigError, DestinationError, UsageError
from shardedstore.fields import FORMAT
from shardedstore.jobs.destination import CONSOLIDATED
from shardedstore.jobs.file_list import FileList
from shardedstore.jobs.layouts.registry import layout_of
from shardedstore.jobs.ledger import FOLDER, Record
from shardedstore.jobs.lock import held, superseded
from shardedstore.jobs.manifest import (
    JobManifest,
    generations,
    ledger_of,
    manifest_name,
    read_generation,
    read_manifest,
    versioned,
)
from shardedstore.jobs.partial import UnfinishedJob, find_job_folder, is_finished, read_config, read_unfinished
from shardedstore.jobs.report import old_reports
from shardedstore.jobs.retention import NO_RETENTION, Retained, Retention, name_in
from shardedstore.jobs.shards import location_of, shard_runs
from shardedstore.storage.errors import explain
from shardedstore.storage.folders import STORAGE_ERRORS, Folder, RemoteFolder
from shardedstore.storage.options import NONE, Options
from shardedstore.storage.publish import abandoned
from shardedstore.stores.locations import Config, Location
from shardedstore.stores.veiled import VEIL
from shardedstore.zarr.metadata import CONSOLIDATED_V2


@dataclass(frozen=True)
class Pruned:
    """The files that `prune` removed, or would remove in a dry run.

    Attributes
    ----------
    names : list of str
        Names relative to the destination. Files of superseded locks are removed as well, and are not listed.
    nbytes : int
        The total size of the files in bytes.
    kept : dict of str to str
        The unused files that are kept, each with the reason: the file was changed after it was written, it belongs to
        one of the last results, or it was replaced recently.

    Examples
    --------
    >>> Pruned(["a/0.zip"], 9, {"a/1.zip": "was replaced recently"}).to_dict()
    {'names': ['a/0.zip'], 'nbytes': 9, 'kept': {'a/1.zip': 'was replaced recently'}}
    """

    names: list[str] = field(default_factory=list)
    nbytes: int = 0
    kept: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes as JSON-compatible values.

        Returns
        -------
        dict
            The attributes by name.
        """
        return {"names": self.names, "nbytes": self.nbytes, "kept": self.kept}


def prune(url: str, options: Options = NONE, *, retention: Retention = NO_RETENTION, dry_run: bool = False) -> Pruned:
    """Remove unused files of jobs; see `ShardedStore.prune`.

    After a failure, the same call removes the remaining files.

    Parameters
    ----------
    url : str
        The destination of the jobs.
    options : Options
        The options of the storage.
    retention : Retention
        The earlier results whose files are kept.
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
            raise UsageError(f"no job ever wrote to {url!r}, so prune can't know which files may be removed")
        with nullcontext() if dry_run else held(place):
            listed = FileList(place)
            reasons = dict(_removable(place, options, listed, retention, is_locked=not dry_run))
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
            kept = {name: reason for name, reason in reasons.items() if reason}
            return Pruned([*names, *temporaries], nbytes, kept)
    except STORAGE_ERRORS as error:
        raise DestinationError(
            f"{url!r} can't be pruned: {explain(error)}; the same call removes the remaining files"
        ) from error


def _temporaries(folder: str) -> dict[str, int]:
    return {os.path.relpath(path, folder): os.lstat(path).st_size for path in abandoned(folder)}


def _removable(
    place: Folder, options: Options, listed: FileList, retention: Retention, *, is_locked: bool
) -> Iterator[tuple[str, str]]:
    """Yield the unused files, each with the reason to keep it; the reason is empty for a file to remove."""
    latest = read_manifest(place)
    assert latest is not None
    state = read_unfinished(place, latest, options)
    finished = is_finished(place, latest, state, read_config(place, options))
    if not finished and latest.after and not ledger_of(place, latest).has_inherited():
        raise DestinationError(
            f"the last job at {place.url!r} died before it had copied the records of an earlier job: run it again with the "
            "same arguments, and prune then"
        )
    needed = set(_needed(place, options, None if finished else state))
    earlier = [read_generation(place, number) for number in generations(place) if number < latest.generation]
    retained = Retained(place, options, listed, [*earlier, latest], retention, is_locked=is_locked)
    for manifest in earlier:
        number = manifest.generation
        is_left = layout_of(manifest).leaves_unknown(manifest, finished=finished)
        for name, owner, doubt in _of_generation(place, options, listed, manifest, needed):
            reason = doubt or retained.reason(name, owner, number)
            is_left = is_left or bool(reason) or name in needed
            if name not in needed:
                yield name, reason
        if not is_left and number not in retained.generations and (finished or number != latest.after):
            ledger = ledger_of(place, manifest)
            yield from ((name, "") for name in listed.below(FOLDER) if ledger.owns(name))
            yield manifest_name(number), ""
    yield from ((name, retained.reason_of_age(name)) for name in old_reports(place, listed.below(FOLDER)))


def _needed(place: Folder, options: Options, unfinished: UnfinishedJob | None) -> Iterator[str]:
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
        if (found_name := name_in(place, location)) is not None:
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


def _of_generation(
    place: Folder, options: Options, listed: FileList, manifest: JobManifest, needed: set[str]
) -> Iterator[tuple[str, str, str]]:
    """Yield the known files of a generation.

    Each comes with the name of its object, and with the reason to doubt that a job wrote it; the reason may be empty.
    Files of needed objects are added to `needed`.
    """
    if not manifest.preview.config:
        return
    state, generation = read_unfinished(place, manifest, options), manifest.generation
    for run in shard_runs(state.source):
        template = state.template(run, generation)
        for shard in run.shards():
            location = location_of(run, shard, template).held
            record = state.records.get(shard.number)
            name = name_in(place, location)
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
    """Return the reason to doubt that a job wrote files in their present form; empty if there is no doubt."""
    if record is None:
        return "" if generation > 1 and not location.is_folder else "has no record"
    count, nbytes = len(files), sum(listed.files[file].nbytes for file in files)
    is_as_written = nbytes == record.nbytes and (not location.is_folder or count == record.entries)
    return "" if is_as_written else "was changed after it was written, or has other files beside it"
