"""A job's result against its ledger: whether all objects are there, with the sizes that were written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from shardedstore.access import Options
from shardedstore.blobs import nbytes_of
from shardedstore.chain import Shard
from shardedstore.config import FILE_NAME, Config, from_dict, locations, parse
from shardedstore.differences import Difference
from shardedstore.errors import UsageError
from shardedstore.folders import STORAGE_ERRORS, Folder, open_folder
from shardedstore.generations import Identity, identity_name, read_identity
from shardedstore.grid import block_name
from shardedstore.ledger import Ledger, Record
from shardedstore.locations import Directory, Location, Zip, at_block, origin, show
from shardedstore.metadata import CONSOLIDATED_V2, METADATA_NAMES
from shardedstore.mounts import join
from shardedstore.onezarr import WAITING
from shardedstore.plan import Run
from shardedstore.urls import BESIDE, is_remote, is_within, join_url, quote_name
from shardedstore.zips import ZipReadStore

MOST_PARENTS = 4  # folders above the base that the ledger is looked for in
MAKE_AGAIN = (
    "remove the objects of the shards that are named, where they are still there, and run the job again with the same "
    "arguments: it makes the shards that are missing, and no others"
)
WRITE_AGAIN = "run the job again with the same arguments and overwrite=True, which writes everything again"
_GENERATION = re.compile(r"~(\d{1,6})(?:\.|$)")


class Kept(NamedTuple):
    """The ledger of the job that made a result: where it stands, and its records by shard number."""

    folder: Folder
    generation: int
    records: dict[int, Record]
    is_one_zarr: bool


def find_ledger(config: Config) -> Kept | None:
    """Return the ledger of a job's result, which stands in its folder, or beside one ordinary Zarr; None where there is none."""
    base = origin(config.base)
    if not isinstance(base, Directory | Zip):
        return None
    if isinstance(base, Directory) and not config.shards:
        place = open_folder(base.url + BESIDE, base.options)
        found = _identity(place)
        if found is not None:
            return Kept(place, found.generation, Ledger(place, found.generation).read(), True)
    for folder in islice(_parents(base.url), MOST_PARENTS):
        place = open_folder(folder, base.options)
        if _identity(place) is not None and _is_config_of(place, config):
            name = _GENERATION.search(base.url.rpartition("/")[2])
            generation = int(name[1]) if name is not None else 1
            if place.nbytes(identity_name(generation)) is None:
                generation = 1
            return Kept(place, generation, Ledger(place, generation).read(), False)
    return None


def _identity(place: Folder) -> Identity | None:
    """Return what a job says of a folder; None where there was none, and where this may not be looked for."""
    try:
        return read_identity(place)
    except STORAGE_ERRORS:
        return None


def _parents(url: str) -> Iterator[str]:
    while (url := url.rpartition("/")[0]) and not url.endswith("/"):
        yield url


def _is_config_of(place: Folder, config: Config) -> bool:
    """Tell whether the config in a folder names the same components."""
    try:
        found = from_dict(parse(place.read(FILE_NAME)), place.url)
    except (FileNotFoundError, UsageError):
        return False
    one, other = ([(what, show(location)) for what, location in locations(each)] for each in (found, config))
    return one == other


def shard_runs(config: Config) -> list[Run]:
    """Return the shards of a result, numbered as the job did that made it, from the config alone."""
    runs = [Run(0, "", config.base, mounted={path: mount.blocks for path, mount in config.shards.items()})]
    for path, mount in config.shards.items():
        number = runs[-1].number + runs[-1].stop
        count = 1 if mount.blocks is None else mount.blocks.count
        runs.append(Run(number, path, mount.location, mount.blocks, 0, count, mount.exceptions))
    return runs


def location_of(run: Run, shard: Shard) -> Location:
    """Return where a shard of a result is."""
    if shard.block is None:
        return run.location
    return run.exceptions.get(block_name(shard.block)) or at_block(run.location, shard.block)


