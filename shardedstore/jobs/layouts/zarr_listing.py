"""Comparison of a listing of one ordinary Zarr with the records of its shards."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Container, Iterable, Iterator, Mapping
from typing import NamedTuple

import msgspec

from shardedstore.jobs.differences import Difference
from shardedstore.jobs.layouts.result_job import ResultJob
from shardedstore.jobs.ledger import Record
from shardedstore.jobs.shards import shard_runs
from shardedstore.stores.locations import Config
from shardedstore.stores.routes import Routes
from shardedstore.transforms.base.shard import Shard
from shardedstore.transforms.base.single_zarr import LAST, is_consolidated
from shardedstore.transforms.base.sink import name_crc

OTHERS = (
    "another program writes there, or the source has lost chunks since the job: remove the result and the folder beside it, "
    "and run the job again; or use another destination"
)


class ZarrListing(NamedTuple):
    """The files of one ordinary Zarr, without its metadata.

    Attributes
    ----------
    files : int
        The number of files.
    nbytes : int
        Their size, in bytes.
    names : int
        The sum of `name_crc` over the files, which depends on their names and sizes.
    """

    files: int = 0
    nbytes: int = 0
    names: int = 0

    @classmethod
    def of(cls, sizes: Iterable[tuple[str, int]], documents: Container[str]) -> ZarrListing:
        """Return the totals of a listing without these documents and consolidated metadata."""
        count = total = names = 0
        for key, nbytes in sizes:
            if key not in documents and not is_consolidated(key):
                count, total, names = count + 1, total + nbytes, names + name_crc(key, nbytes)
        return cls(count, total, names)

    @classmethod
    def written(cls, records: Collection[Record]) -> ZarrListing:
        """Return the totals of the written files by their records."""
        return cls(*(sum(getattr(record, name) for record in records) for name in ("entries", "nbytes", "names")))

    def has_lost(self, written: ZarrListing) -> bool:
        """Tell whether written files are missing or of another size; false if there are more files."""
        return self != written and self.files <= written.files

    @property
    def held(self) -> dict[str, int]:
        """The numbers of entries and bytes, by their names in `Difference`."""
        return {"entries": self.files, "nbytes": self.nbytes}

    def difference(self, written: ZarrListing) -> str | None:
        """Return the difference from the written files as part of a sentence; None if equal.

        >>> ZarrListing(2, 99, 7).difference(ZarrListing(2, 99, 8))
        'holds 2 files of 99 bytes without its metadata, of other names or sizes, where 2 of 99 were written'
        """
        if self == written:
            return None
        others = ", of other names or sizes" if self[:2] == written[:2] else ""
        return (
            f"holds {self.files:,} files of {self.nbytes:,} bytes without its metadata{others}, where {written.files:,} of "
            f"{written.nbytes:,} were written"
        )


def tally_shards(config: Config, sizes: Iterable[tuple[str, int]]) -> dict[int, ZarrListing]:
    """Return the totals of a listing of one ordinary Zarr for each shard, by number, without metadata.

    `config` divides the Zarr into the shards of its job.
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
    return {number: ZarrListing(*total) for number, total in totals.items()}


def compare_shards(made: Config, job: ResultJob, sizes: Mapping[str, int]) -> Iterator[Difference]:
    """Yield a difference for each shard that differs from its record.

    `made` is the config of the Zarr, divided into its shards.
    """
    found = tally_shards(made, sizes.items())
    for run in shard_runs(made):
        for shard in run.shards():
            listed, record = found.get(shard.number, ZarrListing()), job.records.get(shard.number)
            difference = _compare_shard(shard, listed, record, bool(job.notes))
            if difference is not None:
                yield difference


def _compare_shard(shard: Shard, listed: ZarrListing, record: Record | None, is_mixed: bool) -> Difference | None:
    """Return the difference between the files of a shard and its record; None if there is none.

    If a later job writes to the same Zarr (`is_mixed`), missing records and extra files are no difference.
    """
    if record is None:
        what = f"{shard.name}: the ledger has no record of it"
        return None if is_mixed else Difference.of(shard, "record", what)
    written = ZarrListing.written([record])
    what = f"{shard.name}: it {listed.difference(written)}"
    if listed.has_lost(written):
        kind = "missing" if listed.files < written.files else "size"
        return Difference.of(shard, kind, what, found=listed.held, expected=written.held)
    if listed == written or is_mixed:
        return None
    extra = Difference.of(shard, "extra", what, OTHERS, found=listed.held, expected=written.held)
    return msgspec.structs.replace(extra, shard=None)  # a new run of the shard removes no files
