"""Choose the callback that shows the progress of a job."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Literal

from shardedstore.callbacks.bar import ProgressBar
from shardedstore.callbacks.lines import ProgressLines
from shardedstore.errors import UsageError
from shardedstore.jobs.callbacks import Callback, TaskEnd

Show = Callable[[int, int], None]
Shown = bool | Literal["bar"] | Show | None  # values of progress=


def progress_callback(chosen: Shown) -> Callback | None:
    """Return the callback for a value of ``progress=``.

    Parameters
    ----------
    chosen : bool, "bar", callable or None
        None shows a bar on a terminal and in a notebook, and nothing elsewhere. True shows a line a minute elsewhere.
        ``"bar"`` always shows a bar. A function is called with the number of finished shards and the number of all shards.

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
    if chosen is False:
        return None
    if chosen == "bar":
        return ProgressBar()
    if chosen is None:
        return ProgressBar() if has_bars() else None
    if chosen is True:
        return ProgressBar() if has_bars() else ProgressLines()
    raise UsageError(
        f"progress={chosen!r} is not valid: use True, False, 'bar', or a function of the numbers of finished and of all shards"
    )


def has_bars() -> bool:
    """Tell whether standard error is a terminal, or this is a notebook."""
    if sys.stderr is None:  # under pythonw
        return False
    if sys.stderr.isatty():
        return os.environ.get("TERM") != "dumb"
    if "IPython" not in sys.modules:
        return False
    from rich.console import Console

    return Console(stderr=True).is_jupyter


class ProgressFunction(Callback):
    """Calls a function with the number of finished shards and the number of all shards."""

    def __init__(self, show: Show) -> None:
        self.show = show

    def on_task_end(self, event: TaskEnd) -> None:
        # docstring inherited
        self.show(event.progress.ended, event.progress.total)
