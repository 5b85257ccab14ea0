"""Compare a published shard with its source, by digests of the decoded data and the bytes of all other files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from shardedstore.codecs.digest import DataSum, Layout
from shardedstore.errors import MoveError
from shardedstore.jobs.job import Job
from shardedstore.jobs.ledger import Record
from shardedstore.jobs.open_shard import open_shard, with_component
from shardedstore.jobs.shards import Run
from shardedstore.stores.entries import Entry, read_entries
from shardedstore.transforms.base.datasums import Digested, Sums, digest_entries
from shardedstore.transforms.base.shard import Shard, whole_key
from shardedstore.zarr.grid import Coords
from shardedstore.zarr.metadata import DOCUMENTS

Chunks = dict[tuple[str, Coords], int]


class Contents(NamedTuple):
    """The contents of a shard on one side.

    Attributes
    ----------
    sums : Sums
        The digests of its arrays.
    files : dict of str to bytes
        The hashes of keys that are neither chunks nor documents.
    keys : set of str
        The keys of its chunks in the whole Zarr.
    """

    sums: Sums
    files: dict[str, bytes]
    keys: set[str]

    @property
    def values(self) -> dict[str, tuple[Layout, int]]:
        """The layout and the digest of each array. Neither depends on stored chunks of fill values."""
        return {path: (digest.layout, digest.value) for path, digest in self.sums.digests.items()}


def published_run(job: Job, run: Run, record: Record) -> Run:
    """Return the run of a published shard."""
    return msgspec.structs.replace(
        run, location=job.layout.location_of_record(run, record, job), exceptions={}, chunks=None, base=None
    )


def _digested(job: Job, run: Run, shard: Shard) -> Iterator[Digested]:
    entries = read_entries(open_shard(run, shard), shard.blocks, shard.block, run.consolidated)
    for digested in digest_entries(entries, with_component(run, shard), job.shapes or {}):
        if digested.damage is not None:
            raise MoveError(digested.damage, "corrupt")
        yield digested


def read_contents(job: Job, run: Run, shard: Shard) -> Contents:
    """Read and decode a shard.

    Raises
    ------
    CorruptError
        If a chunk can't be decoded.
    """
    contents = Contents(Sums(job.shapes), {}, set())
    for digested in _digested(job, run, shard):
        contents.sums.add(digested)
        entry = digested.entry
        if entry.coords is not None:
            contents.keys.add(whole_key(entry, shard))
        elif not _is_document(entry):
            contents.files[entry.key] = hashlib.blake2b(entry.data, digest_size=32).digest()
    return contents


def _is_document(entry: Entry) -> bool:
    return entry.key.rpartition("/")[2] in DOCUMENTS


def check_equal(source: Contents, result: Contents, shard: Shard) -> None:
    """Raise MoveError if a published shard differs from its source."""
    mine, its = result.values, source.values
    wrong = sorted(path for path in mine.keys() | its.keys() if mine.get(path) != its.get(path))
    wrong += sorted(
        key for key in result.files.keys() | source.files.keys() if result.files.get(key) != source.files.get(key)
    )
    if wrong:
        raise MoveError(
            f"shard {shard.name!r}: the published shard differs from the source in {', '.join(map(repr, wrong))}; none of its chunks was deleted: run the "
            "job again, and look for faults of memory, disk or network if it happens again",
            "not-equal",
        )


def check_recorded(job: Job, run: Run, shard: Shard, record: Record) -> None:
    """Raise MoveError if the data of a verified shard have changed since its verification."""
    found, expected = read_contents(job, run, shard).sums.recorded(), record.digests or {}
    if {path: _value(one) for path, one in found.items()} != {path: _value(one) for path, one in expected.items()}:
        raise lost(shard, "was damaged after its verification")


def _value(digest: DataSum) -> tuple[str, str]:
    return digest.layout, digest.value


def lost(shard: Shard, what: str) -> MoveError:
    """Return the error for a verified shard whose object is missing or damaged."""
    return MoveError(
        f"shard {shard.name!r} {what}, and its source may be deleted: restore the object from a copy, and run the job again",
        "lost-after-move",
    )


def read_chunks(job: Job, run: Run, shard: Shard) -> tuple[Chunks, dict[tuple[str, Coords], str]]:
    """Read and decode a shard chunk by chunk; return the digests of its chunks, and their keys in the whole Zarr."""
    chunks, keys = Chunks(), dict[tuple[str, Coords], str]()
    for digested in _digested(job, run, shard):
        for index, (value, _) in digested.found:
            chunks[digested.path, index] = value
            keys[digested.path, index] = whole_key(digested.entry, shard)
    return chunks, keys


def check_left(source: Chunks, keys: dict[tuple[str, Coords], str], result: Chunks, shard: Shard) -> None:
    """Raise MoveError if the remaining source chunks of a verified shard differ from its result."""
    wrong = sorted({keys[place] for place, value in source.items() if result.get(place, 0) != value})
    if wrong:
        raise changed(shard, wrong)


def changed(shard: Shard, keys: list[str]) -> MoveError:
    """Return the error for chunks that changed after their shard was verified."""
    more = f" and {len(keys) - 1:,} more" if len(keys) > 1 else ""
    return MoveError(
        f"shard {shard.name!r}: {keys[0]!r}{more} of the source changed or appeared after the shard was verified, and was not deleted: copy it "
        "elsewhere and remove it here, and run the job again; no other program may write to the source",
        "source-changed",
    )
