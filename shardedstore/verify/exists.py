"""A job's result against its ledger: whether all objects are there, with the sizes that were written."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from shardedstore.errors import ShardedStoreError
from shardedstore.jobs.layouts.single_zarr import Listed, keys_kept, published_keys, tally_shards
from shardedstore.jobs.shards import shard_runs
from shardedstore.storage.blobs import nbytes_of
from shardedstore.storage.folders import STORAGE_ERRORS, Folder, open_folder
from shardedstore.storage.options import Options
from shardedstore.storage.urls import is_within, object_url
from shardedstore.stores.locations import Config, Directory, Hole, Location, Zip, object_of, show
from shardedstore.transforms.base.single_zarr import WAITING, path_of_waiting
from shardedstore.verify.differences import Difference
from shardedstore.verify.ledger import MAKE_AGAIN, Kept, as_made, location_of, parents
from shardedstore.zarr.paths import join

WRITE_AGAIN = (
    "verify it at level='stored', which names the shards; or run the job again with the same arguments and overwrite=True, "
    "which writes everything again"
)
OTHERS = (
    "something else writes there, or the source has fewer chunks than when it was written: remove it and what is beside it, "
    "and run the job again; or name another destination"
)
TRY_AGAIN = "mend the source and run the job again with the same arguments: it tries the shards that are holes again"
PUT_AGAIN = "run the job again with the same arguments: it puts the documents in their places"


class Existing:
    """What is there of a result, by one listing: the differences from its ledger, and a token of all sizes."""

    def __init__(self, config: Config, kept: Kept | None) -> None:
        self._sizes = hashlib.sha256()
        self.differences = list(
            self._shards(config, kept) if kept is None or not kept.is_one_zarr else self._one_zarr(config, kept)
        )
        self.token = self._sizes.hexdigest()

    def _shards(self, config: Config, kept: Kept | None) -> Iterator[Difference]:
        shards = [(n, shard.name, location_of(run, shard)) for run in shard_runs(config) for n, shard in run.shards()]
        if config.consolidated is not None:
            shards.append((-1, "consolidated metadata", object_of(config.consolidated)))
        listed = _Sizes(kept.folder if kept is not None else None, [location for _, _, location in shards])
        for number, name, location in shards:
            if isinstance(location, Hole):
                what = f"{name}: it is a hole, which was accepted: {location.cause}"
                yield Difference("hole", what, TRY_AGAIN, shard=name)
                continue
            record = None if kept is None else kept.records.get(number)
            found = listed.of(location)
            self._sizes.update(f"{name}\0{found}\n".encode())
            known = record if record is not None and record.digest else None
            if found is None:
                yield Difference("missing", f"{name}: {show(location)} is not there", MAKE_AGAIN, shard=name)
            elif known is not None and found.nbytes != known.nbytes:
                what = f"{name}: {show(location)} has {found.nbytes:,} bytes, where {known.nbytes:,} were written"
                yield Difference("size", what, MAKE_AGAIN, shard=name)
            elif known is not None and isinstance(location, Directory) and found.files != known.entries:
                what = f"{name}: {show(location)} has {found.files:,} files, where {known.entries:,} were written"
                yield Difference("size", what, MAKE_AGAIN, shard=name)
            elif kept is not None and record is None and number >= 0:
                yield Difference("record", f"{name}: the ledger does not say that it is done", MAKE_AGAIN, shard=name)

    def _one_zarr(self, config: Config, kept: Kept) -> Iterator[Difference]:
        """Compare one ordinary Zarr with its records, and with the documents that waited beside it."""
        base = config.base
        assert isinstance(base, Directory)
        documents = set(_documents(kept.folder, base.options))
        sizes = dict(open_folder(base.url, base.options).sizes())
        listed, written = Listed.of(sizes.items(), documents), Listed.written(kept.records.values())
        self._sizes.update(f"{listed}\n".encode())
        what = listed.difference(written)
        if what is not None:
            yield from self._by_shard(config, kept, sizes, f"{base.url!r} {what}")
        for key in sorted(documents - sizes.keys()):
            yield Difference("missing", f"{key!r} of {base.url!r} is not there", PUT_AGAIN, key=key)

    def _by_shard(self, config: Config, kept: Kept, sizes: Mapping[str, int], what: str) -> Iterator[Difference]:
        """Yield a difference for each shard of one ordinary Zarr that is not as its record says, as far as that can be told."""
        try:
            made = as_made(config, kept)
        except (*STORAGE_ERRORS, ShardedStoreError):
            yield Difference("size", what, WRITE_AGAIN)
            return
        found, more = tally_shards(made, sizes.items()), not kept.notes
        for run in shard_runs(made):
            for number, shard in run.shards():
                record = kept.records.get(number)
                if record is None:
                    if not kept.notes:
                        yield Difference(
                            "record",
                            f"{shard.name}: the ledger does not say that it is done",
                            MAKE_AGAIN,
                            shard=shard.name,
                        )
                    continue
                listed, written = found.get(number, Listed()), Listed.written([record])
                if listed.has_lost(written):
                    kind = "missing" if listed.files < written.files else "size"
                    yield Difference(
                        kind, f"{shard.name}: it {listed.difference(written)}", MAKE_AGAIN, shard=shard.name
                    )
                elif listed != written and more:
                    yield Difference("extra", f"{shard.name}: it {listed.difference(written)}", OTHERS)


class _Size(NamedTuple):
    files: int
    nbytes: int


class _Sizes:
    """The sizes of what stands at some locations: what lies in one folder is listed at once."""

    def __init__(self, folder: Folder | None, components: list[Location]) -> None:
        self.root = None if folder is None else folder.url
        self.found: dict[str, _Size] = {}
        if folder is None:
            return
        folders = {location.url for location in components if isinstance(location, Directory)}
        for name, nbytes in folder.sizes():
            url = object_url(folder.url, name)
            self.found[url] = _Size(1, nbytes)
            if folders:
                for parent in parents(url):
                    if parent in folders:
                        before = self.found.get(parent, _Size(0, 0))
                        self.found[parent] = _Size(before.files + 1, before.nbytes + nbytes)
                        break

    def of(self, location: Location) -> _Size | None:
        """Return how many files and bytes there are; of what can't be listed or is a view, none are counted."""
        if not isinstance(location, Directory | Zip) or (isinstance(location, Directory) and _is_web(location.url)):
            return _Size(0, 0)
        if self.root is not None and is_within(location.url, self.root):
            return self.found.get(location.url)
        if isinstance(location, Zip):
            nbytes = nbytes_of(location.url, location.options)
            return None if nbytes is None else _Size(1, nbytes)
        sizes = [nbytes for _, nbytes in open_folder(location.url, location.options).sizes()]
        return _Size(len(sizes), sum(sizes)) if sizes else None


def _is_web(url: str) -> bool:
    return url.startswith(("http://", "https://"))


def _documents(folder: Folder, options: Options) -> Iterator[str]:
    """Yield the keys of the documents of one ordinary Zarr, as they were published, or waited beside it."""
    if (published := published_keys(folder, options)) is not None:
        yield from published
        return
    for name, _ in folder.sizes(WAITING):
        path = name.removeprefix(f"{WAITING}/").removesuffix(".zip")
        url = object_url(folder.url, name)
        for key in keys_kept(url, options):
            yield join(path_of_waiting(path), key)
