"""A job's result against its ledger: whether all of it holds what was written, by stored bytes or by decoded data."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

from obstore.exceptions import PermissionDeniedError, UnauthenticatedError

from shardedstore.codecs.digest import DataSum
from shardedstore.errors import CorruptError, ShardedStoreError, UsageError
from shardedstore.jobs.differences import MAKE_AGAIN, Difference
from shardedstore.jobs.layouts.base import ResultLayout
from shardedstore.jobs.layouts.result_job import ResultJob
from shardedstore.jobs.ledger import Record
from shardedstore.jobs.open_shard import open_shard, with_component
from shardedstore.jobs.shards import Load, Plan, Run, Segment, listed_runs, object_at
from shardedstore.storage.blobs import nbytes_of, open_blob
from shardedstore.storage.crc import crc32
from shardedstore.storage.errors import explain, is_transient
from shardedstore.storage.folders import STORAGE_ERRORS
from shardedstore.storage.options import NONE, Options
from shardedstore.storage.retry import Retries, retry
from shardedstore.stores.batch_reader import batch_reader
from shardedstore.stores.entries import read_entries
from shardedstore.stores.locations import Config, Zip
from shardedstore.transforms.base.chain import Shard, Tally, Written, whole_key
from shardedstore.transforms.base.datasums import Sums, digest_entries
from shardedstore.zips import ZipReadStore
from shardedstore.zips.index import Archive

RETRIES = 2  # of the reads of one shard
UNREADABLE = (*STORAGE_ERRORS, ShardedStoreError)
MOST_DAMAGED = 16  # keys of one shard that are named
LOOK_AGAIN = "verify again: it goes on with what could not be looked at"


class StoredTask(NamedTuple):
    """Some shards of a result, and their records."""

    segment: Segment
    records: dict[int, Record]
    layout: type[ResultLayout]
    is_decoded: bool = False


def stored_tasks(config: Config, kept: ResultJob, is_decoded: bool) -> list[StoredTask]:
    """Return the tasks that read a result, divided as it was made, and compare it with its ledger.

    Raises
    ------
    UsageError
        Where the ledger's records say nothing of bytes, or of decoded data.
    """
    if any(not record.digest for record in kept.records.values()):
        raise UsageError(
            "this result was made by a function of stores, of which the ledger knows no bytes: verify it with "
            "against=source, or with level='exists'"
        )
    lacking = sum(record.digests is None for record in kept.records.values())
    if is_decoded and lacking:
        raise UsageError(
            f"the ledger has no digests of the decoded data of {lacking:,} of {len(kept.records):,} shards, which a job keeps "
            "with map_shards(..., digest=True): give the source as against=, or say level='stored' to compare what is stored"
        )
    runs = listed_runs(config)
    loads = []
    for run in runs:
        records = [kept.records[n] for n in run.numbers if n in kept.records]
        loads.append(Load(sum(r.entries for r in records), sum(r.nbytes for r in records)))
    segments = Plan(config, {}, tuple(runs), tuple(loads)).segments()
    return [StoredTask(s, _records_of(s, kept.records), kept.layout, is_decoded) for s in segments]


def _records_of(segment: Segment, records: Mapping[int, Record]) -> dict[int, Record]:
    numbers = (number for run in segment.runs for number in run.numbers)
    return {number: records[number] for number in numbers if number in records}


def check_stored(task: StoredTask) -> list[Difference]:
    """Read some shards, and return how they differ from their records."""
    found: list[Difference] = []
    check = _check_data if task.is_decoded else partial(_check_bytes, layout=task.layout)
    for run in task.segment.runs:
        for shard in run.shards():
            record = task.records.get(shard.number)
            if record is None:  # told by the listing
                continue
            try:
                found += retry(partial(check, run, shard, record), Retries(RETRIES))
            except UNREADABLE as error:
                found.append(unreadable(shard.name, error))
    return found


def unreadable(shard: str, error: BaseException) -> Difference:
    """Return the difference of a shard that can't be read: for good, or by an error that may pass or is of access."""
    is_refused = isinstance(error, PermissionError | PermissionDeniedError | UnauthenticatedError)
    is_passing = is_transient(error) and getattr(error, "errno", None) != errno.EIO
    cause = str(error) if isinstance(error, ShardedStoreError) else f"{type(error).__name__}: {explain(error)}"
    what = cause if shard in cause else f"{shard}: {cause}"
    if is_refused or is_passing:
        return Difference("unread", what, LOOK_AGAIN, shard=shard)
    return Difference("damaged", what, MAKE_AGAIN, shard=shard)


