"""All that a worker does for a segment of shards: read, transform, write, record. It knows no Dask."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from traceback import StackSummary, format_exception_only, walk_tb

import msgspec
from toolz import pipe

from shardedstore.codecs.digest import DataSum
from shardedstore.errors import CorruptError, ShardedStoreError, ShardError
from shardedstore.jobs.cancellation import Stopped, check, sleep, while_wanted
from shardedstore.jobs.change_detection import Changed, ChangeDetector, look
from shardedstore.jobs.layouts.base import ResultLayout
from shardedstore.jobs.ledger import Ledger, Record
from shardedstore.jobs.open_shard import open_shard, opened_runs, with_component
from shardedstore.jobs.preflight import places_of
from shardedstore.jobs.shards import Plan, Run, Segment, Task, location_of
from shardedstore.jobs.summary import Summary
from shardedstore.notices import Notice
from shardedstore.storage.errors import cause_of, chain_of, code_of, systemic
from shardedstore.storage.folders import STORAGE_ERRORS
from shardedstore.storage.inventory import Asked
from shardedstore.storage.markers import MARKERS
from shardedstore.storage.requests import READS, WRITES, Throttled
from shardedstore.storage.retry import Retries, retry
from shardedstore.stores.entries import of_format, read_entries
from shardedstore.stores.locations import Location, url_of
from shardedstore.stores.twin_documents import reconciled
from shardedstore.transforms.base.chain import Chain, Entries, Present, Shard
from shardedstore.transforms.base.datasums import Sums, tap
from shardedstore.transforms.base.document_steps import lengthened
from shardedstore.zarr.grid import Coords

logger = logging.getLogger("shardedstore")
MOST_FAILURES = 1000
MOST_FRAMES, MOST_TRACEBACK = 30, 8000  # frames and characters of a traceback, from its end, that travel with an error
ENDINGS = (KeyboardInterrupt, GeneratorExit, Stopped)
IN_A_ROW = 3  # failures of causes that all shards meet, with no shard done between them, which end a job
MARKED = "empty objects that mark folders are no part of a Zarr, and were left out"


@dataclass(frozen=True)
class Job:
    """What every task needs to know: small, and without open stores or credentials.

    `layout` tells how the result lies at the destination. `changed` is how closely the source is looked at, and `stale` the
    number of shards that were done and are made again as it has changed; `lost` is that of the shards of one ordinary Zarr of
    which files are gone.
    `shapes` are those of the arrays that are divided, after the chain, where what is written is to be digested; else None.
    `partial` tells to show the source for shards that fail. `accepted` are the numbers of the shards that may fail, and
    `max_missing` is how many others may: the result is then published with holes.
    """

    chain: Chain
    layout: ResultLayout
    generation: int = 1
    nonce: str = ""
    retries: int = 2
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
        return self.layout.ledger(self.generation, self.nonce)

    def done(
        self, runs: Iterable[Run], records: Mapping[int, Record], present: Present | None = None
    ) -> frozenset[int]:
        """Return the numbers of the shards that are recorded, not marked, and still there.

        `present` is what was listed, if it was.
        """
        if not records:
            return frozenset()
        present = present or Asked(self.layout.options)
        return frozenset(number for run in runs for number in self.layout.present(run, records, self, present))

    def segments(self, plan: Plan) -> list[Segment]:
        """Return a plan's segments, which are smaller where shards go to an object store."""
        return plan.segments(to_remote=self.layout.is_remote)

    def find_missing(self, locations: Iterable[Location]) -> str | None:
        """Return what keeps this process from doing the job; None where nothing does."""
        return self.layout.find_missing(self.generation, places_of(locations))


def run_segment(job: Job, segment: Segment) -> Summary:
    """Do the shards of a segment that its records do not name yet; see `run_task`."""
    return run_task(job, Task(segment))


def run_task(job: Job, task: Task) -> Summary:
    """Do the shards of a task that no record names yet. A shard that fails is told, never raised.

    It ends by `Stopped` when it is not wanted any more.
    """
    begun = time.monotonic()
    MARKERS.take()  # what verify or another job has seen
    try:
        outcome = retry(partial(_run_task, job, task), Throttled(WRITES), STORAGE_ERRORS, sleep)
    except STORAGE_ERRORS as error:
        cause = f"its record can't be kept at the destination: {cause_of(error)}"
        return Summary.failed(task.segment, cause, code_of(error), systemic(error))
    throttled, markers = READS.take_refused() + WRITES.take_refused(), MARKERS.take()
    notices = (Notice(MARKED, markers),) if markers else ()
    seconds = time.monotonic() - begun
    return replace(outcome, throttled=throttled, seconds=seconds, notices=notices, worker=_worker())


def _run_task(job: Job, task: Task) -> Summary:
    segment = task.segment
    missing = job.find_missing(run.location for run in segment.runs)
    if missing is not None:
        return Summary.failed(segment, missing, "unprepared-worker")
    ledger = job.ledger
    if not job.layout.stands(ledger):
        cause = "its destination was removed while the job ran, and may be another job's now"
        return Summary.failed(segment, cause, "destination-lost")
    if task.attempt and ledger.claim(segment.number, task.attempt):
        with ledger.writer(segment.number, task.attempt) as append:
            return Summary.total(_do_shards(job, task, append))
    records = ledger.read_segment(segment.number)
    done = job.done(segment.runs, records)
    left = segment.without(done) if done else segment
    if not left.runs:
        return Summary(skipped=len(done))
    with ledger.writer(segment.number) as append:
        gone = [records[number] for run in left.runs for number in run.numbers if number in records]
        before = Summary(skipped=len(done), missing=sum(record.is_done for record in gone))
        again = {**task.again, **{record.shard: record.generation for record in gone}}
        return Summary.total([before, *_do_shards(job, Task(left, again=again), append)])


