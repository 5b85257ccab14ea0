"""Compare a job's result with its ledger, by stored bytes or by decoded data."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import msgspec
from obstore.exceptions import PermissionDeniedError, UnauthenticatedError

from shardedstore.codecs.digest import DataSum
from shardedstore.errors import CorruptError, ShardedStoreError, UsageError
from shardedstore.jobs.differences import Difference
from shardedstore.jobs.layouts.base import ResultLayout
from shardedstore.jobs.layouts.result_job import ResultJob
from shardedstore.jobs.ledger import Record
from shardedstore.jobs.make_plan import listed_runs
from shardedstore.jobs.open_shard import open_shard, with_component
from shardedstore.jobs.shards import Load, Plan, Run, Segment, object_at
from shardedstore.storage.blobs import nbytes_of, open_blob
from shardedstore.storage.crc import crc32
from shardedstore.storage.errors import explain, is_transient
from shardedstore.storage.folders import STORAGE_ERRORS
from shardedstore.storage.options import NONE, Options
from shardedstore.storage.retry import Retries, retry
from shardedstore.stores.entries import read_entries
from shardedstore.stores.locations import Config, Location, Place, url_of
from shardedstore.stores.reader import reader_of
from shardedstore.transforms.base.datasums import Sums, digest_entries
from shardedstore.transforms.base.shard import Shard, whole_key
from shardedstore.transforms.base.sink import Tally, Written
from shardedstore.zips import ZipReadStore
from shardedstore.zips.index import Archive

RETRIES = 2  # the most repeated reads of one shard
UNREADABLE = (*STORAGE_ERRORS, ShardedStoreError)
MOST_DAMAGED = 16  # the most damaged keys of one shard that are named
LOOK_AGAIN = "verify again: it reads only the unread shards"


class StoredTask(NamedTuple):
    """Some shards of a result and their records."""

    segment: Segment
    records: dict[int, Record]
    layout: type[ResultLayout]
    is_decoded: bool = False


def stored_tasks(config: Config, kept: ResultJob, is_decoded: bool) -> list[StoredTask]:
    """Return the tasks that read a result by the shards of its job, and compare them with the ledger.

    Raises
    ------
    UsageError
        If the ledger's records lack checksums, or digests of decoded data.
    """
    if any(not record.digest for record in kept.records.values()):
        raise UsageError(
            "this result was made by a function of stores, for which the ledger has no checksums: verify it with "
            "against=source, or with level='exists'"
        )
    lacking = sum(record.digests is None for record in kept.records.values())
    if is_decoded and lacking:
        raise UsageError(
            f"the ledger has no digests of the decoded data of {lacking:,} of {len(kept.records):,} shards, which a job keeps "
            "with map_shards(..., digest=True): give the source as against=, or use level='stored' to compare stored bytes"
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
    """Read some shards, and return their differences from their records."""
    found: list[Difference] = []
    check = _check_data if task.is_decoded else partial(_check_bytes, layout=task.layout)
    for run in task.segment.runs:
        for shard in run.shards():
            record = task.records.get(shard.number)
            if record is None:  # the listing reports it
                continue
            try:
                found += retry(partial(check, run, shard, record), Retries(RETRIES))
            except UNREADABLE as error:
                found.append(unreadable_shard(shard, error))
    return found


def unreadable_shard(shard: Shard, error: BaseException) -> Difference:
    """Return the difference for an unreadable shard: damaged, or unread after a temporary error or a denied access."""
    is_refused = isinstance(error, PermissionError | PermissionDeniedError | UnauthenticatedError)
    is_passing = is_transient(error) and getattr(error, "errno", None) != errno.EIO
    cause = str(error) if isinstance(error, ShardedStoreError) else f"{type(error).__name__}: {explain(error)}"
    what = cause if shard.name in cause else f"{shard.name}: {cause}"
    if is_refused or is_passing:
        return Difference.of(shard, "unread", what, LOOK_AGAIN, cause=cause)
    return Difference.of(shard, "damaged", what, cause=cause)


def _check_bytes(run: Run, shard: Shard, record: Record, layout: type[ResultLayout]) -> list[Difference]:
    found: list[Difference] = []
    location = object_at(run, shard)
    if layout.has_objects and isinstance(location, Place) and location.is_file:
        written, keys = _tally_zip(location.url, location.options)
        for key, what in keys:
            text = f"{shard.name}: {what}"
            found.append(Difference.of(shard, "damaged", text, key=key, url=location.url, cause=what))
    else:
        written = _tally_entries(run, shard, layout)
    if (written.entries, written.nbytes) != (record.entries, record.nbytes):
        what = (
            f"{shard.name}: {written.entries:,} entries of {written.nbytes:,} bytes are stored, but {record.entries:,} entries of "
            f"{record.nbytes:,} bytes were written"
        )
        sides = ({"entries": one.entries, "nbytes": one.nbytes} for one in (written, record))
        found.append(_recorded(shard, location, what, *sides))
    elif written.digest != record.digest:
        what = f"{shard.name}: the stored keys, sizes or checksums differ from the written ones"
        found.append(_recorded(shard, location, what, {"digest": written.digest}, {"digest": record.digest}))
    return found


def _recorded(
    shard: Shard, location: Location, what: str, found: dict[str, Any], expected: dict[str, Any]
) -> Difference:
    return Difference.of(shard, "record", what, url=url_of(location), found=found, expected=expected)


def _tally_zip(url: str, options: Options = NONE) -> tuple[Written, list[tuple[str, str]]]:
    """Return the contents of a zip by its directory, and the keys whose bytes differ from it, with the cause."""
    entries = Archive.open(url, open_blob(url, options)).entries
    keys = sorted(entries, key=lambda key: entries[key].start)
    tally = Tally()
    for key in keys:
        tally.add(key, entries[key].size, entries[key].crc)
    reader = reader_of(ZipReadStore(url, storage_options=options))
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
    """Compare the decoded data of a shard with the digests in its record.

    A block is digested with the array's shape at the time of writing, as the array may have grown since.
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
            where = {"array": digested.path, "key": key, "cause": digested.damage}
            found.append(Difference.of(shard, "damaged", digested.damage, **where))
    stored = sums.recorded()
    for path in sorted((stored.keys() | expected.keys()) - damaged):
        difference = _compare(stored.get(path), expected.get(path))
        if difference is not None:
            kind, what = difference
            what = f"{path!r} in shard {shard.name!r} {what}"
            mine, recorded = _held(stored.get(path)), _held(expected.get(path))
            found.append(Difference.of(shard, kind, what, array=path, found=mine, expected=recorded))
    return found


def _held(array: DataSum | None) -> dict[str, Any] | None:
    """Return the digest of an array, as a difference holds it."""
    return None if array is None else msgspec.structs.asdict(array)


def _compare(stored: DataSum | None, written: DataSum | None) -> tuple[str, str] | None:
    """Return the difference of an array from its recorded digest, if any; stored chunks of fill values are ignored."""
    if stored is None:
        return "missing", "is missing"
    if written is None:
        return "extra", "was not written by the job"
    if (stored.shape, stored.layout) != (written.shape, written.layout):
        return (
            "layout",
            f"differs from the written array of shape {written.shape} in shape, chunk grid, data type or fill value",
        )
    if stored.value == written.value:
        return None
    if stored.stored == written.stored:
        return "data", f"holds data in its {stored.stored:,} chunks that differ from the written data"
    return "data", f"holds {stored.stored:,} chunks with other data, but {written.stored:,} chunks were written"
