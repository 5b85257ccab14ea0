"""The work for a task, without Dask: read, transform, write and record each shard."""

from __future__ import annotations

import itertools
import logging
import math
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import TypeVar

import msgspec
from toolz import pipe

from shardedstore.codecs.digest import DataSum
from shardedstore.errors import CorruptError, ShardedStoreError, ShardError, SourceChangedError, UsageError
from shardedstore.jobs.cancellation import Stopped, check_cancelled, is_ending, sleep, until_cancelled
from shardedstore.jobs.change_detection import ChangeDetector, look
from shardedstore.jobs.job import Job
from shardedstore.jobs.ledger import Record
from shardedstore.jobs.limits import ROOM, throttle_of
from shardedstore.jobs.move.lease import Lease
from shardedstore.jobs.open_shard import open_shard, opened_runs, with_component
from shardedstore.jobs.repeats import Repeats, is_told
from shardedstore.jobs.shards import Run, Segment, Task, decoded_nbytes, location_of
from shardedstore.jobs.stages import Stages
from shardedstore.jobs.summary import ShardEnd, Summary
from shardedstore.jobs.worker_traceback import worker_traceback
from shardedstore.notices import Notice
from shardedstore.storage.attributes import attributes_of_objects
from shardedstore.storage.errors import cause_of, chain_of, code_of, systemic
from shardedstore.storage.folders import STORAGE_ERRORS
from shardedstore.storage.markers import MARKERS
from shardedstore.storage.request_metrics import RequestMeter, metered
from shardedstore.storage.requests import READS, WRITES, Throttled
from shardedstore.storage.retry import Retries, retry
from shardedstore.storage.throttle import throttled as limited_to
from shardedstore.stores.entries import of_format, read_entries
from shardedstore.stores.locations import url_of
from shardedstore.stores.twin_documents import reconciled
from shardedstore.transforms.base.datasums import Sums, tap
from shardedstore.transforms.base.document_steps import lengthened
from shardedstore.transforms.base.shard import Entries, Shard

logger = logging.getLogger("shardedstore")
ENDINGS = (KeyboardInterrupt, GeneratorExit, Stopped)
REPEATS = Repeats()
T = TypeVar("T")
Work = Callable[["Job", Task], Summary]
IN_A_ROW = 3  # failures in a row, from causes that affect all shards, that end a job
MARKED = "empty objects that mark folders do not belong to a Zarr, and were left out"


def run_segment(job: Job, segment: Segment) -> Summary:
    """Run the shards of a segment that are not recorded yet; see `run_task`."""
    return run_task(job, Task(segment))


def run_task(job: Job, task: Task, work: Work | None = None) -> Summary:
    """Run the shards of a task that are not recorded yet.

    Failed shards are returned in the summary, not raised. Shards that finished before a failure stay recorded. A move
    passes its own `work`.

    Raises
    ------
    Stopped
        If the task was cancelled.
    """
    if is_ending():
        return Summary()
    if job.move is not None and work is None:
        raise UsageError("a move can't run in parts: leave out move, or run the whole job in one call")
    begun, meter = time.monotonic(), RequestMeter()
    MARKERS.take()  # drops the count of verify or of another job
    try:
        with limited_to(throttle_of(job.bucket)), metered(meter):
            outcome = retry(partial(work or _run_task, job, task), Throttled(WRITES), STORAGE_ERRORS, sleep)
    except STORAGE_ERRORS as error:
        cause = f"its record can't be kept at the destination: {cause_of(error)}"
        return Summary.failed(task.segment, cause, code_of(error), systemic(error))
    throttled, markers = READS.take_refused() + WRITES.take_refused(), MARKERS.take()
    notices = (Notice(MARKED, markers),) if markers else ()
    seconds = time.monotonic() - begun
    return replace(
        outcome,
        throttled=throttled,
        throttled_seconds=round(meter.throttled_seconds, 3),
        requests=meter.sums,
        seconds=seconds,
        notices=notices,
        worker=_worker(),
    )


def find_unprepared(job: Job, segment: Segment) -> Summary | None:
    """Return a failure for all shards of a segment if this process can't run them; None if it can."""
    missing = job.find_missing(run.location for run in segment.runs)
    if missing is not None:
        return Summary.failed(segment, missing, "unprepared-worker")
    if not job.layout.has_manifest(job.ledger):
        cause = "its destination was removed while the job ran, and may belong to another job now"
        return Summary.failed(segment, cause, "destination-lost")
    return None


