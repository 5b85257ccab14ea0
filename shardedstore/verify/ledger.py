"""The ledger of the job that made a result: where it stands, which shards its records are of, and what marks them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import NamedTuple

import msgspec

from shardedstore.config.document import from_dict, parse
from shardedstore.errors import UsageError
from shardedstore.fields import FILE_NAME
from shardedstore.jobs.ledger import Record
from shardedstore.jobs.shards import Run, shard_runs
from shardedstore.jobs.source_comparison import unchanged
from shardedstore.jobs.versions import (
    Identity,
    generation_in,
    generations,
    last_begun,
    ledger_of,
    read_generation,
    read_identity,
)
from shardedstore.storage.folders import STORAGE_ERRORS, Folder, open_folder
from shardedstore.storage.urls import BESIDE
from shardedstore.stores.hierarchy import read_nodes
from shardedstore.stores.locations import (
    Config,
    Directory,
    Location,
    Mount,
    ViewOf,
    Zip,
    at_shard,
    locations,
    object_of,
    origin,
    show,
    url_of,
)
from shardedstore.stores.members import Members
from shardedstore.transforms.base.chain import Shard
from shardedstore.zarr.grid import Blocks
from shardedstore.zarr.metadata import ArrayMeta
from shardedstore.zarr.paths import join

MOST_PARENTS = 4  # folders above the base that the ledger is looked for in
MAKE_AGAIN = (
    "verify it with mark=True, or on the command line with --mark, and run the job again with the same arguments: it makes "
    "the shards that are named again, and no others"
)
OTHERWISE = "verify it with level='exists', or with against=source"


class Kept(NamedTuple):
    """The ledger of the job that made a result: where it stands, what the job was, and its records by shard number.

    `notes` tell what is not compared with it.
    """

    folder: Folder
    made: Identity
    records: dict[int, Record]
    is_one_zarr: bool
    notes: tuple[str, ...] = ()

    @property
    def token(self) -> str:
        """What tells these records from others."""
        state = hashlib.sha256()
        encode = msgspec.json.Encoder().encode
        for number in sorted(self.records):
            state.update(encode(self.records[number]))
        return state.hexdigest()

    def mark(self, shards: Mapping[int, str]) -> None:
        """Mark the records of some shards, given their names by number, so that the same call makes them again.

        Where a later job has taken them over, it is that one's call, which gives them the names that this result has.

        Raises
        ------
        UsageError
            Where a later job would make another result of all.
        """
        latest = self.latest()
        if latest.generation == self.made.generation:
            ledger_of(self.folder, latest).mark(frozenset(shards))
            return
        ledger = ledger_of(self.folder, latest)
        names, records = set(shards.values()), ledger.read()
        taken = (n for run in shard_runs(from_dict(latest.config)) for n, shard in run.shards() if shard.name in names)
        ledger.mark(frozenset(n for n in taken if n in records and self._is_taken(records[n])))

    def latest(self) -> Identity:
        """Return the job that the same call goes on with: this one, or a later one that goes on from it; see `mark`."""
        newest = read_identity(self.folder)
        latest = self.made if newest is None else last_begun(self.folder, newest)
        earlier = latest
        while earlier.generation > self.made.generation and earlier.after:
            earlier = read_generation(self.folder, earlier.after)
        if earlier.generation != self.made.generation:
            raise UsageError(
                f"a later job at {self.folder.url!r} has not ended, and is of another source or chain, so that nothing makes again "
                "what would be marked: run it to its end and verify its result, or name another destination for one of the two"
            )
        return latest

    def _is_taken(self, record: Record) -> bool:
        return 0 < record.generation <= self.made.generation


def find_ledger(config: Config) -> Kept | None:
    """Return the ledger of a job's result, which stands in its folder, or beside one ordinary Zarr; None where there is none."""
    base = origin(config.base)
    if not isinstance(base, Directory | Zip):
        return None
    if isinstance(base, Directory) and not config.shards:
        place = open_folder(base.url + BESIDE, base.options)
        if _identity(place) is not None:
            return _kept_of_zarr(place)
    for folder in islice(parents(base.url), MOST_PARENTS):
        place = open_folder(folder, base.options)
        if _identity(place) is not None and _is_config_of(place, config):
            return _kept(place, config)
    return None


def _identity(place: Folder) -> Identity | None:
    """Return what a job says of a folder; None where there was none, and where this may not be looked for."""
    try:
        return read_identity(place)
    except STORAGE_ERRORS:
        return None


