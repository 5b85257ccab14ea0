"""One ordinary Zarr, whose metadata documents are published after all shards, the root's last.

Until then the documents wait in a folder beside the Zarr.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

import msgspec

from shardedstore.config.document import dump, from_dict
from shardedstore.errors import CorruptError, ShardedStoreError, UsageError
from shardedstore.fields import FILE_NAME
from shardedstore.jobs.destination import check_lengths, check_new_zarr, check_unused
from shardedstore.jobs.differences import Difference
from shardedstore.jobs.layouts.base import ResultLayout, ShardSource, refuse_to
from shardedstore.jobs.layouts.result_job import ResultJob, known_records, read_job
from shardedstore.jobs.layouts.zarr_listing import ZarrListing, compare_shards, tally_shards
from shardedstore.jobs.ledger import Record
from shardedstore.jobs.manifest import JobManifest, generations, last_begun, ledger_of, read_generation
from shardedstore.jobs.open_destination import check_destination, check_latest, open_destination
from shardedstore.jobs.result_preview import ResultPreview, after, blocks_after
from shardedstore.jobs.shards import Plan, Run
from shardedstore.jobs.source_comparison import unchanged
from shardedstore.storage.folders import STORAGE_ERRORS, Folder, open_folder
from shardedstore.storage.options import Options, StorageOptions
from shardedstore.storage.retry import patiently
from shardedstore.storage.urls import BESIDE, normalize, object_url
from shardedstore.stores.consolidate import consolidate, undocumented
from shardedstore.stores.entries import Entry, is_document
from shardedstore.stores.hierarchy import nodes_of, read_nodes
from shardedstore.stores.locations import Config, Directory, Location, Mount, Place, ViewOf
from shardedstore.stores.veiled import VEIL
from shardedstore.transforms.base.chain import Chain
from shardedstore.transforms.base.shard import Entries, Shard, whole_key
from shardedstore.transforms.base.single_zarr import (
    LAST,
    WAITING,
    is_consolidated,
    keep_documents,
    path_of_waiting,
    turn,
    waiting_name,
    waiting_url,
)
from shardedstore.transforms.base.sink import Present
from shardedstore.zarr.grid import Blocks
from shardedstore.zarr.metadata import ArrayMeta
from shardedstore.zarr.paths import join
from shardedstore.zips import ZipReadStore

if TYPE_CHECKING:
    from shardedstore.jobs.job import Job

CHECK_SECONDS = 1.0  # between two checks for a takeover by another job while documents are written


WRITE_AGAIN = (
    "verify it with level='stored', which names the shards; or run the job again with the same arguments and overwrite=True, "
    "which writes everything again"
)
PUT_AGAIN = "run the job again with the same arguments: it writes the missing documents"
OTHERWISE = "verify it with level='exists', or with against=source"
PUBLISHED = "published.zip"  # a copy of the published documents


class SingleZarr(ResultLayout):
    """One ordinary Zarr, with its config, its ledger and waiting documents in a folder beside it."""

    key: ClassVar[str] = "zarr"
    must_grow: ClassVar[bool] = True
    has_objects: ClassVar[bool] = False
    config_names_shards: ClassVar[bool] = False
    writes_over: ClassVar[bool] = True
    data_show_losses: ClassVar[bool] = True
    is_file: ClassVar[bool] = False  # the result itself

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
    def location(self) -> Location:
        """The location of the result."""
        return Directory(self.url, self.options)

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

    def preview(self, plan: Plan, chain: Chain) -> ResultPreview:
        # docstring inherited
        return ResultPreview()

    def find(self, wanted: JobManifest, overwrite: bool) -> JobManifest | None:
        # docstring inherited
        found = check_destination(self.place, wanted, overwrite=False)
        return None if overwrite else found

    def open(self, wanted: JobManifest, overwrite: bool) -> JobManifest:
        """Prepare the destination for writing, and return the job there.

        With `overwrite`, the root's old documents are removed first, so that no reader opens a mixture of the old and the
        new result, even if the job does not end.
        """
        check_unused(self.url, self.options)
        if overwrite:
            check_destination(self.place, wanted, overwrite=False)
            withdraw(self.place, self.zarr)
        return open_destination(self.place, wanted, overwrite=False, again=overwrite)

    def mend(self, job: Job, plan: Plan) -> int:
        """Mark the shards that have lost files, by one listing, and return their number.

        Missing published documents are written again at once, because this job may not end.
        """
        records = {number: record for number, record in job.ledger.read().items() if record.is_done}
        lost = frozenset(self._lost(job, plan, records)) if records else frozenset[int]()
        if lost:
            job.ledger.mark(lost)
        return len(lost)

    def _lost(self, job: Job, plan: Plan, records: Mapping[int, Record]) -> Iterator[int]:
        waiting, sizes = {name for name, _ in self.place.sizes(WAITING)}, list(self.zarr.sizes())
        put_back(self.place, self.zarr, self.options, {key for key, _ in sizes})
        found = tally_shards(self.divided(job.chain, plan), sizes)
        for run in plan.runs:
            for shard in run.shards():
                record = records.get(shard.number)
                if record is None:
                    continue
                has_lost = found.get(shard.number, ZarrListing()).has_lost(ZarrListing.written([record]))
                if has_lost or (run.blocks is None and waiting_name(shard) not in waiting):
                    yield shard.number

    def divided(self, chain: Chain, plan: Plan) -> Config:
        """Return the config of the Zarr, divided into its shards."""
        zarr, nodes = self.location, after(chain, plan)

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
        """Return the numbers of the recorded shards; `mend` and `publish` list the files, once each."""
        return (number for number in run.numbers if number in records and records[number].is_done)

    def publish(self, job: Job, plan: Plan, records: Mapping[int, Record]) -> Config:
        """Check the written files, publish the documents, and write the config beside the Zarr.

        Raises
        ------
        CorruptError
            If the files differ from the shards' records; no document is published. Also if waiting documents can't be read;
            their shard is marked to be made again.
        DestinationError
            If another job has taken over the destination.
        """
        zarr, documents = self.zarr, self.documents(job, plan)
        _check_written(zarr, documents, records)
        _put(job, zarr, documents)
        for key in published_keys(self.place, self.options) or ():
            if is_consolidated(key) and key not in documents:  # the group has none in this result
                zarr.remove(key)
        zarr.clean()
        entries = [Entry(key, documents[key]) for key in sorted(documents)]
        patiently(lambda: keep_documents(entries, _published(self.place), self.options))
        config = Config(base=self.location)
        self.place.write(FILE_NAME, dump(config, self.folder))
        check_latest(job.ledger)
        self.place.clean()
        return config

    def documents(self, job: Job, plan: Plan) -> dict[str, bytes]:
        """Return the documents of the result by key, with its consolidated metadata.

        Raises
        ------
        CorruptError
            If the waiting documents of a shard can't be read. The shard is marked to be made again.
        """
        documents: dict[str, bytes] = self.sink.documents(self._waiting(job, plan), plan.config)
        nodes = nodes_of(documents)
        for path in plan.consolidated:
            if path in nodes:
                key, data = consolidate(nodes, path, undocumented(plan.nodes, path))
                documents[key] = data
        return documents

    def _waiting(self, job: Job, plan: Plan) -> dict[str, bytes]:
        """Return the waiting documents.

        If the documents of a shard can't be read, the shard is marked to be made again, and CorruptError is raised.
        """
        documents: dict[str, bytes] = {}
        for run in plan.runs:
            for shard in run.shards() if run.blocks is None else ():
                place = waiting_url(self.url, shard)
                try:
                    found = _kept(place, self.options)
                except (FileNotFoundError, CorruptError) as error:
                    job.ledger.mark(frozenset([shard.number]))
                    raise CorruptError(
                        f"the metadata of shard {shard.name!r} that waits at {place!r} can't be read: {error}; run the job again with "
                        "the same arguments, and it makes this shard again"
                    ) from error
                for key, data in found.items():
                    documents.setdefault(join(shard.path, key), data)  # the base holds the groups above a bundle
        return documents

    @classmethod
    def find_job(cls, config: Config) -> ResultJob | None:
        """Return the last job of the Zarr that has ended, or the latest job if none has.

        A later job that has not ended writes under the same keys. The records of shards that it may overwrite are left
        out, and `notes` says so.
        """
        base = config.base.origin
        if config.shards or not isinstance(base, Place) or not (base.is_file if cls.is_file else base.is_folder):
            return None
        place = open_folder(cls.folder_at(base.url), base.options)
        if read_job(place) is None:
            return None
        jobs = [read_generation(place, number) for number in reversed(generations(place))]
        latest = last_begun(place, jobs[0])
        made = next((job for job in jobs if ledger_of(place, job).is_compacted()), latest)
        records = known_records(place, made)
        if made.generation >= latest.generation or not made.config:
            return ResultJob(cls, place, latest, known_records(place, latest))
        kept = {
            n: records[n]
            for n, _ in unchanged(latest.source_of(made), from_dict(latest.config), made.marks, latest.marks)
            if n in records
        }
        over = len(records) - len(kept)
        text = f"{over:,} shards are not compared: a later job that has not ended overwrites them; run it to its end"
        return ResultJob(cls, place, made, kept, (text,) if over else ())

    @classmethod
    def as_made(cls, config: Config, job: ResultJob) -> Config:
        # docstring inherited
        if not job.made.config:
            raise UsageError(
                f"{config.base.show()}: its ledger does not have the job's division of the source; {OTHERWISE}"
            )
        nodes = read_nodes(config)
        mounts: dict[str, Mount] = {}
        for path, mount in from_dict(job.made.config).shards.items():
            node, blocks = nodes.get(path), mount.blocks
            if blocks is not None and node is not None and isinstance(node.meta, ArrayMeta):
                blocks = _blocks_in(blocks, node.meta, path)
            own = path if mount.members is None else join(path, "{name}")
            mounts[path] = Mount(ViewOf(config.base, own), blocks, members=mount.members)
        return Config(config.base, mounts)

    @classmethod
    def compare_listing(
        cls, config: Config, job: ResultJob | None, seen: Callable[[str], None]
    ) -> Iterator[Difference]:
        """Yield the differences from the records, and missing documents."""
        base = config.base
        assert job is not None
        assert isinstance(base, Place)
        documents = set(documents_of(job.folder, base.options))
        sizes = dict(open_folder(base.url, base.options).sizes())
        listed, written = ZarrListing.of(sizes.items(), documents), ZarrListing.written(job.records.values())
        seen(f"{listed}\n")
        what = listed.difference(written)
        if what is not None:
            try:
                yield from compare_shards(cls.as_made(config, job), job, sizes)
            except (*STORAGE_ERRORS, ShardedStoreError):
                text, found, expected = f"{base.url!r} {what}", listed.held, written.held
                yield Difference("size", text, WRITE_AGAIN, url=base.url, found=found, expected=expected)
        for key in sorted(documents - sizes.keys()):
            yield Difference("missing", f"{key!r} of {base.url!r} is missing", PUT_AGAIN, key=key, url=base.url)

    @classmethod
    def stored(cls, entries: Entries, run: Run, shard: Shard) -> Iterator[tuple[str, Entry]]:  # noqa: ARG003 (other layouts use it)
        # docstring inherited
        counted = (entry for entry in entries if not (is_document(entry) or is_consolidated(entry.key)))
        return ((whole_key(entry, shard), entry) for entry in counted)

    @staticmethod
    def leaves_unknown(manifest: JobManifest, *, finished: bool) -> bool:  # noqa: ARG004 (other layouts use it)
        # docstring inherited
        return not finished


def _check_written(zarr: Folder, documents: Container[str], records: Mapping[int, Record]) -> None:
    """Raise CorruptError if the files differ from the written ones."""
    difference = ZarrListing.of(zarr.sizes(), documents).difference(ZarrListing.written(records.values()))
    if difference is not None:
        raise CorruptError(
            f"{zarr.url!r} {difference}: something else writes there or removes from it, or the source has fewer "
            "chunks than before. Name another destination, or remove this one and the folder beside it, and run the job again"
        )


def _put(job: Job, zarr: Folder, documents: Mapping[str, bytes]) -> None:
    """Write documents to the Zarr, the root's last.

    Raises
    ------
    DestinationError
        If another job takes over the destination meanwhile; the documents written before stay.
    """
    checked = -CHECK_SECONDS
    for key in sorted(documents, key=turn):
        if abs(time.time() - checked) > CHECK_SECONDS:  # a machine may have slept meanwhile
            check_latest(job.ledger)
            checked = time.time()
        zarr.write(key, documents[key])


def put_back(beside: Folder, zarr: Folder, options: Options, keys: Container[str]) -> None:
    """Write the published documents of one ordinary Zarr again that are missing from its keys."""
    missing = [key for key in published_keys(beside, options) or () if key not in keys]
    published = _kept(_published(beside), options) if missing else {}
    for key in sorted(missing, key=turn):
        zarr.write(key, published[key])


def published_keys(beside: Folder, options: Options) -> list[str] | None:
    """Return the keys of the published documents; None if there is no readable copy.

    Older versions kept no copy.
    """
    try:
        return keys_kept(_published(beside), options)
    except (FileNotFoundError, CorruptError):
        return None


def withdraw(beside: Folder, zarr: Folder) -> None:
    """Make one ordinary Zarr impossible to open.

    The config and the root's documents are removed. The copy of the published documents is removed too, so that they
    are not written again.
    """
    for name in (FILE_NAME, PUBLISHED):
        beside.remove(name)
    for name in reversed(LAST):
        zarr.remove(name)


def _published(beside: Folder) -> str:
    return object_url(beside.url, PUBLISHED)


def keys_kept(url: str, options: Options) -> list[str]:
    """Return the keys of the documents in a zip; version 0.4.0 wrote them without the veil suffix."""
    return [name.removesuffix(VEIL) for name in ZipReadStore(url, storage_options=options).names()]


def _kept(url: str, options: Options) -> dict[str, bytes]:
    store = ZipReadStore(url, storage_options=options)
    return {name.removesuffix(VEIL): store.read_sync(name) for name in store.names()}


def documents_of(folder: Folder, options: Options) -> Iterator[str]:
    """Yield the keys of the documents of one ordinary Zarr, published or still waiting beside it."""
    if (published := published_keys(folder, options)) is not None:
        yield from published
        return
    for name, _ in folder.sizes(WAITING):
        path = name.removeprefix(f"{WAITING}/").removesuffix(".zip")
        url = object_url(folder.url, name)
        for key in keys_kept(url, options):
            yield join(path_of_waiting(path), key)


def _blocks_in(blocks: Blocks, meta: ArrayMeta, path: str) -> Blocks:
    """Return the blocks of a source in the result's chunk grid, where a block may be one chunk.

    Raises
    ------
    UsageError
        If a step changed the shape of the blocks.
    """
    assert meta.keys is not None
    if meta.chunk_grid == blocks.chunk_grid:
        return msgspec.structs.replace(blocks, keys=meta.keys)
    if meta.chunk_grid[: len(blocks.grid)] != blocks.grid:
        raise UsageError(
            f"{path!r} was made of {blocks.grid} blocks, but a step changed their shape, so the blocks of its "
            f"{meta.chunk_grid} chunks are unknown; {OTHERWISE}"
        )
    return Blocks(meta.chunk_grid, (1,) * len(blocks.chunks), meta.keys, blocks.stored)
