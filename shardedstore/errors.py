"""What can go wrong, in one tree.

::

    ShardedStoreError
    ├── UsageError (also a ValueError)    what was asked for can't be done; nothing was written
    │   ├── ConfigError                   a config that can't be read
    │   ├── PartitionError                a source that can't be divided as asked
    │   ├── ChainError                    a chain of transforms that makes no sense
    │   ├── DestinationError              a place that can't or must not be written to
    │   └── NoShardError (also a KeyError and an IndexError)    a shard that was asked for and is not there
    ├── CorruptError                      data that is damaged
    ├── HoleError                         data that no job could make, which was accepted
    ├── TemporaryError                    raised by users' steps for what may go away by itself
    ├── ShardError                        one shard failed
    └── ShardsFailed (an ExceptionGroup)  a job ended, and these shards failed
"""

from __future__ import annotations

SHOWN = 5  # of the shards that failed, in the text of the whole


class ShardedStoreError(Exception):
    """Base of all errors that this package raises itself."""


class UsageError(ShardedStoreError, ValueError):
    """What was asked for can't be done; nothing was written."""


class ConfigError(UsageError):
    """A config, or a location in it, that can't be read."""


class PartitionError(UsageError):
    """A source that can't be divided as asked."""


class ChainError(UsageError):
    """A chain of transforms that makes no sense, or not on this source."""


class DestinationError(UsageError):
    """A place that can't, or must not, be written to."""


class NoShardError(UsageError, KeyError, IndexError):
    """A shard that was asked for by its path, name or number, and is not there."""

    __str__ = Exception.__str__  # KeyError's would put the message in quotes


class CorruptError(ShardedStoreError):
    """Data that is damaged: the message names the file and the key."""


class HoleError(ShardedStoreError):
    """Data that is not there: its shard failed, and the result was published without it, as its user had accepted."""


class TemporaryError(ShardedStoreError):
    """An error that may go away by itself: its shard is tried again.

    Steps and functions of users raise it, such as for a service that is too busy.

    Examples
    --------
    >>> raise TemporaryError("the catalogue does not answer")
    Traceback (most recent call last):
    shardedstore.errors.TemporaryError: the catalogue does not answer
    """


class ShardError(ShardedStoreError):
    """One shard failed, after its retries.

    Attributes
    ----------
    shard : str
        The shard's name: its path, and the index of its block.
    cause : str
        The type and the message of what was raised in the worker.
    remedy : str
        What to do about a cause that all shards meet, such as a full disk; empty for a cause of the shard's own.
    """

    def __init__(self, shard: str, cause: str, remedy: str = "") -> None:
        super().__init__(shard, cause)
        self.shard = shard
        self.cause = cause
        self.remedy = remedy

    def __str__(self) -> str:
        return f"shard {self.shard!r} failed: {self.cause}"


class ShardsFailed(ExceptionGroup[ShardError], ShardedStoreError):
    """A job ended and these shards failed: the shards that are done stay done.

    >>> print(
    ...     ShardsFailed(
    ...         "2 of 9 shards failed", [ShardError("t[0]", "OSError: disk full"), ShardError("u", "KeyError: 1")]
    ...     )
    ... )
    2 of 9 shards failed (2 sub-exceptions)
    shard 't[0]' failed: OSError: disk full
    shard 'u' failed: KeyError: 1
    """

    def __str__(self) -> str:
        shown = [str(error) for error in self.distinct()[:SHOWN]]
        more = len(self.exceptions) - len(shown)
        return "\n".join([super().__str__(), *shown, *([f"and {more} more"] if more > 0 else [])])

    def distinct(self) -> list[Exception]:
        """Return the errors of causes of their own, and one for each cause that all shards meet."""
        found: dict[object, Exception] = {}
        for error in self.exceptions:
            found.setdefault(getattr(error, "remedy", "") or id(error), error)
        return list(found.values())

    def derive(self, excs):  # type: ignore[no-untyped-def]
        return ShardsFailed(self.message, excs)
