"""``shardedstore status`` and ``shardedstore jobs``."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence

import click
import msgspec

from shardedstore.cli.common import tell, tell_table, user_errors
from shardedstore.cli.exit_codes import ExitCode
from shardedstore.cli.job_files import is_job_file, only_option
from shardedstore.cli.storage import parse_side, storage_params
from shardedstore.display.status import status_lines, statuses_lines, statuses_table
from shardedstore.errors import ConfigError, UsageError
from shardedstore.jobfiles.job import destination_options
from shardedstore.jobfiles.read import job_name, read_job_file
from shardedstore.jobs.job_list import DEPTH, list_jobs
from shardedstore.jobs.status import JobStatus, job_status
from shardedstore.storage.urls import is_remote, normalize

WATCH_SECONDS = 10.0  # as often as a job writes its numbers


@click.command("status")
@click.argument("what", metavar="DESTINATION|JOBS.toml")
@only_option
@storage_params("DESTINATION")
@click.option("--watch", is_flag=True, help="Show the state every ten seconds, until the jobs have ended.")
@click.option("--json", "as_json", is_flag=True, help="Print the state as a line of JSON.")
def status_command(
    what: str, *, only: tuple[str, ...], storage: tuple[str, ...], profile: str | None, watch: bool, as_json: bool
) -> None:
    """Show the state of a job, or of the jobs of a file.

    It works on any machine that can read DESTINATION, while a job runs and after it died. Nothing is written.

    \b
    States:
      running     the job runs
      stalled     it runs, but no shard has ended for five minutes, and for five
                  times the longest task
      done        all shards are done
      failed      shards failed, or an error ended the job
      stopped     a signal or a time limit ended it; the same command resumes it
      died        it ended without a word; the same command resumes it
      unfinished  it is not done, and held no lock: a lazy job, or slices of a job

    The exit code is 1 if a job failed, died or stalled.
    """  # noqa: D301 (click reads the backspace)
    with user_errors(what):

        def look() -> list[JobStatus]:
            if is_job_file(what):
                jobs = read_job_file(what, only=only).jobs
                found = (
                    _look(
                        job_name(job),
                        job.destination,
                        parse_side("destination", job.destination, storage, profile)
                        if storage or profile
                        else destination_options(job),
                    )
                    for job in jobs
                )
                return [status for status in found if status is not None]
            return [job_status(what, storage_options=parse_side("destination", what, storage, profile))]

        found: Sequence[JobStatus] = []
        for found in _looks(look, watch):
            _show(found, as_json)
    sys.exit(ExitCode.FAILED if any(status.is_alarm for status in found) else ExitCode.DONE)


def _look(name: str, url: str, options: object) -> JobStatus | None:
    try:
        return job_status(url, storage_options=options)  # type: ignore[arg-type]
    except ConfigError as error:
        reason = str(error).partition(": name the destination")[0]
        click.echo(f"note: {name}: {reason}", err=True)
        return None


def _looks(look: Callable[[], list[JobStatus]], watch: bool) -> Iterator[list[JobStatus]]:
    """Yield the states once, or with `watch` until no job runs."""
    while True:
        found = look()
        yield found
        if not watch or not any(status.state in ("running", "stalled") for status in found):
            return
        time.sleep(WATCH_SECONDS)
        if sys.stdout.isatty():
            click.clear()


def _show(found: Sequence[JobStatus], as_json: bool) -> None:
    if as_json:
        for status in found:
            tell(msgspec.json.encode(status).decode())
    elif len(found) == 1:
        for line in status_lines(found[0]):
            tell(line)
    elif found:
        tell_table(statuses_table(found), statuses_lines(found))


@click.command("jobs")
@click.argument("url", metavar="FOLDER")
@click.option(
    "--depth", type=click.IntRange(0), default=DEPTH, show_default=True, metavar="N", help="Look N folders deep."
)
@storage_params("FOLDER")
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each result.")
def jobs_command(url: str, *, depth: int, storage: tuple[str, ...], profile: str | None, as_json: bool) -> None:
    """List the results of jobs below FOLDER, with their states.

    FOLDER is a folder or a URL. The states are those of status.
    """
    with user_errors(url):
        if not is_remote(url) and not os.path.isdir(normalize(url)):
            raise UsageError(f"there is no folder {url!r}: name one with results of jobs")
        found = list_jobs(url, depth=depth, storage_options=parse_side("destination", url, storage, profile))
        if as_json:
            _show(found, as_json)
        elif found:
            tell_table(statuses_table(found), statuses_lines(found))
        else:
            click.echo(f"note: no results of jobs below {url}, {depth} folders deep", err=True)
