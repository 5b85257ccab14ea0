"""The jobs that wrote to a destination, and their manifests.

Each job writes a manifest, ``job-N.json``; N is the generation of the job. Objects of a later generation have other
names, so a published name is never rewritten. A job continues an earlier one if the chain is equal and the source is the
same, possibly changed. Otherwise the destination is refused, and the message shows the difference in the chain or in the
source.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from shardedstore.config.document import from_dict
from shardedstore.errors import DestinationError
from shardedstore.jobs.array_states import ArrayState, describe_changes, find_renamed
from shardedstore.jobs.ledger import FOLDER, Ledger
from shardedstore.jobs.result_preview import Planned
from shardedstore.jobs.source_comparison import (
    Mark,
    Marks,
    has_only_grown,
    is_same_source,
    lost_members,
    moved_place,
)
from shardedstore.storage.errors import explain
from shardedstore.storage.folders import STORAGE_ERRORS, Folder
from shardedstore.storage.urls import BESIDE, join_url
from shardedstore.stores.locations import Config, Mount, Place

Described = Sequence[tuple[str, Mapping[str, str]]]  # the parts of a chain: name and options

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


def unlike_source(found: Identity, wanted: Identity) -> str:
    """Describe the difference between the sources of two jobs; empty if unknown."""
    if not found.config or not wanted.config:
        return ""
    old, new = found.marks, wanted.marks
    renamed = find_renamed(found.arrays, wanted.arrays)
    gone = [_gone(path, renamed) for path in old if path not in new and new]
    others = {*old.keys() ^ new.keys()} if old and new else set()
    unlike = [*gone, *_unlike_configs(from_dict(found.config), from_dict(wanted.config), others)]
    changed = [*describe_changes(found.arrays, wanted.arrays), *unlike]
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


_IDENTITY = re.compile("job-[0-9]+[.]json")

_GENERATION = re.compile(r"~(\d{1,6})(?:\.|$)")

ONCE = "once-"  # prefix of the random token for a chain without a fingerprint: the token differs in each job


class Identity(msgspec.Struct, frozen=True):
    """The manifest of a job: its source, its chain and its planned result.

    Attributes
    ----------
    source : str
        The digest of the source's metadata and of its division into shards.
    chain : str
        The fingerprint of the chain, or a random token that begins with `ONCE`.
    generation : int
        The number of the job among the jobs that wrote to this destination, from 1.
    config : dict
        The config of the source, as a JSON document.
    marks : dict of str to Mark
        The state of the source's groups and arrays, by path.
    after : int
        The generation of the job that this one continues after its source changed; 0 if there is none.
    must_grow : bool
        Whether the job may continue an earlier one only if the source has grown: true for one ordinary Zarr.
    planned : Planned
        The planned result.
    nonce : str
        A random token. It differs from the token of a job that had the same generation before the destination was
        removed. Workers of that job may still run, and their records must not count.
    described : list
        The chain for messages: the name and the options of each part.
    code : dict of str to str
        The digests of the users' code in the chain. A job that continues an earlier one keeps the digests of that job.
    layout : str
        The key of the result's layout; empty in files of version 0.4.
    arrays : dict of str to ArrayState
        The arrays of the planned result, by path.
    places : dict of str to int
        The number of places for chunks in the base (``""``) and in undivided mounts, by path.
    moved_from : str
        The URL of the source before it was moved to its present one; empty if it was not moved.
    source_before : str
        The digest that the source would have at that URL.
    """

    source: str
    chain: str
    generation: int = 1
    config: dict[str, Any] = {}
    marks: dict[str, Mark] = {}
    after: int = 0
    must_grow: bool = msgspec.field(default=False, name="is_one_zarr")  # the manifest's name in version 0.4
    planned: Planned = Planned()
    nonce: str = ""
    described: list[tuple[str, dict[str, str]]] = []
    code: dict[str, str] = {}
    layout: str = ""
    arrays: dict[str, ArrayState] = {}
    places: dict[str, int] = {}
    moved_from: str = ""
    source_before: str = ""

    def has_moved_from(self, other: Identity) -> bool:
        """Check that this job has the source of another job, at another URL."""
        return bool(self.source_before) and other.source == self.source_before

    def moved_as(self, other: Identity) -> Identity:
        """Return this manifest with the former URL of the source in another one."""
        return msgspec.structs.replace(self, moved_from=other.moved_from, source_before=other.source_before)

    def source_of(self, earlier: Identity) -> Config:
        """Return the config of an earlier job's source, at its present URL."""
        config = from_dict(earlier.config)
        if not self.moved_from:
            return config
        base = from_dict(self.config).base.origin
        return config.map_places(lambda place: moved_place(place, self.moved_from, base))

    def is_of(self, other: Identity) -> bool:
        """Check that another job has the same source and chain."""
        return (self.source, self.chain) == (other.source, other.chain)

    def goes_on_from(self, other: Identity) -> bool:
        """Check that this job can continue another job after a change of the source."""
        if self.chain == other.chain and self.has_moved_from(other):
            return True
        if self.chain != other.chain or not (self.marks and other.marks):
            return False
        before, now = self.source_of(other), from_dict(self.config)
        has_lost = not has_only_grown(other.marks, self.marks) or lost_members(before, now)
        if self.must_grow and has_lost:
            return False
        return is_same_source(before, now, other.marks, self.marks)


