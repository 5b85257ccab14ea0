"""Open the destination of a job: continue the job that wrote there, or begin a new one.

A job continues an earlier one if the chain is equal and the source is the same, possibly changed. Otherwise the destination
is refused, and the message shows the difference in the chain or in the source.
"""

from __future__ import annotations

import secrets
from collections.abc import Container, Iterable, Iterator, Mapping

import msgspec

from shardedstore.config.document import from_dict
from shardedstore.errors import DestinationError
from shardedstore.jobs.array_states import describe_changes, find_renamed
from shardedstore.jobs.ledger import FOLDER, Ledger
from shardedstore.jobs.manifest import (
    ONCE,
    Described,
    JobManifest,
    generation_in,
    generations,
    ledger_of,
    manifest_name,
    read_manifest,
)
from shardedstore.jobs.source_comparison import (
    Marks,
)
from shardedstore.storage.errors import explain
from shardedstore.storage.folders import STORAGE_ERRORS, Folder
from shardedstore.storage.urls import BESIDE
from shardedstore.stores.locations import Config, Mount, Place

MOST = 3  # differences shown in a message


def unlike_chain(there: Described, now: Described) -> str:
    """Describe the difference between two chains; empty if unknown.

    >>> unlike_chain([("Recompress", {"level": "5"}), ("ToZip", {})], [("Recompress", {"level": "7"}), ("ToZip", {})])
    'Recompress level=5 there, 7 now'
    >>> unlike_chain([("ToZip", {})], [("MigrateV3", {}), ("ToZip", {})])
    'ToZip there, MigrateV3 and ToZip now'
    """
    if not there or not now:
        return ""
    names, others = [name for name, _ in there], [name for name, _ in now]
    if names != others:
        return f"{' and '.join(names)} there, {' and '.join(others)} now"
    return _some(
        f"{name} {option}={before.get(option, 'unset')} there, {after.get(option, 'unset')} now"
        for (name, before), (_, after) in zip(there, now, strict=True)
        for option in {**before, **after}
        if before.get(option) != after.get(option)
    )


def unlike_source(found: JobManifest, wanted: JobManifest) -> str:
    """Describe the difference between the sources of two jobs; empty if unknown."""
    if not found.config or not wanted.config:
        return ""
    old, new = found.marks, wanted.marks
    renamed = find_renamed(found.arrays, wanted.arrays)
    gone = [_gone(path, renamed) for path in old if path not in new and new]
    others = {*old.keys() ^ new.keys()} if old and new else set()
    unlike = [*gone, *_unlike_configs(from_dict(found.config), from_dict(wanted.config), others)]
    drifted = describe_changes(found.arrays, wanted.arrays) if found.chain == wanted.chain else ()
    changed = [*drifted, *unlike]
    return _some(changed) or _some(_unlike_marks(old, new))


def _gone(path: str, renamed: Mapping[str, str]) -> str:
    new = f"; {renamed[path]!r} is new and equals it in all but the name" if path in renamed else ""
    return f"{path!r} is gone{new}"


def _unlike_configs(there: Config, now: Config, others: Container[str]) -> Iterator[str]:
    if there.base.origin.show() != now.base.origin.show():
        yield f"{there.base.origin.show()} there, {now.base.origin.show()} now"
    elif there.base.selection != now.base.selection:
        yield f"include and exclude keep {there.base.selection} there, {now.base.selection} now"
    for path in (path for path in {**there.shards, **now.shards} if path not in others):
        rules = [_rule(config.shards.get(path)) for config in (there, now)]
        if rules[0] != rules[1]:
            yield f"{path!r} is {rules[0]} there, {rules[1]} now"


def _rule(mount: Mount | None) -> str:
    if mount is None:
        return "no shard of its own"
    if mount.members is not None:
        return f"stores, {mount.members.together} together"
    return "whole" if mount.blocks is None else f"in blocks of {' x '.join(map(str, mount.blocks.chunks))} chunks"


def _unlike_marks(old: Marks, new: Marks) -> Iterator[str]:
    for path, mark in old.items():
        found = new.get(path)
        if found is not None and found.shape != mark.shape:
            yield f"{path!r} has the shape {mark.shape} there, {found.shape} now"
        elif found is not None and found != mark:
            yield f"the metadata of {path!r} has changed"


def _some(texts: Iterable[str]) -> str:
    found = list(texts)
    more = f" and {len(found) - MOST} more" if len(found) > MOST else ""
    return "; ".join(found[:MOST]) + more


class OvertakenError(DestinationError):
    """Raised when another job took over the destination."""

    def __init__(self, folder: Folder) -> None:
        super().__init__(
            f"another job took over the destination {folder.url!r} while this one ran, and the other job's result is valid: "
            "name another destination for this job, and run the other job again, since this job may have replaced its config"
        )


def check_destination(folder: Folder, wanted: JobManifest, overwrite: bool) -> JobManifest | None:
    """Return the job to continue at a destination, or None for a new job.

    Nothing is written.

    Parameters
    ----------
    folder : Folder
        The destination.
    wanted : JobManifest
        The job to run. It may continue a job whose source has changed since.
    overwrite : bool
        Whether a new job may write to a folder that holds other files. These files are kept.

    Raises
    ------
    DestinationError
        If the folder can't be read, or if it holds other files and `overwrite` is false.
    """
    return _look(folder, wanted, overwrite)[0]


