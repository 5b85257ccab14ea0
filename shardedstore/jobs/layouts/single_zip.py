"""One zip with all keys: shards are written to parts beside it, which are joined at the end."""

from __future__ import annotations

import logging
import os
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache, partial
from typing import TYPE_CHECKING, ClassVar

from shardedstore.config.document import dump
from shardedstore.errors import CorruptError, DestinationError, UsageError
from shardedstore.fields import FILE_NAME
from shardedstore.jobs.destination import check_lengths
from shardedstore.jobs.differences import Difference
from shardedstore.jobs.layouts.base import ResultLayout
from shardedstore.jobs.layouts.result_job import ResultJob
from shardedstore.jobs.layouts.single_zarr import CHECK_SECONDS, SingleZarr, documents_of
from shardedstore.jobs.layouts.zarr_listing import compare_shards
from shardedstore.jobs.ledger import Record
from shardedstore.jobs.manifest import JobManifest, read_manifest
from shardedstore.jobs.open_destination import check_destination, check_latest, open_destination
from shardedstore.jobs.shards import Plan, shard_runs
from shardedstore.storage.attributes import attributes_of_objects
from shardedstore.storage.blobs import nbytes_of, open_blob
from shardedstore.storage.errors import explain
from shardedstore.storage.folders import STORAGE_ERRORS
from shardedstore.storage.outputs import UNFINISHED, bucket_rule, output
from shardedstore.storage.requests import read_ahead
from shardedstore.storage.urls import object_url, real_url
from shardedstore.stores.entries import Entry
from shardedstore.stores.locations import Config, Location, Place, Zip
from shardedstore.stores.routes import Routes
from shardedstore.transforms.base.shard import Shard
from shardedstore.transforms.base.single_zarr import LAST, WAITING, waiting_name
from shardedstore.transforms.base.single_zip import PARTS, part_name
from shardedstore.transforms.base.sink import Tally
from shardedstore.transforms.base.zip_shard import is_ozx, ozx_comment
from shardedstore.zips.index import Archive
from shardedstore.zips.join import Joined, Member, stored_members

if TYPE_CHECKING:
    from shardedstore.jobs.job import Job

UPLOADING = "uploading"  # the marker of an upload of the zip
AHEAD = 16  # directories of parts that are read at once from an object store
ENTRY_BYTES = 512  # a rough upper limit of the bytes of an entry's headers
logger = logging.getLogger("shardedstore")
AGAIN = "run the job again with the same arguments"
Published = Callable[[], Mapping[int, list[Member]]]


