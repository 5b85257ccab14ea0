"""Opening what is there of a job: while it runs, after it died, and where some of its shards failed."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace

from shardedstore.components.http_index import ROOTS
from shardedstore.components.kinds import Config, Location, Mount, locations, origin, url_of
from shardedstore.components.veiled import VEILED_ROOTS
from shardedstore.config.document import FILE_NAME, from_dict, parse, to_dict
from shardedstore.errors import ConfigError, ShardError, ShardsFailed, UsageError
from shardedstore.jobs.partial_view import Half, mixed, mount
from shardedstore.reading.hierarchy import digest, read_nodes
from shardedstore.storage.access import Options
from shardedstore.storage.folders import STORAGE_ERRORS, Folder, open_folder
from shardedstore.storage.urls import BESIDE, is_remote, is_within, join_url, quote_name
from shardedstore.tasks.generations import Identity, identity_name, ledger_of, read_identity
from shardedstore.tasks.ledger import Record
from shardedstore.tasks.outcome import Outcome, Partial
from shardedstore.tasks.plan import Plan, shard_runs
from shardedstore.tasks.result_preview import plan_result
from shardedstore.tasks.source_comparison import source_token
from shardedstore.tasks.task import Job


def find_job(folder: str, options: Options) -> Folder | None:
    """Return the folder that a job wrote its file to: this one, or that beside one ordinary Zarr; None where none did."""
    places = (open_folder(url, options) for url in (folder, folder + BESIDE))
    return next((place for place in places if read_identity(place) is not None), None)


def unfinished(url: str, options: Options) -> str:
    """Return how far the latest job is that writes to a folder, as a sentence; empty where none did, or it has ended."""
    try:
        place = find_job(url, options)
    except STORAGE_ERRORS:  # of a file, or of a folder that can't be listed, which whoever asks is about to tell
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
    """Return the config that shows what is there of the latest job in a folder; None where it has ended.

    Raises
    ------
    ConfigError
        When the source is needed, or what a function made, and is at a place that is not allowed.
    """
    identity, config = read_identity(place), read_config(place, options)
    assert identity is not None
    half = read_half(place, identity, options)
    if is_finished(place, identity, half, config):
        return None
    shown = mixed(half._replace(records=_there(place, half)))
    try:
        _check_allowed(shown[0], place, allow)
    except ConfigError as error:
        name = join_url(place.url, identity_name(identity.generation))
        raise ConfigError(f"what is not done is shown from the source, which {name!r} names: {error}") from None
    if _outside(shown[0], place) and source_token(half.source, digest(read_nodes(half.source))) != identity.source:
        raise ConfigError(
            f"the source has changed since the job at {place.url!r} began, so that both can't be shown together: call "
            "map_shards with the same arguments again, which goes on with what it is now, or open the source itself"
        )
    return shown


def read_config(place: Folder, options: Options) -> Config | None:
    """Return the config in a folder, which may name any place; None where there is none."""
    try:
        return from_dict(parse(place.read(FILE_NAME)), place.url, None, options)
    except (FileNotFoundError, UsageError):
        return None


def read_half(place: Folder, identity: Identity, options: Options) -> Half:
    """Return what is known of a job from its file and its ledger."""
    planned, generation = identity.planned, identity.generation
    records = {number: record for number, record in ledger_of(place, identity).read().items() if not record.failed}
    result = from_dict(planned.config, place.url, None, options) if planned.config else None
    return Half(from_dict(identity.config), result, planned.mixes, generation, records)


def is_finished(place: Folder, identity: Identity, half: Half, config: Config | None) -> bool:
    """Tell whether a job has ended, and the config in its folder is its own."""
    if config is None:
        return False
    if ledger_of(place, identity).is_compacted():
        return True
    if identity.is_one_zarr:
        return not identity.after  # what goes on from another job is beside that one's config
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


def show_partial(job: Job, plan: Plan, outcome: Outcome, failed: ShardsFailed) -> tuple[Config, Outcome]:
    """Return the config that shows what is there of a job some of whose shards failed, and the outcome that tells of it."""
    planned, result = plan_result(plan, job.chain), None
    if job.folder is None:
        records = {number: Record(number, 0, 0, "", location) for number, location in outcome.locations.items()}
    else:
        known = job.ledger.read()
        records = {number: known[number] for number in job.done(plan.runs, known, job.listed())}
        result = from_dict(planned.config, job.folder, None, job.options) if planned.config else None
    config, shown = mixed(Half(plan.config, result, planned.mixes, job.generation, records))
    failures = tuple(error for error in failed.exceptions if isinstance(error, ShardError))
    warnings.warn(f"{failed.message}; {shown}. The first error: {failures[0]}", stacklevel=2)
    return config, replace(outcome, failures=failures, partial=shown)


def _check_allowed(config: Config, place: Folder, allow: Iterable[str]) -> None:
    """Refuse what a config from elsewhere could not name."""
    if outside := _outside(config, place):
        named = Config(outside[0], {str(i): Mount(one) for i, one in enumerate(outside)})
        from_dict(to_dict(named), place.url, allow)


def _outside(config: Config, place: Folder) -> list[Location]:
    found = dict.fromkeys(origin(location) for _, location in locations(config))
    return [one for one in found if not is_within(url_of(one) or "", place.url)]


def _there(place: Folder, half: Half) -> Mapping[int, Record]:
    """Return the records of what still stands, by one listing, where it can be shown."""
    if half.mixes == "end":
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
