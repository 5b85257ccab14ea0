"""All that a worker does for a segment of shards: read, transform, write, record. It knows no Dask."""

from __future__ import annotations

import itertools
import logging
import os
import random
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from traceback import StackSummary, format_exception_only, walk_tb
from typing import NamedTuple

import msgspec
from toolz import pipe
from zarr.abc.store import Store

from shardedstore.codecs.digest import DataSum
from shardedstore.errors import CorruptError, ShardedStoreError, ShardError
from shardedstore.jobs.cancellation import Stopped, check, sleep, while_wanted
from shardedstore.jobs.change_detection import Changed, ChangeDetector, located, look, open_component, opened_runs
from shardedstore.jobs.ledger import Ledger, Record
from shardedstore.jobs.outcome import Outcome
from shardedstore.jobs.preflight import find_missing, places_of
from shardedstore.jobs.shards import Plan, Run, Segment, Task, target_of
from shardedstore.jobs.versions import stands, versioned
from shardedstore.notices import Notice
from shardedstore.storage.errors import FIRST_PAUSE, cause_of, chain_of, code_of, is_transient, systemic
from shardedstore.storage.folders import STORAGE_ERRORS, Folder, open_folder
from shardedstore.storage.inventory import Asked, Listed
from shardedstore.storage.markers import MARKERS
from shardedstore.storage.options import NONE, Options
from shardedstore.storage.requests import READS, WRITES, pause
from shardedstore.storage.urls import is_remote, normalize, object_url, quote_name
from shardedstore.stores.entries import of_format, read_entries
from shardedstore.stores.locations import Location, at_shard, require_location, url_of
from shardedstore.stores.recognise import locate
from shardedstore.stores.registry import open_location
from shardedstore.stores.twin_documents import reconciled
from shardedstore.transforms.base.chain import Chain, Entries, Present, Shard, Written
from shardedstore.transforms.base.datasums import Sums, tap
from shardedstore.transforms.base.document_steps import lengthened, rebuilt, shortened, veil
from shardedstore.zarr.grid import Coords

logger = logging.getLogger("shardedstore")
MOST_FAILURES = 1000
MOST_FRAMES, MOST_TRACEBACK = 30, 8000  # frames and characters of a traceback, from its end, that travel with an error
IN_A_ROW = 3  # failures of causes that all shards meet, with no shard done between them, which end a job
MARKED = "empty objects that mark folders are no part of a Zarr, and were left out"


