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
from shardedstore.jobs.job import Job
from shardedstore.jobs.layouts.registry import LAYOUTS, layout_of
from shardedstore.jobs.layouts.shard_folder import as_now
from shardedstore.jobs.ledger import Record
from shardedstore.jobs.manifest import JobManifest, ledger_of, manifest_name, read_manifest, versioned
from shardedstore.jobs.partial_state import Partial, path_states
from shardedstore.jobs.result_preview import Mixes, members_at, veiled_base
from shardedstore.jobs.shards import Plan, Run, location_of, shard_runs
from shardedstore.jobs.source_comparison import source_token
from shardedstore.jobs.summary import Summary
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
from shardedstore.transforms.base.shard import Shard

SOURCE, ELSEWHERE = 0, -1  # the shard is in the source, or at the location in its record


class UnfinishedJob(NamedTuple):
    """An unfinished job: its source, the planned result, and its records.

    Attributes
    ----------
    source : Config
        The config of the source.
    result : Config or None
        The planned config with the names of generation 1; None for a function, whose records have the locations.
    mixes : Mixes
        When shards of the result can be shown beside the source; see `ResultPreview`.
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
        preview = self.result.base if run.mounted is not None else self.result.shards[run.path].location

        def named(place: Place) -> Place:
            return msgspec.structs.replace(place, url=versioned(place.url, generation))

        return preview.map_places(named)

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


def partial_config(job: UnfinishedJob) -> tuple[Config, Partial]:
    """Return the config with the finished shards of a job, and its progress."""
    base, *runs = shard_runs(job.source)
    total, paths = base.stop + sum(run.stop for run in runs), path_states([base, *runs], job.records)
    if job.is_moved_in_parts:
        return _moved(job), Partial(len(job.records), len(job.records), total, _waiting(job, [base, *runs]), paths)
    reason = _to_wait_for(job, runs)
    if reason:
        return job.source, Partial(0, len(job.records), total, reason, paths)
    if job.mixes == "blocks":
        shown = {run.path: mount(job, run) for run in runs}
        config = Config(job.base(), shown, job.source.consolidated)
        count = len(job.records)
    else:
        config = Config(job.base(), dict(_each_whole(job, runs)))
        count = sum(_count_shown(job, run) for run in (base, *runs))
    return config, Partial(count, len(job.records), total, _waiting(job, [base, *runs]), paths)


def _moved(job: UnfinishedJob) -> Config:
    """Return the config of the source; moved chunks are read from the result and encoded with the source's codecs."""
    base, *runs = shard_runs(job.source)
    (shard,) = base.shards()
    return Config(
        _as_in_source(job, base, shard), {run.path: _moved_mount(job, run) for run in runs}, job.source.consolidated
    )


def _moved_mount(job: UnfinishedJob, run: Run) -> Mount:
    moved = [shard for shard in run.shards() if shard.number in job.records and job.records[shard.number].moved]
    if run.blocks is None:
        return Mount(_as_in_source(job, run, moved[0]) if moved else run.location)
    blocks = msgspec.structs.replace(run.blocks, stored=None)
    return Mount(run.location, blocks, {shard.block_name: _as_in_source(job, run, shard) for shard in moved})


def _as_in_source(job: UnfinishedJob, run: Run, shard: Shard) -> Location:
    """Return a shard of the source; the chunks of a moved shard come from the result."""
    source, record = location_of(run, shard), job.records.get(shard.number)
    if record is None or not record.moved:
        return source
    return Opened(Reencoded(source.open(), job.location(run, shard).open()))


def _to_wait_for(job: UnfinishedJob, runs: list[Run]) -> str:
    """Return the reason to show only the source; empty if shards of the result can be shown."""
    if job.mixes == "blocks":
        return ""
    if job.mixes == "end":
        return "one ordinary Zarr, or another Zarr format, is shown when all shards are done"
    record = job.records.get(0)
    if record is None:
        return "the base is not done, and it holds metadata"
    apart = (run for run in runs if run.blocks is not None and not _is_view(run) and not job.is_done(run))
    if (run := next(apart, None)) is not None:
        return f"{run.path!r} is not done, and its metadata can't be shown apart from the metadata of finished shards"
    if _is_v3(job.base()) != _is_v3(job.source.base):
        return "another Zarr format is shown when all shards are done"
    return ""


