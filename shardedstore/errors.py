"""Exceptions of this package, in one hierarchy.

::

    ShardedStoreError
    ├── UsageError (also a ValueError)    a request that can't be carried out
    │   ├── ConfigError                   a config that can't be read
    │   ├── PartitionError                a source that can't be divided as requested
    │   ├── ChainError                    a chain of transforms that is not valid
    │   ├── DestinationError              a place that can't or must not be written to
    │   │   └── LockedError               a place that another job writes to
    │   └── NoShardError (also a KeyError and an IndexError)    a requested shard that does not exist
    ├── CorruptError                      damaged data
    │   └── SourceChangedError            a source that changed while a job ran
    ├── HoleError                         data of a shard that failed, in a result that was accepted without it
    ├── TemporaryError                    raised by users' steps for errors that may go away
    ├── ClusterError                      a Dask cluster that can't be reached, or was lost
    ├── JobStopped                        a job that stopped before its end, as requested
    ├── GuardsFailed                      a changed source that must not replace the published result
    ├── ShardError                        one shard failed
    └── ShardsFailed (an ExceptionGroup)  a job ended, and these shards failed
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, overload

if TYPE_CHECKING:
    from shardedstore.jobs.summary import Summary

AT = re.compile(r"fails on (?:'[^']*'|\.\.\.) at \([\d, ]*\)")  # the place in the message of a step
SHOWN = 5  # causes, and shards of one cause, that a message names
CODES = {  # codes of the causes of failed shards; docs/errors.md describes them
    "access-denied": "the credentials or the rights do not allow it",
    "clock-skew": "the clock of this machine differs too much from the server's",
    "corrupt": "data in the source or the result are damaged",
    "destination-lost": "the destination was removed, or belongs to another job now",
    "failed": "any other exception",
    "killed": "the worker process ended while it ran the shard",
    "lost-after-move": "the object of a shard is missing or damaged, and its source was deleted in a move",
    "lost-result": "the shard's object is missing or has another size, or the shard has no record",
    "no-space": "there is no space left at the destination",
    "not-equal": "in a move, the published shard does not equal its source",
    "quota": "the quota at the destination is used up",
    "read-only": "the destination can only be read",
    "source-changed": "in a move, the source of the shard changed after it was verified",
    "temporary": "an error that may go away, after all retries",
    "unprepared-worker": "a worker can't read the source, write the destination or import a transform",
    "untrusted-certificate": "the certificate of the server is not trusted",
}
GUARD_CODES = {  # codes of the findings of guards; docs/errors.md describes them
    "array-disappeared": "an array or a member of a collection is not in the source any more",
    "chunks-missing": "the share of missing chunks rose",
    "codec-changed": "an array of the result has other codecs",
    "dtype-changed": "an array of the result has another data type",
    "source-shrank": "an array is shorter along a dimension",
}


class ShardedStoreError(Exception):
    """Base of all exceptions that this package raises itself.

    Attributes
    ----------
    code : str
        The kind of the error, for alerts and rules. It stays the same in all versions.
    key : str or None
        The key in the source that caused the error, if it is known.
    chunk : tuple of int or None
        The coordinates of the chunk in the whole array's grid, if they are known.

    See Also
    --------
    ShardsFailed : Raised at the end of a job whose shards failed.

    Examples
    --------
    >>> from shardedstore import ShardedStore, ShardedStoreError
    >>> try:
    ...     ShardedStore.load("missing/shardedstore.json")
    ... except ShardedStoreError as error:
    ...     print(type(error).__name__)
    ConfigError
    """

    code: str = "error"
    key: str | None = None
    chunk: tuple[int, ...] | None = None


class _ShownBriefly(ShardedStoreError):
    """An error of the caller: IPython shows the caller's lines and the message, without the frames below them."""

    def _render_traceback_(self) -> list[str]:  # called by IPython
        from shardedstore.display.failures import usage_error_to_lines

        return usage_error_to_lines(self)


class UsageError(_ShownBriefly, ValueError):
    """A request that can't be carried out. Except for some `DestinationError`, nothing was written.

    Examples
    --------
    >>> from shardedstore import ShardedStore
    >>> ShardedStore.collect("cells.zarr")  # a pattern needs a *
    Traceback (most recent call last):
    shardedstore.errors.UsageError: ...
    """

    code = "usage"


