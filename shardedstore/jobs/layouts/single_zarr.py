"""Publish one ordinary Zarr: when all shards are done, write the documents that wait, the root's last."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Collection, Container, Iterable, Mapping
from typing import NamedTuple

from shardedstore.config.document import dump
from shardedstore.errors import CorruptError
from shardedstore.fields import FILE_NAME
from shardedstore.jobs.ledger import Record
from shardedstore.jobs.shards import Plan, shard_runs
from shardedstore.jobs.versions import check_latest
from shardedstore.jobs.worker import Job
from shardedstore.storage.errors import patiently
from shardedstore.storage.folders import Folder, open_folder
from shardedstore.storage.options import Options
from shardedstore.storage.urls import BESIDE, object_url
from shardedstore.stores.entries import Entry
from shardedstore.stores.hierarchy import consolidate, nodes_of, undocumented
from shardedstore.stores.locations import Config, Directory
from shardedstore.stores.routes import Routes
from shardedstore.stores.veiled import VEIL
from shardedstore.transforms.base.chain import Sink, name_crc
from shardedstore.transforms.base.single_zarr import LAST, is_consolidated, keep_documents, turn, waiting_url
from shardedstore.zarr.paths import join
from shardedstore.zips import ZipReadStore

CHECK_SECONDS = 1.0  # between two looks whether another job has taken over, while documents are written


PUBLISHED = "published.zip"  # the documents of the result that is there


def finish_zarr(job: Job, plan: Plan, records: Mapping[int, Record], sink: Sink) -> Config:
    """Prove that all that was written is there, put the documents in their places, and write the config beside the Zarr.

    Raises
    ------
    CorruptError
        When what stands there is not what the shards' records say.
    """
    assert job.folder is not None
    zarr = open_folder(job.folder.removesuffix(BESIDE), sink.options)
    documents = sink.documents(_waiting(job, zarr.url, plan), plan.config)
    difference = Listed.of(zarr.sizes(), documents).difference(Listed.written(records.values()))
    if difference is not None:
        raise CorruptError(
            f"{zarr.url!r} {difference}: something else writes there or removes from it, or the source has fewer "
            "chunks than before. Name another destination, or remove this one and what is beside it, and run the job again"
        )
    nodes = nodes_of(documents)
    for path in plan.consolidated:
        if path in nodes:
            key, data = consolidate(nodes, path, undocumented(plan.nodes, path))
            documents[key] = data
    checked = -CHECK_SECONDS
    for key in sorted(documents, key=turn):
        if abs(time.time() - checked) > CHECK_SECONDS:  # a machine may have slept meanwhile
            check_latest(job.ledger)
            checked = time.time()
        zarr.write(key, documents[key])
    for key in published_keys(job.place, job.options) or ():
        if is_consolidated(key) and key not in documents:  # of a group that is to have none now
            zarr.remove(key)
    zarr.clean()
    entries = [Entry(key, documents[key]) for key in sorted(documents)]
    patiently(lambda: keep_documents(entries, _published(job.place), job.options))
    config = Config(base=Directory(zarr.url, sink.options))
    job.place.write(FILE_NAME, dump(config, job.folder))
    check_latest(job.ledger)
    job.place.clean()
    return config


def put_back(beside: Folder, zarr: Folder, options: Options, keys: Container[str]) -> None:
    """Write those documents of one ordinary Zarr again that were published, and are not among its keys any more."""
    missing = [key for key in published_keys(beside, options) or () if key not in keys]
    published = _kept(_published(beside), options) if missing else {}
    for key in sorted(missing, key=turn):
        zarr.write(key, published[key])


def published_keys(beside: Folder, options: Options) -> list[str] | None:
    """Return the keys of the documents that were published; None for a result that older versions made."""
    try:
        return keys_kept(_published(beside), options)
    except (FileNotFoundError, CorruptError):
        return None


def withdraw(beside: Folder, zarr: Folder) -> None:
    """Remove what opens one ordinary Zarr, and what would put it back."""
    for name in (FILE_NAME, PUBLISHED):
        beside.remove(name)
    for name in reversed(LAST):
        zarr.remove(name)


def _published(beside: Folder) -> str:
    return object_url(beside.url, PUBLISHED)


def _waiting(job: Job, url: str, plan: Plan) -> dict[str, bytes]:
    """Return the documents that wait; a shard whose documents can't be read is marked to be made again."""
    documents: dict[str, bytes] = {}
    for run in plan.runs:
        for number, shard in run.shards() if run.blocks is None else ():
            place = waiting_url(url, shard)
            try:
                found = _kept(place, job.options)
            except (FileNotFoundError, CorruptError) as error:
                job.ledger.mark(frozenset([number]))
                raise CorruptError(
                    f"the metadata of shard {shard.name!r} that waits at {place!r} can't be read: {error}; run the job again with "
                    "the same arguments, and it makes this shard again"
                ) from error
            for key, data in found.items():
                documents.setdefault(join(shard.path, key), data)  # the groups above a bundle are the base's
    return documents