class _Nonce(msgspec.Struct):
    nonce: str = ""


# Made at import: msgspec crashes if two threads are the first to use a type.
_MANIFEST, _NONCE = msgspec.json.Decoder(Identity), msgspec.json.Decoder(_Nonce)


def read_identity(folder: Folder) -> Identity | None:
    """Read the manifest of the latest job; None if no job ever wrote there.

    Raises
    ------
    DestinationError
        If the manifest can't be decoded.
    """
    latest = max(generations(folder), default=0)
    return read_generation(folder, latest) if latest else None


def generations(folder: Folder) -> list[int]:
    """Return the generations of the jobs that wrote to a destination, in order."""
    return sorted(int(name[4:-5]) for name in folder.names(FOLDER) if _IDENTITY.fullmatch(name))


def read_generation(folder: Folder, generation: int) -> Identity:
    """Read the manifest of the job of a generation.

    Raises
    ------
    DestinationError
        If the manifest can't be decoded.
    """
    path = identity_name(generation)
    try:
        return _MANIFEST.decode(folder.read(path))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DestinationError(
            f"{join_url(folder.url, path)!r} can't be read ({error}): name another destination"
        ) from None


def ledger_of(folder: Folder, identity: Identity) -> Ledger:
    """Return the ledger of a job."""
    return Ledger(folder, identity.generation, identity.nonce)


def last_begun(folder: Folder, identity: Identity) -> Identity:
    """Return the latest job that has copied the records of the job that it continues.

    A job that died before it copied them is skipped, and the job that it continues is returned.
    """
    while identity.after and not ledger_of(folder, identity).has_inherited():
        identity = read_generation(folder, identity.after)
    return identity


def published_job(folder: Folder) -> Identity | None:
    """Return the last job that ended, whose result is published; None if no job has ended."""
    for generation in reversed(generations(folder)):
        found = read_generation(folder, generation)
        if ledger_of(folder, found).is_compacted():
            return found
    return None


def identity_name(generation: int) -> str:
    """Return the name of the manifest of a job."""
    return f"{FOLDER}/job-{generation}.json"


class OvertakenError(DestinationError):
    """Raised when another job took over the destination."""

    def __init__(self, folder: Folder) -> None:
        super().__init__(
            f"another job took over the destination {folder.url!r} while this one ran, and the other job's result is valid: "
            "name another destination for this job, and run the other job again, since this job may have replaced its config"
        )


def check_destination(folder: Folder, wanted: Identity, overwrite: bool) -> Identity | None:
    """Return the job to continue at a destination, or None for a new job.

    Nothing is written.

    Parameters
    ----------
    folder : Folder
        The destination.
    wanted : Identity
        The job to run. It may continue a job whose source has changed since.
    overwrite : bool
        Whether a new job may write to a folder that holds other files. These files are kept.

    Raises
    ------
    DestinationError
        If the folder can't be read, or if it holds other files and `overwrite` is false.
    """
    return _look(folder, wanted, overwrite)[0]