@dataclass(frozen=True)
class Job:
    """What every task needs to know: small, and without open stores or credentials.

    `folder` is where the ledger stands, and None for a function whose results are only returned. `changed` is how closely
    the source is looked at, and `stale` the number of shards that were done and are made again as it has changed; `lost` is
    that of the shards of one ordinary Zarr of which files are gone.
    `shapes` are those of the arrays that are divided, after the chain, where what is written is to be digested; else None.
    `partial` tells to show the source for shards that fail. `accepted` are the numbers of the shards that may fail, and
    `max_missing` is how many others may: the result is then published with holes.
    """

    chain: Chain
    folder: str | None
    generation: int = 1
    nonce: str = ""
    retries: int = 2
    options: Options = NONE
    max_failures: int = MOST_FAILURES
    changed: Changed = "metadata"
    stale: int = 0
    lost: int = 0
    shapes: dict[str, Coords] | None = None
    partial: bool = False
    accepted: frozenset[int] = frozenset()
    max_missing: int = 0

    @property
    def ledger(self) -> Ledger:
        """The records of what the job has done."""
        return Ledger(self.place, self.generation, self.nonce)

    @property
    def is_remote(self) -> bool:
        """Whether shards go to an object store."""
        return self.folder is not None and is_remote(self.folder)

    @property
    def place(self) -> Folder:
        """The folder that config and ledger stand in."""
        assert self.folder is not None
        return open_folder(self.folder, self.options)

    def url(self, run: Run, shard: Shard, generation: int = 0) -> str:
        """Return where a shard goes, or where an earlier generation put it."""
        return self.template(run, generation).replace("{block}", self._quoted(shard))

    def _quoted(self, shard: Shard) -> str:
        """Return the name of a shard among those of its mount, as it stands in URLs."""
        return quote_name(shard.block_name) if shard.members and self.is_remote else shard.block_name

    def template(self, run: Run, generation: int = 0) -> str:
        """Return the URL of a mount's shards, in which ``{block}`` stands for the name of one."""
        assert self.chain.sink is not None
        assert self.folder is not None
        if self.chain.sink.is_one_zarr:
            return normalize(self.chain.sink.url)
        name = versioned(target_of(self.chain.sink, run), generation or self.generation)
        return object_url(self.folder, name)

    def done(
        self, runs: Iterable[Run], records: Mapping[int, Record], present: Present | None = None
    ) -> frozenset[int]:
        """Return the numbers of the shards that are recorded, not marked, and still there.

        `present` is what was listed, if it was.
        """
        if not records:
            return frozenset()
        present = present or Asked(self.options)
        return frozenset(number for run in runs for number in self._present(run, records, present))

    def _present(self, run: Run, records: Mapping[int, Record], present: Present) -> Iterator[int]:
        """Yield the numbers of a run's shards that are there, of which there may be a million."""
        sink, templates = self.chain.sink, dict[int, str]()
        for number, shard in run.shards():
            record = records.get(number)
            if record is None or not record.is_done:
                continue
            if sink is None:
                if _is_located(record):
                    yield number
                continue
            generation = record.generation
            if generation not in templates:
                templates[generation] = self.template(run, generation)
            url = templates[generation].replace("{block}", self._quoted(shard))
            written = Written(record.entries, record.nbytes, record.digest, record.location, record.names)
            if sink.is_there(url, written, present):
                yield number

    def segments(self, plan: Plan) -> list[Segment]:
        """Return a plan's segments, which are smaller where shards go to an object store."""
        return plan.segments(to_remote=self.is_remote)

    def find_missing(self, locations: Iterable[Location]) -> str | None:
        """Return what keeps this process from doing the job; see `preflight.find_missing`."""
        return find_missing(self.folder, self.options, self.generation, places_of(locations))

    def listed(self) -> Present | None:
        """Return what stands at the destination, for `done`: where asking for each would be slow."""
        if self.folder is None or not self.is_remote:
            return None
        return Listed((object_url(self.folder, name), nbytes) for name, nbytes in self.place.sizes())


def _is_located(record: Record) -> bool:
    """Tell whether what a function returned still stands, as far as that can be seen."""
    url = None if record.location is None else url_of(record.location)
    return record.location is not None and (url is None or is_remote(url) or os.path.exists(url))


def run_segment(job: Job, segment: Segment) -> Outcome:
    """Do the shards of a segment that its records do not name yet; see `run_task`."""
    return run_task(job, Task(segment))


def run_task(job: Job, task: Task) -> Outcome:
    """Do the shards of a task that no record names yet. A shard that fails is told, never raised.

    It ends by `Stopped` when it is not wanted any more.
    """
    begun, first = time.monotonic(), None
    MARKERS.take()  # what verify or another job has seen
    for attempt in itertools.count():
        try:
            outcome = _run_task(job, task)
        except STORAGE_ERRORS as error:
            first = first or time.monotonic()
            if not WRITES.refused(error, first):
                cause = f"its record can't be kept at the destination: {cause_of(error)}"
                return Outcome.failed(task.segment, cause, code_of(error), systemic(error))
            sleep(pause(attempt))
        else:
            throttled, markers = READS.take_refused() + WRITES.take_refused(), MARKERS.take()
            notices = (Notice(MARKED, markers),) if markers else ()
            seconds = time.monotonic() - begun
            return replace(outcome, throttled=throttled, seconds=seconds, notices=notices, worker=_worker())
    raise AssertionError("unreachable")