def _run_task(job: Job, task: Task) -> Summary:
    segment = task.segment
    if (unprepared := find_unprepared(job, segment)) is not None:
        return unprepared
    try:
        lease = Lease(segment.runs)
    except SourceChangedError as error:
        return Summary.failed(segment, cause_of(error), code_of(error))
    ledger = job.ledger
    if task.attempt and ledger.claim(segment.number, task.attempt):
        with ledger.writer(segment.number, task.attempt) as append:
            return total_of_task(_do_shards(job, task, append, lease))
    records = ledger.read_segment(segment.number)
    done = job.done(segment.runs, records)
    left = segment.without(done) if done else segment
    if not left.runs:
        return Summary(skipped=len(done), decoded_nbytes=decoded_nbytes(segment.runs, done))
    with ledger.writer(segment.number) as append:
        gone = [records[number] for run in left.runs for number in run.numbers if number in records]
        before = Summary(
            skipped=len(done),
            missing=sum(record.is_done for record in gone),
            decoded_nbytes=decoded_nbytes(segment.runs, done),
        )
        again = {**task.again, **{record.shard: record.generation for record in gone}}
        return total_of_task([before, *_do_shards(job, Task(left, again=again), append, lease)])


def total_of_task(outcomes: Iterable[Summary]) -> Summary:
    """Add up the summaries of shards, and keep the end of each shard."""
    parts = list(outcomes)
    return replace(Summary.total(parts), shards=tuple(shard for part in parts for shard in part.shards))


def of_worker(made: Record, ended: ShardEnd) -> Record:
    """Return a record with the worker, the attempts and the times of its shard."""
    names = ("seconds", "attempts", "begun", "source_entries", "source_nbytes")
    circumstances = {name: getattr(ended, name) for name in names}
    return msgspec.structs.replace(made, worker=_worker(), **circumstances)


def _worker() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


def _do_shards(job: Job, task: Task, append: Callable[[Record], None], lease: Lease) -> Iterator[Summary]:
    """Yield a summary for each tried shard; untried shards may remain when the time is over."""
    segment, end = task.segment, math.inf
    failed, row, reader = 0, 0, partial(ShardReader, lease=lease)
    for run, opened in zip(segment.runs, opened_runs(segment), strict=True):
        for shard in run.shards():
            if time.monotonic() > end or is_ending():
                return
            end = min(end, time.monotonic() + task.seconds)  # each task tries one
            generation = task.again.get(shard.number, 0)
            made, ended = try_shard(
                job, run, opened, shard, partial(run_shard, job, shard=shard, generation=generation, reader=reader)
            )
            if isinstance(made, ShardError):
                row = row + 1 if made.remedy else row
                yield Summary.of_shard(ended, made)
                failed += 1
                if failed >= job.max_failures or row >= IN_A_ROW:
                    return
                continue
            row = 0
            record = of_worker(made, ended)
            append(record)
            yield Summary.of_shard(ended, records=job.layout.returned(record))


class _ShardPolicy:
    """Retries of one shard, without the attempts that a busy server refused."""

    def __init__(self, job: Job, run: Run, shard: Shard) -> None:
        self.retries, self.throttled = Retries(job.retries), Throttled(WRITES)
        self._run, self._shard, self.cause = run, shard, ""
        self._nonce = job.nonce
        self.stages, self.begun, self._clock = Stages(), time.time(), time.monotonic()

    @property
    def is_first(self) -> bool:
        """Whether no attempt has failed."""
        return not self.retries.count + self.throttled.count

    @property
    def attempts(self) -> int:
        """The number of attempts, without the attempts that a busy server refused."""
        return self.retries.count + 1

    def pause(self, error: BaseException) -> float | None:
        # docstring inherited
        if isinstance(error, ENDINGS):
            return None
        self.cause = _cause(error, self._run, self._shard)
        self._log()
        pause = self.throttled.pause(error)
        return self.retries.pause(error) if pause is None else pause

    def _log(self) -> None:
        """Log a failed attempt. The first, tenth, hundredth, ... attempt with the same cause is logged as a warning."""
        count = REPEATS.add((self._nonce, self.cause.replace(self._shard.name, "...")))
        logger.log(
            logging.WARNING if is_told(count) else logging.INFO,
            "shard %s failed, attempt %d: %s%s",
            self._shard.name,
            self.attempts,
            self.cause,
            "" if count == 1 else f" ({count:,} times in this process)",
            exc_info=logger.isEnabledFor(logging.DEBUG),
        )

    def end(self, made: object) -> ShardEnd:
        """Return the end of the shard; its stages are those of the last attempt."""
        stages = self.stages
        end = ShardEnd(
            self._shard.name,
            self._shard.number,
            begun=round(self.begun, 3),
            seconds=round(time.monotonic() - self._clock, 3),
            attempts=self.attempts,
            retried="" if self.attempts == 1 else self.cause,
            decoded_nbytes=self._run.decoded_nbytes,
            read_seconds=stages.read,
            transform_seconds=stages.transform,
            write_seconds=stages.write,
            decode_seconds=stages.decode,
            encode_seconds=stages.encode,
            source_entries=stages.source_entries,
            source_nbytes=stages.source_nbytes,
        )
        if isinstance(made, ShardError):
            return msgspec.structs.replace(end, code=made.code)
        return (
            msgspec.structs.replace(end, entries=made.entries, nbytes=made.nbytes) if isinstance(made, Record) else end
        )


