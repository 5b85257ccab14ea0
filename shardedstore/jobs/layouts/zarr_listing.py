"""A listing of one ordinary Zarr, compared with the records of its shards."""

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
from shardedstore.transforms.base.chain import Shard, name_crc
from shardedstore.transforms.base.single_zarr import LAST, is_consolidated

OTHERS = (
    "another program writes there, or the source has lost chunks since the job: remove the result and the folder beside it, "
    "and run the job again; or use another destination"
)


class ZarrListing(NamedTuple):
    """The files of one ordinary Zarr without its metadata: their number and bytes, and the sum of `name_crc` over them."""

    files: int = 0
    nbytes: int = 0
    names: int = 0

    @classmethod
    def of(cls, sizes: Iterable[tuple[str, int]], documents: Container[str]) -> ZarrListing:
        """Return what a listing has, given the keys of the documents."""
        count = total = names = 0
        for key, nbytes in sizes:
            if key not in documents and not is_consolidated(key):
                count, total, names = count + 1, total + nbytes, names + name_crc(key, nbytes)
        return cls(count, total, names)

    @classmethod
    def written(cls, records: Collection[Record]) -> ZarrListing:
        """Return what some records say that was written."""
        return cls(*(sum(getattr(record, name) for record in records) for name in ("entries", "nbytes", "names")))

    def has_lost(self, written: ZarrListing) -> bool:
        """Tell whether some of what was written is gone, or of another size: not that there is more."""
        return self != written and self.files <= written.files

    @property
    def held(self) -> dict[str, int]:
        """The numbers of entries and of their bytes."""
        return {"entries": self.files, "nbytes": self.nbytes}

    def difference(self, written: ZarrListing) -> str | None:
        """Return how this differs from what was written, if it does.

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
    return {number: ZarrListing(*total) for number, total in totals.items()}


def compare_shards(made: Config, job: ResultJob, sizes: Mapping[str, int]) -> Iterator[Difference]:
    """Yield a difference for each shard that is not as its record says; `made` is the Zarr, divided into its shards."""
    found = tally_shards(made, sizes.items())
    for run in shard_runs(made):
        for shard in run.shards():
            listed, record = found.get(shard.number, ZarrListing()), job.records.get(shard.number)
            difference = _compare_shard(shard, listed, record, bool(job.notes))
            if difference is not None:
                yield difference


def _compare_shard(shard: Shard, listed: ZarrListing, record: Record | None, is_mixed: bool) -> Difference | None:
    """Return how the files of a shard differ from its record; `is_mixed` tells that a later job writes to the same Zarr."""
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
    return msgspec.structs.replace(extra, shard=None)  # making it again removes nothing
