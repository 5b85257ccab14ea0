"""Signals that end a command: the job stops in order, or at once where no shard runs."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

from dask.utils import format_time

from shardedstore.jobfiles.spec import RunSpec
from shardedstore.jobs.stop_signal import StopSignal

NAMES = ("SIGINT", "SIGTERM", "SIGUSR1")
STDERR = 2
DOUBLE_SECONDS = 1.0  # in which a second signal is the first one again; srun and its scheduler may both send it


class Interrupted(KeyboardInterrupt):
    """Raised by the handler of a signal, where no job can stop in order.

    Attributes
    ----------
    reason : str
        The name of the signal.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@contextlib.contextmanager
def stop_on_signals(run: RunSpec) -> Iterator[StopSignal]:
    """Make the signal that stops the jobs of a command, and let SIGINT, SIGTERM and SIGUSR1 set it.

    A second signal raises `Interrupted` at once, as does the first one while no shard runs.
    """
    stop = StopSignal(run.max_duration, run.grace)
    if threading.current_thread() is not threading.main_thread():  # only the main thread can set handlers
        yield stop
        return
    handler = _Handler(stop)
    before = {name: signal.signal(getattr(signal, name), handler) for name in NAMES if hasattr(signal, name)}
    try:
        yield stop
    finally:
        for name, old in before.items():
            signal.signal(getattr(signal, name), old)


class _Handler:
    def __init__(self, stop: StopSignal) -> None:
        self.stop, self.first = stop, math.inf

    def __call__(self, number: int, frame: FrameType | None) -> None:
        reason, now = signal.Signals(number).name, time.monotonic()
        is_first = now < self.first
        self.first = min(now, self.first)
        self.stop.request(reason)
        if not self.stop.is_deferred or now - self.first > DOUBLE_SECONDS:
            raise Interrupted(reason)
        if not is_first:
            return
        grace = format_time(self.stop.grace).strip()
        text = (
            f"{reason}: no new shard starts; running shards have {grace} to finish; a second signal ends them at once\n"
        )
        with contextlib.suppress(OSError):  # print and logging are not safe in a handler
            os.write(STDERR, text.encode())