def check_exists(config: Config, kept: Kept | None) -> Iterator[Difference]:
    """Yield what is not there, or of another size than the ledger says, by one listing."""
    if kept is not None and kept.is_one_zarr:
        yield from _check_totals(config, kept)
        return
    shards = [(n, shard.name, location_of(run, shard)) for run in shard_runs(config) for n, shard in run.shards()]
    if config.consolidated is not None:
        shards.append((-1, "consolidated metadata", config.consolidated))
    listed = _Listed(kept.folder if kept is not None else None, [location for _, _, location in shards])
    for number, name, location in shards:
        record = None if kept is None else kept.records.get(number)
        found = listed.size(location)
        if found is None:
            yield Difference("missing", f"{name}: {show(location)} is not there", MAKE_AGAIN, shard=name)
        elif record is not None and record.digest and found.nbytes != record.nbytes:
            what = f"{name}: {show(location)} has {found.nbytes:,} bytes, where {record.nbytes:,} were written"
            yield Difference("size", what, MAKE_AGAIN, shard=name)
        elif isinstance(location, Directory) and record is not None and record.digest and found.files != record.entries:
            what = f"{name}: {show(location)} has {found.files:,} files, where {record.entries:,} were written"
            yield Difference("size", what, MAKE_AGAIN, shard=name)
        elif kept is not None and record is None and number >= 0:
            yield Difference("record", f"{name}: the ledger does not say that it is done", MAKE_AGAIN, shard=name)


class _Size(NamedTuple):
    files: int
    nbytes: int


class _Listed:
    """The sizes of what stands at some locations: what lies in one folder is listed at once."""

    def __init__(self, folder: Folder | None, components: list[Location]) -> None:
        self.root = None if folder is None else folder.url
        self.found: dict[str, _Size] = {}
        if folder is None:
            return
        folders = {location.url for location in components if isinstance(location, Directory)}
        for name, nbytes in folder.sizes():
            url = join_url(folder.url, quote_name(name) if is_remote(folder.url) else name)
            self.found[url] = _Size(1, nbytes)
            if folders:
                for parent in _parents(url):
                    if parent in folders:
                        before = self.found.get(parent, _Size(0, 0))
                        self.found[parent] = _Size(before.files + 1, before.nbytes + nbytes)
                        break

    def size(self, location: Location) -> _Size | None:
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


def _check_totals(config: Config, kept: Kept) -> Iterator[Difference]:
    """Compare one ordinary Zarr with the sum of all records, and with the documents that waited beside it."""
    base = config.base
    assert isinstance(base, Directory)
    names = (*METADATA_NAMES, CONSOLIDATED_V2)
    listed = dict(open_folder(base.url, base.options).sizes())
    sizes = [nbytes for key, nbytes in listed.items() if key.rpartition("/")[2] not in names]
    records = kept.records.values()
    count, total = sum(record.entries for record in records), sum(record.nbytes for record in records)
    if (len(sizes), sum(sizes)) != (count, total):
        what = (
            f"{base.url!r} holds {len(sizes):,} files of {sum(sizes):,} bytes without its metadata, where {count:,} of "
            f"{total:,} were written"
        )
        kind = "missing" if len(sizes) < count else "extra" if len(sizes) > count else "size"
        yield Difference(kind, what, WRITE_AGAIN)
    for key in _documents(kept.folder, base.options):
        if key not in listed:
            yield Difference("missing", f"{key!r} of {base.url!r} is not there", WRITE_AGAIN, key=key)


def _documents(folder: Folder, options: Options) -> Iterator[str]:
    """Yield the keys of the documents of one ordinary Zarr, as they waited beside it."""
    for name, _ in folder.sizes(WAITING):
        path = name.removeprefix(f"{WAITING}/").removesuffix(".zip")
        url = join_url(folder.url, quote_name(name) if is_remote(folder.url) else name)
        for key in ZipReadStore(url, storage_options=options).names():
            yield join("" if path == "base" else path.removeprefix("shards/"), key)
