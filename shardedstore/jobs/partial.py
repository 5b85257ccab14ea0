"""The config of an unfinished job: finished shards come from the result, other shards from the source.

Without steps, each block of an array is shown from the result as soon as it is done. If steps change arrays, an array
is shown from the result when all its blocks and the base are done; the base holds the metadata. If the job changes the
Zarr format, or makes one ordinary Zarr, only the source is shown until the end.
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

import msgspec
from zarr.core.sync import sync

from shardedstore.config.document import from_dict, parse, to_dict
from shardedstore.errors import ConfigError, ShardError, ShardsFailed, UsageError
from shardedstore.fields import FILE_NAME
from shardedstore.jobs.layouts.registry import LAYOUTS, layout_of
from shardedstore.jobs.layouts.shard_folder import as_now
from shardedstore.jobs.ledger import Record
from shardedstore.jobs.result_preview import Mixes, members_at, veiled_base
from shardedstore.jobs.shards import Plan, Run, location_of, shard_runs
from shardedstore.jobs.source_comparison import source_token
from shardedstore.jobs.summary import Partial, Summary
from shardedstore.jobs.versions import Identity, identity_name, ledger_of, read_identity, versioned
from shardedstore.jobs.worker import Job
from shardedstore.storage.folders import STORAGE_ERRORS, Folder, open_folder
from shardedstore.storage.options import Options
from shardedstore.storage.urls import is_remote, is_within, join_url, quote_name
from shardedstore.stores.hierarchy import digest, read_nodes
from shardedstore.stores.http_index import ROOTS
from shardedstore.stores.locations import (
    Config,
    Location,
    Mount,
    Opened,
    Place,
    url_of,
)
from shardedstore.stores.reencoded import Reencoded
from shardedstore.stores.veiled import VEILED_ROOTS
from shardedstore.transforms.base.chain import Shard

SOURCE, ELSEWHERE = 0, -1  # the shard is in the source, or at the location in its record


class Half(NamedTuple):
    """An unfinished job: its source, the planned result, and its records.

    Attributes
    ----------
    source : Config
        The config of the source.
    result : Config or None
        The planned config with the names of generation 1; None for a function, whose records have the locations.
    mixes : Mixes
        When shards of the result can be shown beside the source; see `Planned`.
    generation : int
        The generation of the job.
    records : dict of int to Record
        The records by shard number.
    """

    source: Config
    result: Config | None
    mixes: Mixes
    generation: int
    records: Mapping[int, Record]

    def generation_of(self, number: int) -> int:
        """Return the generation of a shard's object, or `SOURCE` or `ELSEWHERE`."""
        record = self.records.get(number)
        if record is None:
            return SOURCE
        return ELSEWHERE if record.location is not None else record.generation or self.generation

    def is_done(self, run: Run) -> bool:
        """Tell whether all shards of a run are done."""
        return all(number in self.records for number in run.numbers)

    def template(self, run: Run, generation: int) -> Location:
        """Return the location of a run's shards in a generation."""
        assert self.result is not None
        planned = self.result.base if run.mounted is not None else self.result.shards[run.path].location

        def named(place: Place) -> Place:
            return msgspec.structs.replace(place, url=versioned(place.url, generation))

        return planned.map_places(named)

    def shards(self, run: Run) -> Iterator[tuple[int, Location]]:
        """Return the number and the location of each shard of a run."""
        return ((shard.number, self.location(run, shard)) for shard in run.shards())

    def location(self, run: Run, shard: Shard) -> Location:
        """Return the current location of a shard; it contains ``{name}`` if the shard has several members."""
        record, generation = self.records.get(shard.number), self.generation_of(shard.number)
        if record is not None and record.location is not None:
            return members_at(record.location, run.members)
        if generation != SOURCE:
            return veiled_base(location_of(run, shard, self.template(run, generation)), run, self.records)
        return location_of(run, shard)

    @property
    def is_moved_in_parts(self) -> bool:
        """Whether chunks of arrays were deleted in the source, and the result has them in another form."""
        return self.mixes != "blocks" and any(record.moved for record in self.records.values())

    def base(self) -> Location:
        """Return the current location of the base."""
        (_, location), *_ = self.shards(shard_runs(self.source)[0])
        return location


