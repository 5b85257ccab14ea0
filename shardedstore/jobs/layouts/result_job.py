"""The job that made a result, with its ledger."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from shardedstore.config.document import from_dict
from shardedstore.errors import UsageError
from shardedstore.jobs.ledger import Record
from shardedstore.jobs.manifest import JobManifest, last_begun, ledger_of, read_generation, read_manifest
from shardedstore.jobs.shards import shard_runs
from shardedstore.storage.folders import STORAGE_ERRORS, Folder

if TYPE_CHECKING:
    from shardedstore.jobs.layouts.base import ResultLayout


class ResultJob(NamedTuple):
    """The job that made a result.

    Attributes
    ----------
    layout : type of ResultLayout
        The layout of the result.
    folder : Folder
        The folder of the ledger.
    made : JobManifest
        The file of the job.
    records : dict of int to Record
        The records by shard number.
    notes : tuple of str
        The shards that can't be compared with the records, as sentences.
    """

    layout: type[ResultLayout]
    folder: Folder
    made: JobManifest
    records: dict[int, Record]
    notes: tuple[str, ...] = ()

    @property
    def token(self) -> str:
        """A digest of the records."""
        state = hashlib.sha256()
        encode = msgspec.json.Encoder().encode
        for number in sorted(self.records):
            state.update(encode(self.records[number]))
        return state.hexdigest()

    def mark(self, shards: Mapping[int, str]) -> None:
        """Mark the records of some shards, so that the next run of the job makes them again.

        `shards` has the names of the shards by number.

        If a later job has reused the shards, its records are marked. That job then writes them under the names of this
        result.

        Raises
        ------
        UsageError
            If a later job makes another result of all shards.
        """
        latest = self.latest()
        if latest.generation == self.made.generation:
            ledger_of(self.folder, latest).mark(frozenset(shards))
            return
        ledger = ledger_of(self.folder, latest)
        names, records = set(shards.values()), ledger.read()
        taken = (
            shard.number
            for run in shard_runs(from_dict(latest.config))
            for shard in run.shards()
            if shard.name in names
        )
        ledger.mark(frozenset(n for n in taken if n in records and self._is_taken(records[n])))

    def latest(self) -> JobManifest:
        """Return the job that the same call resumes: this one, or a later one that continues it; see `mark`."""
        newest = read_manifest(self.folder)
        latest = self.made if newest is None else last_begun(self.folder, newest)
        earlier = latest
        while earlier.generation > self.made.generation and earlier.after:
            earlier = read_generation(self.folder, earlier.after)
        if earlier.generation != self.made.generation:
            raise UsageError(
                f"a later job at {self.folder.url!r} has another source or chain and has not ended, so no job would make marked "
                "shards again: run the later job to its end and verify its result, or use another destination for one of the two"
            )
        return latest

    def _is_taken(self, record: Record) -> bool:
        return 0 < record.generation <= self.made.generation


def read_job(place: Folder) -> JobManifest | None:
    """Return the job of a folder; None if there was none, or if the folder can't be read."""
    try:
        return read_manifest(place)
    except STORAGE_ERRORS:
        return None


def known_records(place: Folder, made: JobManifest) -> dict[int, Record]:
    """Return the records of a job without failed ones.

    Marked records are left out too, unless a later job has begun, which may have made these shards again.
    """
    records = {number: record for number, record in ledger_of(place, made).read().items() if not record.failed}
    newest = read_manifest(place)
    if newest is not None and last_begun(place, newest).generation != made.generation:
        return records
    return {number: record for number, record in records.items() if not record.marked}


def folders_above(url: str) -> Iterator[str]:
    """Yield the folders above a path or a URL, starting with the nearest."""
    while (url := url.rpartition("/")[0]) and not url.endswith("/"):
        yield url