def _count_shown(job: UnfinishedJob, run: Run) -> int:
    """Return the number of a run's shards that are shown from the result.

    Finished members are shown one by one, other shards only if the whole run is done.
    """
    if run.members is not None:
        return sum(number in job.records for number in run.numbers)
    return run.stop if job.is_done(run) else 0


def _is_view(run: Run) -> bool:
    """Check that a run is a view, so that its array can be mounted as a whole."""
    return bool(run.path) and run.location.divides_source and not run.exceptions


def _is_v3(base: Location) -> bool:
    return sync(base.open().exists("zarr.json"))


def _waiting(job: UnfinishedJob, runs: list[Run]) -> str:
    called = ("the base" if run.mounted is not None else repr(run.path or "/") for run in runs if not job.is_done(run))
    names = list(called)
    if len(names) > 1:
        return f"{names[0]} and {len(names) - 1} more are not done"
    return f"{names[0]} is not done" if names else ""


def _each_whole(job: UnfinishedJob, runs: list[Run]) -> Iterator[tuple[str, Mount]]:
    """Yield the mounts on the new base.

    Finished runs are mounted from the result, the others from the source. A run of members mixes both, since each
    member is a whole Zarr.
    """
    nodes = read_nodes(Config(job.base()))
    for run in runs:
        if run.members is not None:
            yield run.path, mount(job, run)
        elif job.is_done(run):
            made = mount(job, run)
            if job.result is not None:
                made = msgspec.structs.replace(made, blocks=job.result.shards[run.path].blocks)
            yield run.path, as_now(run.path, made, nodes.get(run.path), None)
        else:
            yield run.path, Mount(run.location)


def mount(job: UnfinishedJob, run: Run) -> Mount:
    """Return the mount of a run; shards at other locations than most shards are exceptions."""
    if run.division is None:
        ((_, location),) = job.shards(run)
        return Mount(location)
    ((most, _),) = Counter(map(job.generation_of, run.numbers)).most_common(1)
    exceptions = {
        shard.block_name: job.location(run, shard)
        for shard in run.shards()
        if job.generation_of(shard.number) != most or most == ELSEWHERE
    }
    if most == SOURCE:
        blocks = run.blocks and msgspec.structs.replace(run.blocks, stored=None)  # the current blocks of the source
        return Mount(run.location, blocks, {**run.exceptions, **exceptions}, run.members)
    if most == ELSEWHERE:
        return Mount(next(iter(exceptions.values())), run.blocks, exceptions, run.members)
    return Mount(job.template(run, most), run.blocks, exceptions, run.members)


def find_job_folder(folder: str, options: Options) -> Folder | None:
    """Return the folder with the manifests of a result, in any layout; None if not found."""
    places = (open_folder(url, options) for url in dict.fromkeys(kind.folder_at(folder) for kind in LAYOUTS.values()))
    return next((place for place in places if read_manifest(place) is not None), None)


def unfinished(url: str, options: Options) -> str:
    """Return the progress of a folder's unfinished job as a sentence; empty if there is none."""
    try:
        place = find_job_folder(url, options)
    except STORAGE_ERRORS:  # a file, or a folder that can't be listed: the caller reports it
        return ""
    manifest = None if place is None else read_manifest(place)
    if place is None or manifest is None or not manifest.config:
        return ""
    job = read_unfinished(place, manifest, options)
    if is_finished(place, manifest, job, read_config(place, options)):
        return ""
    records = ledger_of(place, manifest).read().values()
    total = sum(run.stop - run.first for run in shard_runs(job.source))
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
    manifest, config = read_manifest(place), read_config(place, options)
    assert manifest is not None
    job = read_unfinished(place, manifest, options)
    if is_finished(place, manifest, job, config):
        return None
    shown = partial_config(job._replace(records=_existing_records(place, job)))
    named = job.source if job.is_moved_in_parts else shown[0]
    try:
        _check_allowed(named, place, allow)
    except ConfigError as error:
        name = join_url(place.url, manifest_name(manifest.generation))
        raise ConfigError(f"unfinished shards are shown from the source that {name!r} names: {error}") from None
    if _outside(named, place) and source_token(job.source, digest(read_nodes(job.source))) != manifest.source:
        raise ConfigError(
            f"the source has changed since the job at {place.url!r} began, so the two can't be shown together: run "
            "the same job again, which continues with the changed source, or open the source itself"
        )
    return shown[0], replace(shown[1], folder=place)


