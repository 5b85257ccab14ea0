"""What the commands share: how they open what they are given, how they tell errors, and their exit codes."""

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
from shardedstore.fields import FILE_NAME
from shardedstore.storage.blobs import nbytes_of
from shardedstore.storage.options import ANONYMOUS, is_public, near_option, public_names, take_options
from shardedstore.storage.urls import is_remote, join_url, normalize
from shardedstore.store import ShardedStore
from shardedstore.stores.locations import may_be_secret
from shardedstore.text import one_line, parse_size
from shardedstore.transforms.base.chain import Step

AGAIN = ": call map_shards"  # what a message says to those who call the API

FAILED, UNUSABLE, HOLES, STOPPED = 1, 2, 4, 130


def open_any(what: str, options: Any) -> tuple[ShardedStore, bool]:
    """Open a Zarr, a zip, a config or a collection, and tell whether it is a config."""
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
    """Writes each record to stderr as a note of one line."""

    def emit(self, record: logging.LogRecord) -> None:
        # docstring inherited
        click.echo(f"note: {record.getMessage()}", err=True)


@contextlib.contextmanager
def notes_on_stderr() -> Iterator[None]:
    """Show the package's log of this process, from the level WARNING on, as notes."""
    logger, handler = logging.getLogger("shardedstore"), NoteHandler(logging.WARNING)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def failures(errors: Iterable[BaseException]) -> Iterator[str]:
    """Yield a line for each cause of failures, with the shards that it is of."""
    for some in by_cause(error for error in errors if isinstance(error, ShardError)):
        yield f"{one_line(some[0])}{others(some)}"


def tell(text: str) -> None:
    """Print a line of what a command has to say; where nobody can read it, what the command did is still done."""
    try:
        click.echo(text)
    except OSError as error:
        if sys.stdout is not None:
            with contextlib.suppress(OSError, ValueError):  # so that Python does not try again when it ends
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            with contextlib.suppress(OSError):
                click.echo(f"note: standard output can't be written to: {error.strerror}", err=True)


@contextlib.contextmanager
def warnings_on_stderr() -> Iterator[None]:
    """Show Python's warnings, such as zarr's, as lines of their own, each once and without the code that it is of."""
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
    """Turn the package's own errors, and the system's, into lines and exit codes; others keep their tracebacks."""
    try:
        yield
    except ShardsFailed as failed:
        for line in failures(failed.exceptions):
            click.echo(f"error: {line}", err=True)
        click.echo(f"error: {failed.message.partition(AGAIN)[0]}: run the same command again to go on", err=True)
        sys.exit(FAILED)
    except (ShardedStoreError, OSError) as error:
        text = one_line(error)
        named = os.path.basename(subject) in text
        click.echo(f"error: {text}" if named else f"error: {subject}: {text}", err=True)
        sys.exit(UNUSABLE)
    except KeyboardInterrupt:
        click.echo("stopped: run the same command again, and it goes on from there", err=True)
        sys.exit(STOPPED)


def parse_shards(options: tuple[str, ...]) -> Any:
    """Return what the options for `shards` stand for.

    >>> parse_shards(()), parse_shards(("t=time:720", "w_*=720,-1", "s/*=whole", "9 MiB"))
    ('1 GiB', {'t': {'time': 720}, 'w_*': (720, -1), 's/*': 'whole', '*': '9 MiB'})
    """
    rules: dict[str, Any] = {}
    for option in options:
        path, equals, rule = option.rpartition("=")
        if not equals and parse_size(rule) is None:
            raise UsageError(f"--shards {option!r} is no size like '512 MiB': for a path say '{option}=whole', for one")
        if (path or "*") in rules:
            raise UsageError(f"--shards says twice how to divide {path or 'what is left'!r}: leave one of them out")
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
            f"--shards {option!r} can't be read: after the path write =whole, ='512 MiB', =720,-1,-1 or =time:720"
        ) from None
    return text


def parse_storage(options: tuple[str, ...]) -> Any:
    """Return storage options; None for none.

    >>> parse_storage(("endpoint=http://127.0.0.1:9000", "region=us-east-1"))
    {'endpoint': 'http://127.0.0.1:9000', 'region': 'us-east-1'}
    """
    if not options:
        return None
    parsed: dict[str, Any] = {}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals and key != ANONYMOUS:
            raise UsageError(f"--storage {key!r} is no option: write it as KEY=VALUE, like region=us-east-1")
        if not is_public(key):
            raise UsageError(f"--storage {key} {_why_not(key)}")
        parsed[key] = {"true": True, "false": False}.get(value, value) if equals else True
    return parsed


def make_steps(v3: bool, steps: tuple[str, ...], codec: str | None) -> list[Step]:
    """Return the steps that the options ask for, in their order.

    >>> make_steps(True, (), "zstd:level=5")
    [MigrateV3(), Recompress('zstd', level=5)]
    """
    name, _, options = (codec or "").partition(":")
    recompress = f"recompress:codec={name}" + (f",{options}" if options else "")
    return [make_step(text) for text in (*(["migrate-v3"] if v3 else []), *steps, *([recompress] if codec else []))]


def _why_not(key: str) -> str:
    """Return why an option of a store can't be given on the command line."""
    if may_be_secret(key) or re.search("key|sas|account|client|tenant|role|authority", key.lower()):
        return "may be secret, and a command line is seen by others: give it to the environment instead"
    if near := near_option(key):
        return f"is no option that is known: did you mean {near}?"
    return f"is no option that is known: there are {', '.join(public_names())}; others are given to the environment"
