"""The log of workers that a notebook has started on its own machine."""

from __future__ import annotations

import logging
import multiprocessing
import os
from functools import cache

import psutil  # type: ignore[import-untyped]

logger = logging.getLogger("shardedstore")
JUPYTER = "JPY_PARENT_PID"  # set by jupyter_client: the process that started the kernel


@cache
def keep_out_of_notebook() -> None:
    """Drop the warnings of this worker if they would be red text in a notebook's cell.

    Such a worker has the standard error of the kernel. The summary of each task has its failures and retries, which the view
    of the progress shows. A log that is configured is left alone.
    """
    if not logger.hasHandlers() and multiprocessing.parent_process() is not None and _is_below_kernel():
        logger.addHandler(logging.NullHandler())


def _is_below_kernel() -> bool:
    """Tell whether Jupyter runs above this process, and not only in the environment of a batch job."""
    parent = os.environ.get(JUPYTER, "")
    return parent.isdecimal() and any(process.pid == int(parent) for process in psutil.Process().parents())
