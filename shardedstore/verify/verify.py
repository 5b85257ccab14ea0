"""`verify`: compare a result with its ledger, or with the decoded data of its source."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import TypeVar

import msgspec

from shardedstore.config.document import dump, from_dict, to_dict
from shardedstore.errors import UsageError
from shardedstore.jobs.differences import Difference
from shardedstore.jobs.layouts.registry import find_result_job
from shardedstore.jobs.layouts.result_job import ResultJob
from shardedstore.jobs.layouts.shard_folder import ShardFolder
from shardedstore.jobs.lock import held
from shardedstore.jobs.make_plan import make_plan
from shardedstore.jobs.preflight import source_urls
from shardedstore.jobs.shards import Plan, shard_runs
from shardedstore.partition.partition import divide
from shardedstore.partition.patterns import Paths
from shardedstore.storage.errors import explain
from shardedstore.storage.folders import open_folder
from shardedstore.storage.urls import normalize
from shardedstore.stores.locations import Config, Location, Place
from shardedstore.transforms.base.shard import Shard
from shardedstore.verify.choice import SHARD_SIZE, choose_both
from shardedstore.verify.compare import (
    MEND,
    MOST_NAMED,
    Side,
    Suspects,
    compare_chunks,
    compare_damage,
    compare_files,
    compare_layouts,
    compare_nodes,
    compared_by,
    find_suspects,
    notes,
    searched,
)
from shardedstore.verify.data import Damage, DataTask, Taken, data_tasks, take, total
from shardedstore.verify.documents import compare_documents, unmasked
from shardedstore.verify.journal import Journal, run_journaled
from shardedstore.verify.located import fill_differences, locate_values, value_differences, value_note
from shardedstore.verify.report import LEVELS, Level, VerifyReport
from shardedstore.verify.stored import LOOK_AGAIN, UNREADABLE, StoredTask, check_stored, stored_tasks, unreadable_shard
from shardedstore.verify.values import ArrayPair, ComparedValues, ValueTask, compare_values, find_pairs, value_tasks

T = TypeVar("T")
Task = TypeVar("Task", StoredTask, DataTask, ValueTask)
NO_PARTS = "include and exclude are for a comparison of decoded data with a source: give against=, and leave mark and other levels out"
NO_LEDGER = (
    "no ledger of the job that made this result was found beside it, so there is nothing to compare it with: give its source "
    "as against="
)


class Existing:
    """One listing of a result: its differences from the ledger, and a token of all sizes.

    Parameters
    ----------
    config : Config
        The result.
    job : ResultJob or None
        The job that made it, if its ledger was found.
    """

    def __init__(self, config: Config, job: ResultJob | None) -> None:
        sizes, layout = hashlib.sha256(), ShardFolder if job is None else job.layout
        self.differences = list(layout.compare_listing(config, job, lambda line: sizes.update(line.encode())))
        self.token = sizes.hexdigest()


def verify(
    config: Config,
    against: Config | None = None,
    level: Level | None = None,
    resume: bool | str = True,
    mark: bool = False,
    include: Paths | None = None,
    exclude: Paths | None = None,
) -> VerifyReport:
    """Verify a result; see `ShardedStore.verify`."""
    if include is not None or exclude is not None:
        if against is None or mark or level not in (None, "decoded"):
            raise UsageError(NO_PARTS)
        config, against = choose_both(config, against, include, exclude)
    level = level or ("stored" if against is None else "decoded")
    if level not in LEVELS:
        raise UsageError(f"level={level!r} is not a level: use one of {', '.join(LEVELS)}")
    for given in (config, against):
        if given is not None:
            to_dict(given)  # every component has a location
    kept = find_result_job(config)
    if kept is None and (mark or level == "stored" or (level == "decoded" and against is None)):
        raise UsageError(NO_LEDGER)
    if (
        level == "decoded"
        and against is None
        and kept is not None
        and all(record.digests is None for record in kept.records.values())
    ):
        against = _own_source(config, kept)
    if mark and kept is not None:
        kept.latest()  # raises before any data is read
    place = open_folder(normalize(resume)) if isinstance(resume, str) else kept.folder if kept and resume else None
    journal = partial(Journal, place, must_keep=isinstance(resume, str))
    if level == "decoded" and against is not None:
        report = _compare(config, against, kept, journal)
    else:
        assert kept is not None or level == "exists"
        report = _check(config, kept, level, journal)
    return _mark(config, kept, report) if mark and kept is not None else report


def _own_source(config: Config, kept: ResultJob) -> Config | None:
    """Return the part of the source that the job included; None if it is unknown or must not be opened.

    A source on another server than the result is not opened. A ledger may come from an untrusted person, and
    credentials are for one server.
    """
    if not kept.made.config:
        return None
    source = from_dict(kept.made.config)
    ours = {_server(location) for _, location in config.locations()}
    return source if all(_server(location) in (None, *ours) for _, location in source.locations()) else None


def _server(location: Location) -> str | None:
    place = location.origin
    return place.options.server if isinstance(place, Place) else None


Open = Callable[[Iterable[str]], Journal]


def _check(config: Config, kept: ResultJob | None, level: Level, open_journal: Open) -> VerifyReport:
    """Compare a result with its ledger."""
    existing = Existing(config, kept)
    others = () if kept is None else kept.notes
    if level == "exists" or kept is None:
        return VerifyReport.of(level, sum(run.stop for run in shard_runs(config)), existing.differences, notes=others)
    is_decoded = level == "decoded"
    if kept.layout.data_show_losses and is_decoded:  # other codecs and stored chunks of fill values are no differences
        existing.differences = [difference for difference in existing.differences if difference.key]
    try:
        made = kept.layout.as_made(config, kept)
    except UNREADABLE as error:
        if isinstance(error, UsageError) and not existing.differences:
            raise
        return VerifyReport.of(
            level, len(kept.records), [*existing.differences, unreadable_shard(Shard("", is_base=True), error)]
        )
    count = sum(run.stop for run in shard_runs(made))
    tasks = stored_tasks(made, kept, is_decoded)
    differences, told = existing.differences, {difference.shard for difference in existing.differences}
    with open_journal([level, dump(made, None).decode(), kept.token, existing.token]) as journal:
        for task, found in _each(
            "stored", check_stored, tasks, list[Difference], _is_right, journal, source_urls(made)
        ):
            if isinstance(found, BaseException):
                differences.append(_lost(task, found))
            else:
                differences += (difference for difference in found if difference.shard not in told)
        journal.is_whole = _is_whole(differences)
    if any(difference.shard for difference in differences):
        differences = [d for d in differences if d.shard or d.key or d.kind == "extra"]  # drop the one for all shards
    arrays = len({path for record in kept.records.values() for path in record.digests or ()}) if is_decoded else 0
    return VerifyReport.of(
        level, count, differences, arrays=arrays, notes=(*others, *journal.notes), is_recorded=is_decoded
    )


def _is_right(found: list[Difference]) -> bool:
    return not found


def _is_whole(differences: list[Difference]) -> bool:
    return not any(difference.kind == "unread" for difference in differences)


def _each(
    name: str,
    work: Callable[[Task], T],
    tasks: list[Task],
    kind: type[T],
    is_right: Callable[[T], bool],
    journal: Journal,
    urls: Iterable[str],
) -> Iterator[tuple[Task, T | BaseException]]:
    """Yield tasks with their findings or errors: first journaled tasks, then the remaining tasks."""
    return run_journaled(f"verify {name}", work, tasks, partial(_key, name), kind, is_right, journal, urls)


def _key(name: str, task: StoredTask | DataTask | ValueTask) -> str:
    if isinstance(task, ValueTask):
        return task.key
    return f"{name} {','.join(f'{run.number}+{run.stop - run.first}' for run in task.segment.runs)}"


def _lost(task: StoredTask | DataTask, error: BaseException) -> Difference:
    """Return the difference for the shards of a failed task."""
    shards = [shard for run in task.segment.runs for shard in run.shards()]
    names, cause = tuple(shard.name for shard in shards), f"{type(error).__name__}: {error}"
    what, advice = f"{', '.join(names)}: could not be read: {cause}", f"see the workers' logs, and {LOOK_AGAIN}"
    return Difference.of(shards[0], "unread", what, advice, shards=names, cause=cause)


def _compare(config: Config, against: Config, kept: ResultJob | None, open_journal: Open) -> VerifyReport:
    """Compare a result with its source in decoded data."""
    is_listed = kept is None or not kept.layout.data_show_losses
    existing = Existing(config, kept) if is_listed else None
    differences = [] if existing is None else existing.differences
    source = _plan(against)
    count = sum(run.stop for run in shard_runs(config))
    try:
        result = _plan_of_result(config, kept)
    except UNREADABLE as error:
        cause = f"{type(error).__name__}: {explain(error)}"
        what = f"the result's metadata can't be read: {cause}"
        unread = Difference.of(Shard("", is_base=True), "damaged", what, MEND, cause=cause)
        return VerifyReport.of("decoded", count, [*differences, unread])
    told = {difference.shard for difference in differences}
    plans = (dump(plan.config, None).decode() + plan.source for plan in (result, source))
    tokens = ["" if kept is None else kept.token, "" if existing is None else existing.token]
    with open_journal(["decoded", *plans, *tokens]) as journal:
        is_foreign = result.nodes[""].meta.zarr_format != source.nodes[""].meta.zarr_format
        pairs = find_pairs(result, source)
        read = partial(_take, is_foreign=is_foreign, skipped=frozenset(pairs))
        ours = Side("the result", result, read("result", result, journal))
        theirs = Side("the source", source, read("source", source, journal), is_source=True)
        suspects = Suspects(ours, theirs, find_suspects(ours, theirs))
        if suspects.stretches:
            wanted = searched(suspects.stretches)
            ours.taken.chunks = _take("result", result, None, wanted).chunks
            theirs.taken.chunks = _take("source", source, None, wanted).chunks
        differences += (d for d in compare_damage(suspects) if d.is_of_source or d.shard not in told)
        differences += compare_nodes(ours, theirs)
        differences += compare_layouts(ours, theirs, pairs)
        differences += compare_documents(ours, theirs)
        differences += locate_values(compare_chunks(suspects), ours, theirs)
        differences += compare_files(ours, theirs)
        differences += _compare_values(ours, theirs, pairs, journal)
        journal.is_whole = _is_whole(differences)
    digests = {path: str(ours.taken.digest(path)) for path in sorted(ours.taken.layouts)}
    told_notes = (*notes(suspects), *map(value_note, pairs.values()), *unmasked(ours, theirs), *journal.notes)
    others = {"notes": told_notes, "compared_by": compared_by(ours, theirs) | dict.fromkeys(pairs, "values")}
    arrays = len(digests.keys() | pairs.keys())
    return VerifyReport.of("decoded", count, differences, arrays=arrays, digests=digests, **others)


def _compare_values(ours: Side, theirs: Side, pairs: Mapping[str, ArrayPair], journal: Journal) -> Iterator[Difference]:
    """Yield the differences of arrays that can't be compared by digests."""
    for pair in pairs.values():
        yield from fill_differences(pair)
    tasks = value_tasks(ours.plan, theirs.plan, pairs)
    urls = [*source_urls(ours.plan.config), *source_urls(theirs.plan.config)]
    found = _each("values", compare_values, tasks, ComparedValues, ComparedValues.is_right, journal, urls)
    named: Counter[str] = Counter()
    for task, compared in found:
        path = task.pair.path
        if not isinstance(compared, ComparedValues):
            what = f"{path!r}: some blocks could not be compared: {type(compared).__name__}: {compared}"
            yield Difference("unread", what, LOOK_AGAIN, array=path)
            continue
        some = [*value_differences(task.pair, compared, ours, theirs)]
        yield from some[: max(0, MOST_NAMED - named[path])]
        named[path] += len(some)
    for path, number in named.items():
        if number > MOST_NAMED:
            yield Difference("data", f"{path!r}: {number - MOST_NAMED:,} more blocks differ", MEND, array=path)


