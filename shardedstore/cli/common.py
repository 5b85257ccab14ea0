"""Shared parts of the commands: parse their options, open their arguments, report errors and set exit codes."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from typing import Any

import click

from shardedstore.cli.exit_codes import exit_code_of
from shardedstore.errors import GuardsFailed, JobStopped, ShardedStoreError, ShardError, ShardsFailed, by_cause, others
from shardedstore.text import one_line

AGAIN = ": run the same job"  # start of the advice for users of the API, which commands replace

NARROWEST = 80  # columns of a terminal that shows tables


_is_silent = ContextVar("is_silent", default=False)


@contextlib.contextmanager
def silence(is_silent: bool) -> Iterator[None]:
    """Print no results and notes, as ``--quiet`` asks for; errors are printed."""
    token = _is_silent.set(is_silent)
    try:
        yield
    finally:
        _is_silent.reset(token)


def note(text: str) -> None:
    """Print a note to stderr."""
    if not _is_silent.get():
        click.echo(f"note: {text}", err=True)


class NoteHandler(logging.Handler):
    """Writes each log record to stderr as a note of one line."""

    def emit(self, record: logging.LogRecord) -> None:
        # docstring inherited
        note(record.getMessage())


@contextlib.contextmanager
def notes_on_stderr() -> Iterator[None]:
    """Show log records of the package in this process, of level WARNING and above, as notes."""
    logger, handler = logging.getLogger("shardedstore"), NoteHandler(logging.WARNING)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def failures(errors: Iterable[BaseException]) -> Iterator[str]:
    """Yield a line for each cause of failures, with its shards."""
    for some in by_cause(error for error in errors if isinstance(error, ShardError)):
        yield f"{one_line(some[0])} [{some[0].code}]{others(some)}"


def tell(text: str, *, always: bool = False) -> None:
    """Print a line to stdout, with `always` also if results are not printed; a closed stdout does not fail the command."""
    if _is_silent.get() and not always:
        return
    try:
        click.echo(text)
    except OSError as error:
        if sys.stdout is not None:
            with contextlib.suppress(OSError, ValueError):  # so that Python does not try again at its exit
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            with contextlib.suppress(OSError):
                click.echo(f"note: standard output can't be written to: {error.strerror}", err=True)


def tell_table(table: Any, lines: Iterable[str]) -> None:
    """Print a table on a terminal that is wide enough, and plain lines elsewhere."""
    if _is_silent.get():
        return
    if sys.stdout is not None and sys.stdout.isatty():
        from rich.console import Console

        console = Console()
        if console.width >= NARROWEST:
            with contextlib.suppress(OSError):
                console.print(table)
            return
    for line in lines:
        tell(line)


@contextlib.contextmanager
def warnings_on_stderr() -> Iterator[None]:
    """Show Python's warnings, such as zarr's, each once in a separate line and without source code."""
    told: set[str] = set()

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        text = " ".join(str(message).split())
        if text not in told:
            told.add(text)
            click.echo(f"warning: {text}", err=True)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def with_code(error: BaseException) -> str:
    """Return the message of an error in one line, with its code.

    >>> with_code(ShardedStoreError("all is lost"))
    'all is lost [error]'
    """
    return f"{one_line(error)}{_code(error)}"


def _code(error: BaseException) -> str:
    return f" [{error.code}]" if isinstance(error, ShardedStoreError) else ""


@contextlib.contextmanager
def user_errors(*subjects: str | None) -> Iterator[None]:
    """Turn errors of the package and of the system into messages and exit codes; others keep their tracebacks.

    A message that names none of the subjects begins with the first.
    """
    try:
        yield
    except ShardsFailed as failed:
        for line in failures(failed.exceptions):
            click.echo(f"error: {line}", err=True)
        click.echo(f"error: {failed.message.partition(AGAIN)[0]}: run the same command again to resume", err=True)
        sys.exit(exit_code_of(failed))
    except GuardsFailed as refused:
        for violation in refused.violations:
            click.echo(f"error: {violation.text} [{violation.code}]", err=True)
        click.echo(
            f"error: the result at {refused.url!r} stays as it is: if the changes are right, run the command with --force",
            err=True,
        )
        sys.exit(exit_code_of(refused))
    except JobStopped as stopped:
        for line in failures(() if stopped.summary is None else stopped.summary.failures):
            click.echo(f"error: {line}", err=True)
        click.echo(f"{str(stopped).partition(AGAIN)[0]}: run the same command again to resume", err=True)
        sys.exit(exit_code_of(stopped))
    except (ShardedStoreError, OSError) as error:
        text = one_line(error)
        names = [name for name in subjects if name]
        is_named = not names or any(os.path.basename(name.rstrip("/")) in text for name in names)
        start = "" if is_named else f"{names[0]}: "
        click.echo(f"error: {start}{text}{_code(error)}", err=True)
        sys.exit(exit_code_of(error))
    except KeyboardInterrupt as stopped:
        click.echo("stopped: run the same command again to resume", err=True)
        sys.exit(exit_code_of(stopped))