class ConfigError(UsageError):
    """A config that can't be read or written, or that names a location that can't be used.

    Examples
    --------
    >>> from shardedstore import ShardedStore
    >>> ShardedStore.from_config({"version": 99})
    Traceback (most recent call last):
    shardedstore.errors.ConfigError: ...
    """

    code = "config"


class PartitionError(UsageError):
    """A source that can't be divided as requested.

    Examples
    --------
    >>> import zarr
    >>> from shardedstore import ShardedStore
    >>> store = zarr.storage.MemoryStore()
    >>> _ = zarr.create_array(store, name="t", shape=(8,), chunks=(2,), dtype="i4")
    >>> ShardedStore.partition(store, {"pressure": "whole"})
    Traceback (most recent call last):
    shardedstore.errors.PartitionError: ...
    """

    code = "partition"


class ChainError(UsageError):
    """A chain of transforms that is not valid, or not valid for this source.

    Examples
    --------
    >>> from shardedstore.transforms import ToZip
    >>> ToZip("out", name="{array}.zip")
    Traceback (most recent call last):
    shardedstore.errors.ChainError: ...
    """

    code = "chain"


class DestinationError(UsageError):
    """A place that can't, or must not, be written to.

    Examples
    --------
    >>> import tempfile, zarr
    >>> from shardedstore import ShardedStore
    >>> from shardedstore.transforms import ToZip
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = zarr.create_array(folder, name="t", shape=(8,), chunks=(2,), dtype="i4")
    ...     ShardedStore.partition(folder).plan(ToZip(f"{folder}/zips"))
    Traceback (most recent call last):
    shardedstore.errors.DestinationError: ...
    """

    code = "destination"


class LockedError(DestinationError):
    """A destination that another job writes to now. The same call works after that job has ended.

    Examples
    --------
    >>> issubclass(LockedError, DestinationError)
    True
    """

    code = "locked"


class NoShardError(UsageError, KeyError, IndexError):
    """A requested shard that does not exist, by its path, name or number.

    Examples
    --------
    >>> import zarr
    >>> from shardedstore import ShardedStore
    >>> store = zarr.storage.MemoryStore()
    >>> _ = zarr.create_array(store, name="t", shape=(8,), chunks=(2,), dtype="i4")
    >>> ShardedStore.partition(store, {"t": (4,)}).shards["t", 2]
    Traceback (most recent call last):
    shardedstore.errors.NoShardError: ...
    """

    code = "no-shard"

    __str__ = Exception.__str__  # KeyError puts the message in quotes


class CorruptError(ShardedStoreError):
    """Damaged data, or a source that changed while it was read. The message names the place.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from shardedstore.zips import ZipReadStore
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     damaged = pathlib.Path(folder, "a.zarr.zip")
    ...     _ = damaged.write_bytes(b"no zip")
    ...     ZipReadStore(damaged).names()
    Traceback (most recent call last):
    shardedstore.errors.CorruptError: ...
    """

    code = "corrupt"


class SourceChangedError(CorruptError):
    """A source that changed while a job ran, so that its shards may be of different states. No config was written.

    Examples
    --------
    >>> issubclass(SourceChangedError, CorruptError)
    True
    """

    code = "source-changed"


class MoveError(CorruptError):
    """A shard that a move can't verify, or whose source it must not delete.

    Parameters
    ----------
    message : str
        The cause, and the next step.
    code : str
        The code of the cause, as in `ShardError`.

    Attributes
    ----------
    code : str
        The code of the cause.

    Examples
    --------
    >>> MoveError("t[0] differs from its source", code="not-equal").code
    'not-equal'
    """

    code = "not-equal"

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.code)


class HoleError(ShardedStoreError):
    """Missing data: its shard failed, and the user accepted a result without it.

    Reading any key of the shard raises this error. The same job with the same arguments tries the shard again.

    See Also
    --------
    ShardedStore.plan : Its options `accept_failed` and `max_missing` accept failures.

    Examples
    --------
    >>> from shardedstore import HoleError, ShardedStoreError
    >>> issubclass(HoleError, ShardedStoreError), issubclass(HoleError, KeyError)  # a hole is no missing chunk
    (True, False)
    """

    code = "hole"