def _worker() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


def _do_shards(job: Job, task: Task, append: Callable[[Record], None]) -> Iterator[Summary]:
    """Yield what becomes of each shard; nothing for those that the task leaves when its time is over."""
    segment, end = task.segment, time.monotonic() + task.seconds
    failed, row, worker = 0, 0, _worker()
    for run, opened in zip(segment.runs, opened_runs(segment), strict=True):
        for shard in run.shards():
            begun = time.monotonic()
            if begun > end:
                return
            generation = task.again.get(shard.number, 0)
            made, attempts = _try_shard(job, run, opened, shard, generation)
            if isinstance(made, ShardError):
                row = row + 1 if made.remedy else row
                yield Summary(failures=(made,), retries=attempts - 1, row=bool(made.remedy))
                failed += 1
                if failed >= job.max_failures or row >= IN_A_ROW:
                    return
                continue
            row = 0
            seconds = round(time.monotonic() - begun, 3)
            record = msgspec.structs.replace(made, seconds=seconds, attempts=attempts, worker=worker)
            append(record)
            kept = job.layout.returned(record)
            yield Summary(1, 0, record.entries, record.nbytes, records=kept, retries=attempts - 1)


class _ShardPolicy:
    """Retries of one shard: a busy server costs none."""

    def __init__(self, job: Job, run: Run, shard: Shard) -> None:
        self.retries, self.throttled = Retries(job.retries), Throttled(WRITES)
        self._run, self._shard, self.cause = run, shard, ""

    @property
    def is_first(self) -> bool:
        """Whether no attempt failed yet."""
        return not self.retries.count + self.throttled.count

    @property
    def attempts(self) -> int:
        """The number of attempts, without those that a busy server refused."""
        return self.retries.count + 1

    def pause(self, error: BaseException) -> float | None:
        # docstring inherited
        if isinstance(error, ENDINGS):
            return None
        self.cause, traced = _cause(error, self._run, self._shard), logger.isEnabledFor(logging.DEBUG)
        logger.warning("shard %s failed, attempt %d: %s", self._shard.name, self.attempts, self.cause, exc_info=traced)
        pause = self.throttled.pause(error)
        return self.retries.pause(error) if pause is None else pause


def _try_shard(job: Job, run: Run, opened: Run, shard: Shard, generation: int) -> tuple[Record | ShardError, int]:
    """Run one shard and retry it, then with the source opened anew; return the result and the number of attempts."""
    policy = _ShardPolicy(job, run, shard)

    def attempt() -> Record:
        check()
        return run_shard(job, opened if policy.is_first else run, shard, generation)

    try:
        made = retry(attempt, policy, BaseException, sleep)
    except BaseException as error:  # SystemExit, and the panics of libraries in Rust, are no reason to end a worker
        if isinstance(error, ENDINGS):
            raise
        return _failure(error, policy.cause, run, shard, policy.attempts), policy.attempts
    WRITES.went_well()
    return made, policy.attempts


def _failure(error: BaseException, cause: str, run: Run, shard: Shard, attempts: int) -> ShardError:
    """Return the error of a shard, with what is known of it as fields."""
    told = [one for one in chain_of(error) if isinstance(one, ShardedStoreError)]
    location = location_of(run, shard)
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
    component = with_component(run, shard).component if isinstance(error, CorruptError) else ""
    return cause if component in cause else f"{cause} (in {component})"


class ShardReader:
    """The source of one shard, opened: its entries through the steps of a chain, and what is seen of it meanwhile."""

    def __init__(self, job: Job, run: Run, shard: Shard) -> None:
        self.run, self.component, self.shard = run, open_shard(run, shard), with_component(run, shard)
        self._chain, self._changed = job.chain, job.changed
        self._detector = ChangeDetector(job.changed, self.component)
        self._sums = None if job.shapes is None else Sums(job.shapes)

    def entries(self) -> Entries:
        """Yield the entries as the steps leave them."""
        source = self._detector.watch(self._read(), self.shard)
        if self.run.base is not None:
            source = lengthened(source, self.shard, self.run.base.open())
        entries = pipe(
            while_wanted(reconciled(source, self.shard.path) if self._chain.rewrites else source),
            *(lambda stream, step=step: step(stream, self.shard) for step in self._chain.steps),
        )
        return entries if self._sums is None else tap(entries, self.shard, self._sums)

    def _read(self) -> Entries:
        """Return the entries of the source; a member's consolidated metadata goes where a step may change what it is of."""
        run, shard = self.run, self.shard
        stale = None if shard.members and self._chain.steps else run.consolidated
        inside = run.inside if self._chain.rewrites else None
        entries = read_entries(self.component, shard.blocks, shard.block, stale, inside)
        return of_format(entries, run.zarr_format) if shard.members and shard.bundle is None else entries

    def look(self) -> str:
        """Return what a record says of the source, without the entries."""
        return look(self._changed, self.run, self.shard)

    def check(self) -> None:
        """Raise CorruptError when the source is not what it was at first."""
        self._detector.check(self.shard)

    @property
    def source(self) -> str:
        """What the record says of the source, after all entries."""
        return self._detector.source

    @property
    def digests(self) -> dict[str, DataSum] | None:
        """The digests of the decoded data, where they were asked for."""
        return None if self._sums is None else self._sums.recorded()


def run_shard(job: Job, run: Run, shard: Shard, generation: int = 0) -> Record:
    """Run one shard through the chain; an exception leaves nothing under its final name."""
    source = ShardReader(job, run, shard)
    record = job.layout.write(source, job, generation)
    return msgspec.structs.replace(
        record, generation=generation, source=record.source or source.source, digests=source.digests
    )
