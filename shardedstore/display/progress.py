"""Callbacks that show the progress of a job: a bar on terminals and in notebooks, or lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import click

from shardedstore.errors import UsageError
from shardedstore.jobs.callbacks import Callback, JobEnd, TaskEnd

if TYPE_CHECKING:
    from shardedstore.jobs.job_plan import JobPlan

PLAIN_SECONDS = 10  # seconds between two lines
Show = Callable[[int, int], None]
Shown = bool | Literal["bar"] | Show | None  # values of progress=


def progress_callback(chosen: Shown) -> Callback | None:
    """Return the callback for a value of ``progress=``.

    Parameters
    ----------
    chosen : bool, "bar", callable or None
        True shows a bar on a terminal and in a notebook, and lines elsewhere, on standard error. ``"bar"`` always shows a
        bar. A function is called with the number of finished shards and the number of all shards.

    Raises
    ------
    UsageError
        For any other value.

    Examples
    --------
    >>> progress_callback("much")  # type: ignore[arg-type]
    Traceback (most recent call last):
    shardedstore.errors.UsageError: progress='much' is not valid: use True, 'bar', or a function of the numbers of finished and of all shards
    """
    if callable(chosen):
        return ProgressFunction(chosen)
    if chosen is None or chosen is False:
        return None
    if chosen == "bar":
        return ProgressBar()
    if chosen is True:
        return ProgressBar() if _has_bars() else ProgressLines()
    raise UsageError(
        f"progress={chosen!r} is not valid: use True, 'bar', or a function of the numbers of finished and of all shards"
    )


def _has_bars() -> bool:
    if sys.stderr is None:  # under pythonw
        return False
    from rich.console import Console

    return (sys.stderr.isatty() and os.environ.get("TERM") != "dumb") or Console(stderr=True).is_jupyter


class ProgressFunction(Callback):
    """Calls a function with the number of finished shards and the number of all shards."""

    def __init__(self, show: Show) -> None:
        self.show = show

    def on_task_end(self, event: TaskEnd) -> None:
        # docstring inherited
        self.show(event.progress.ended, event.progress.total)


class ProgressBar(Callback):
    """A bar on standard error."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        columns = TextColumn("shards"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
        self.bar = Progress(*columns, console=Console(stderr=True))
        self.task = self.bar.add_task("shards", total=None)

    def on_job_start(self, plan: JobPlan) -> None:
        # docstring inherited
        self.bar.start()

    def on_task_end(self, event: TaskEnd) -> None:
        # docstring inherited
        self.bar.update(self.task, completed=event.progress.ended, total=event.progress.total)

    def on_job_end(self, event: JobEnd) -> None:
        # docstring inherited
        self.bar.stop()


class ProgressLines(Callback):
    """A line on standard error at the first event, at the last, and every few seconds between them."""

    def __init__(self) -> None:
        self.last = -float(PLAIN_SECONDS)

    def on_task_end(self, event: TaskEnd) -> None:
        # docstring inherited
        now, ended, total = time.monotonic(), event.progress.ended, event.progress.total
        if ended == total or now - self.last >= PLAIN_SECONDS:
            self.last = now
            click.echo(f"{ended:,} of {total:,} shards", err=True)