class TemporaryError(ShardedStoreError):
    """An error that may go away, so that the shard is tried again.

    Steps and functions of users raise it, for example if a service is too busy.

    Examples
    --------
    >>> raise TemporaryError("the catalogue does not answer")
    Traceback (most recent call last):
    shardedstore.errors.TemporaryError: the catalogue does not answer
    """

    code = "temporary"


class ClusterError(ShardedStoreError):
    """A Dask cluster that can't be reached, or that was lost while a job ran. Finished shards stay done.

    Examples
    --------
    >>> raise ClusterError("the connection to the Dask scheduler is lost")
    Traceback (most recent call last):
    shardedstore.errors.ClusterError: the connection to the Dask scheduler is lost
    """

    code = "cluster"


class JobStopped(ShardedStoreError):
    """A job stopped before its end, because its time was up or it was told to. Finished shards stay done.

    The same job with the same arguments continues from the finished shards.

    Parameters
    ----------
    message : str
        The numbers of shards, and the way to continue.
    reason : str
        ``"time"`` if the time was up, the name of a signal such as ``"SIGTERM"``, or the reason of the caller.
    summary : Summary or None
        The shards that ended in this run.

    See Also
    --------
    JobPlan.run : Its options `max_duration` and `stop` stop a job.

    Examples
    --------
    >>> raise JobStopped("the time is up; 40 of 120 shards are done", "time")
    Traceback (most recent call last):
    shardedstore.errors.JobStopped: the time is up; 40 of 120 shards are done
    """

    code = "stopped"

    def __init__(self, message: str, reason: str = "time", summary: Summary | None = None) -> None:
        super().__init__(message, reason, summary)
        self.reason, self.summary = reason, summary

    def __str__(self) -> str:
        return str(self.args[0])


