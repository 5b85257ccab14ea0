"""Show how far a job is: a bar on a terminal and in a notebook, and elsewhere a line now and then."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from shardedstore.errors import UsageError

PLAIN_SECONDS = 10  # between two lines
Show = Callable[[int, int], None]
Shown = bool | Literal["bar"] | Show | None  # how a user asks for progress


def check_progress(chosen: Shown) -> None:
    """Refuse a value of `progress` that `progress_of` does not know.

    >>> check_progress("much")  # type: ignore[arg-type]
    Traceback (most recent call last):
    shardedstore.errors.UsageError: progress='much' is not known: say True, 'bar', or a function of the shards that have ended and of all
    """
    if not (chosen is None or isinstance(chosen, bool) or chosen == "bar" or callable(chosen)):
        raise UsageError(
            f"progress={chosen!r} is not known: say True, 'bar', or a function of the shards that have ended and of all"
        )


@contextmanager
def progress_of(chosen: Shown) -> Iterator[Show | None]:
    """Give the function that shows the numbers of shards that have ended, and of all.

    Parameters
    ----------
    chosen : bool, "bar", callable or None
        True is for a bar on a terminal and in a notebook, and for lines elsewhere, on standard error; ``"bar"`` for a bar in any case.
    """
    if callable(chosen):
        yield chosen
    elif not chosen:
        yield None
    elif chosen == "bar" or _has_bars():
        columns = TextColumn("shards"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task("shards", total=None)
            yield lambda ended, total: bar.update(task, completed=ended, total=total)
    else:
        yield lines()


def _has_bars() -> bool:
    is_terminal = sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    return is_terminal or Console(stderr=True).is_jupyter


def lines() -> Show:
    """Return a function that writes a line at the first call, at the last, and now and then between."""
    last = -float(PLAIN_SECONDS)

    def show(ended: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if ended == total or now - last >= PLAIN_SECONDS:
            last = now
            click.echo(f"{ended:,} of {total:,} shards", err=True)

    return show
