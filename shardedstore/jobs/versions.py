"""How a job differs from the one that a destination is of, as its message says: by the chain, or by the source."""

from __future__ import annotations

import re
import secrets
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from shardedstore.config.document import from_dict
from shardedstore.errors import DestinationError
from shardedstore.jobs.ledger import FOLDER, Ledger
from shardedstore.jobs.result_preview import Planned
from shardedstore.jobs.source_comparison import Mark, Marks, has_only_grown, is_same_source, keeps_members
from shardedstore.storage.errors import explain
from shardedstore.storage.folders import STORAGE_ERRORS, Folder
from shardedstore.storage.urls import BESIDE, join_url
from shardedstore.stores.locations import Config, Mount

Described = Sequence[tuple[str, Mapping[str, str]]]  # the parts of a chain by name, each with its options

MOST = 3  # differences that are told


def unlike_chain(there: Described, now: Described) -> str:
    """Return how two chains differ; empty where that is not known.

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


def unlike_source(there: Mapping[str, Any], now: Mapping[str, Any], old: Marks, new: Marks) -> str:
    """Return how the sources of two jobs differ, given their configs; empty where that is not known."""
    if not there or not now:
        return ""
    gone = [f"{path!r} is gone" for path in old if path not in new and new]
    others = {*old.keys() ^ new.keys()} if old and new else set()
    found = [*gone, *_unlike_configs(from_dict(there), from_dict(now), others)]
    return _some(found) or _some(_unlike_marks(old, new))


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

ONCE = "once-"  # what the token of a chain begins with that has no fingerprint, so that no other job is the same


class Identity(msgspec.Struct, frozen=True):
    """What a destination was made from: digests of the source's metadata and division, and of the chain.

    `generation` counts the jobs that wrote to this destination; a later one gives its objects other names. `config` is
    the source's, as a JSON document, and `marks` tell what its groups and arrays were. `after` is the generation of the
    job that this one goes on from as its source has changed; 0 for a job of its own. `layout` is the key of the result's layout, which
    files of version 0.4 lack. `must_grow` tells that the job goes on from an earlier one only where the source has grown: one ordinary
    Zarr. `planned` is what the job is going to make. `nonce` tells this job from one that had the same
    number before its destination was removed: workers of that one may still be at work, and must not be heard. `described`
    is the chain for people: the names of its parts, and their options. `code` are digests of the users' code in the chain, of
    the first job of those that go on from one another.
    """

    source: str
    chain: str
    generation: int = 1
    config: dict[str, Any] = {}
    marks: dict[str, Mark] = {}
    after: int = 0
    must_grow: bool = msgspec.field(default=False, name="is_one_zarr")  # the name in version 0.4
    planned: Planned = Planned()
    nonce: str = ""
    described: list[tuple[str, dict[str, str]]] = []
    code: dict[str, str] = {}
    layout: str = ""

    def is_of(self, other: Identity) -> bool:
        """Tell whether it is the same job."""
        return (self.source, self.chain) == (other.source, other.chain)

    def goes_on_from(self, other: Identity) -> bool:
        """Tell whether it is the same job, but for what has changed in its source."""
        if self.chain != other.chain or not (self.marks and other.marks):
            return False
        has_lost = not (has_only_grown(other.marks, self.marks) and keeps_members(other.config, self.config))
        if self.must_grow and has_lost:
            return False
        return is_same_source(other.config, self.config, other.marks, self.marks)


class _Nonce(msgspec.Struct):
    nonce: str = ""


def read_identity(folder: Folder) -> Identity | None:
    """Return what the latest job at a destination made it from; None where no job ever wrote.

    Raises
    ------
    DestinationError
        For a file that can't be read.
    """
    latest = max(generations(folder), default=0)
    return read_generation(folder, latest) if latest else None


def generations(folder: Folder) -> list[int]:
    """Return the numbers of the jobs that wrote to a destination, in order."""
    return sorted(int(name[4:-5]) for name in folder.names(FOLDER) if _IDENTITY.fullmatch(name))


def read_generation(folder: Folder, generation: int) -> Identity:
    """Return what the job of a generation made it from; see `read_identity`."""
    path = identity_name(generation)
    try:
        return msgspec.json.decode(folder.read(path), type=Identity)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DestinationError(
            f"{join_url(folder.url, path)!r} can't be read ({error}): name another destination"
        ) from None


def ledger_of(folder: Folder, identity: Identity) -> Ledger:
    """Return the ledger of a job."""
    return Ledger(folder, identity.generation, identity.nonce)


def last_begun(folder: Folder, identity: Identity) -> Identity:
    """Return a job, or the one before it that it goes on from where it died before it had taken anything over."""
    while identity.after and not ledger_of(folder, identity).has_inherited():
        identity = read_generation(folder, identity.after)
    return identity


def identity_name(generation: int) -> str:
    """Return the name of the file that says what a job was."""
    return f"{FOLDER}/job-{generation}.json"


class _Overtaken(DestinationError):
    """Another job has a later generation."""

    def __init__(self, folder: Folder) -> None:
        super().__init__(
            f"another job took over the destination {folder.url!r} while this one ran, and its result stands: "
            "name another destination for this one, and run that one's call again, in case this one wrote over its config"
        )


def check_destination(folder: Folder, wanted: Identity, overwrite: bool) -> Identity | None:
    """Return the identity of a job to go on with, as it is or as its source has changed, or None for a new one.

    Nothing is written.

    Raises
    ------
    DestinationError
        When the folder holds something else and that was not allowed, or can't be read.
    """
    return _look(folder, wanted, overwrite)[0]


def open_destination(folder: Folder, wanted: Identity, overwrite: bool, *, again: bool = False) -> Identity:
    """Make a destination ready to be written to; see `check_destination`. Nothing that is there is removed or rewritten.

    With `again`, a job that could be gone on with begins anew.
    """
    while True:
        found, latest = _look(folder, wanted, overwrite)
        if found is not None and wanted.is_of(found) and not again:
            return found
        after = 0 if found is None or again else found.generation
        try:
            code = (found.code if found is not None and after else {}) or wanted.code
            return claim(folder, msgspec.structs.replace(wanted, after=after, code=code), latest)
        except _Overtaken:
            continue


def claim(folder: Folder, wanted: Identity, latest: int) -> Identity:
    """Give a job a generation of its own, whose objects have names of their own.

    Of two jobs that claim one after the same `latest`, 0 for none, one gets it. Its number is more than any that a name
    below the folder looks like, whoever gave it. Names are looked at before the generations, when whoever is going to
    claim one has written nothing yet, so that both want the same number; its file can be made once only.

    Raises
    ------
    DestinationError
        When another job has claimed one meanwhile, or the folder can't be written to.
    """
    try:
        used = _highest(folder)
        if max(generations(folder), default=0) != latest:
            raise _Overtaken(folder)
        mine = msgspec.structs.replace(wanted, generation=max(used, latest) + 1, nonce=secrets.token_hex(4))
        folder.write(identity_name(mine.generation), msgspec.json.encode(mine), create=True)
    except FileExistsError:
        raise _Overtaken(folder) from None
    except STORAGE_ERRORS as error:
        raise DestinationError(f"the destination {folder.url!r} can't be written to: {explain(error)}") from error
    return mine


def check_latest(ledger: Ledger) -> None:
    """Raise DestinationError where another job has taken a destination over: its result stands, whoever ends later.

    It is asked before a result is written, and after it: of two that end at once at least one is told then.
    """
    latest = read_identity(ledger.folder)
    if latest is None or ledger_of(ledger.folder, latest) != ledger:
        raise _Overtaken(ledger.folder)


def stands(ledger: Ledger) -> bool:
    """Tell whether the file of a ledger's job is its own still: a destination may be removed, and become another job's."""
    try:
        found = msgspec.json.decode(ledger.folder.read(identity_name(ledger.generation)), type=_Nonce)
    except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError):
        return False
    return found.nonce == ledger.nonce


def _look(folder: Folder, wanted: Identity, overwrite: bool) -> tuple[Identity | None, int]:
    """Return what `check_destination` does, and the number of the latest generation, whoever's it is."""
    try:
        found = read_identity(folder)
        if found is not None and (wanted.is_of(found) or wanted.goes_on_from(found)):
            return found, found.generation
        if not overwrite and (found is not None or set(folder.names()) - {FOLDER}):
            raise DestinationError(_foreign(folder.url, found, wanted))
    except STORAGE_ERRORS as error:
        raise DestinationError(f"the destination {folder.url!r} can't be used: {explain(error)}") from error
    return None, 0 if found is None else found.generation


def _highest(folder: Folder) -> int:
    """Return the highest generation that a name looks like, whoever gave it; 0 where there is nothing but the jobs' files."""
    if not set(folder.names()) - {FOLDER}:
        return 0
    names = (part for name, _ in folder.sizes() for part in name.split("/"))
    return max(map(generation_in, names), default=1)


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
        what += _in_brackets(unlike_source(found.config, wanted.config, found.marks, wanted.marks))
    else:
        what = "holds the result of another chain of transforms"
        what += _in_brackets(unlike_chain(found.described, wanted.described))
    if folder.endswith(BESIDE):
        return f"the destination {folder.removesuffix(BESIDE)!r} {what}: name another, as one ordinary Zarr can't hold both"
    return f"the destination {folder!r} {what}: name another, or say overwrite=True, which keeps those files beside the new"


def _in_brackets(text: str) -> str:
    return f" ({text})" if text else ""


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


def generation_in(name: str) -> int:
    """Return the generation that a name without folders looks like, at least 1.

    >>> generation_in(versioned("0.zarr.zip", 2)), generation_in("0.zarr.zip"), generation_in("0~0.zip")
    (2, 1, 1)
    """
    found = _GENERATION.search(name)
    return 1 if found is None else max(1, int(found[1]))