class ShardError(ShardedStoreError):
    """One shard failed, after its retries.

    Other shards are not affected: finished shards stay done. `ShardsFailed` groups the errors of a job.

    Parameters
    ----------
    shard : str
        The shard's name: its path, and the index of its block.
    cause : str
        The type and the message of the exception that was raised in the worker.
    remedy : str
        The remedy for a cause that affects all shards, such as a full disk; empty if the cause affects only this shard.
    code : str
        The kind of the cause, one of `CODES`, for alerts and rules. It stays the same in all versions.
    path : str or None
        The path of the shard's array or group; ``""`` for the base.
    block : tuple of int or None
        The index of the block of the array.
    key : str or None
        The key in the source, if the error concerns one.
    chunk : tuple of int or None
        The coordinates of the chunk in the whole array's grid.
    url : str or None
        The source that the shard was read from.
    error_type : str
        The name of the exception's class.
    attempts : int
        The number of attempts.
    traceback : str
        The traceback in the worker. If a user's code raised the error, the frames of this package are left out.
    worker : str
        The host and the process of the worker; empty if no worker reported the error.

    Examples
    --------
    >>> error = ShardError("t[0/1]", "OSError: no space left", code="no-space", path="t", block=(0, 1))
    >>> print(error)
    shard 't[0/1]' failed: OSError: no space left
    >>> error.code, error.block
    ('no-space', (0, 1))
    """

    def __init__(
        self,
        shard: str,
        cause: str,
        remedy: str = "",
        *,
        code: str = "failed",
        path: str | None = None,
        block: tuple[int, ...] | None = None,
        key: str | None = None,
        chunk: tuple[int, ...] | None = None,
        url: str | None = None,
        error_type: str = "",
        attempts: int = 0,
        traceback: str = "",
        worker: str = "",
    ) -> None:
        super().__init__(shard, cause)
        self.shard = shard
        self.cause = cause
        self.remedy = remedy
        self.code = code
        self.path = path
        self.block = block
        self.key = key
        self.chunk = chunk
        self.url = url
        self.error_type = error_type
        self.attempts = attempts
        self.traceback = traceback
        self.worker = worker

    def __str__(self) -> str:
        return f"shard {self.shard!r} failed: {self.cause}"

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes in a form that JSON can hold.

        Returns
        -------
        dict
            The attributes by name; tuples become lists.

        Examples
        --------
        >>> ShardError("t[0]", "OSError: disk full", code="no-space", attempts=1).to_dict()["code"]
        'no-space'
        """
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}


def by_cause(errors: Iterable[ShardError]) -> list[list[ShardError]]:
    """Group errors of equal causes, ignoring the shard's own name and key.

    >>> [
    ...     len(some)
    ...     for some in by_cause(
    ...         [ShardError("a", "X: 'a' is bad"), ShardError("b", "X: 'b' is bad"), ShardError("c", "Y")]
    ...     )
    ... ]
    [2, 1]
    """
    groups: dict[str, list[ShardError]] = {}
    for error in errors:
        groups.setdefault(generic_cause(error), []).append(error)
    return list(groups.values())


def generic_cause(error: ShardError) -> str:
    """Return the cause of a failure without the shard's own name and key, or the remedy of causes that affect all shards.

    >>> generic_cause(ShardError("t[5]", "KeyError: 't[5]' has no 'x'", key="x"))
    'KeyError: ... has no ...'
    >>> generic_cause(ShardError("t[5]", "shard 't[5]': MapBlocks fails on 't' at (5, 0): KeyError: 'x'"))
    "shard ...: MapBlocks fails on ...: KeyError: 'x'"
    """
    cause = error.cause if error.key is None else error.cause.replace(repr(error.key), "...")
    cause = AT.sub("fails on ...", cause.replace(repr(error.shard), "..."))
    return error.remedy or (cause.replace(error.shard, "...") if "[" in error.shard else cause)


def others(errors: list[ShardError]) -> str:
    """Return text that names the shards after the first, for errors of one cause.

    >>> others([ShardError("t[0]", "X: no"), ShardError("t[1]", "X: no")]), others([ShardError("t[0]", "X: no")])
    (" (and so did 't[1]')", '')
    """
    more = [error.shard for error in errors[1:]]
    if not more:
        return ""
    names = ", ".join(map(repr, more[:SHOWN]))
    return f" (and so did {names}{f' and {len(more) - SHOWN:,} more' if len(more) > SHOWN else ''})"


def by_frequency(errors: Iterable[ShardError]) -> list[list[ShardError]]:
    """Return the errors by cause, the most frequent cause first."""
    return sorted(by_cause(errors), key=len, reverse=True)


class Failures(Sequence[ShardError]):
    """Failed shards, shown as a table in which equal causes stand once.

    Parameters
    ----------
    errors : iterable of ShardError
        The errors of the shards.

    See Also
    --------
    ShardsFailed : Its `failures` are the failed shards of a job.

    Examples
    --------
    >>> Failures([ShardError(f"t[{i}]", "OSError: disk full", code="no-space", path="t", attempts=3) for i in (4, 7)])
    shard 't[4]' failed: OSError: disk full [no-space] (2 shards)
      array  shard  attempts
      t      t[4]   3
      t      t[7]   3
    """

    def __init__(self, errors: Iterable[ShardError]) -> None:
        self._errors = tuple(errors)

    def __len__(self) -> int:
        return len(self._errors)

    @overload
    def __getitem__(self, i: int) -> ShardError: ...
    @overload
    def __getitem__(self, i: slice) -> Failures: ...
    def __getitem__(self, i: int | slice) -> ShardError | Failures:
        return Failures(self._errors[i]) if isinstance(i, slice) else self._errors[i]

    def by_cause(self) -> list[Failures]:
        """Return the failures of each cause, the most frequent cause first.

        Returns
        -------
        list of Failures
            Causes that differ only by the name of the shard and the key are equal.
        """
        return [*map(Failures, by_frequency(self._errors))]

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return the failures as JSON-compatible values.

        Returns
        -------
        list of dict
            The attributes of each error by name.
        """
        return [error.to_dict() for error in self._errors]

    def to_dataframe(self) -> Any:
        """Return the failures as a table of pandas, with the names of the shards as its index.

        Returns
        -------
        pandas.DataFrame
            One row for each shard, and one column for each attribute of `ShardError`.

        Raises
        ------
        UsageError
            If pandas is not installed.
        """
        from shardedstore.display.tables import to_frame

        return to_frame(map(vars, self._errors), "shard")

    def __repr__(self) -> str:
        from shardedstore.display.failures import failures_to_text

        return "\n".join(failures_to_text(self)) or "no failed shards"

    def _repr_html_(self) -> str:
        from shardedstore.display.failures import failures_to_html

        return failures_to_html(self)


