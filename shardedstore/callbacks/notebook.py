"""A callback that shows the progress of a job in the output of a notebook's cell."""

from __future__ import annotations

import logging
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from shardedstore.callbacks.outcome import message_of, state_of
from shardedstore.display.progress_html import progress_html
from shardedstore.display.progress_text import summary_line
from shardedstore.errors import ShardError
from shardedstore.jobs.callbacks import Callback, JobEnd, TaskEnd
from shardedstore.jobs.progress import Progress

if TYPE_CHECKING:
    from shardedstore.jobs.job_plan import JobPlan

logger = logging.getLogger("shardedstore")
SOONEST, LATEST = 0.25, 5.0  # seconds between two updates
MOST_WARNINGS = 3  # the latest ones are shown
PART = 0.01  # of the elapsed time; a browser that comes back gets all updates that it missed


class NotebookProgress(Callback):
    """A view of the numbers of a job, which is updated in place.

    The view is one output with an identifier, as HTML and as text. Every frontend of Jupyter replaces such an output:
    JupyterLab, VS Code, Colab. So do nbclient and papermill, which keep its last state; papermill's log has only the first one, so
    that lines on standard output can be added. Widgets would show the same, and are empty in a saved notebook. Without a handler of its own, Python's log would write to standard error, in red; the view shows
    the warnings instead.

    Parameters
    ----------
    clock : callable
        Returns the time in seconds.
    lines : Callback, optional
        Prints the same numbers for a log.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, lines: Callback | None = None) -> None:
        self._clock, self._next, self._title = clock, 0.0, ""
        self._lines = lines
        self._warnings = _Warnings()
        self._handle: Any = None

    def on_job_start(self, plan: JobPlan) -> None:
        # docstring inherited
        self._title = " to ".join(filter(None, (plan.chain, plan.destination)))
        if not logger.hasHandlers():
            logger.addHandler(self._warnings)
        self._handle = _display(self._bundle(Progress(total=plan.shard_count, total_decoded_nbytes=plan.nbytes)))

    def on_task_end(self, event: TaskEnd) -> None:
        # docstring inherited
        self._warnings.failed(event.task.failures)
        self.on_progress(event.progress)

    def on_progress(self, progress: Progress) -> None:
        # docstring inherited
        if self._lines is not None:
            self._lines.on_progress(progress)
        now = self._clock()
        if now >= self._next:
            self._next = now + min(LATEST, max(SOONEST, PART * progress.seconds))
            self._update(self._bundle(progress))

    def on_job_end(self, event: JobEnd) -> None:
        # docstring inherited
        logger.removeHandler(self._warnings)
        last = msgspec.structs.replace(event.progress, rate=None, seconds_left=None, workers=0, oldest=None)
        state = state_of(event.error, has_failures=bool(event.job.failures))
        self._update(self._bundle(last, state, message_of(event.error)))
        if self._lines is not None:
            self._lines.on_job_end(event)

    def _bundle(self, progress: Progress, state: str = "running", message: str = "") -> dict[str, str]:
        """Return the view in the formats between which a frontend chooses."""
        notes = [*self._warnings.latest, message] if message else list(self._warnings.latest)
        line = ", ".join(filter(None, (state, summary_line(progress), message)))
        return {"text/html": progress_html(self._title, progress, state, notes), "text/plain": line}

    def _update(self, bundle: dict[str, str]) -> None:
        if self._handle is not None:
            self._handle.update(bundle, raw=True)


class _Warnings(logging.Handler):
    """Keeps the latest warnings and failures of a job."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.latest: deque[str] = deque(maxlen=MOST_WARNINGS)

    def emit(self, record: logging.LogRecord) -> None:
        # docstring inherited
        self.latest.append(record.getMessage())

    def failed(self, failures: Sequence[ShardError]) -> None:
        """Keep the last of the failures of a task, unless its cause is shown already."""
        if failures and not any(failures[-1].cause in one for one in self.latest):
            self.latest.append(f"{failures[-1].shard}: {failures[-1].cause}")


def in_notebook() -> bool:
    """Tell whether a kernel of Jupyter runs this process; IPython in a terminal has none."""
    if "IPython" not in sys.modules:
        return False
    from IPython import get_ipython

    return getattr(get_ipython(), "kernel", None) is not None


def in_batch() -> bool:
    """Tell whether nobody can answer the kernel of this process, as under nbclient and papermill."""
    from IPython import get_ipython

    kernel = getattr(get_ipython(), "kernel", None)
    request = {} if kernel is None or not hasattr(kernel, "get_parent") else kernel.get_parent()  # to run a cell
    return request.get("content", {}).get("allow_stdin") is False


def _display(bundle: dict[str, str]) -> Any:
    """Show an output, and return its handle."""
    from IPython.display import display

    return display(bundle, raw=True, display_id=True)