def keys_kept(url: str, options: Options) -> list[str]:
    """Return the keys of documents in a zip, which version 0.4.0 wrote without a veil."""
    return [name.removesuffix(VEIL) for name in ZipReadStore(url, storage_options=options).names()]


def _kept(url: str, options: Options) -> dict[str, bytes]:
    store = ZipReadStore(url, storage_options=options)
    return {name.removesuffix(VEIL): store.read_sync(name) for name in store.names()}


class Listed(NamedTuple):
    """The files of one ordinary Zarr without its metadata: their number and bytes, and the sum of `name_crc` over them."""

    files: int = 0
    nbytes: int = 0
    names: int = 0

    @classmethod
    def of(cls, sizes: Iterable[tuple[str, int]], documents: Container[str]) -> Listed:
        """Return what a listing has, given the keys of the documents."""
        count = total = names = 0
        for key, nbytes in sizes:
            if key not in documents and not is_consolidated(key):
                count, total, names = count + 1, total + nbytes, names + name_crc(key, nbytes)
        return cls(count, total, names)

    @classmethod
    def written(cls, records: Collection[Record]) -> Listed:
        """Return what some records say that was written."""
        return cls(*(sum(getattr(record, name) for record in records) for name in ("entries", "nbytes", "names")))

    def has_lost(self, written: Listed) -> bool:
        """Tell whether some of what was written is gone, or of another size: not that there is more."""
        return self != written and self.files <= written.files

    def difference(self, written: Listed) -> str | None:
        """Return how this differs from what was written, if it does.

        >>> Listed(2, 99, 7).difference(Listed(2, 99, 8))
        'holds 2 files of 99 bytes without its metadata, of other names or sizes, where 2 of 99 were written'
        """
        if self == written:
            return None
        others = ", of other names or sizes" if self[:2] == written[:2] else ""
        return (
            f"holds {self.files:,} files of {self.nbytes:,} bytes without its metadata{others}, where {written.files:,} of "
            f"{written.nbytes:,} were written"
        )


def tally_shards(config: Config, sizes: Iterable[tuple[str, int]]) -> dict[int, Listed]:
    """Return what a listing of one ordinary Zarr has of each shard, by number, without its metadata.

    `config` divides the Zarr into the shards that it was made of.
    """
    routes, runs = Routes(config.shards), {run.path: run for run in shard_runs(config)[1:]}
    totals: defaultdict[int, list[int]] = defaultdict(lambda: [0, 0, 0])
    for key, nbytes in sizes:
        if key.rpartition("/")[2] not in LAST:
            (path, index), _ = routes.find(key)
            total = totals[0 if path is None else runs[path].number_of(index)]
            total[0] += 1
            total[1] += nbytes
            total[2] += name_crc(key, nbytes)
    return {number: Listed(*total) for number, total in totals.items()}
