"""The manifest of a job at its destination, ``job-N.json``: its source, its chain and its planned result.

N is the generation of the job. Objects of a later generation have other names, so a published name is never rewritten.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from shardedstore.config.document import from_dict
from shardedstore.errors import DestinationError
from shardedstore.jobs.array_states import ArrayState
from shardedstore.jobs.ledger import FOLDER, Ledger
from shardedstore.jobs.result_preview import ResultPreview
from shardedstore.jobs.source_comparison import (
    Mark,
    has_only_grown,
    is_same_source,
    lost_members,
    moved_place,
)
from shardedstore.storage.folders import Folder
from shardedstore.storage.urls import join_url
from shardedstore.stores.locations import Config, url_of

Described = Sequence[tuple[str, Mapping[str, str]]]  # the parts of a chain: name and options
_MANIFEST_NAME = re.compile("job-[0-9]+[.]json")
ONCE = "once-"  # prefix of the random token for a chain without a fingerprint: the token differs in each job


class JobManifest(msgspec.Struct, frozen=True):
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
    preview : ResultPreview
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
    preview: ResultPreview = msgspec.field(default=ResultPreview(), name="planned")  # the name in version 0.4
    nonce: str = ""
    described: list[tuple[str, dict[str, str]]] = []
    code: dict[str, str] = {}
    layout: str = ""
    arrays: dict[str, ArrayState] = {}
    places: dict[str, int] = {}
    moved_from: str = ""
    source_before: str = ""

    def has_moved_from(self, other: JobManifest) -> bool:
        """Check that this job has the source of another job, at another URL."""
        return bool(self.source_before) and other.source == self.source_before

    def was_moved_since(self, earlier: JobManifest) -> bool:
        """Check that the source of an earlier job was at the URL from which it was moved for this job."""
        return bool(self.moved_from) and url_of(from_dict(earlier.config).base) == self.moved_from

    def moved_as(self, other: JobManifest) -> JobManifest:
        """Return this manifest with the former URL of the source in another one."""
        return msgspec.structs.replace(self, moved_from=other.moved_from, source_before=other.source_before)

    def source_of(self, earlier: JobManifest) -> Config:
        """Return the config of an earlier job's source, at its present URL."""
        config = from_dict(earlier.config)
        if not self.moved_from:
            return config
        base = from_dict(self.config).base.origin
        return config.map_places(lambda place: moved_place(place, self.moved_from, base))

    def is_of(self, other: JobManifest) -> bool:
        """Check that another job has the same source and chain."""
        return (self.source, self.chain) == (other.source, other.chain)

    def goes_on_from(self, other: JobManifest) -> bool:
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
_MANIFEST, _NONCE = msgspec.json.Decoder(JobManifest), msgspec.json.Decoder(_Nonce)


def read_manifest(folder: Folder) -> JobManifest | None:
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
    return sorted(int(name[4:-5]) for name in folder.names(FOLDER) if _MANIFEST_NAME.fullmatch(name))


def read_generation(folder: Folder, generation: int) -> JobManifest:
    """Read the manifest of the job of a generation.

    Raises
    ------
    DestinationError
        If the manifest can't be decoded.
    """
    path = manifest_name(generation)
    try:
        return _MANIFEST.decode(folder.read(path))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DestinationError(
            f"{join_url(folder.url, path)!r} can't be read ({error}): name another destination"
        ) from None


def ledger_of(folder: Folder, manifest: JobManifest) -> Ledger:
    """Return the ledger of a job."""
    return Ledger(folder, manifest.generation, manifest.nonce)


def last_begun(folder: Folder, manifest: JobManifest) -> JobManifest:
    """Return the latest job that has copied the records of the job that it continues.

    A job that died before it copied them is skipped, and the job that it continues is returned.
    """
    while manifest.after and not ledger_of(folder, manifest).has_inherited():
        manifest = read_generation(folder, manifest.after)
    return manifest


def published_job(folder: Folder) -> JobManifest | None:
    """Return the last job that ended, whose result is published; None if no job has ended."""
    for generation in reversed(generations(folder)):
        found = read_generation(folder, generation)
        if ledger_of(folder, found).is_compacted():
            return found
    return None


def manifest_name(generation: int) -> str:
    """Return the name of the manifest of a job."""
    return f"{FOLDER}/job-{generation}.json"


def is_latest(ledger: Ledger) -> bool:
    """Check, by one listing of a small folder, that no later job has written its manifest."""
    return max(generations(ledger.folder), default=0) == ledger.generation


def has_manifest(ledger: Ledger) -> bool:
    """Check that the manifest at the destination still has this ledger's nonce.

    A destination may be removed and then used by another job.
    """
    try:
        found = _NONCE.decode(ledger.folder.read(manifest_name(ledger.generation)))
    except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError):
        return False
    return found.nonce == ledger.nonce


_GENERATION = re.compile(r"~(\d{1,6})(?:\.|$)")


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