def mixed(half: Half) -> tuple[Config, Partial]:
    """Return the config with the finished shards of a job, and its progress."""
    base, *runs = shard_runs(half.source)
    total = base.stop + sum(run.stop for run in runs)
    if half.is_moved_in_parts:
        return _moved(half), Partial(len(half.records), len(half.records), total, _waiting(half, [base, *runs]))
    reason = _to_wait_for(half, runs)
    if reason:
        return half.source, Partial(0, len(half.records), total, reason)
    if half.mixes == "blocks":
        shown = {run.path: mount(half, run) for run in runs}
        config = Config(half.base(), shown, half.source.consolidated)
        count = len(half.records)
    else:
        config = Config(half.base(), dict(_each_whole(half, runs)))
        count = sum(_count_shown(half, run) for run in (base, *runs))
    return config, Partial(count, len(half.records), total, _waiting(half, [base, *runs]))


def _moved(half: Half) -> Config:
    """Return the config of the source; moved chunks are read from the result and encoded with the source's codecs."""
    base, *runs = shard_runs(half.source)
    (shard,) = base.shards()
    return Config(
        _as_in_source(half, base, shard), {run.path: _moved_mount(half, run) for run in runs}, half.source.consolidated
    )


def _moved_mount(half: Half, run: Run) -> Mount:
    moved = [shard for shard in run.shards() if shard.number in half.records and half.records[shard.number].moved]
    if run.blocks is None:
        return Mount(_as_in_source(half, run, moved[0]) if moved else run.location)
    blocks = msgspec.structs.replace(run.blocks, stored=None)
    return Mount(run.location, blocks, {shard.block_name: _as_in_source(half, run, shard) for shard in moved})


def _as_in_source(half: Half, run: Run, shard: Shard) -> Location:
    """Return a shard of the source; the chunks of a moved shard come from the result."""
    source, record = location_of(run, shard), half.records.get(shard.number)
    if record is None or not record.moved:
        return source
    return Opened(Reencoded(source.open(), half.location(run, shard).open()))


def _to_wait_for(half: Half, runs: list[Run]) -> str:
    """Return the reason to show only the source; empty if shards of the result can be shown."""
    if half.mixes == "blocks":
        return ""
    if half.mixes == "end":
        return "one ordinary Zarr, or another Zarr format, is shown when all shards are done"
    record = half.records.get(0)
    if record is None:
        return "the base is not done, and it holds metadata"
    apart = (run for run in runs if run.blocks is not None and not _is_view(run) and not half.is_done(run))
    if (run := next(apart, None)) is not None:
        return f"{run.path!r} is not done, and its metadata can't be shown apart from the metadata of finished shards"
    if _is_v3(half.base()) != _is_v3(half.source.base):
        return "another Zarr format is shown when all shards are done"
    return ""


def _count_shown(half: Half, run: Run) -> int:
    """Return the number of a run's shards that are shown from the result.

    Finished members are shown one by one, other shards only if the whole run is done.
    """
    if run.members is not None:
        return sum(number in half.records for number in run.numbers)
    return run.stop if half.is_done(run) else 0


def _is_view(run: Run) -> bool:
    """Check that a run is a view, so that its array can be mounted as a whole."""
    return bool(run.path) and run.location.divides_source and not run.exceptions


def _is_v3(base: Location) -> bool:
    return sync(base.open().exists("zarr.json"))


def _waiting(half: Half, runs: list[Run]) -> str:
    called = ("the base" if run.mounted is not None else repr(run.path or "/") for run in runs if not half.is_done(run))
    names = list(called)
    if len(names) > 1:
        return f"{names[0]} and {len(names) - 1} more are not done"
    return f"{names[0]} is not done" if names else ""


