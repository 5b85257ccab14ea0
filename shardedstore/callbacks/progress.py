"""Choose the callback that shows the progress of a job."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Literal

from shardedstore.callbacks.bar import ProgressBar
from shardedstore.callbacks.lines import LINE_SECONDS, ProgressLines
from shardedstore.callbacks.notebook import NotebookProgress, in_batch, in_notebook
from shardedstore.errors import UsageError
from shardedstore.jobs.callbacks import Callback, TaskEnd

Show = Callable[[int, int], None]
Shown = bool | Literal["bar"] | Show | None  # values of progress=


KERNEL = "JPY_PARENT_PID"  # set in the kernels of Jupyter, and so in their commands


def progress_callback(chosen: Shown, job: str = "", *, is_alone: bool = True) -> Callback | None:
    """Return the callback for a value of ``progress=``.

    Parameters
    ----------
    chosen : bool, "bar", callable or None
        None shows a view in a notebook, a bar on a terminal, and nothing elsewhere. True shows a line a minute elsewhere.
        In a notebook that nbclient or papermill runs, a job of more than a minute prints lines too.
        ``"bar"`` shows a bar elsewhere. A function is called with the number of finished shards and the number of all shards.

    job : str
        The name of the job, if there are several.
    is_alone : bool
        Whether no other job runs at the same time. Otherwise lines are shown in place of a bar.

    Raises
    ------
    UsageError
        For any other value.

    Examples
    --------
    >>> progress_callback("much")  # type: ignore[arg-type]
    Traceback (most recent call last):
    shardedstore.errors.UsageError: progress='much' is not valid: use True, False, 'bar', or a function of the numbers of finished and of all shards
    """
    if callable(chosen):
        return ProgressFunction(chosen)
    if chosen is not None and not isinstance(chosen, bool) and chosen != "bar":
        raise UsageError(
            f"progress={chosen!r} is not valid: use True, False, 'bar', or a function of the numbers of finished and of all shards"
        )
    if chosen is False:
        return None
    if in_notebook():
        return NotebookProgress(lines=ProgressLines(job, first=LINE_SECONDS, err=False) if in_batch() else None)
    if is_alone and (chosen == "bar" or on_terminal()):
        return ProgressBar(job)
    return ProgressLines(job) if chosen else None


def on_terminal() -> bool:
    """Tell whether standard error is a terminal that can update lines.

    The terminal of a command in a cell of a notebook, as in ``!shardedstore convert``, can't.
    """
    if sys.stderr is None:  # under pythonw
        return False
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and KERNEL not in os.environ


class ProgressFunction(Callback):
    """Calls a function with the number of finished shards and the number of all shards."""

    def __init__(self, show: Show) -> None:
        self.show = show

    def on_task_end(self, event: TaskEnd) -> None:
        # docstring inherited
        self.show(event.progress.ended, event.progress.total)