def _plan(config: Config) -> Plan:
    """Return a plan to read a store; an undivided Zarr is divided for reading."""
    return make_plan(config if config.shards else divide(config.base, SHARD_SIZE))


def _plan_of_result(config: Config, kept: ResultJob | None) -> Plan:
    """Return a plan to read a result, by the shards of its job if they are known."""
    if kept is not None:
        try:
            return make_plan(kept.layout.as_made(config, kept))
        except UsageError:
            pass
    return _plan(config)


def _take(
    name: str,
    plan: Plan,
    journal: Journal | None,
    wanted: dict[str, frozenset[int]] | None = None,
    is_foreign: bool = False,
    skipped: frozenset[str] = frozenset(),
) -> Taken:
    """Read a store, or parts of it chunk by chunk, on the active Dask scheduler."""
    tasks = data_tasks(plan, wanted, is_foreign=is_foreign, skipped=skipped)
    kept = Journal(None, ()) if journal is None else journal

    def parts() -> Iterator[Taken]:
        for task, found in _each(name, take, tasks, Taken, Taken.is_right, kept, source_urls(plan.config)):
            if isinstance(found, Taken):
                yield found
                continue
            what = _lost(task, found).what
            yield Taken(damage=[Damage(next(run.shards()), run.path, what, kind="unread") for run in task.segment.runs])

    return total(parts())


def _mark(config: Config, kept: ResultJob, report: VerifyReport) -> VerifyReport:
    """Mark the shards with differences, so that the job makes them again."""
    names = set(report.damaged_shards)
    if not names:
        return report
    try:
        runs = shard_runs(kept.layout.as_made(config, kept))
        found = {shard.number: shard.name for run in runs for shard in run.shards() if shard.name in names}
        with held(kept.folder):
            kept.mark(found)
    except UNREADABLE as error:
        note = f"the shards could not be marked in {kept.folder.url!r}: {explain(error)}"
        return msgspec.structs.replace(report, notes=(*report.notes, note))
    return msgspec.structs.replace(report, marked=tuple(found.values()))
