"""Shared parts of the commands: parse their options, open their arguments, report errors and set exit codes."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import click

from shardedstore.cli.registry import make_step
from shardedstore.errors import ShardedStoreError, ShardError, ShardsFailed, UsageError, by_cause, others
from shardedstore.fields import FILE_NAME, may_be_secret
from shardedstore.storage.blobs import nbytes_of
from shardedstore.storage.options import ANONYMOUS, is_public, near_option, public_names, take_options
from shardedstore.storage.urls import is_remote, join_url, normalize
from shardedstore.store import ShardedStore
from shardedstore.text import one_line, parse_size
from shardedstore.transforms.base.chain import Step

AGAIN = ": call map_shards"  # start of the advice for users of the API, which commands replace

NARROWEST = 80  # columns of a terminal that shows tables

FAILED, UNUSABLE, HOLES, STOPPED = 1, 2, 4, 130


def open_any(what: str, options: Any) -> tuple[ShardedStore, bool]:
    """Open a Zarr, a zip, a config or a collection; return the store and whether it is a config."""
    if "|zip:" in what:
        return ShardedStore.partition(what, [], storage_options=options), False
    url = normalize(what)
    if "*" in what:
        return ShardedStore.collect(what, storage_options=options), False
    is_file = url.endswith(".json") and not os.path.isdir(url)
    if is_file or nbytes_of(join_url(url, FILE_NAME), take_options(url, options)) is not None:
        return ShardedStore.load(what, allow=[] if is_remote(url) else ["/"], storage_options=options), True
    return ShardedStore.partition(what, [], storage_options=options), False


class NoteHandler(logging.Handler):
    """Writes each log record to stderr as a note of one line."""

    def emit(self, record: logging.LogRecord) -> None:
        # docstring inherited
        click.echo(f"note: {record.getMessage()}", err=True)


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
        yield f"{one_line(some[0])}{others(some)}"


def tell(text: str) -> None:
    """Print a line to stdout; a closed stdout does not fail the command."""
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


@contextlib.contextmanager
def user_errors(subject: str = "") -> Iterator[None]:
    """Turn errors of the package and of the system into messages and exit codes; others keep their tracebacks."""
    try:
        yield
    except ShardsFailed as failed:
        for line in failures(failed.exceptions):
            click.echo(f"error: {line}", err=True)
        click.echo(f"error: {failed.message.partition(AGAIN)[0]}: run the same command again to resume", err=True)
        sys.exit(FAILED)
    except (ShardedStoreError, OSError) as error:
        text = one_line(error)
        named = os.path.basename(subject) in text
        click.echo(f"error: {text}" if named else f"error: {subject}: {text}", err=True)
        sys.exit(UNUSABLE)
    except KeyboardInterrupt:
        click.echo("stopped: run the same command again to resume", err=True)
        sys.exit(STOPPED)


def parse_shard_options(options: tuple[str, ...]) -> Any:
    """Return the value of `shards` for the --shards options.

    >>> parse_shard_options(()), parse_shard_options(("t=time:720", "w_*=720,-1", "s/*=whole", "9 MiB"))
    ('1 GiB', {'t': {'time': 720}, 'w_*': (720, -1), 's/*': 'whole', '*': '9 MiB'})
    """
    rules: dict[str, Any] = {}
    for option in options:
        path, equals, rule = option.rpartition("=")
        if not equals and parse_size(rule) is None:
            raise UsageError(
                f"--shards {option!r} is not a size like '512 MiB': for a path, use '{option}=whole' or another rule"
            )
        if (path or "*") in rules:
            raise UsageError(f"--shards divides {path or '*'!r} twice: leave one of them out")
        rules[path or "*"] = _parse_rule(rule, option)
    return rules or "1 GiB"


def _parse_rule(text: str, option: str) -> Any:
    try:
        if ":" in text:
            return {name.strip(): int(count) for name, _, count in (part.rpartition(":") for part in text.split(","))}
        if "," in text:
            return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"--shards {option!r} is not a rule: after the path write =whole, ='512 MiB', =720,-1,-1 or =time:720"
        ) from None
    return text


def parse_storage(options: tuple[str, ...]) -> Any:
    """Return storage options as a mapping; None if there are none.

    >>> parse_storage(("endpoint=http://127.0.0.1:9000", "region=us-east-1"))
    {'endpoint': 'http://127.0.0.1:9000', 'region': 'us-east-1'}
    """
    if not options:
        return None
    parsed: dict[str, Any] = {}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals and key != ANONYMOUS:
            raise UsageError(f"--storage {key!r} has no value: write it as KEY=VALUE, like region=us-east-1")
        if not is_public(key):
            raise UsageError(f"--storage {key} {_why_not(key)}")
        parsed[key] = {"true": True, "false": False}.get(value, value) if equals else True
    return parsed


def make_steps(v3: bool, steps: tuple[str, ...], codec: str | None) -> list[Step]:
    """Return the steps of the options, in the order of the chain.

    >>> make_steps(True, (), "zstd:level=5")
    [MigrateV3(), Recompress('zstd', level=5)]
    """
    name, _, options = (codec or "").partition(":")
    recompress = f"recompress:codec={name}" + (f",{options}" if options else "")
    return [make_step(text) for text in (*(["migrate-v3"] if v3 else []), *steps, *([recompress] if codec else []))]


def _why_not(key: str) -> str:
    """Return the reason why a storage option can't be given on the command line."""
    if may_be_secret(key) or re.search("key|sas|account|client|tenant|role|authority", key.lower()):
        return "may be secret, but other users can see a command line: set it in the environment instead"
    if near := near_option(key):
        return f"is not a known option: did you mean {near}?"
    return f"is not a known option: use one of {', '.join(public_names())}; set other options in the environment"