def try_shard(
    job: Job, run: Run, opened: Run, shard: Shard, work: Callable[[Run, Stages], T]
) -> tuple[T | ShardError, ShardEnd]:
    """Run `work` for one shard with retries; return the result and the end of the shard.

    Each retry opens the source again. The error of the last attempt is returned, not raised.
    """
    policy = _ShardPolicy(job, run, shard)

    def attempt() -> T:
        check_cancelled()
        with policy.stages.timed():
            return work(opened if policy.is_first else run, policy.stages)

    try:
        made = retry(attempt, policy, BaseException, sleep)
    except BaseException as error:  # SystemExit and panics of Rust libraries must not end a worker
        if isinstance(error, ENDINGS):
            raise
        failure = _failure(error, policy.cause, run, shard, policy.attempts)
        return failure, policy.end(failure)
    WRITES.went_well()
    return made, policy.end(made)


def _failure(error: BaseException, cause: str, run: Run, shard: Shard, attempts: int) -> ShardError:
    """Return the error of a shard, with its details as fields."""
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
        traceback=worker_traceback(error),
        worker=_worker(),
    )


def _cause(error: BaseException, run: Run, shard: Shard) -> str:
    """Return the message of an error; for a damaged source, the message names the store."""
    cause = cause_of(error)
    component = with_component(run, shard).component if isinstance(error, CorruptError) else ""
    return cause if component in cause else f"{cause} (in {component})"


class ShardReader:
    """The open source of one shard, which detects changes, counts chunks and digests data.

    Attributes
    ----------
    chunks : int or None
        The number of chunks that were read; None before the first entry.
    """

    def __init__(self, job: Job, run: Run, shard: Shard, stages: Stages, lease: Lease | None = None) -> None:
        self.stages, self._lease = stages, lease
        self.run, self.component, self.shard = run, open_shard(run, shard), with_component(run, shard)
        self._chain, self._changed = job.chain, job.changed
        self._detector = ChangeDetector(job.changed, self.component)
        self._sums = None if job.shapes is None else Sums(job.shapes)
        self.chunks: int | None = None

    def entries(self) -> Entries:
        """Return the entries after the steps of the chain."""
        source = self.stages.reading(self._detector.watch(self._read(), self.shard))
        if self.run.base is not None:
            source = lengthened(source, self.shard, self.run.base.open())
        entries = pipe(
            self._counted(until_cancelled(reconciled(source, self.shard.path) if self._chain.rewrites else source)),
            *(lambda stream, step=step: step(stream, self.shard) for step in self._chain.steps),
        )
        summed = entries if self._sums is None else tap(entries, self.shard, self._sums)
        return self.stages.ready(summed) if self._chain.steps else summed

    def _counted(self, entries: Entries) -> Entries:
        self.chunks = 0
        for entry in entries:
            if entry.coords is not None:
                self.chunks += 1
            yield entry

    def _read(self) -> Entries:
        """Return the entries of the source.

        If the chain has steps, a member's consolidated metadata is dropped because a step may change its documents.
        """
        run, shard = self.run, self.shard
        consolidated = None if shard.members and self._chain.steps else run.consolidated
        inside = run.inside if self._chain.rewrites else None
        entries = read_entries(self.component, shard.blocks, shard.block, consolidated, inside)
        if self._lease is not None:
            entries = itertools.chain(entries, self._last_look(self._lease))
        return of_format(entries, run.zarr_format) if shard.members and shard.bundle is None else entries

    def _last_look(self, lease: Lease) -> Entries:
        """Check after the last entry that no move has begun; yield nothing."""
        lease.check()
        yield from ()

    def look(self) -> str:
        """Return the state of the source for a record, without a call of `entries`."""
        return look(self._changed, self.run, self.shard)

    def check(self) -> None:
        """Raise CorruptError if the source's listing has changed since it was opened."""
        self._detector.check(self.shard)

    @property
    def source(self) -> str:
        """The state of the source for the record, known after all entries."""
        return self._detector.source

    @property
    def digests(self) -> dict[str, DataSum] | None:
        """The digests of the decoded data; None if the job makes none."""
        return None if self._sums is None else self._sums.recorded()


def _room(job: Job, run: Run) -> AbstractContextManager[None]:
    """Return a block that holds the memory of a shard, if memory is limited."""
    return nullcontext() if job.memory is None else ROOM.take(job.memory.need_of(run), job.memory.most)


def run_shard(
    job: Job,
    run: Run,
    stages: Stages,
    shard: Shard,
    generation: int,
    reader: Callable[[Job, Run, Shard, Stages], ShardReader] | None = None,
) -> Record:
    """Run one shard through the chain, and return its record.

    After an exception, no incomplete shard has its final name. `generation` 0 means the generation of the job.
    """
    source = (reader or ShardReader)(job, run, shard, stages)
    with attributes_of_objects(job.objects), _room(job, run):
        record = job.layout.write(source, job, generation)
    return msgspec.structs.replace(
        record,
        generation=generation,
        source=record.source or source.source,
        digests=source.digests,
        chunks=source.chunks,
    )