def _check_bytes(run: Run, shard: Shard, record: Record, layout: type[ResultLayout]) -> list[Difference]:
    found: list[Difference] = []
    location = object_at(run, shard)
    if isinstance(location, Zip):
        written, keys = _tally_zip(location.url, location.options)
        for key, what in keys:
            found.append(Difference("damaged", f"{shard.name}: {what}", MAKE_AGAIN, shard=shard.name, key=key))
    else:
        written = _tally_entries(run, shard, layout)
    if (written.entries, written.nbytes) != (record.entries, record.nbytes):
        what = (
            f"{shard.name}: {written.entries:,} entries of {written.nbytes:,} bytes stand there, where {record.entries:,} of "
            f"{record.nbytes:,} were written"
        )
        found.append(Difference("record", what, MAKE_AGAIN, shard=shard.name))
    elif written.digest != record.digest:
        what = f"{shard.name}: the keys, sizes or checksums of what stands there are not those that were written"
        found.append(Difference("record", what, MAKE_AGAIN, shard=shard.name))
    return found


def _tally_zip(url: str, options: Options = NONE) -> tuple[Written, list[tuple[str, str]]]:
    """Return what a zip's directory says that it holds, and the keys whose bytes are not that, with the cause."""
    entries = Archive.open(url, open_blob(url, options)).entries
    keys = sorted(entries, key=lambda key: entries[key].start)
    tally = Tally()
    for key in keys:
        tally.add(key, entries[key].size, entries[key].crc)
    reader = batch_reader(ZipReadStore(url, storage_options=options))
    wrong: list[tuple[str, str]] = []
    at = 0
    while at < len(keys) and len(wrong) < MOST_DAMAGED:
        try:
            for _ in reader.fetch(keys[at:]):
                at += 1
        except CorruptError as error:
            wrong.append((keys[at], str(error)))
            at += 1
    return tally.written(nbytes_of(url, options) or 0), wrong


def _tally_entries(run: Run, shard: Shard, layout: type[ResultLayout]) -> Written:
    tally, entries = Tally(), read_entries(open_shard(run, shard), shard.blocks, shard.block)
    for key, entry in layout.stored(entries, run, shard):
        tally.add(key, memoryview(entry.data).nbytes, crc32(entry.data))
    return tally.written(tally.nbytes)


def _check_data(run: Run, shard: Shard, record: Record) -> list[Difference]:
    """Compare the decoded data of a shard with what its record says of each array.

    A block is digested as one of an array of the shape that it had when it was written, as it may have grown since.
    """
    found: list[Difference] = []
    expected = record.digests or {}
    shapes = {} if shard.block is None else {path: written.shape for path, written in expected.items()}
    sums, damaged = Sums(shapes), set[str]()
    entries = read_entries(open_shard(run, shard), shard.blocks, shard.block)
    for digested in digest_entries(entries, with_component(run, shard), shapes):
        if digested.damage is None:
            sums.add(digested)
        else:
            damaged.add(digested.path)
            key = whole_key(digested.entry, shard)
            found.append(
                Difference("damaged", digested.damage, MAKE_AGAIN, shard=shard.name, array=digested.path, key=key)
            )
    stored = sums.recorded()
    for path in sorted((stored.keys() | expected.keys()) - damaged):
        difference = _compare(stored.get(path), expected.get(path))
        if difference is not None:
            kind, what = difference
            what = f"{path!r} in shard {shard.name!r} {what}"
            found.append(Difference(kind, what, MAKE_AGAIN, shard=shard.name, array=path))
    return found


def _compare(stored: DataSum | None, written: DataSum | None) -> tuple[str, str] | None:
    """Return how an array differs from what was written of it, if it does; which chunks of fill values are stored is no matter."""
    if stored is None:
        return "missing", "is not there"
    if written is None:
        return "extra", "was not written by the job"
    if (stored.shape, stored.layout) != (written.shape, written.layout):
        return (
            "layout",
            f"has another shape, chunk grid, data type or fill value than the one of {written.shape} that was written",
        )
    if stored.value == written.value:
        return None
    if stored.stored == written.stored:
        return "data", f"holds other data in its {stored.stored:,} chunks than were written"
    return "data", f"holds {stored.stored:,} chunks and other data, where {written.stored:,} were written"