def _kept(place: Folder, config: Config) -> Kept:
    """Return the ledger of the job that wrote the config of a folder: the last that has ended.

    None has ended as far as can be seen where none could compact its ledger: then it is the last that an object is named by.
    """
    jobs = generations(place)
    names = ((url_of(location) or "").rpartition("/")[2] for _, location in locations(config))
    named = max(map(generation_in, names))
    named = named if named in jobs else 1  # a name of the user's own may look like one
    later = (read_generation(place, number) for number in reversed(jobs) if number > named)
    made = next((job for job in later if ledger_of(place, job).is_compacted()), None) or read_generation(place, named)
    return Kept(place, made, _known(place, made), False)


def _known(place: Folder, made: Identity) -> dict[int, Record]:
    """Return the records of a job; those that are marked hold where a later job has taken them over, to make them again."""
    records = {number: record for number, record in ledger_of(place, made).read().items() if not record.failed}
    newest = read_identity(place)
    if newest is not None and last_begun(place, newest).generation != made.generation:
        return records
    return {number: record for number, record in records.items() if not record.marked}


def _kept_of_zarr(place: Folder) -> Kept:
    """Return the ledger of the last job that has ended of those that wrote to one ordinary Zarr, or of the last one.

    A later one that has not ended writes under the same keys: its shards are not those of this result any more.
    """
    jobs = [read_generation(place, number) for number in reversed(generations(place))]
    latest = last_begun(place, jobs[0])
    made = next((job for job in jobs if ledger_of(place, job).is_compacted()), latest)
    records = _known(place, made)
    if made.generation >= latest.generation or not made.config:
        return Kept(place, latest, _known(place, latest), True)
    kept = {
        n: records[n]
        for n, _ in unchanged(from_dict(made.config), from_dict(latest.config), made.marks, latest.marks)
        if n in records
    }
    over = len(records) - len(kept)
    text = f"{over:,} shards are not compared: a later job that has not ended writes over them; run it to its end"
    return Kept(place, made, kept, True, (text,) if over else ())


def parents(url: str) -> Iterator[str]:
    """Yield the folders above a path or a URL, from the lowest."""
    while (url := url.rpartition("/")[0]) and not url.endswith("/"):
        yield url


def _is_config_of(place: Folder, config: Config) -> bool:
    """Tell whether the config in a folder names the same components."""
    try:
        found = from_dict(parse(place.read(FILE_NAME)), place.url)
    except (FileNotFoundError, UsageError):
        return False
    one, other = ([(what, show(location)) for what, location in locations(each)] for each in (found, config))
    return one == other and _members(found) == _members(config)


def _members(config: Config) -> dict[str, Members | None]:
    return {path: mount.members for path, mount in config.shards.items()}


def location_of(run: Run, shard: Shard) -> Location:
    """Return where a shard of a result is."""
    return object_of(at_shard(run.location, run.division, shard.block_name, run.exceptions))


def as_made(config: Config, kept: Kept) -> Config:
    """Return a result divided into the shards that its job made: one ordinary Zarr as its source was, others as they are.

    Raises
    ------
    UsageError
        Where that can't be known of one ordinary Zarr.
    ShardedStoreError
        Where its metadata can't be read.
    """
    if not kept.is_one_zarr:
        return config
    if not kept.made.config:
        raise UsageError(f"{show(config.base)}: its ledger does not tell how the job divided its source; {OTHERWISE}")
    nodes = read_nodes(config)
    mounts: dict[str, Mount] = {}
    for path, mount in from_dict(kept.made.config).shards.items():
        node, blocks = nodes.get(path), mount.blocks
        if blocks is not None and node is not None and isinstance(node.meta, ArrayMeta):
            blocks = _blocks_in(blocks, node.meta, path)
        own = path if mount.members is None else join(path, "{name}")
        mounts[path] = Mount(ViewOf(config.base, own), blocks, members=mount.members)
    return Config(config.base, mounts)


def _blocks_in(blocks: Blocks, meta: ArrayMeta, path: str) -> Blocks:
    """Return a source's division into blocks as it is in the result, where a block may be one object."""
    assert meta.keys is not None
    if meta.chunk_grid == blocks.chunk_grid:
        return msgspec.structs.replace(blocks, keys=meta.keys)
    if meta.chunk_grid[: len(blocks.grid)] != blocks.grid:
        raise UsageError(
            f"{path!r} was made of {blocks.grid} blocks, and which of its {meta.chunk_grid} chunks came from which is not known, "
            f"as a step has changed their shape; {OTHERWISE}"
        )
    return Blocks(meta.chunk_grid, (1,) * len(blocks.chunks), meta.keys, blocks.stored)