class SingleZip(SingleZarr):
    """One zip, with its config, its ledger, its documents and the parts of a running job in a folder beside it.

    A record of a shard is right if its part, or the shard's entries in the zip, have the recorded digest. The zip is replaced
    whole, so a changed source needs not have grown, and other jobs may overwrite it.
    """

    key: ClassVar[str] = "zip"
    must_grow: ClassVar[bool] = False
    writes_over: ClassVar[bool] = False
    joins_shards: ClassVar[bool] = True
    is_file: ClassVar[bool] = True

    @property
    def location(self) -> Location:
        # docstring inherited
        return Zip(self.url, self.options)

    @property
    def written_urls(self) -> list[str]:
        # docstring inherited
        return [self.folder]

    def check(self, plan: Plan) -> None:
        # docstring inherited
        ResultLayout.check(self, plan)
        for _, location in plan.config.locations():
            place = location.origin
            if isinstance(place, Place) and real_url(place.url) == real_url(self.url):
                raise DestinationError(f"the destination {self.url!r} is the source: name another file")
        if not self.is_remote:
            check_lengths(plan, lambda run: None if run.division is not None else f"{run.path}.zip")
        self._check_unused()

    def _check_unused(self) -> None:
        """Refuse a destination that is a folder, or a file that no such job wrote."""
        if not self.is_remote and os.path.isdir(self.url):
            raise DestinationError(
                f"the destination {self.url!r} is a folder, but a name that ends in .zip or .ozx is one zip: name another"
            )
        try:
            if read_manifest(self.place) is None and nbytes_of(self.url, self.options) is not None:
                raise DestinationError(
                    f"the destination {self.url!r} is a file already, which no job of shardedstore wrote: name another, or remove it first"
                )
        except STORAGE_ERRORS as error:
            raise DestinationError(f"the destination {self.url!r} can't be used: {explain(error)}") from error

    def check_holes(self) -> None:
        # docstring inherited
        raise UsageError(
            "a shard that is missing from one zip would be read as fill values: ToZip of one zip takes no accept_failed= and "
            "max_missing=. Write with ToZip to a folder, whose config knows of holes"
        )

    def find(self, wanted: JobManifest, overwrite: bool) -> JobManifest | None:
        # docstring inherited
        found = check_destination(self.place, wanted, overwrite)
        return None if overwrite else found

    def open(self, wanted: JobManifest, overwrite: bool) -> JobManifest:
        """Prepare the destination for writing, and return the job there. An earlier zip stays until the new one replaces it."""
        self._check_unused()
        return open_destination(self.place, wanted, overwrite, again=overwrite)

    def _lost(self, job: Job, plan: Plan, records: Mapping[int, Record]) -> Iterator[int]:
        waiting, parts = self._names(WAITING), self._names(PARTS)
        published = self._published(job, plan)
        for run in plan.runs:
            for shard in run.shards():
                record = records.get(shard.number)
                if record is None:
                    continue
                has_documents = run.blocks is not None or waiting_name(shard) in waiting
                if not has_documents or not (
                    record.entries == 0
                    or part_name(shard) in parts
                    or _digest(published().get(shard.number, ())) == record.digest
                ):
                    yield shard.number

    def _names(self, folder: str) -> frozenset[str]:
        return frozenset(name for name, _ in self.place.sizes(folder))

    def _published(self, job: Job, plan: Plan) -> Published:
        """Return a function that gives the data of the zip that stands there, by the numbers of the shards."""
        return cache(lambda: self._read_published(self.divided(job.chain, plan)))

    def _read_published(self, config: Config) -> Mapping[int, list[Member]]:
        found: defaultdict[int, list[Member]] = defaultdict(list)
        routes, runs = Routes(config.shards), {run.path: run for run in shard_runs(config)[1:]}
        try:
            for member in stored_members(self._archive(self.url)):
                if member.name.rpartition("/")[2] not in LAST:
                    (path, index), _ = routes.find(member.name)
                    found[0 if path is None else runs[path].number_of(index)].append(member)
        except (FileNotFoundError, CorruptError):
            return {}
        return found

    def _archive(self, url: str) -> Archive:
        return Archive.open(url, open_blob(url, self.options))

    def publish(self, job: Job, plan: Plan, records: Mapping[int, Record]) -> Config:
        """Join the parts and the unchanged entries of the earlier zip to the new zip, and write the config beside it.

        Without parts, a zip that has these entries already stays as it is.

        Raises
        ------
        CorruptError
            If neither the part of a shard nor the earlier zip has the recorded entries; the shard is marked to be made again.
        DestinationError
            If another job has taken over the destination.
        """
        joined = self._joined(job, plan, records)
        if self._names(PARTS) or not self._is_written(joined):
            most = sum(record.nbytes + ENTRY_BYTES * record.entries for record in records.values())
            attributes = attributes_of_objects(job.objects)
            with self._noted(), attributes, output(self.url, self.options, most, beside=self.folder) as out:
                joined.write(out, is_local=not self.is_remote, seen=_Checked(job))
                check_latest(job.ledger)
        config = Config(base=self.location)
        self.place.write(FILE_NAME, dump(config, self.folder))
        check_latest(job.ledger)
        self._remove_parts()
        self.place.clean()
        return config

    @contextmanager
    def _noted(self) -> Iterator[None]:
        """Keep a marker in an object store during the upload; after a kill, the next run warns of parts that may be left."""
        if not self.is_remote:
            yield
            return
        if nbytes_of(object_url(self.folder, UPLOADING), self.options) is not None:
            logger.warning(UNFINISHED, self.url, bucket_rule(self.url))
        self.place.write(UPLOADING, b"")
        try:
            yield
        finally:
            with suppress(*STORAGE_ERRORS):
                self.place.remove(UPLOADING)

    def _joined(self, job: Job, plan: Plan, records: Mapping[int, Record]) -> Joined:
        documents = self.documents(job, plan)
        first = {key: documents[key] for key in sorted(documents, key=lambda key: (key.count("/"), key))}
        root = documents.get("zarr.json")
        comment = ozx_comment(None if root is None else Entry("zarr.json", root)) if is_ozx(self.url) else b""
        members = partial(self._members, job, plan, records, self._published(job, plan))
        return Joined(first, members, self.sink.is_zip64, comment)

    def _is_written(self, joined: Joined) -> bool:
        """Tell whether the zip is there, with these entries and this order."""
        size = nbytes_of(self.url, self.options)
        if size is None:
            return False
        nbytes, end = joined.end()
        return size == nbytes and bytes(open_blob(self.url, self.options).read(size - len(end), size)) == end

    def _members(self, job: Job, plan: Plan, records: Mapping[int, Record], published: Published) -> Iterator[Member]:
        """Yield the data of all shards, from their parts or from the earlier zip."""
        lost = list[int]()
        for shard, archive in self._parts(plan, records):
            record = records[shard.number]
            found = [] if archive is None else list(stored_members(archive))
            if _digest(found) != record.digest:
                found = list(published().get(shard.number, ()))
            if _digest(found) == record.digest:
                yield from found
            else:
                lost.append(shard.number)
        if lost:
            job.ledger.mark(frozenset(lost))
            raise CorruptError(
                f"the parts of {len(lost):,} shards in {self.folder!r} are missing or have other entries than were written: {AGAIN}, "
                "and it makes these shards again"
            )

    def _parts(self, plan: Plan, records: Mapping[int, Record]) -> Iterable[tuple[Shard, Archive | None]]:
        """Yield the shards with data, each with its part if there is one."""
        shards = (shard for run in plan.runs for shard in run.shards() if records[shard.number].entries)
        read = partial(self._part, self._names(PARTS))
        return read_ahead(read, shards, AHEAD) if self.is_remote else ((shard, read(shard)) for shard in shards)

    def _part(self, names: Collection[str], shard: Shard) -> Archive | None:
        name = part_name(shard)
        try:
            return self._archive(object_url(self.folder, name)) if name in names else None
        except (FileNotFoundError, CorruptError):
            return None

    def _remove_parts(self) -> None:
        names = sorted(self._names(PARTS))
        self.place.remove_all(names)
        self.place.remove_empty({name.rpartition("/")[0] for name in names})

    @classmethod
    def compare_listing(
        cls, config: Config, job: ResultJob | None, seen: Callable[[str], None]
    ) -> Iterator[Difference]:
        """Yield the differences of the zip's directory from the records, and missing documents."""
        base = config.base
        assert job is not None
        assert isinstance(base, Place)
        try:
            entries = Archive.open(base.url, open_blob(base.url, base.options)).entries
        except (FileNotFoundError, CorruptError) as error:
            yield Difference("missing", f"{base.url!r} can't be read: {explain(error)}", AGAIN, url=base.url)
            return
        sizes = {name: entry.size for name, entry in entries.items()}
        seen("".join(f"{name}\0{entry.size}\0{entry.crc}\n" for name, entry in entries.items()))
        yield from compare_shards(cls.as_made(config, job), job, sizes)
        for key in sorted(set(documents_of(job.folder, base.options)) - sizes.keys()):
            yield Difference("missing", f"{key!r} of {base.url!r} is missing", AGAIN, key=key, url=base.url)


def _digest(members: Iterable[Member]) -> str:
    """Return the digest that a record of these entries has."""
    tally = Tally(named=True)
    for member in members:
        tally.add(member.name, member.size, member.crc)
    return tally.written(tally.nbytes).digest


class _Checked:
    """Checks every second that no other job has taken over the destination."""

    def __init__(self, job: Job) -> None:
        self._job, self._last = job, time.monotonic()

    def __call__(self) -> None:
        if time.monotonic() - self._last > CHECK_SECONDS:
            check_latest(self._job.ledger)
            self._last = time.monotonic()