def _each_whole(half: Half, runs: list[Run]) -> Iterator[tuple[str, Mount]]:
    """Yield the mounts on the new base.

    Finished runs are mounted from the result, the others from the source. A run of members mixes both, since each
    member is a whole Zarr.
    """
    nodes = read_nodes(Config(half.base()))
    for run in runs:
        if run.members is not None:
            yield run.path, mount(half, run)
        elif half.is_done(run):
            made = mount(half, run)
            if half.result is not None:
                made = msgspec.structs.replace(made, blocks=half.result.shards[run.path].blocks)
            yield run.path, as_now(run.path, made, nodes.get(run.path), None)
        else:
            yield run.path, Mount(run.location)


def mount(half: Half, run: Run) -> Mount:
    """Return the mount of a run; shards at other locations than most shards are exceptions."""
    if run.division is None:
        ((_, location),) = half.shards(run)
        return Mount(location)
    ((most, _),) = Counter(map(half.generation_of, run.numbers)).most_common(1)
    exceptions = {
        shard.block_name: half.location(run, shard)
        for shard in run.shards()
        if half.generation_of(shard.number) != most or most == ELSEWHERE
    }
    if most == SOURCE:
        blocks = run.blocks and msgspec.structs.replace(run.blocks, stored=None)  # the current blocks of the source
        return Mount(run.location, blocks, {**run.exceptions, **exceptions}, run.members)
    if most == ELSEWHERE:
        return Mount(next(iter(exceptions.values())), run.blocks, exceptions, run.members)
    return Mount(half.template(run, most), run.blocks, exceptions, run.members)


def find_job_folder(folder: str, options: Options) -> Folder | None:
    """Return the folder with the manifests of a result, in any layout; None if not found."""
    places = (open_folder(url, options) for url in dict.fromkeys(kind.folder_at(folder) for kind in LAYOUTS.values()))
    return next((place for place in places if read_identity(place) is not None), None)


def unfinished(url: str, options: Options) -> str:
    """Return the progress of a folder's unfinished job as a sentence; empty if there is none."""
    try:
        place = find_job_folder(url, options)
    except STORAGE_ERRORS:  # a file, or a folder that can't be listed: the caller reports it
        return ""
    identity = None if place is None else read_identity(place)
    if place is None or identity is None or not identity.config:
        return ""
    half = read_half(place, identity, options)
    if is_finished(place, identity, half, read_config(place, options)):
        return ""
    records = ledger_of(place, identity).read().values()
    total = sum(run.stop - run.first for run in shard_runs(half.source))
    failed = sum(bool(record.failed) for record in records)
    return f"{sum(record.is_done for record in records):,} of {total:,} shards are done" + (
        f", {failed:,} failed" if failed else ""
    )


def load_partial(place: Folder, options: Options, allow: Iterable[str]) -> tuple[Config, Partial] | None:
    """Return the config of the latest job in a folder, and its progress; None if the job has ended.

    Raises
    ------
    ConfigError
        If `allow` does not contain the location of the source or of a function's store; also if the source has changed
        since the job began.
    """
    identity, config = read_identity(place), read_config(place, options)
    assert identity is not None
    half = read_half(place, identity, options)
    if is_finished(place, identity, half, config):
        return None
    shown = mixed(half._replace(records=_there(place, half)))
    named = half.source if half.is_moved_in_parts else shown[0]
    try:
        _check_allowed(named, place, allow)
    except ConfigError as error:
        name = join_url(place.url, identity_name(identity.generation))
        raise ConfigError(f"unfinished shards are shown from the source that {name!r} names: {error}") from None
    if _outside(named, place) and source_token(half.source, digest(read_nodes(half.source))) != identity.source:
        raise ConfigError(
            f"the source has changed since the job at {place.url!r} began, so the two can't be shown together: call "
            "map_shards with the same arguments again, which continues with the changed source, or open the source itself"
        )
    return shown


def read_config(place: Folder, options: Options) -> Config | None:
    """Return the config in a folder, which may name any place; None if there is no valid config."""
    try:
        return from_dict(parse(place.read(FILE_NAME)), place.url, None, options)
    except (FileNotFoundError, UsageError):
        return None


