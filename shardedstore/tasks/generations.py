"""What a destination holds: the jobs that wrote to it, each a generation whose objects have names of their own.

``.shardedstore/job-<n>.json`` says what each was. A destination is new, a continuation of the same job, or foreign.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from shardedstore.errors import DestinationError
from shardedstore.storage.folders import STORAGE_ERRORS, Folder
from shardedstore.storage.remote_errors import explain
from shardedstore.storage.urls import BESIDE, join_url
from shardedstore.tasks.ledger import FOLDER
from shardedstore.tasks.planned import Planned
from shardedstore.tasks.succession import Mark, has_only_grown, is_same_source, keeps_members

_IDENTITY = re.compile("job-[0-9]+[.]json")
ONCE = "once-"  # what the token of a chain begins with that has no fingerprint, so that no other job is the same


class Identity(msgspec.Struct, frozen=True):
    """What a destination was made from: digests of the source's metadata and division, and of the chain.

    `generation` counts the jobs that wrote to this destination; a later one gives its objects other names. `config` is
    the source's, as a JSON document, and `marks` tell what its groups and arrays were. `after` is the generation of the
    job that this one goes on from as its source has changed; 0 for a job of its own. `is_one_zarr` tells that all shards
    are in one ordinary Zarr. `planned` is what the job is going to make.
    """

    source: str
    chain: str
    generation: int = 1
    config: dict[str, Any] = {}
    marks: dict[str, Mark] = {}
    after: int = 0
    is_one_zarr: bool = False
    planned: Planned = Planned()

    def is_of(self, other: Identity) -> bool:
        """Tell whether it is the same job."""
        return (self.source, self.chain) == (other.source, other.chain)

    def goes_on_from(self, other: Identity) -> bool:
        """Tell whether it is the same job, but for what has changed in its source."""
        if self.chain != other.chain or not (self.marks and other.marks):
            return False
        has_lost = not (has_only_grown(other.marks, self.marks) and keeps_members(other.config, self.config))
        if self.is_one_zarr and has_lost:
            return False
        return is_same_source(other.config, self.config, other.marks, self.marks)


def read_identity(folder: Folder) -> Identity | None:
    """Return what the latest job at a destination made it from; None where no job ever wrote.

    Raises
    ------
    DestinationError
        For a file that can't be read.
    """
    generations = [int(name[4:-5]) for name in folder.names(FOLDER) if _IDENTITY.fullmatch(name)]
    if not generations:
        return None
    return read_generation(folder, max(generations))


def read_generation(folder: Folder, generation: int) -> Identity:
    """Return what the job of a generation made it from; see `read_identity`."""
    path = identity_name(generation)
    try:
        return msgspec.json.decode(folder.read(path), type=Identity)
    except msgspec.DecodeError as error:
        raise DestinationError(
            f"{join_url(folder.url, path)!r} can't be read ({error}): name another destination"
        ) from None


def identity_name(generation: int) -> str:
    """Return the name of the file that says what a job was."""
    return f"{FOLDER}/job-{generation}.json"


def check_destination(folder: Folder, wanted: Identity, overwrite: bool) -> Identity | None:
    """Return the identity of a job to go on with, as it is or as its source has changed, or None for a new one.

    Nothing is written.

    Raises
    ------
    DestinationError
        When the folder holds something else and that was not allowed, or can't be read.
    """
    try:
        found = read_identity(folder)
        if found is not None and (wanted.is_of(found) or wanted.goes_on_from(found)):
            return found
        if not overwrite and (found is not None or set(folder.names()) - {FOLDER}):
            raise DestinationError(_foreign(folder.url, found, wanted))
    except STORAGE_ERRORS as error:
        raise DestinationError(f"the destination {folder.url!r} can't be used: {explain(error)}") from error
    return None


def open_destination(folder: Folder, wanted: Identity, overwrite: bool, *, again: bool = False) -> Identity:
    """Make a destination ready to be written to; see `check_destination`. Nothing that is there is removed or rewritten.

    With `again`, a job that could be gone on with begins anew.
    """
    found = check_destination(folder, wanted, overwrite)
    if found is not None and wanted.is_of(found) and not again:
        return found
    found = None if again else found
    return claim(
        folder, wanted if found is None else msgspec.structs.replace(wanted, after=found.generation), overwrite
    )


def claim(folder: Folder, wanted: Identity, overwrite: bool = False) -> Identity:
    """Give a job a generation of its own, whose objects have names of their own.

    It is claimed by making its file, which only one of two jobs that start at once can do; the other finds it there.
    """
    while True:
        try:
            generation = _next_generation(folder)
            mine = msgspec.structs.replace(wanted, generation=generation)
            folder.write(identity_name(generation), msgspec.json.encode(mine), create=True)
        except FileExistsError:
            found = check_destination(folder, wanted, overwrite)
            if found is not None and wanted.is_of(found):
                return found
        except STORAGE_ERRORS as error:
            raise DestinationError(f"the destination {folder.url!r} can't be written to: {explain(error)}") from error
        else:
            return mine


def check_latest(folder: Folder, generation: int) -> None:
    """Raise DestinationError where another job has taken a destination over: its result stands, whoever ends later."""
    found = read_identity(folder)
    if found is None or found.generation != generation:
        raise DestinationError(
            f"another job took over the destination {folder.url!r} while this one ran, and its result stands: "
            "name another destination for this one"
        )


def _next_generation(folder: Folder) -> int:
    """Return 1 for a new destination, and else more than any generation that a name in it looks like, whoever gave it."""
    latest = read_identity(folder)
    if latest is None and not set(folder.names()) - {FOLDER}:
        return 1
    names = (part for name, _ in folder.sizes() for part in name.split("/"))
    numbers = [int(found[1]) for name in names if (found := re.search(r"~(\d{1,6})(?:\.|$)", name))]
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
    if folder.endswith(BESIDE):
        return f"the destination {folder.removesuffix(BESIDE)!r} {what}: name another, as one ordinary Zarr can't hold both"
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