def _run_task(job: Job, task: Task) -> Outcome:
    segment = task.segment
    missing = job.find_missing(run.location for run in segment.runs)
    if missing is not None:
        return Outcome.failed(segment, missing, "unprepared-worker")
    if job.folder is None:
        return Outcome.total(_do_shards(job, task, None))
    ledger = job.ledger
    if not stands(ledger):
        cause = "its destination was removed while the job ran, and may be another job's now"
        return Outcome.failed(segment, cause, "destination-lost")
    if task.attempt and ledger.claim(segment.number, task.attempt):
        with ledger.writer(segment.number, task.attempt) as append:
            return Outcome.total(_do_shards(job, task, append))
    records = ledger.read_segment(segment.number)
    done = job.done(segment.runs, records)
    left = segment.without(done) if done else segment
    if not left.runs:
        return Outcome(skipped=len(done))
    with ledger.writer(segment.number) as append:
        gone = [records[number] for run in left.runs for number in run.numbers if number in records]
        before = Outcome(skipped=len(done), missing=sum(record.is_done for record in gone))
        again = {**task.again, **{record.shard: record.generation for record in gone}}
        return Outcome.total([before, *_do_shards(job, Task(left, again=again), append)])


def _worker() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


def _do_shards(job: Job, task: Task, append: Callable[[Record], None] | None) -> Iterator[Outcome]:
    """Yield what becomes of each shard; nothing for those that the task leaves when its time is over."""
    segment, end = task.segment, time.monotonic() + task.seconds
    failed, row, worker = 0, 0, _worker()
    for run, opened in zip(segment.runs, opened_runs(segment), strict=True):
        for number, shard in run.shards():
            begun = time.monotonic()
            if begun > end:
                return
            generation = task.again.get(number, 0)
            made, attempts = _try_shard(job, run, opened, shard, generation)
            if isinstance(made, ShardError):
                row = row + 1 if made.remedy else row
                yield Outcome(failures=(made,), retries=attempts - 1, row=bool(made.remedy))
                failed += 1
                if failed >= job.max_failures or row >= IN_A_ROW:
                    return
                continue
            row = 0
            record = made.record(number, generation, round(time.monotonic() - begun, 3), attempts, worker)
            if append is not None:
                append(record)
            found = {} if record.location is None else {number: record.location}
            yield Outcome(1, 0, record.entries, record.nbytes, locations=found, retries=attempts - 1)


def _try_shard(job: Job, run: Run, opened: Run, shard: Shard, generation: int) -> tuple[Made | ShardError, int]:
    """Run one shard, and again after an error that may pass, then with the source opened anew; tell the attempts."""
    attempt, waits, first = 1, 0, None
    while True:
        check()
        try:
            made = run_shard(job, opened if attempt + waits == 1 else run, shard, generation)
        except (KeyboardInterrupt, GeneratorExit, Stopped):
            raise
        except BaseException as error:  # SystemExit, and the panics of libraries in Rust, are no reason to end a worker
            cause, traced = _cause(error, run, shard), logger.isEnabledFor(logging.DEBUG)
            logger.warning("shard %s failed, attempt %d: %s", shard.name, attempt, cause, exc_info=traced)
            first = first or time.monotonic()
            if WRITES.refused(error, first):  # which is not the shard's fault
                sleep(pause(waits))
                waits += 1
                continue
            if attempt > job.retries or not is_transient(error):
                return _failure(error, cause, run, shard, attempt), attempt
            sleep(FIRST_PAUSE * 2 ** (attempt - 1) * random.uniform(0.5, 1))
            attempt += 1
        else:
            WRITES.went_well()
            return made, attempt


def _failure(error: BaseException, cause: str, run: Run, shard: Shard, attempts: int) -> ShardError:
    """Return the error of a shard, with what is known of it as fields."""
    told = [one for one in chain_of(error) if isinstance(one, ShardedStoreError)]
    location = at_shard(run.location, run.division, shard.block_name, run.exceptions)
    return ShardError(
        shard.name,
        cause,
        systemic(error),
        code=code_of(error),
        path=shard.path,
        block=shard.block,
        key=next((one.key for one in told if one.key is not None), None),
        chunk=next((one.chunk for one in told if one.chunk is not None), None),
        url=url_of(location),
        error_type=type(error).__name__,
        attempts=attempts,
        traceback=_traceback(error),
    )


