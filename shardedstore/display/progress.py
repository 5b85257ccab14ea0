"""Show how far a job is: a bar on a terminal and in a notebook, and elsewhere a line now and then."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from shardedstore.errors import UsageError
from shardedstore.jobs.callbacks import Callback, JobEnd, TaskEnd

if TYPE_CHECKING:
    from shardedstore.jobs.job_plan import JobPlan

PLAIN_SECONDS = 10  # between two lines
Show = Callable[[int, int], None]
Shown = bool | Literal["bar"] | Show | None  # how a user asks for progress


def progress_callback(chosen: Shown) -> Callback | None:
    """Return the callback that shows progress as a user asks for it.

    Parameters
    ----------
    chosen : bool, "bar", callable or None
        True is for a bar on a terminal and in a notebook, and for lines elsewhere, on standard error; ``"bar"`` for a bar in any case.
        A function is called with the numbers of shards that have ended, and of all.

    Raises
    ------
    UsageError
        For another value.

    Examples
    --------
    >>> progress_callback("much")  # type: ignore[arg-type]
    Traceback (most recent call last):
    shardedstore.errors.UsageError: progress='much' is not known: say True, 'bar', or a function of the shards that have ended and of all
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
        f"progress={chosen!r} is not known: say True, 'bar', or a function of the shards that have ended and of all"
    )


def _has_bars() -> bool:
    if sys.stderr is None:  # as below pythonw
        return False
    return (sys.stderr.isatty() and os.environ.get("TERM") != "dumb") or Console(stderr=True).is_jupyter


class ProgressFunction(Callback):
    """Calls a function with the numbers of shards that have ended, and of all."""

    def __init__(self, show: Show) -> None:
        self.show = show

    def on_task_end(self, event: TaskEnd) -> None:
        # docstring inherited
        self.show(event.ended, event.total)


class ProgressBar(Callback):
    """A bar on standard error."""

    def __init__(self) -> None:
        columns = TextColumn("shards"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
        self.bar = Progress(*columns, console=Console(stderr=True))
        self.task = self.bar.add_task("shards", total=None)

    def on_job_start(self, plan: JobPlan) -> None:
        # docstring inherited
        self.bar.start()

    def on_task_end(self, event: TaskEnd) -> None:
        # docstring inherited
        self.bar.update(self.task, completed=event.ended, total=event.total)

    def on_job_end(self, event: JobEnd) -> None:
        # docstring inherited
        self.bar.stop()


class ProgressLines(Callback):
    """A line on standard error at the first event, at the last, and now and then between."""

    def __init__(self) -> None:
        self.last = -float(PLAIN_SECONDS)

    def on_task_end(self, event: TaskEnd) -> None:
        # docstring inherited
        now = time.monotonic()
        if event.ended == event.total or now - self.last >= PLAIN_SECONDS:
            self.last = now
            click.echo(f"{event.ended:,} of {event.total:,} shards", err=True)
