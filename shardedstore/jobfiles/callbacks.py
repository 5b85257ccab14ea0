"""The callbacks that a job's options name: the report and the metrics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from shardedstore.callbacks.ping import Ping
from shardedstore.callbacks.prometheus import PrometheusFile
from shardedstore.callbacks.report import ReportWriter
from shardedstore.jobfiles.secrets import public_command, resolve_storage
from shardedstore.jobfiles.spec import JobSpec
from shardedstore.jobs.callbacks import Callback


def callbacks_of(job: JobSpec, command: Sequence[str] = (), job_file: str = "") -> list[Callback]:
    """Return the callbacks that the options of a job name.

    Parameters
    ----------
    job : JobSpec
        The job.
    command : sequence of str
        The command line, for the report; see `public_command`.
    job_file : str
        The digest of the job file, for the report.

    Raises
    ------
    UsageError
        If the URL of the ping or the name of the file is not valid.
    """
    found: list[Callback] = []
    if not job.no_report:
        found.append(ReportWriter(job.report or "", command=public_command(command), job_file=job_file))
    if (ping := _ping_of(job)) is not None:
        found.append(ping)
    if job.prometheus is not None:
        labels = {"job_name": job.name} if job.name else {}
        found.append(PrometheusFile(job.prometheus, **labels))
    return found


@contextmanager
def pinging_refusal(job: JobSpec) -> Iterator[None]:
    """Send the ping of a failure if the enclosed planning of a job raises an error."""
    ping = _ping_of(job)
    try:
        yield
    except Exception as error:
        if ping is not None:
            ping.refused(error)
        raise


def _ping_of(job: JobSpec) -> Ping | None:
    return None if job.ping is None else Ping(resolve_storage({"ping": job.ping})["ping"])
