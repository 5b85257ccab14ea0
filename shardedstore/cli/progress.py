"""Showing how far a job is: a bar on a terminal, and elsewhere a line now and then."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

PLAIN_SECONDS = 10  # between two lines
Show = Callable[[int, int], None]


@contextmanager
def progress() -> Iterator[Show]:
    """Give a function of the numbers of shards that have ended, and of all, that shows them on stderr."""
    if sys.stderr is None or not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield lines()
        return
    columns = TextColumn("shards"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("shards", total=None)
        yield lambda ended, total: bar.update(task, completed=ended, total=total)


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