class ShardsFailed(ExceptionGroup[ShardError], ShardedStoreError):
    """A job ended and these shards failed. Finished shards stay done.

    The same job with the same arguments runs the failed shards again.

    Attributes
    ----------
    message : str
        The number of failed shards, and of all.
    exceptions : tuple of ShardError
        One error for each failed shard.

    failures : Failures
        The same errors, as a table.

    Examples
    --------
    >>> print(
    ...     ShardsFailed(
    ...         "2 of 9 shards failed", [ShardError("t[0]", "OSError: disk full"), ShardError("u", "KeyError: 1")]
    ...     )
    ... )
    2 of 9 shards failed
    shard 't[0]' failed: OSError: disk full [failed]
    shard 'u' failed: KeyError: 1 [failed]
    """

    code = "shards-failed"

    @property
    def failures(self) -> Failures:
        """The failed shards, which are shown as a table, and `to_dataframe` returns as one of pandas."""
        return Failures(error for error in self.exceptions if isinstance(error, ShardError))

    def __str__(self) -> str:
        from shardedstore.display.failures import error_to_text

        return error_to_text(self)

    def _render_traceback_(self) -> list[str]:  # called by IPython
        from shardedstore.display.failures import error_to_lines

        return error_to_lines(self)

    def _repr_html_(self) -> str:
        from shardedstore.display.failures import error_to_html

        return error_to_html(self)

    def derive(self, excs):  # type: ignore[no-untyped-def]
        """Return a group of the same message for some of the errors.

        Parameters
        ----------
        excs : sequence of ShardError
            The errors of the new group.

        Returns
        -------
        ShardsFailed
            The new group, as ``except*`` and `split` need it.
        """
        return ShardsFailed(self.message, excs)


@dataclass(frozen=True)
class Violation:
    """One finding of a guard in a changed source.

    Parameters
    ----------
    code : str
        The kind of the finding, one of `GUARD_CODES`, for alerts and rules. It stays the same in all versions.
    text : str
        The finding as a sentence.
    path : str
        The path of the array, or of the shards.

    See Also
    --------
    GuardsFailed : Its `violations` are the findings of a job.

    Examples
    --------
    >>> Violation("source-shrank", "'t' shrank along 'time' from 9 to 8", "t").code
    'source-shrank'
    """

    code: str
    text: str
    path: str


class GuardsFailed(_ShownBriefly):
    """A changed source must not replace the published result, which stays as it is.

    Findings in the metadata are raised by the plan, before anything is written. The share of missing chunks is known at the
    end of a job: finished shards stay, but no config is written.

    Parameters
    ----------
    url : str
        The destination.
    violations : tuple of Violation
        The findings.

    See Also
    --------
    Guards : The checks, and how to turn them off.

    Examples
    --------
    >>> error = GuardsFailed("/data/out", (Violation("source-shrank", "'t' shrank along 'time' from 9 to 8", "t"),))
    >>> print(error)
    the result at '/data/out' stays as it is, because the source changed: 't' shrank along 'time' from 9 to 8. If this is right, go on with guards=Guards(force=True)
    >>> error.to_dict()["violations"][0]["code"]
    'source-shrank'
    """

    code = "guards-failed"

    def __init__(self, url: str, violations: tuple[Violation, ...]) -> None:
        super().__init__(url, violations)
        self.url = url
        self.violations = violations

    @property
    def reason(self) -> str:
        """The findings and their effect, without the next step."""
        more = len(self.violations) - SHOWN
        texts = [violation.text for violation in self.violations[:SHOWN]]
        others = [f"and {more:,} more findings"] if more > 0 else []
        return f"the result at {self.url!r} stays as it is, because the source changed: {'; '.join([*texts, *others])}"

    def __str__(self) -> str:
        return f"{self.reason}. If this is right, go on with guards=Guards(force=True)"

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes in a form that JSON can hold.

        Returns
        -------
        dict
            The destination, and a list of the findings.
        """
        return {"url": self.url, "violations": [asdict(violation) for violation in self.violations]}
