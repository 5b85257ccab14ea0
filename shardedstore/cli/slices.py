"""The option ``--slice`` of the commands that run jobs."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click
import dask
from dask.system import CPU_COUNT

from shardedstore.cli.exit_codes import exit_code_of
from shardedstore.errors import JobStopped, UsageError
from shardedstore.jobfiles.cluster_spec import ClusterSpec
from shardedstore.jobs.slices import Slice, parse_slice
from shardedstore.jobs.stop_signal import StopSignal

Command = TypeVar("Command", bound=Callable[..., Any])
TASK_THREAD = "shardedstore-task"  # the beginning of the names of threads that run tasks
END_SECONDS = 2.0  # for the last messages
NEXT = "run `shardedstore finalise`, or this command without --slice, when all slices have ended"


def slice_option(command: Command) -> Command:
    """Add the option ``--slice`` to a command."""
    text = "Run only this part of the job in threads of this process, such as 3/40, and publish nothing; see docs/slices.md."
    return click.option("--slice", "part", metavar="I/N", help=text)(command)


def given_slice(text: str | None, workers: ClusterSpec) -> Slice | None:
    """Return the slice of the command line; None for a whole job.

    Raises
    ------
    UsageError
        If it is not a slice, or if a cluster is given too.
    """
    if text is None:
        return None
    if workers.scheduler is not None or workers.scheduler_file is not None:
        raise UsageError("--slice runs in this process, and --scheduler on a cluster: leave one out")
    return parse_slice(text)


@contextmanager
def threads_for_slices(workers: ClusterSpec, stop: StopSignal) -> Iterator[None]:
    """Run slices in as many threads as there would be worker processes.

    Python waits at its end for all threads. Abandoned threads may take long, so the process ends without them.
    """
    try:
        with dask.config.set(scheduler="threads", num_workers=(workers.workers or CPU_COUNT) * (workers.threads or 1)):
            yield
    finally:
        if stop.is_over and any(thread.name.startswith(TASK_THREAD) for thread in threading.enumerate()):
            threading.Thread(target=_end, args=(stop.reason,), daemon=True).start()


def _end(reason: str) -> None:
    time.sleep(END_SECONDS)
    os._exit(exit_code_of(JobStopped("", reason)))
