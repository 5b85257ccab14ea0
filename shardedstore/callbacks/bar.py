"""A callback that shows the progress of a job in place, on a terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from shardedstore.display.progress_text import STARTING, percent, shards, speed, troubles
from shardedstore.jobs.callbacks import Callback, JobEnd, TaskEnd
from shardedstore.jobs.progress import Progress
from shardedstore.text import duration

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

    from shardedstore.jobs.job_plan import JobPlan

BAR_WIDTH = 40  # characters, at most


class ProgressBar(Callback):
    """A bar with the numbers of the job below it, on standard error.

    The bar ends when the shards have ended; the lines stay.

    Parameters
    ----------
    job : str
        The name of the job, which is shown above the bar.
    """

    def __init__(self, job: str = "") -> None:
        from rich.console import Console
        from rich.live import Live

        console = Console(stderr=True, force_jupyter=False)
        self._view = _View(job)
        self._live = Live(self._view, console=console, refresh_per_second=4 if console.is_terminal else 1)

    def on_job_start(self, plan: JobPlan) -> None:
        # docstring inherited
        self._view.update(Progress(total=plan.shard_count))
        self._live.start()

    def on_task_end(self, event: TaskEnd) -> None:
        # docstring inherited
        self._view.update(event.progress)

    def on_progress(self, progress: Progress) -> None:
        # docstring inherited
        self._view.update(progress)

    def on_job_end(self, event: JobEnd) -> None:
        # docstring inherited
        self._view.update(event.progress, is_last=True)
        self._live.stop()


class _View:
    """The last numbers; rich redraws them several times a second."""

    def __init__(self, job: str) -> None:
        self._job = job
        self._progress, self._at, self._is_last = Progress(total=0), time.monotonic(), False

    def update(self, progress: Progress, *, is_last: bool = False) -> None:
        """Show new numbers; the number of ended shards never decreases."""
        self._progress, self._at, self._is_last = progress, time.monotonic(), is_last

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.columns import Columns
        from rich.progress_bar import ProgressBar as Bar
        from rich.text import Text

        if self._job:
            yield Text(self._job, no_wrap=True, overflow="ellipsis")
        width = max(10, min(BAR_WIDTH, options.max_width - 30))
        bar = Bar(total=1.0, completed=self._progress.fraction, width=width)
        if self._progress.is_starting and not self._is_last:
            yield Text(f"     {STARTING}, {duration(self._elapsed)}")
        else:
            yield Columns([Text(f"{percent(self._progress):>4}"), bar, Text(self._time())])
        style = "red" if self._progress.failed else ""
        for line, shown in ((self._first_line(), ""), (self._second_line(), style)):
            if line:
                yield Text(f"     {line}", style=shown, no_wrap=True, overflow="ellipsis")

    @property
    def _elapsed(self) -> float:
        since = 0.0 if self._is_last else time.monotonic() - self._at
        return self._progress.seconds + since

    def _time(self) -> str:
        since, elapsed, left = time.monotonic() - self._at, self._elapsed, self._progress.seconds_left
        if self._is_last or not left:
            return duration(elapsed)
        return f"{duration(elapsed)}, {duration(max(0.0, left - since))} left"

    def _first_line(self) -> str:
        parts: Iterator[str] = (part for part in speed(self._progress) if not part.endswith(" left"))
        return ", ".join([*shards(self._progress), *parts])

    def _second_line(self) -> str:
        return ", ".join(troubles(self._progress))
