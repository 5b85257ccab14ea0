"""Summaries of finished shards; small, and added up between the workers and the user."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import reduce
from typing import TYPE_CHECKING, Any

import msgspec
from toolz import merge, merge_with

from shardedstore.errors import ShardError
from shardedstore.jobs.ledger import Record
from shardedstore.jobs.partial_state import Partial
from shardedstore.jobs.shards import Segment
from shardedstore.notices import Notice, merge_notices
from shardedstore.storage.request_metrics import RequestSum, add_requests

if TYPE_CHECKING:
    from shardedstore.jobs.report import Report

STAGES = ("read", "decode", "steps", "encode", "write", "throttled")  # of a shard, in order


class ShardEnd(msgspec.Struct, frozen=True, gc=False):
    """The end of one shard in a worker.

    Attributes
    ----------
    shard : str
        The name of the shard, such as ``"t2m[5]"``.
    number : int
        The number of the shard in the job.
    begun : float
        The time of the start, in seconds since 1970 by the worker's clock.
    seconds : float
        The duration, including all attempts and pauses.
    attempts : int
        The number of attempts, without the attempts that a busy server refused.
    code : str
        The code of the failure, as in `ShardError`; empty if the shard is done.
    retried : str
        The cause of the last attempt that was repeated; empty if there was one attempt.
    entries, nbytes : int
        The number of entries and of stored bytes that were written.
    decoded_nbytes : int
        The decoded bytes, as the average of the shards of the same array.
    read_seconds, transform_seconds, write_seconds : float
        The time in the source, in the steps, and in the sink. Their sum is less than `seconds` if attempts were repeated.
    decode_seconds, encode_seconds : float
        The parts of `transform_seconds` in codecs.
    source_entries, source_nbytes : int
        The number of entries and of stored bytes that were read.

    See Also
    --------
    TaskEnd : The event of a task, with its shards.

    Examples
    --------
    >>> end = ShardEnd("t2m[5]", 6, begun=1764000000.0, seconds=2.0, nbytes=4096, read_seconds=1.5)
    >>> f"{end.shard}: {end.seconds} s, {end.read_seconds / end.seconds:.0%} of it reading"
    't2m[5]: 2.0 s, 75% of it reading'
    """

    shard: str
    number: int
    begun: float
    seconds: float
    attempts: int = 1
    code: str = ""
    retried: str = ""
    entries: int = 0
    nbytes: int = 0
    decoded_nbytes: int = 0
    read_seconds: float = 0.0
    transform_seconds: float = 0.0
    write_seconds: float = 0.0
    decode_seconds: float = 0.0
    encode_seconds: float = 0.0
    source_entries: int = 0
    source_nbytes: int = 0


@dataclass(frozen=True)
class Summary:
    """Summary of the shards of one task, or of a whole job.

    Attributes
    ----------
    done : int
        The number of shards that were made.
    skipped : int
        The number of shards that an earlier run had made.
    entries, nbytes : int
        The number of entries and of stored bytes that were written.
    failures : tuple of ShardError
        The errors of failed shards, with ``on_error="partial"`` or if the failures were accepted.
    retries : int
        The number of attempts that were repeated.
    missing : int
        The number of shards among `done` that an earlier run had made, and whose objects were missing or had another
        size.
    changed : int
        The number of shards among `done` that an earlier run had made, and whose source has changed.
    throttled : int
        The number of requests that a busy server refused, and that were repeated.
    throttled_seconds : float
        The time in which requests of a task waited, as a server was too busy or a limit of the job was reached.
    requests : dict of str to RequestSum
        The requests to object stores and web servers by kind: ``"GET"``, ``"HEAD"``, ``"LIST"``, ``"PUT"`` and ``"DELETE"``.
    partial : Partial or None
        The state of an unfinished job in an opened store; None for a finished job.
    notices : tuple of Notice
        The warnings about the job, as they were logged.
    seconds : float
        The time that the tasks took in the threads of their workers.
    worker : str
        The host and the process of the worker; empty for several.
    row : int
        The number of failures since the last finished shard, counting only causes that affect all shards.
    records : dict of int to Record
        The records of the shards that no ledger keeps, by number, until the job ends.
    decoded_nbytes : int
        The decoded bytes of the shards that have ended.
    again : dict of str to int
        The number of shards that are made again, by the reason: ``"changed"``, ``"lost"``, ``"marked"`` or ``"failed"``.
    shards : tuple of ShardEnd
        The shards that a task made or that failed in it; empty for a whole job.
    unchanged : bool
        Whether an earlier run had already published the same result.
    moved : int
        The number of shards whose chunks were deleted in the source, in a move.
    freed : int
        The size of these chunks, in bytes.
    report : Report or None
        The report of the run, for the summary of a store that `JobPlan.run` returned.

    Examples
    --------
    >>> import tempfile, dask, zarr
    >>> from shardedstore import ShardedStore
    >>> from shardedstore.transforms import ToZip
    >>> with tempfile.TemporaryDirectory() as folder, dask.config.set(scheduler="sync"):
    ...     _ = zarr.create_array(f"{folder}/source.zarr", name="t", shape=(8,), chunks=(2,), dtype="i4")
    ...     store = ShardedStore.partition(f"{folder}/source.zarr", {"t": (4,)})  # a base and two blocks
    ...     first = store.map_shards(ToZip(f"{folder}/zips")).summary
    ...     again = store.map_shards(ToZip(f"{folder}/zips")).summary
    >>> first.done, first.skipped, again.done, again.skipped
    (3, 0, 0, 3)
    """

    done: int = 0
    skipped: int = 0
    entries: int = 0
    nbytes: int = 0
    failures: tuple[ShardError, ...] = ()
    retries: int = 0
    missing: int = 0
    changed: int = 0
    throttled: int = 0
    partial: Partial | None = None
    notices: tuple[Notice, ...] = ()
    seconds: float = 0.0
    worker: str = ""
    row: int = 0
    records: dict[int, Record] = field(default_factory=dict, repr=False)
    decoded_nbytes: int = 0
    again: dict[str, int] = field(default_factory=dict)
    shards: tuple[ShardEnd, ...] = field(default=(), repr=False)
    unchanged: bool = False
    moved: int = 0
    freed: int = 0
    report: Report | None = field(default=None, repr=False, compare=False)
    throttled_seconds: float = 0.0
    requests: dict[str, RequestSum] = field(default_factory=dict)

    @property
    def stages(self) -> dict[str, float]:
        """The seconds of the shards of a task by stage.

        `steps` is the time in steps without their codecs. `throttled` is not contained in `read` and `write`.
        """
        read = decode = steps = encode = write = 0.0
        for shard in self.shards:
            read += shard.read_seconds
            decode += shard.decode_seconds
            steps += shard.transform_seconds
            encode += shard.encode_seconds
            write += shard.write_seconds
        between = max(0.0, self.seconds - read - steps - write)  # shards and attempts
        part = max(0.0, self.throttled_seconds - between) / (read + write or 1.0)
        left = max(0.0, 1.0 - part)
        seconds = left * read, decode, max(0.0, steps - decode - encode), encode, left * write, self.throttled_seconds
        return dict(zip(STAGES, seconds, strict=True))

    @property
    def holes(self) -> tuple[str, ...]:
        """The names of the failed shards, which are holes in the result."""
        return () if self.partial else tuple(error.shard for error in self.failures)

    @property
    def tried(self) -> int:
        """The number of shards that have ended."""
        return self.done + self.skipped + len(self.failures)

    def __repr__(self) -> str:
        from shardedstore.display.summary import summary_to_text

        return summary_to_text(self)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:  # called by IPython
        printer.text(str(self).rstrip())

    def _repr_html_(self) -> str:
        from shardedstore.display.summary import summary_view

        return summary_view(self)

    @classmethod
    def total(cls, outcomes: Iterable[Summary]) -> Summary:
        """Add outcomes up.

        Parameters
        ----------
        outcomes : iterable of Summary
            The outcomes of tasks, in order of completion.

        Returns
        -------
        Summary
            The sums of the numbers, and all failures, notices and records. `worker` and `shards` are empty.
        """
        parts = list(outcomes)
        return cls(
            sum(part.done for part in parts),
            sum(part.skipped for part in parts),
            sum(part.entries for part in parts),
            sum(part.nbytes for part in parts),
            tuple(failure for part in parts for failure in part.failures),
            sum(part.retries for part in parts),
            sum(part.missing for part in parts),
            sum(part.changed for part in parts),
            sum(part.throttled for part in parts),
            notices=merge_notices(notice for part in parts for notice in part.notices),
            seconds=sum(part.seconds for part in parts),
            records=merge(part.records for part in parts),
            moved=sum(part.moved for part in parts),
            freed=sum(part.freed for part in parts),
            row=reduce(lambda row, part: part.row if part.done else row + part.row, parts, 0),
            decoded_nbytes=sum(part.decoded_nbytes for part in parts),
            again=merge_with(sum, (part.again for part in parts)) if any(part.again for part in parts) else {},
            throttled_seconds=sum(part.throttled_seconds for part in parts),
            requests=add_requests(part.requests for part in parts) if any(part.requests for part in parts) else {},
        )

    @classmethod
    def of_shard(
        cls, end: ShardEnd, error: ShardError | None = None, records: dict[int, Record] | None = None
    ) -> Summary:
        """Return the outcome of one shard.

        Parameters
        ----------
        end : ShardEnd
            The end of the shard.
        error : ShardError, optional
            The failure of the shard.
        records : dict of int to Record, optional
            The record of the shard, if no ledger keeps it.

        Returns
        -------
        Summary
            The outcome, with one shard.
        """
        return cls(
            int(error is None),
            0,
            end.entries,
            end.nbytes,
            () if error is None else (error,),
            end.attempts - 1,
            row=error is not None and bool(error.remedy),
            records=records or {},
            decoded_nbytes=end.decoded_nbytes,
            shards=(end,),
        )

    @classmethod
    def failed(cls, segment: Segment, cause: str, code: str, remedy: str = "") -> Summary:
        """Return the failure of every shard of a segment, for one cause.

        Parameters
        ----------
        segment : Segment
            The shards of a task.
        cause : str
            The type and the message of the exception.
        code : str
            The kind of the cause, as in `ShardError`.
        remedy : str
            The way out, as in `ShardError`; empty if the cause affects only these shards.

        Returns
        -------
        Summary
            The outcome of the task, with one failure for each shard.
        """
        shards = (shard for run in segment.runs for shard in run.shards())
        failures = (
            ShardError(shard.name, cause, remedy, code=code, path=shard.path, block=shard.block) for shard in shards
        )
        decoded_nbytes = sum(run.decoded_nbytes * (run.stop - run.first) for run in segment.runs)
        return cls(failures=tuple(failures), row=bool(remedy), decoded_nbytes=decoded_nbytes)