def open_destination(folder: Folder, wanted: Identity, overwrite: bool, *, again: bool = False) -> Identity:
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


def claim(folder: Folder, wanted: Identity, latest: int) -> Identity:
    """Write the manifest of a job under a new generation.

    Of two jobs that claim a generation after the same `latest`, only one gets it: both choose the same number, and the
    manifest can be created only once. Names are listed before generations are read. At that time, a competing job has
    written nothing yet, so it cannot change the number. The new number is higher than every generation suffix in the
    names below the folder.

    Parameters
    ----------
    folder : Folder
        The destination.
    wanted : Identity
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
        folder.write(identity_name(mine.generation), msgspec.json.encode(mine), create=True)
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
    latest = read_identity(ledger.folder)
    if latest is None or ledger_of(ledger.folder, latest) != ledger:
        raise OvertakenError(ledger.folder)


def is_latest(ledger: Ledger) -> bool:
    """Check, by one listing of a small folder, that no later job has written its manifest."""
    return max(generations(ledger.folder), default=0) == ledger.generation


def stands(ledger: Ledger) -> bool:
    """Check that the job manifest still has this ledger's nonce.

    A destination may be removed and then used by another job.
    """
    try:
        found = _NONCE.decode(ledger.folder.read(identity_name(ledger.generation)))
    except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError):
        return False
    return found.nonce == ledger.nonce


def _look(folder: Folder, wanted: Identity, overwrite: bool) -> tuple[Identity | None, int]:
    """Return the result of `check_destination`, and the latest generation of all jobs."""
    try:
        found = read_identity(folder)
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


def _foreign(folder: str, found: Identity | None, wanted: Identity) -> str:
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
        what += _in_brackets(unlike_source(found, wanted))
        moved = _if_moved(found, wanted)
    else:
        what = "holds the result of another chain of transforms"
        what += _in_brackets(unlike_chain(found.described, wanted.described))
    if folder.endswith(BESIDE) and wanted.layout == "zip":
        return f"the destination {folder.removesuffix(BESIDE)!r} {what}: name another destination, or set overwrite=True, which replaces the zip"
    if folder.endswith(BESIDE):
        return f"the destination {folder.removesuffix(BESIDE)!r} {what}: name another destination, as one ordinary Zarr can't hold both{moved}"
    return f"the destination {folder!r} {what}: name another destination, or set overwrite=True, which keeps the old files beside the new ones{moved}"


def _if_moved(found: Identity, wanted: Identity) -> str:
    """Return the advice for a source at another URL; empty if both jobs name the same URL."""
    if not (found.config and wanted.config):
        return ""
    before, now = (from_dict(one.config).base.origin for one in (found, wanted))
    if not (isinstance(before, Place) and isinstance(now, Place)) or before.url == now.url:
        return ""
    return f"; if the source was moved, name its old URL: source_moved_from={before.url!r} (--source-moved-from)"


def _in_brackets(text: str) -> str:
    return f" ({text})" if text else ""


def versioned(name: str, generation: int) -> str:
    """Return the name of an object in a generation.

    >>> versioned("a/0.zarr.zip", 1), versioned("a/{block}.zarr.zip", 2)
    ('a/0.zarr.zip', 'a/{block}~2.zarr.zip')
    """
    if generation == 1:
        return name
    folder, slash, base = name.rpartition("/")
    stem, dot, rest = base.partition(".")
    return f"{folder}{slash}{stem}~{generation}{dot}{rest}"


def generation_in(name: str) -> int:
    """Return the generation suffix of a file name; 1 without a suffix.

    >>> generation_in(versioned("0.zarr.zip", 2)), generation_in("0.zarr.zip"), generation_in("0~0.zip")
    (2, 1, 1)
    """
    found = _GENERATION.search(name)
    return 1 if found is None else max(1, int(found[1]))