def read_config(place: Folder, options: Options) -> Config | None:
    """Return the config in a folder, which may name any place; None if there is no valid config."""
    try:
        return from_dict(parse(place.read(FILE_NAME)), place.url, None, options)
    except (FileNotFoundError, UsageError):
        return None


def read_unfinished(place: Folder, manifest: JobManifest, options: Options) -> UnfinishedJob:
    """Read an unfinished job from its manifest and its ledger."""
    preview, generation = manifest.preview, manifest.generation
    records = {number: record for number, record in ledger_of(place, manifest).read().items() if not record.failed}
    result = from_dict(preview.config, place.url, None, options) if preview.config else None
    return UnfinishedJob(from_dict(manifest.config), result, preview.mixes, generation, records)


def is_finished(place: Folder, manifest: JobManifest, job: UnfinishedJob, config: Config | None) -> bool:
    """Check that a job has ended and that its folder has the job's own config."""
    if config is None:
        return False
    if ledger_of(place, manifest).is_compacted():
        return True
    if not layout_of(manifest).config_names_shards:
        return not manifest.after  # a job that continues another job finds that job's config here
    base, *runs = shard_runs(job.source)
    if len(job.records) < base.stop + sum(run.stop for run in runs):
        return False
    made = {run.path: mount(job, run) for run in runs}
    if job.base() != config.base or made.keys() != config.shards.keys():
        return False
    pairs = ((made[path], config.shards[path]) for path in made)
    return all(_place(one) == _place(other) for one, other in pairs)


def _place(mount: Mount) -> object:
    return mount.location, mount.exceptions, mount.members


def show_partial(job: Job, plan: Plan, outcome: Summary, failed: ShardsFailed) -> tuple[Config, Summary]:
    """Return the config and the summary of a job with failed shards.

    The config shows the source for the shards that are not done. A warning names the number of failed shards and the
    first error.
    """
    layout = job.layout
    preview, known = layout.preview(plan, job.chain), layout.records(job.ledger, outcome)
    records = {number: known[number] for number in job.done(plan.runs, known, layout.inventory())}
    result = from_dict(preview.config, layout.folder, None, layout.options) if preview.config else None
    config, shown = partial_config(UnfinishedJob(plan.config, result, preview.mixes, job.generation, records))
    failures = tuple(error for error in failed.exceptions if isinstance(error, ShardError))
    warnings.warn(f"{failed.message}; {shown}. The first error: {failures[0]}", stacklevel=2)
    return config, replace(outcome, failures=failures, partial=replace(shown, folder=job.ledger.folder))


def _check_allowed(config: Config, place: Folder, allow: Iterable[str]) -> None:
    """Refuse locations outside the folder that `allow` does not contain."""
    if outside := _outside(config, place):
        named = Config(outside[0], {str(i): Mount(one) for i, one in enumerate(outside)})
        from_dict(to_dict(named), place.url, allow)


def _outside(config: Config, place: Folder) -> list[Location]:
    found = dict.fromkeys(location.origin for _, location in config.locations())
    return [one for one in found if not is_within(url_of(one) or "", place.url)]


def _existing_records(place: Folder, job: UnfinishedJob) -> Mapping[int, Record]:
    """Return the records of the finished shards that still exist, by one listing.

    If the result is shown only at the end, nothing is listed and all records are returned.

    Raises
    ------
    ConfigError
        If a shard is missing whose source is deleted.
    """
    found = _stored_records(place, job)
    for number, record in job.records.items():
        if record.moved and number not in found:
            raise ConfigError(
                f"shard number {number} at {place.url!r} is missing or marked as damaged, and its source was deleted after it was moved: restore its object "
                "from a copy"
            )
    return found


def _stored_records(place: Folder, job: UnfinishedJob) -> Mapping[int, Record]:
    if job.mixes == "end" and not job.is_moved_in_parts:
        return job.records
    quote = quote_name if is_remote(place.url) else str
    sizes = {join_url(place.url, quote(name)): nbytes for name, nbytes in place.sizes()}

    def is_stored(record: Record, location: Location) -> bool:
        url = url_of(location)
        if record.location is not None or url is None:
            return url is None or is_remote(url) or os.path.exists(url)
        return sizes.get(url) == record.nbytes or any(join_url(url, name) in sizes for name in (*ROOTS, *VEILED_ROOTS))

    shards = (numbered for run in shard_runs(job.source) for numbered in job.shards(run))
    known = {number: record for number, record in job.records.items() if record.is_done}
    return {n: known[n] for n, location in shards if n in known and is_stored(known[n], location)}
