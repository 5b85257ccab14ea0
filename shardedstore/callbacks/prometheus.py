"""A callback that writes the numbers of a job as a text file for the node_exporter of Prometheus."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from shardedstore.errors import UsageError
from shardedstore.jobs.callbacks import Callback, JobEnd, TaskEnd
from shardedstore.jobs.progress import Progress
from shardedstore.jobs.summary import STAGES
from shardedstore.storage.request_metrics import RequestSum, add_requests

if TYPE_CHECKING:
    from shardedstore.jobs.job_plan import JobPlan

SECONDS = 10.0  # between two files, at least
ENDING = ".prom"  # node_exporter reads no other files
PREFIX = "shardedstore"
LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
HELP = {
    "job_running": "Whether the job is running.",
    "job_start_timestamp_seconds": "The time of the start of the last run.",
    "job_end_timestamp_seconds": "The time of the end of the last run.",
    "job_success_timestamp_seconds": "The time of the end of the last run that succeeded.",
    "job_success": "Whether the last run succeeded.",
    "job_duration_seconds": "The duration of the run so far.",
    "job_shards": "The number of shards by state.",
    "job_failures": "The number of failed shards by the code of the failure.",
    "job_written_bytes": "The stored bytes that the run wrote.",
    "job_written_entries": "The entries that the run wrote.",
    "job_decoded_bytes": "The decoded bytes of the shards that have ended, and of all shards.",
    "job_retries": "The number of repeated attempts.",
    "job_throttled_requests": "The number of requests that a busy server refused.",
    "job_throttled_seconds": "The seconds in which requests waited for a busy server or for a limit of the job.",
    "job_requests": "The number of requests to storage by kind.",
    "job_request_bytes": "The bytes that requests read and wrote, by kind.",
    "job_request_seconds": "The sum of the latencies of requests by kind.",
    "job_request_errors": "The number of failed requests by kind.",
    "job_stage_seconds": "The seconds of the workers by stage.",
    "job_seconds_left": "The estimated time to the end of the run.",
}
REQUESTS = {
    "job_requests": "count",
    "job_request_bytes": "nbytes",
    "job_request_seconds": "seconds",
    "job_request_errors": "errors",
}
logger = logging.getLogger("shardedstore")
Sample = tuple[str, Mapping[str, str], float]


class PrometheusFile(Callback):
    """Writes the numbers of a job to a file that the textfile collector of node_exporter reads.

    The file is replaced atomically, at most every ten seconds. Two jobs need two files. After a failure, the file keeps
    the time of the last success. If the file can't be written, a warning is logged, and the job does not fail.

    Parameters
    ----------
    path : str or path
        The file, whose name ends in ``.prom``, in the folder of ``--collector.textfile.directory``.
    **labels : str
        Labels of all samples. The default is the label ``destination``.

    Raises
    ------
    UsageError
        If the name of the file or a label is not valid.

    Examples
    --------
    >>> PrometheusFile("/var/lib/node_exporter/era5.prom", job_name="era5").labels
    {'job_name': 'era5'}
    """

    def __init__(self, path: str | os.PathLike[str], **labels: str) -> None:
        self.path, self.labels = os.path.abspath(os.path.expanduser(path)), labels
        if not self.path.endswith(ENDING):
            raise UsageError(
                f"{self.path!r} does not end in {ENDING!r}, and node_exporter reads no other names: rename it"
            )
        for label in labels:
            if not LABEL.fullmatch(label):
                raise UsageError(f"the label {label!r} is not valid: use letters, digits and underscores")

    def on_job_start(self, plan: JobPlan) -> None:
        # docstring inherited
        self._labels = self.labels or {"destination": plan.destination or ""}
        self._stages = dict.fromkeys(STAGES, 0.0)
        self._codes: dict[str, int] = {}
        self._requests: dict[str, RequestSum] = {}
        self._throttled_seconds = 0.0
        self._begun, self._last = time.time(), 0.0
        self._success = _last_success(self.path)
        self._write(Progress(total=plan.shard_count, total_decoded_nbytes=plan.nbytes), ())

    def on_task_end(self, event: TaskEnd) -> None:
        # docstring inherited
        for name, seconds in event.task.stages.items():
            self._stages[name] += seconds
        self._requests = add_requests([self._requests, event.task.requests])
        self._throttled_seconds += event.task.throttled_seconds
        for error in event.task.failures:
            self._codes[error.code] = self._codes.get(error.code, 0) + 1

    def on_progress(self, progress: Progress) -> None:
        # docstring inherited
        if time.monotonic() - self._last >= SECONDS:
            self._write(progress, ())

    def on_job_end(self, event: JobEnd) -> None:
        # docstring inherited
        now = time.time()
        self._requests = event.job.requests
        if event.error is None:
            self._success = now
        self._write(event.progress, (("job_end_timestamp_seconds", {}, now), ("job_success", {}, event.error is None)))

    def _write(self, progress: Progress, end: tuple[Sample, ...]) -> None:
        self._last = time.monotonic()
        samples = [("job_running", {}, not end), *self._samples(progress), *end]
        text = "".join(_lines(samples, self._labels))
        try:
            _replace(self.path, text)
        except OSError as error:
            logger.warning("the metrics can't be written to %r: %s", self.path, error.strerror)

    def _samples(self, progress: Progress) -> Iterator[Sample]:
        yield "job_start_timestamp_seconds", {}, self._begun
        if self._success:
            yield "job_success_timestamp_seconds", {}, self._success
        yield "job_duration_seconds", {}, progress.seconds
        for state in ("done", "skipped", "failed", "left"):
            yield "job_shards", {"state": state}, getattr(progress, state)
        for code, number in sorted(self._codes.items()):
            yield "job_failures", {"code": code}, number
        yield "job_written_bytes", {}, progress.nbytes
        yield "job_written_entries", {}, progress.entries
        yield "job_decoded_bytes", {"of": "ended"}, progress.decoded_nbytes
        yield "job_decoded_bytes", {"of": "all"}, progress.total_decoded_nbytes
        yield "job_retries", {}, progress.retries
        yield "job_throttled_requests", {}, progress.throttled
        yield "job_throttled_seconds", {}, self._throttled_seconds
        for metric, field in REQUESTS.items():
            for kind, made in sorted(self._requests.items()):
                yield metric, {"kind": kind}, getattr(made, field)
        for stage, seconds in self._stages.items():
            yield "job_stage_seconds", {"stage": stage}, seconds
        if progress.seconds_left is not None:
            yield "job_seconds_left", {}, progress.seconds_left


def _lines(samples: list[Sample], labels: Mapping[str, str]) -> Iterator[str]:
    """Yield the lines of the text format, grouped by metric name."""
    last = ""
    for name, own, value in samples:
        if name != last:
            yield f"# HELP {PREFIX}_{name} {HELP[name]}\n# TYPE {PREFIX}_{name} gauge\n"
        last = name
        told = ",".join(f'{label}="{_escaped(text)}"' for label, text in {**labels, **own}.items())
        yield f"{PREFIX}_{name}{{{told}}} {float(value):.17g}\n"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _last_success(path: str) -> float:
    """Return the time of the last success in a file; 0 if there is none."""
    with suppress(OSError, ValueError, UnicodeDecodeError), open(path, encoding="utf-8") as file:
        for line in file:
            if line.startswith(f"{PREFIX}_job_success_timestamp_seconds{{"):
                return float(line.rpartition(" ")[2])
    return 0.0


def _replace(path: str, text: str) -> None:
    """Replace a file atomically; the temporary name does not end in `ENDING`, so node_exporter ignores it."""
    temporary = f"{path}.{os.getpid()}~"
    flags: Any = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    try:
        with open(os.open(temporary, flags, 0o644), "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, path)
    except OSError:
        with suppress(OSError):
            os.unlink(temporary)
        raise