def open_destination(folder: Folder, wanted: JobManifest, overwrite: bool, *, again: bool = False) -> JobManifest:
    """Open a destination for a job, and return the manifest of the job there.

    No existing file is removed or rewritten.

    Parameters
    ----------
    folder, wanted, overwrite
        As in `check_destination`.
    again : bool
        Whether to begin a new job even if one could be continued.

    Raises
    ------
    DestinationError
        As in `check_destination`, or if the folder can't be written to.
    """
    while True:
        found, latest = _look(folder, wanted, overwrite)
        if found is not None and wanted.is_of(found) and not again:
            return found
        after = 0 if found is None or again else found.generation
        try:
            code = (found.code if found is not None and after else {}) or wanted.code
            wanted = wanted if found is None or not after or wanted.moved_from else wanted.moved_as(found)
            return claim(folder, msgspec.structs.replace(wanted, after=after, code=code), latest)
        except OvertakenError:
            continue


def claim(folder: Folder, wanted: JobManifest, latest: int) -> JobManifest:
    """Write the manifest of a job under a new generation.

    Of two jobs that claim a generation after the same `latest`, only one gets it: both choose the same number, and the
    manifest can be created only once. Names are listed before generations are read. At that time, a competing job has
    written nothing yet, so it cannot change the number. The new number is higher than every generation suffix in the
    names below the folder.

    Parameters
    ----------
    folder : Folder
        The destination.
    wanted : JobManifest
        The job.
    latest : int
        The latest generation that the caller has seen; 0 for none.

    Raises
    ------
    DestinationError
        If another job has claimed a generation meanwhile, or the folder can't be written to.
    """
    try:
        used = _highest(folder)
        if max(generations(folder), default=0) != latest:
            raise OvertakenError(folder)
        mine = msgspec.structs.replace(wanted, generation=max(used, latest) + 1, nonce=secrets.token_hex(4))
        folder.write(manifest_name(mine.generation), msgspec.json.encode(mine), create=True)
    except FileExistsError:
        raise OvertakenError(folder) from None
    except STORAGE_ERRORS as error:
        raise DestinationError(f"the destination {folder.url!r} can't be written to: {explain(error)}") from error
    return mine


def check_latest(ledger: Ledger) -> None:
    """Check that no other job took over the destination.

    Call it before and after the result is written. If two jobs end at the same time, at least one of them then raises.

    Raises
    ------
    DestinationError
        If another job took over. The result of that job is valid.
    """
    latest = read_manifest(ledger.folder)
    if latest is None or ledger_of(ledger.folder, latest) != ledger:
        raise OvertakenError(ledger.folder)


def _look(folder: Folder, wanted: JobManifest, overwrite: bool) -> tuple[JobManifest | None, int]:
    """Return the result of `check_destination`, and the latest generation of all jobs."""
    try:
        found = read_manifest(folder)
        if found is not None and (wanted.is_of(found) or wanted.goes_on_from(found)):
            return found, found.generation
        if not overwrite and (found is not None or set(folder.names()) - {FOLDER}):
            if found is None and generations(folder):  # another slice has started meanwhile
                return _look(folder, wanted, overwrite)
            raise DestinationError(_foreign(folder.url, found, wanted))
    except STORAGE_ERRORS as error:
        raise DestinationError(f"the destination {folder.url!r} can't be used: {explain(error)}") from error
    return None, 0 if found is None else found.generation


def _highest(folder: Folder) -> int:
    """Return the highest generation suffix among the names below a folder.

    Names of foreign files count as well. The result is 0 if the folder holds only the jobs' own files.
    """
    if not set(folder.names()) - {FOLDER}:
        return 0
    names = (part for name, _ in folder.sizes() for part in name.split("/"))
    return max(map(generation_in, names), default=1)


def _foreign(folder: str, found: JobManifest | None, wanted: JobManifest) -> str:
    moved = ""
    if found is None:
        what = "holds files that no job of shardedstore wrote"
    elif wanted.chain.startswith(ONCE):
        what = (
            "holds a job's result, and this chain has no stable fingerprint, so it can't continue that job "
            "(a function needs a module to be imported from, and step(...) a name and a version)"
        )
    elif found.source != wanted.source:
        what = "holds the result of another source, of another division of this source, or of this source before it changed"
        unlike = [unlike_source(found, wanted)]
        if found.chain != wanted.chain:
            what += ", and of another chain of transforms"
            unlike.insert(0, unlike_chain(found.described, wanted.described))
        what += _in_brackets("; ".join(filter(None, unlike)))
        moved = _if_moved(found, wanted)
    else:
        what = "holds the result of another chain of transforms"
        what += _in_brackets(unlike_chain(found.described, wanted.described))
    if folder.endswith(BESIDE) and wanted.layout == "zip":
        return f"the destination {folder.removesuffix(BESIDE)!r} {what}: name another destination, or set overwrite=True, which replaces the zip"
    if folder.endswith(BESIDE):
        return f"the destination {folder.removesuffix(BESIDE)!r} {what}: name another destination, as one ordinary Zarr can't hold both{moved}"
    return f"the destination {folder!r} {what}: name another destination, or set overwrite=True, which keeps the old files beside the new ones{moved}"


def _if_moved(found: JobManifest, wanted: JobManifest) -> str:
    """Return the advice for a source at another URL; empty if both jobs name the same URL."""
    if not (found.config and wanted.config):
        return ""
    before, now = (from_dict(one.config).base.origin for one in (found, wanted))
    if not (isinstance(before, Place) and isinstance(now, Place)) or before.url == now.url:
        return ""
    return f"; if the source was moved, name its old URL: source_moved_from={before.url!r} (--source-moved-from)"


def _in_brackets(text: str) -> str:
    return f" ({text})" if text else ""