def read_half(place: Folder, identity: Identity, options: Options) -> Half:
    """Read an unfinished job from its manifest and its ledger."""
    planned, generation = identity.planned, identity.generation
    records = {number: record for number, record in ledger_of(place, identity).read().items() if not record.failed}
    result = from_dict(planned.config, place.url, None, options) if planned.config else None
    return Half(from_dict(identity.config), result, planned.mixes, generation, records)


def is_finished(place: Folder, identity: Identity, half: Half, config: Config | None) -> bool:
    """Check that a job has ended and that its folder has the job's own config."""
    if config is None:
        return False
    if ledger_of(place, identity).is_compacted():
        return True
    if not layout_of(identity).config_names_shards:
        return not identity.after  # a job that continues another job finds that job's config here
    base, *runs = shard_runs(half.source)
    if len(half.records) < base.stop + sum(run.stop for run in runs):
        return False
    made = {run.path: mount(half, run) for run in runs}
    if half.base() != config.base or made.keys() != config.shards.keys():
        return False
    stands = ((made[path], config.shards[path]) for path in made)
    return all(_place(one) == _place(other) for one, other in stands)


def _place(mount: Mount) -> object:
    return mount.location, mount.exceptions, mount.members


def show_partial(job: Job, plan: Plan, outcome: Summary, failed: ShardsFailed) -> tuple[Config, Summary]:
    """Return the config and the summary of a job with failed shards.

    The config shows the source for the shards that are not done. A warning names the number of failed shards and the
    first error.
    """
    layout = job.layout
    planned, known = layout.planned(plan, job.chain), layout.records(job.ledger, outcome)
    records = {number: known[number] for number in job.done(plan.runs, known, layout.inventory())}
    result = from_dict(planned.config, layout.folder, None, layout.options) if planned.config else None
    config, shown = mixed(Half(plan.config, result, planned.mixes, job.generation, records))
    failures = tuple(error for error in failed.exceptions if isinstance(error, ShardError))
    warnings.warn(f"{failed.message}; {shown}. The first error: {failures[0]}", stacklevel=2)
    return config, replace(outcome, failures=failures, partial=shown)


def _check_allowed(config: Config, place: Folder, allow: Iterable[str]) -> None:
    """Refuse locations outside the folder that `allow` does not contain."""
    if outside := _outside(config, place):
        named = Config(outside[0], {str(i): Mount(one) for i, one in enumerate(outside)})
        from_dict(to_dict(named), place.url, allow)


def _outside(config: Config, place: Folder) -> list[Location]:
    found = dict.fromkeys(location.origin for _, location in config.locations())
    return [one for one in found if not is_within(url_of(one) or "", place.url)]


def _there(place: Folder, half: Half) -> Mapping[int, Record]:
    """Return the records of the finished shards that still exist, by one listing.

    If the result is shown only at the end, nothing is listed and all records are returned.

    Raises
    ------
    ConfigError
        If a shard is missing whose source is deleted.
    """
    found = _those_there(place, half)
    for number, record in half.records.items():
        if record.moved and number not in found:
            raise ConfigError(
                f"shard number {number} at {place.url!r} is missing or marked as damaged, and its source was deleted after it was moved: restore its object "
                "from a copy"
            )
    return found


def _those_there(place: Folder, half: Half) -> Mapping[int, Record]:
    if half.mixes == "end" and not half.is_moved_in_parts:
        return half.records
    quote = quote_name if is_remote(place.url) else str
    sizes = {join_url(place.url, quote(name)): nbytes for name, nbytes in place.sizes()}

    def stands(record: Record, location: Location) -> bool:
        url = url_of(location)
        if record.location is not None or url is None:
            return url is None or is_remote(url) or os.path.exists(url)
        return sizes.get(url) == record.nbytes or any(join_url(url, name) in sizes for name in (*ROOTS, *VEILED_ROOTS))

    shards = (numbered for run in shard_runs(half.source) for numbered in half.shards(run))
    known = {number: record for number, record in half.records.items() if record.is_done}
    return {n: known[n] for n, location in shards if n in known and stands(known[n], location)}
