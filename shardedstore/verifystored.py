"""A job's result against its ledger: whether all of it holds the bytes that were written."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple, TypeVar

import msgspec

from shardedstore.access import NONE, Options
from shardedstore.blobs import nbytes_of, open_blob
from shardedstore.bulk import bulk
from shardedstore.chain import Chain, Shard, Tally, Written
from shardedstore.config import Config, Mount
from shardedstore.crc import crc32
from shardedstore.differences import Difference
from shardedstore.entries import read_entries
from shardedstore.errors import CorruptError, ShardedStoreError, UsageError
from shardedstore.folders import STORAGE_ERRORS
from shardedstore.generations import read_identity
from shardedstore.grid import Blocks
from shardedstore.hierarchy import read_nodes
from shardedstore.job import identity
from shardedstore.ledger import Record
from shardedstore.locations import ViewOf, Zip
from shardedstore.metadata import CONSOLIDATED_V2, ArrayMeta
from shardedstore.onezarr import is_document, whole_key
from shardedstore.plan import Load, Plan, Run, Segment
from shardedstore.remote_errors import explain
from shardedstore.task import open_component
from shardedstore.transient import FIRST_PAUSE, is_transient
from shardedstore.verifyledger import MAKE_AGAIN, WRITE_AGAIN, Kept, location_of, shard_runs
from shardedstore.zipindex import Archive
from shardedstore.zips import ZipReadStore

T = TypeVar("T")
ATTEMPTS = 3
UNREADABLE = (*STORAGE_ERRORS, ShardedStoreError)
MOST_DAMAGED = 16  # keys of one shard that are named


def patiently(work: Callable[[], T]) -> T:
    """Return what a function gives, called again after an error that may pass."""
    for attempt in range(ATTEMPTS - 1):
        try:
            return work()
        except Exception as error:
            if not is_transient(error):
                raise
            time.sleep(FIRST_PAUSE * 2**attempt)
    return work()


class StoredTask(NamedTuple):
    """Some shards of a result, and their records; of one ordinary Zarr, under the keys of the whole."""

    segment: Segment
    records: dict[int, Record]
    is_one_zarr: bool = False

    @property
    def advice(self) -> str:
        """What to do about a shard that differs."""
        return WRITE_AGAIN if self.is_one_zarr else MAKE_AGAIN


def stored_tasks(config: Config, kept: Kept, division: Plan | None) -> list[StoredTask]:
    """Return the tasks that read a result and compare it with its ledger.

    Parameters
    ----------
    division : Plan, optional
        For one ordinary Zarr: that of the source as the job divided it, since its records are of those shards.

    Raises
    ------
    UsageError
        Where the ledger's records say nothing of bytes, or which bytes they are of is not known.
    """
    if any(not record.digest for record in kept.records.values()):
        raise UsageError(
            "this result was made by a function of stores, of which the ledger knows no bytes: verify it with "
            "against=source, or with level='exists'"
        )
    runs = _divided_like(config, kept, division) if kept.is_one_zarr else shard_runs(config)
    loads = []
    for run in runs:
        records = [kept.records[n] for n in range(run.number, run.number + run.stop) if n in kept.records]
        loads.append(Load(sum(r.entries for r in records), sum(r.nbytes for r in records)))
    segments = Plan(config, {}, tuple(runs), tuple(loads)).segments()
    return [StoredTask(segment, _records_of(segment, kept.records), kept.is_one_zarr) for segment in segments]


def _records_of(segment: Segment, records: Mapping[int, Record]) -> dict[int, Record]:
    numbers = (number for run in segment.runs for number in range(run.number, run.number + run.stop - run.first))
    return {number: records[number] for number in numbers if number in records}


def _divided_like(config: Config, kept: Kept, division: Plan | None) -> list[Run]:
    """Return the shards of one ordinary Zarr, divided as the source was that it was made from."""
    made = read_identity(kept.folder)
    if division is None or made is None or identity(division, Chain((), None)).source != made.source:
        raise UsageError(
            "this result is one ordinary Zarr, and its ledger's records are of the shards of its source: say against= with "
            "ShardedStore.partition(source, ...), divided as for the job, or verify it with level='exists'"
        )
    nodes = read_nodes(config)
    mounts: dict[str, Mount] = {}
    for path, mount in division.config.shards.items():
        node = nodes.get(path)
        blocks = None
        if mount.blocks is not None and node is not None and isinstance(node.meta, ArrayMeta):
            blocks = _blocks_in(mount.blocks, node.meta)
        mounts[path] = Mount(ViewOf(config.base, path), blocks)
    return shard_runs(Config(config.base, mounts))


def _blocks_in(blocks: Blocks, meta: ArrayMeta) -> Blocks:
    """Return a source's division into blocks as it is in the result, where a block may be one object."""
    assert meta.keys is not None
    if meta.chunk_grid == blocks.chunk_grid:
        return msgspec.structs.replace(blocks, keys=meta.keys)
    return Blocks(meta.chunk_grid, (1,) * len(blocks.chunks), meta.keys)


def check_stored(task: StoredTask) -> list[Difference]:
    """Read some shards, and return how they differ from their records."""
    found: list[Difference] = []
    for run in task.segment.runs:
        for number, shard in run.shards():
            record = task.records.get(number)
            if record is None:  # told by `check_exists`, or by the sum of all
                continue
            try:
                found += patiently(partial(_check_shard, run, shard, record, task))
            except UNREADABLE as error:
                what = f"{shard.name}: {type(error).__name__}: {explain(error)}"
                found.append(Difference("damaged", what, task.advice, shard=shard.name))
    return found


def _check_shard(run: Run, shard: Shard, record: Record, task: StoredTask) -> list[Difference]:
    found: list[Difference] = []
    location = location_of(run, shard)
    if isinstance(location, Zip):
        written, keys = _tally_zip(location.url, location.options)
        for key, what in keys:
            found.append(Difference("damaged", f"{shard.name}: {what}", MAKE_AGAIN, shard=shard.name, key=key))
    else:
        written = _tally_entries(run, shard, task.is_one_zarr)
    if (written.entries, written.nbytes) != (record.entries, record.nbytes):
        what = (
            f"{shard.name}: {written.entries:,} entries of {written.nbytes:,} bytes stand there, where {record.entries:,} of "
            f"{record.nbytes:,} were written"
        )
        found.append(Difference("record", what, task.advice, shard=shard.name))
    elif written.digest != record.digest:
        what = f"{shard.name}: the keys, sizes or checksums of what stands there are not those that were written"
        found.append(Difference("record", what, task.advice, shard=shard.name))

    return found


def _tally_zip(url: str, options: Options = NONE) -> tuple[Written, list[tuple[str, str]]]:
    """Return what a zip's directory says that it holds, and the keys whose bytes are not that, with the cause."""
    entries = Archive.open(url, open_blob(url, options)).entries
    keys = sorted(entries, key=lambda key: entries[key].start)
    tally = Tally()
    for key in keys:
        tally.add(key, entries[key].size, entries[key].crc)
    reader = bulk(ZipReadStore(url, storage_options=options))
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


def _tally_entries(run: Run, shard: Shard, is_one_zarr: bool) -> Written:
    tally = Tally()
    for entry in read_entries(open_component(run, shard), shard.blocks, shard.block):
        if is_one_zarr and (is_document(entry) or entry.key.rpartition("/")[2] == CONSOLIDATED_V2):
            continue
        key = whole_key(entry, shard) if is_one_zarr else entry.key
        tally.add(key, memoryview(entry.data).nbytes, crc32(entry.data))
    return tally.written(tally.nbytes)
