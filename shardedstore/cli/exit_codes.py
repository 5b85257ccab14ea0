"""Exit codes of the commands: one table, which docs/exit-codes.md describes."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Self

from shardedstore import errors
from shardedstore.storage.errors import code_of


class ExitCode(enum.IntEnum):
    """The exit code of a command, with its meaning."""

    meaning: str

    def __new__(cls, value: int, meaning: str) -> Self:
        """Make a member of the table."""
        made = int.__new__(cls, value)
        made._value_, made.meaning = value, meaning
        return made

    DONE = 0, "done"
    FAILED = 1, "some shards failed, a guard refused a changed source, or a comparison found a difference"
    UNUSABLE = 2, "the command can't run as asked: change it before you run it again"
    UNCHANGED = 3, "there was nothing to do (only with --exit-code-if-unchanged)"
    HOLES = 4, "done, with accepted holes"
    TEMPORARY = 5, "a temporary error: run the same command again later"
    TIME_IS_UP = 10, "the time is up: run the same command again to resume"
    INTERRUPTED = 130, "interrupted by Ctrl-C (SIGINT): run the same command again to resume"
    TERMINATED = 143, "ended by SIGTERM: run the same command again to resume"


OF_ERRORS: dict[type[BaseException], ExitCode] = {  # a class that is not here has the code of its base
    errors.ShardedStoreError: ExitCode.UNUSABLE,
    errors.UsageError: ExitCode.UNUSABLE,
    errors.ConfigError: ExitCode.UNUSABLE,
    errors.PartitionError: ExitCode.UNUSABLE,
    errors.ChainError: ExitCode.UNUSABLE,
    errors.DestinationError: ExitCode.UNUSABLE,
    errors.LockedError: ExitCode.TEMPORARY,
    errors.NoShardError: ExitCode.UNUSABLE,
    errors.CorruptError: ExitCode.UNUSABLE,
    errors.SourceChangedError: ExitCode.TEMPORARY,
    errors.MoveError: ExitCode.FAILED,
    errors.HoleError: ExitCode.UNUSABLE,
    errors.TemporaryError: ExitCode.TEMPORARY,
    errors.ClusterError: ExitCode.TEMPORARY,
    errors.JobStopped: ExitCode.TIME_IS_UP,
    errors.GuardsFailed: ExitCode.FAILED,
    errors.ShardError: ExitCode.FAILED,
    errors.ShardsFailed: ExitCode.FAILED,
    OSError: ExitCode.UNUSABLE,
    KeyboardInterrupt: ExitCode.INTERRUPTED,
}
OF_CODES: dict[str, ExitCode] = {  # of failed shards, by `ShardError.code`
    **dict.fromkeys(errors.CODES, ExitCode.FAILED),
    "lost-result": ExitCode.TEMPORARY,
    "temporary": ExitCode.TEMPORARY,
}
PASSING = ("temporary", "no-space")  # codes of causes that go away without a change of the command
OF_REASONS = {  # of stopped jobs, by `JobStopped.reason`
    "time": ExitCode.TIME_IS_UP,
    "SIGUSR1": ExitCode.TIME_IS_UP,
    "SIGINT": ExitCode.INTERRUPTED,
    "SIGTERM": ExitCode.TERMINATED,
}


def exit_code_of(error: BaseException) -> ExitCode:
    """Return the exit code of a command that ends with an error.

    An error whose cause may go away without a change of the command is temporary, such as a server that does not answer or a
    full disk.

    >>> exit_code_of(errors.ConfigError("no config")), exit_code_of(errors.LockedError("a job runs"))
    (<ExitCode.UNUSABLE: 2>, <ExitCode.TEMPORARY: 5>)
    >>> exit_code_of(TimeoutError()), exit_code_of(FileNotFoundError())
    (<ExitCode.TEMPORARY: 5>, <ExitCode.UNUSABLE: 2>)
    """
    if isinstance(error, errors.ShardsFailed):
        return exit_code_of_failures(one for one in error.exceptions if isinstance(one, errors.ShardError))
    if isinstance(error, errors.JobStopped | KeyboardInterrupt):
        reason = getattr(error, "reason", "SIGINT")
        return OF_REASONS.get(reason, ExitCode.TIME_IS_UP)
    found = next(OF_ERRORS[cls] for cls in type(error).__mro__ if cls in OF_ERRORS)
    return ExitCode.TEMPORARY if found is ExitCode.UNUSABLE and code_of(error) in PASSING else found


def exit_code_of_failures(failures: Iterable[errors.ShardError]) -> ExitCode:
    """Return the exit code of a command whose shards failed.

    It is temporary only if the cause of every failure is temporary.

    >>> lost, full = errors.ShardError("a", "", code="temporary"), errors.ShardError("b", "", code="no-space")
    >>> exit_code_of_failures([lost]), exit_code_of_failures([lost, full])
    (<ExitCode.TEMPORARY: 5>, <ExitCode.FAILED: 1>)
    """
    return min((OF_CODES.get(error.code, ExitCode.FAILED) for error in failures), default=ExitCode.FAILED)


WORST_LAST: tuple[int, ...] = (  # the order in which the codes of several jobs are weighed
    ExitCode.UNCHANGED,
    ExitCode.DONE,
    ExitCode.HOLES,
    ExitCode.TIME_IS_UP,
    ExitCode.TEMPORARY,
    ExitCode.FAILED,
    ExitCode.UNUSABLE,
    ExitCode.INTERRUPTED,
    ExitCode.TERMINATED,
)


def worst_of(codes: Iterable[int]) -> int:
    """Return the exit code of a command with several jobs.

    >>> worst_of([3, 0]), worst_of([4, 1, 5]), worst_of([])
    (0, 1, 0)
    """
    return int(max(codes, key=WORST_LAST.index, default=ExitCode.DONE))
