"""The work for a task of a move: convert, publish, verify and record each shard, then delete its source."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from functools import partial
from typing import NamedTuple, TypeVar

import msgspec
from toolz import partition_all

from shardedstore.errors import CorruptError, DestinationError, MoveError, ShardError
from shardedstore.jobs.cancellation import is_ending
from shardedstore.jobs.job import Job
from shardedstore.jobs.ledger import Record, RecordWriter
from shardedstore.jobs.manifest import is_latest
from shardedstore.jobs.move.comparison import (
    changed,
    check_equal,
    check_left,
    check_recorded,
    lost,
    published_run,
    read_chunks,
    read_contents,
)
from shardedstore.jobs.open_shard import open_shard, opened_runs
from shardedstore.jobs.shards import Run, Task
from shardedstore.jobs.stages import Stages
from shardedstore.jobs.summary import ShardEnd, Summary
from shardedstore.jobs.worker import (
    IN_A_ROW,
    ShardReader,
    find_unprepared,
    of_worker,
    run_shard,
    run_task,
    total_of_task,
    try_shard,
)
from shardedstore.storage.folders import open_folder
from shardedstore.storage.retry import patiently
from shardedstore.storage.urls import is_remote
from shardedstore.stores.locations import Place
from shardedstore.stores.reader import reader_of, tags_of
from shardedstore.transforms.base.shard import Entries, Shard, whole_key

T = TypeVar("T")


class Verified(NamedTuple):
    """A shard whose result was verified, and the chunks of its source that may be deleted.

    `ended` is the end of the conversion; None if the shard was converted before.
    """

    run: Run
    shard: Shard
    record: Record
    keys: frozenset[str]
    tags: Tags
    ended: ShardEnd | None = None


Failed = tuple[ShardError, ShardEnd]


def move_task(job: Job, task: Task) -> Summary:
    """Move the shards of a task; see `shardedstore.jobs.worker.run_task`."""
    return run_task(job, task, _move_task)


def _move_task(job: Job, task: Task) -> Summary:
    if (unprepared := find_unprepared(job, task.segment)) is not None:
        return unprepared
    with job.ledger.writer(task.segment.number) as append:
        return total_of_task(_Mover(job, task, append).summaries())


class _Mover:
    """Moves the shards of one task."""

    def __init__(self, job: Job, task: Task, append: RecordWriter) -> None:
        self.job, self.task, self.append = job, task, append
        self.tags: dict[int, Tags | Failed] = {}
        self.records: dict[int, Record] = {}

    def summaries(self) -> Iterator[Summary]:
        """Yield a summary for each tried shard; untried shards may remain when the time is over.

        The chunks are listed before the records are read. Therefore, a shard without a record of its verification was
        complete when it was listed.
        """
        for run in self.task.segment.runs:
            for shard in run.shards():
                self.tags[shard.number] = self._try(run, shard, partial(list_tags, shard=shard))
        self.records = self.job.ledger.read_segment(self.task.segment.number)
        verified, failures = self._verify_all()
        for made in verified:
            self.append(made.record)
        self.append.flush()
        yield from failures
        yield from self._delete_all(verified)

    def _try(self, run: Run, shard: Shard, work: Callable[[Run], T]) -> T | Failed:
        """Run `work` for a shard with retries; return its result, or the error and the end of the shard."""
        made, ended = try_shard(self.job, run, run, shard, lambda some, _: work(some))
        return (made, ended) if isinstance(made, ShardError) else made

    def _verify_all(self) -> tuple[list[Verified], list[Summary]]:
        end, verified, failures, row = time.monotonic() + self.task.seconds, list[Verified](), list[Summary](), 0
        for run, opened in zip(self.task.segment.runs, opened_runs(self.task.segment), strict=True):
            for shard in run.shards():
                if time.monotonic() > end or is_ending() or len(failures) >= self.job.max_failures or row >= IN_A_ROW:
                    return verified, failures
                found = self._verified(run, opened, shard)
                if isinstance(found, Verified):
                    verified.append(found)
                    row = 0
                else:
                    failures.append(_failed(found))
                    row = row + 1 if found[0].remedy else row
        return verified, failures

    def _verified(self, run: Run, opened: Run, shard: Shard) -> Verified | Failed:
        """Verify a shard; convert it first if it is not published."""
        tags, record = self.tags[shard.number], self.records.get(shard.number)
        if isinstance(tags, tuple):
            return tags
        if record is not None and record.moved:
            return self._try(run, shard, partial(self._compare_left, shard=shard, tags=tags, record=record))
        if record is not None and record.is_done and self._is_there(run, record):
            found = self._try(run, shard, partial(self._compare, shard=shard, tags=tags, record=record))
            if isinstance(found, Verified):
                return found
        generation = self.task.again.get(shard.number, 0 if record is None else record.generation)
        reader = partial(WholeReader, listed=run, tags=tags)
        convert = partial(run_shard, self.job, shard=shard, generation=generation, reader=reader)
        made, ended = try_shard(self.job, run, opened, shard, convert)
        if isinstance(made, ShardError):
            return made, ended
        made = of_worker(made, ended)
        self.append(made)
        compared = self._try(run, shard, partial(self._compare, shard=shard, tags=tags, record=made))
        return compared._replace(ended=ended) if isinstance(compared, Verified) else compared

    def _is_there(self, run: Run, record: Record) -> bool:
        return record.shard in self.job.done([run], {record.shard: msgspec.structs.replace(record, marked=False)})

    def _compare(self, run: Run, shard: Shard, tags: Tags, record: Record) -> Verified:
        """Compare a published shard with its source, and check that the source did not change meanwhile."""
        source = read_contents(self.job, run, shard)
        result = read_contents(self.job, published_run(self.job, run, record), shard)
        check_equal(source, result, shard)
        now = list_tags(run, shard)
        if now != tags or not source.keys <= tags.keys():
            raise changed(
                shard,
                sorted(key for key in now.keys() | tags.keys() if now.get(key) != tags.get(key)) or sorted(source.keys),
            )
        record = msgspec.structs.replace(
            record, moved="verified", digests=result.sums.recorded(), failed="", marked=False
        )
        return Verified(run, shard, record, frozenset(source.keys), tags)

    def _compare_left(self, run: Run, shard: Shard, tags: Tags, record: Record) -> Verified:
        """Compare the remaining source chunks of a verified shard with its result."""
        if not self._is_there(run, record):
            raise lost(shard, "is missing or has another size")
        result = published_run(self.job, run, record)
        if record.marked:
            check_recorded(self.job, result, shard, record)
        chunks, keys = read_chunks(self.job, run, shard)
        if chunks:
            check_left(chunks, keys, read_chunks(self.job, result, shard)[0], shard)
        return Verified(run, shard, msgspec.structs.replace(record, marked=False), frozenset(keys.values()), tags)

    def _delete_all(self, verified: list[Verified]) -> Iterator[Summary]:
        for made in verified:
            freed = self._try(made.run, made.shard, partial(self._delete, made=made))
            if isinstance(freed, tuple):
                yield _failed(freed)
                continue
            self.append(msgspec.structs.replace(made.record, moved="deleted"))
            before = Summary(skipped=1, decoded_nbytes=made.run.decoded_nbytes)
            yield replace(before if made.ended is None else Summary.of_shard(made.ended), moved=1, freed=freed)

    def _delete(self, run: Run, made: Verified) -> int:
        if not (is_latest(self.job.ledger) and self.job.layout.has_manifest(self.job.ledger)):
            raise DestinationError(
                f"another job took over the destination {self.job.layout.folder!r}: no more chunks are deleted"
            )
        source = run.location.origin
        assert isinstance(source, Place)
        return delete_chunks(source, made.keys, made.tags, made.shard)


def _failed(failed: Failed) -> Summary:
    error, ended = failed
    return Summary.of_shard(ended, error)


AT_ONCE = 1000  # objects for each listing of tags and each request for deletion; local files are deleted one by one
Tags = dict[str, tuple[int, str]]  # the size and the tag of each key in the whole source


def list_tags(run: Run, shard: Shard) -> Tags:
    """List the keys of a shard with sizes and tags."""
    return patiently(lambda: {key: (nbytes, tag) for key, nbytes, tag in tags_of(open_shard(run, shard))})


class WholeReader(ShardReader):
    """Reads a shard, and checks that all listed chunks are read and that the listing has not changed.

    This prevents the publication of a shard if another worker has started to delete its chunks.
    """

    def __init__(self, job: Job, run: Run, shard: Shard, stages: Stages, listed: Run, tags: Tags) -> None:
        super().__init__(job, run, shard, stages)
        self._listed, self._tags = listed, tags

    def _read(self) -> Entries:
        keys = set[str]()
        for entry in super()._read():
            if entry.coords is not None:
                keys.add(whole_key(entry, self.shard))
            yield entry
        is_read = self.shard.block is None or keys == self._tags.keys()
        if not is_read or list_tags(self._listed, self.shard) != self._tags:
            raise CorruptError(
                f"the source of shard {self.shard.name!r} changed while it was read: stop all writers to the source, and run the job again"
            )


def delete_chunks(source: Place, keys: Collection[str], tags: Tags, shard: Shard) -> int:
    """Delete the chunks of a verified shard whose tags are those of the comparison, and return their size in bytes.

    Raises
    ------
    MoveError
        If a chunk has another tag, or is a symbolic link. It is not deleted.
    """
    folder, reader = open_folder(source.url, source.options), reader_of(source.open())
    if linked := folder.links(keys):
        raise MoveError(
            f"shard {shard.name!r}: {linked[0]!r} is a symbolic link, or lies behind one, so other programs may use the file: nothing was deleted; replace the "
            "link by its target",
            "failed",
        )
    nbytes, edited = 0, list[str]()
    for some in partition_all(AT_ONCE if is_remote(source.url) else 1, sorted(keys)):
        now = {key: (size, tag) for key, size, tag in reader.tags(some)}
        same = [key for key in some if key in now and now[key] == tags.get(key)]
        edited += sorted(now.keys() - set(same))
        folder.remove_all(same)
        nbytes += sum(tags[key][0] for key in same)
    folder.remove_empty({key.rpartition("/")[0] for key in keys})
    if edited:
        raise changed(shard, edited)
    return nbytes
