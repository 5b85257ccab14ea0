"""One ordinary Zarr: when all shards are done, the documents that wait are put in their places, the root's last."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Collection, Container, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

from shardedstore.config.document import dump
from shardedstore.errors import CorruptError, UsageError
from shardedstore.fields import FILE_NAME
from shardedstore.jobs.destination import check_lengths, check_new_zarr, check_unused
from shardedstore.jobs.layouts.base import ResultLayout, ShardSource, refuse_to
from shardedstore.jobs.ledger import Record
from shardedstore.jobs.result_preview import Planned, after, blocks_after
from shardedstore.jobs.shards import Plan, Run, shard_runs
from shardedstore.jobs.versions import Identity, check_destination, check_latest, open_destination
from shardedstore.storage.folders import Folder, open_folder
from shardedstore.storage.options import Options, StorageOptions
from shardedstore.storage.retry import patiently
from shardedstore.storage.urls import BESIDE, normalize, object_url
from shardedstore.stores.entries import Entry
from shardedstore.stores.hierarchy import consolidate, nodes_of, undocumented
from shardedstore.stores.locations import Config, Directory, Mount, ViewOf
from shardedstore.stores.routes import Routes
from shardedstore.stores.veiled import VEIL
from shardedstore.transforms.base.chain import Chain, Present, name_crc
from shardedstore.transforms.base.single_zarr import (
    LAST,
    WAITING,
    is_consolidated,
    keep_documents,
    turn,
    waiting_name,
    waiting_url,
)
from shardedstore.zarr.paths import join
from shardedstore.zips import ZipReadStore

if TYPE_CHECKING:
    from shardedstore.jobs.worker import Job

CHECK_SECONDS = 1.0  # between two looks whether another job has taken over, while documents are written


PUBLISHED = "published.zip"  # the documents of the result that is there


class SingleZarr(ResultLayout):
    """One ordinary Zarr; config, ledger and the documents that wait stand in a folder beside it."""

    key: ClassVar[str] = "zarr"
    must_grow: ClassVar[bool] = True
    has_objects: ClassVar[bool] = False
    config_names_shards: ClassVar[bool] = False

    @classmethod
    def of(cls, sink: Any, to: str | None, storage_options: StorageOptions) -> Self:  # noqa: ARG003 (for functions)
        # docstring inherited
        refuse_to(sink, to)
        return cls(sink, normalize(sink.url), sink.options)

    @staticmethod
    def folder_at(url: str) -> str:
        # docstring inherited
        return url + BESIDE

    @property
    def opened_url(self) -> str | None:
        # docstring inherited
        return self.url

    @property
    def zarr(self) -> Folder:
        """The folder of the Zarr, opened."""
        return open_folder(self.url, self.options)

    def check(self, plan: Plan) -> None:
        # docstring inherited
        super().check(plan)
        if not self.is_remote:
            check_lengths(plan, lambda run: None if run.division is not None else f"{run.path}.zip")
        check_new_zarr(self.url, plan, self.options)

    def check_holes(self) -> None:
        # docstring inherited
        raise UsageError(
            f"a shard that is missing from one ordinary Zarr would be read as fill values: {type(self.sink).__name__} takes no "
            "accept_failed= and max_missing=. Write with ToZip or CopyTo(layout='shards'), whose config knows of holes"
        )

    def planned(self, plan: Plan, chain: Chain) -> Planned:
        # docstring inherited
        return Planned()

    def find(self, wanted: Identity, overwrite: bool) -> Identity | None:
        # docstring inherited
        found = check_destination(self.place, wanted, overwrite=False)
        return None if overwrite else found

    def open(self, wanted: Identity, overwrite: bool) -> Identity:
        """Make the destination ready; with `overwrite` nothing opens a mixture of the old and the new, whenever the job ends."""
        check_unused(self.url, self.options)
        if overwrite:
            check_destination(self.place, wanted, overwrite=False)
            withdraw(self.place, self.zarr)
        return open_destination(self.place, wanted, overwrite=False, again=overwrite)

    def mend(self, job: Job, plan: Plan) -> int:
        """Mark the shards that have lost files, by one listing.

        Documents that were published are put back at once, as a later job may not end that would write them.
        """
        records = {number: record for number, record in job.ledger.read().items() if record.is_done}
        lost = frozenset(self._lost(job, plan, records)) if records else frozenset[int]()
        if lost:
            job.ledger.mark(lost)
        return len(lost)

    def _lost(self, job: Job, plan: Plan, records: Mapping[int, Record]) -> Iterator[int]:
        waiting, sizes = {name for name, _ in self.place.sizes(WAITING)}, list(self.zarr.sizes())
        put_back(self.place, self.zarr, self.options, {key for key, _ in sizes})
        found = tally_shards(self._divided(job.chain, plan), sizes)
        for run in plan.runs:
            for number, shard in run.shards():
                record = records.get(number)
                if record is None:
                    continue
                has_lost = found.get(number, Listed()).has_lost(Listed.written([record]))
                if has_lost or (run.blocks is None and waiting_name(shard) not in waiting):
                    yield number

    def _divided(self, chain: Chain, plan: Plan) -> Config:
        """Return the Zarr, divided into the shards that it is made of."""
        zarr, nodes = Directory(self.url, self.options), after(chain, plan.nodes)

        def mount(run: Run) -> Mount:
            blocks = run.blocks and self.sink.blocks(blocks_after(run.blocks, nodes.get(run.path)))
            path = run.path if run.members is None else join(run.path, "{name}")
            return Mount(ViewOf(zarr, path), blocks, members=run.members)

        return Config(zarr, {run.path: mount(run) for run in plan.runs[1:]})

    def write(self, source: ShardSource, job: Job, generation: int) -> Record:
        # docstring inherited
        written = self.sink.write(source.entries(), source.shard, self.url)
        return Record.of(written, source.shard.number)

    def inventory(self) -> Present | None:
        # docstring inherited
        return None

    def present(self, run: Run, records: Mapping[int, Record], job: Job, present: Present) -> Iterator[int]:
        """Yield the shards that are recorded; the files are listed once, at the start and at the end."""
        return (number for number in run.numbers if number in records and records[number].is_done)

    def publish(self, job: Job, plan: Plan, records: Mapping[int, Record]) -> Config:
        """Prove that all that was written is there, put the documents in their places, and write the config beside the Zarr.

        Raises
        ------
        CorruptError
            When what stands there is not what the shards' records say.
        """
        zarr = self.zarr
        documents = self.sink.documents(self._waiting(job, plan), plan.config)
        _check_written(zarr, documents, records)
        nodes = nodes_of(documents)
        for path in plan.consolidated:
            if path in nodes:
                key, data = consolidate(nodes, path, undocumented(plan.nodes, path))
                documents[key] = data
        _put(job, zarr, documents)
        for key in published_keys(self.place, self.options) or ():
            if is_consolidated(key) and key not in documents:  # of a group that is to have none now
                zarr.remove(key)
        zarr.clean()
        entries = [Entry(key, documents[key]) for key in sorted(documents)]
        patiently(lambda: keep_documents(entries, _published(self.place), self.options))
        config = Config(base=Directory(self.url, self.options))
        self.place.write(FILE_NAME, dump(config, self.folder))
        check_latest(job.ledger)
        self.place.clean()
        return config

    def _waiting(self, job: Job, plan: Plan) -> dict[str, bytes]:
        """Return the documents that wait; a shard whose documents can't be read is marked to be made again."""
        documents: dict[str, bytes] = {}
        for run in plan.runs:
            for number, shard in run.shards() if run.blocks is None else ():
                place = waiting_url(self.url, shard)
                try:
                    found = _kept(place, self.options)
                except (FileNotFoundError, CorruptError) as error:
                    job.ledger.mark(frozenset([number]))
                    raise CorruptError(
                        f"the metadata of shard {shard.name!r} that waits at {place!r} can't be read: {error}; run the job again with "
                        "the same arguments, and it makes this shard again"
                    ) from error
                for key, data in found.items():
                    documents.setdefault(join(shard.path, key), data)  # the groups above a bundle are the base's
        return documents

    @staticmethod
    def leaves_unknown(identity: Identity, *, finished: bool) -> bool:  # noqa: ARG004 (of other layouts)
        # docstring inherited
        return not finished


def _check_written(zarr: Folder, documents: Container[str], records: Mapping[int, Record]) -> None:
    """Refuse to publish where other files stand than were written."""
    difference = Listed.of(zarr.sizes(), documents).difference(Listed.written(records.values()))
    if difference is not None:
        raise CorruptError(
            f"{zarr.url!r} {difference}: something else writes there or removes from it, or the source has fewer "
            "chunks than before. Name another destination, or remove this one and what is beside it, and run the job again"
        )


def _put(job: Job, zarr: Folder, documents: Mapping[str, bytes]) -> None:
    """Put documents in their places, the root's last, unless another job takes over meanwhile."""
    checked = -CHECK_SECONDS
    for key in sorted(documents, key=turn):
        if abs(time.time() - checked) > CHECK_SECONDS:  # a machine may have slept meanwhile
            check_latest(job.ledger)
            checked = time.time()
        zarr.write(key, documents[key])


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