def _traceback(error: BaseException) -> str:
    """Return the traceback as text, without marks below the lines, which take most of the time of Python's own."""
    parts = list[str]()
    for one in reversed(list(chain_of(error))):
        frames = StackSummary.extract(walk_tb(one.__traceback__), limit=-MOST_FRAMES)
        parts.append("".join(["Traceback (most recent call last):\n", *frames.format(), *format_exception_only(one)]))
    return "\n".join(parts)[-MOST_TRACEBACK:]


def _cause(error: BaseException, run: Run, shard: Shard) -> str:
    """Return what an error says, and where a shard is read from that is damaged and a store by itself."""
    cause = cause_of(error)
    component = located(run, shard).component if isinstance(error, CorruptError) else ""
    return cause if component in cause else f"{cause} (in {component})"


class Made(NamedTuple):
    """What became of a shard that is done: what was written and how, digests of its data, and what its source was."""

    written: Written
    source: str = ""
    digests: dict[str, DataSum] | None = None
    veiled: bool = False
    consolidated: tuple[str, ...] = ()

    def record(self, number: int, generation: int, seconds: float, attempts: int, worker: str) -> Record:
        """Return the shard's record."""
        entries, nbytes, digest, location, names = msgspec.structs.astuple(self.written)
        others = seconds, attempts, worker, self.source, generation
        record = Record(number, entries, nbytes, digest, location, names, *others, digests=self.digests)
        return msgspec.structs.replace(record, veiled=self.veiled, consolidated=self.consolidated)


def run_shard(job: Job, run: Run, shard: Shard, generation: int = 0) -> Made:
    """Run one shard through the chain; an exception leaves nothing under its final name."""
    component, shard = open_component(run, shard), located(run, shard)
    detector = ChangeDetector(job.changed, component)
    if job.chain.function is not None:
        looked = look(job.changed, run, shard)
        within = "" if shard.bundle is None and shard.members else shard.block_name
        made = job.chain.function(component, shard.path, within or None)
        location = require_location(locate(made), "what the function returned")
        made.close()
        detector.check(shard)
        return Made(Written(0, 0, "", location), looked)
    sink = job.chain.sink
    assert sink is not None
    source = detector.watch(_read(job, run, shard, component), shard)
    if run.base is not None:
        source = lengthened(source, shard, open_location(run.base))
    entries = pipe(
        while_wanted(reconciled(source, shard.path) if job.chain.rewrites else source),
        *(lambda stream, step=step: step(stream, shard) for step in job.chain.steps),
    )
    sums = None if job.shapes is None else Sums(job.shapes)
    if sums is not None:
        entries = tap(entries, shard, sums)
    is_veiled = bool(shard.divided) and not sink.is_one_zarr
    groups = {} if sink.is_one_zarr else run.rebuilt
    if groups:
        entries = rebuilt(entries, shard, groups)
    if run.mounted and not sink.is_one_zarr:
        entries = veil(entries, shard, run.mounted)
    if shard.block is not None and not sink.is_one_zarr:
        entries = shortened(entries, shard)
    written = sink.write(entries, shard, job.url(run, shard, generation))
    return Made(written, detector.source, None if sums is None else sums.recorded(), is_veiled, tuple(groups))


def _read(job: Job, run: Run, shard: Shard, component: Store) -> Entries:
    """Return the entries of a shard; a member's consolidated metadata goes where a step may change what it is of."""
    stale = None if shard.members and job.chain.steps else run.consolidated
    inside = run.inside if job.chain.rewrites else None
    entries = read_entries(component, shard.blocks, shard.block, stale, inside)
    return of_format(entries, run.zarr_format) if shard.members and shard.bundle is None else entries
