"""What became of shards: small, and added up on the way from the workers to the user."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import reduce

from toolz import merge

from shardedstore.errors import ShardError
from shardedstore.jobs.ledger import Record
from shardedstore.jobs.shards import Segment
from shardedstore.notices import Notice, merge_notices


@dataclass(frozen=True)
class Partial:
    """What a store shows of a job that has not ended: `shown` of `total` shards from their new place, and `done` are done.

    `reason` tells why the others are shown from the source.
    """

    shown: int
    done: int
    total: int
    reason: str

    def __str__(self) -> str:
        rest = f", and the rest from the source: {self.reason}" if self.shown < self.total else ""
        return f"{self.shown:,} of {self.total:,} shards are shown from their new place{rest}"


@dataclass(frozen=True)
class Summary:
    """What became of the shards of a job: of one task in a worker, and of all at the end.

    Attributes
    ----------
    done : int
        The number of shards that were made.
    skipped : int
        The number of shards that an earlier run had made.
    entries, nbytes : int
        The number of entries and of stored bytes that were written.
    failures : tuple of ShardError
        The errors of shards that failed: with ``on_error="partial"``, and where that was accepted.
    retries : int
        The number of attempts that were repeated.
    missing : int
        The number of shards among `done` that an earlier run had made, and that were gone or of another size.
    changed : int
        The number of shards among `done` that an earlier run had made, and whose source has changed.
    throttled : int
        The number of requests that a busy server refused, and that were repeated.
    partial : Partial or None
        What a store shows of the job, where it has not ended.
    notices : tuple of Notice
        The warnings about the job, as they were logged.
    seconds : float
        The time that the tasks took in the threads of their workers.
    worker : str
        The host and the process of the worker; empty for several.
    row : int
        The number of failures since the last shard that was done, of causes that all shards meet.
    records : dict of int to Record
        The records of the shards that no ledger keeps, by number, until the job ends.

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

    @property
    def holes(self) -> tuple[str, ...]:
        """The names of the shards that failed and are holes in the result."""
        return () if self.partial else tuple(error.shard for error in self.failures)

    @property
    def tried(self) -> int:
        """The number of shards that have ended."""
        return self.done + self.skipped + len(self.failures)

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
            The sums of the numbers, and all failures, notices and records. `worker` is empty.
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
            row=reduce(lambda row, part: part.row if part.done else row + part.row, parts, 0),
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
        return cls(failures=tuple(failures), row=bool(remedy))
