"""A callback that prints the progress of a job as lines, for logs of cron and of batch systems."""

from __future__ import annotations

import time
from collections.abc import Callable

import click
import msgspec

from shardedstore.display.progress_text import summary_line
from shardedstore.jobs.callbacks import Callback, JobEnd, TaskEnd
from shardedstore.jobs.progress import Progress
from shardedstore.text import duration

LINE_SECONDS = 60.0  # between two lines


class ProgressLines(Callback):
    """A line at the start, every minute, and at the end.

    Parameters
    ----------
    job : str
        The name of the job, with which each line begins.
    clock : callable
        Returns the time in seconds.
    first : float
        The seconds before the first line. A job that ends before has no line.
    err : bool
        Whether the lines go to standard error.
    """

    def __init__(
        self, job: str = "", clock: Callable[[], float] = time.monotonic, first: float = 0.0, *, err: bool = True
    ) -> None:
        self._clock, self._next, self._first, self._err = clock, clock() + first, clock() + first, err
        self._start = f"{job}: " if job else ""

    def on_task_end(self, event: TaskEnd) -> None:
        # docstring inherited
        self.on_progress(event.progress)

    def on_progress(self, progress: Progress) -> None:
        # docstring inherited
        now = self._clock()
        if now >= self._next and progress.left:
            self._next = now + LINE_SECONDS
            self._print(summary_line(progress))

    def on_job_end(self, event: JobEnd) -> None:
        # docstring inherited
        if self._clock() < self._first:
            return
        last = msgspec.structs.replace(event.progress, rate=None, seconds_left=None, workers=0)
        self._print(f"{summary_line(last, is_last=True)}, after {duration(last.seconds)}")

    def _print(self, line: str) -> None:
        click.echo(f"{time.strftime('%H:%M:%S')} {self._start}{line}", err=self._err)
