"""``shardedstore run``: the jobs of a file, on one cluster."""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import click

from shardedstore.callbacks.outcome import KeepEnd
from shardedstore.callbacks.progress import progress_callback
from shardedstore.callbacks.report import find_report
from shardedstore.cli.cluster import check_cluster, cluster_on_demand
from shardedstore.cli.common import failures, note, notes_on_stderr, silence, tell, tell_table, user_errors, with_code
from shardedstore.cli.exit_codes import ExitCode, exit_code_of, exit_code_of_failures, worst_of
from shardedstore.cli.outcome import place_lines
from shardedstore.cli.signals import stop_on_signals
from shardedstore.cli.slices import given_slice, slice_option, threads_for_slices
from shardedstore.display.jobs import JobRow, jobs_lines, jobs_table
from shardedstore.errors import GuardsFailed, ShardedStoreError, ShardsFailed
from shardedstore.jobfiles.callbacks import callbacks_of, pinging_refusal
from shardedstore.jobfiles.cluster_spec import ClusterSpec
from shardedstore.jobfiles.job import find_moved, plan_spec, run_options
from shardedstore.jobfiles.options import SpecCommand, given_options, override, spec_options
from shardedstore.jobfiles.read import JobFile, job_name, read_job_file
from shardedstore.jobfiles.spec import JobSpec, RunSpec
from shardedstore.jobs.callbacks import Callback
from shardedstore.jobs.job_plan import JobPlan
from shardedstore.jobs.slices import Slice
from shardedstore.jobs.stop_signal import StopSignal
from shardedstore.jobs.summary import Summary
from shardedstore.store import ShardedStore

GOES_ON = (ExitCode.DONE, ExitCode.UNCHANGED, ExitCode.HOLES)
ENDS_ALL = (ExitCode.TIME_IS_UP, ExitCode.INTERRUPTED, ExitCode.TERMINATED)  # after all others, --keep-going decides
AGREE = "If this is right, add guards = {force = true} to the job for one run"


@click.command("run", cls=SpecCommand)
@click.argument("file", metavar="JOBS.toml")
@click.option("--only", multiple=True, metavar="NAME", help="Run only this job of the file. May be repeated.")
@click.option("--keep-going", is_flag=True, help="Run the other jobs after a job has failed.")
@click.option(
    "--parallel",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    metavar="N",
    help="Run N jobs at a time on the same workers.",
)
@spec_options(ClusterSpec, RunSpec)
@slice_option
@click.option("--json", "as_json", is_flag=True, help="Print the results as one line of JSON instead of a table.")
@click.option("--verbose", is_flag=True, help="Show the logs of the workers, with a traceback for each error.")
def run_command(
    file: str,
    *,
    only: tuple[str, ...],
    keep_going: bool,
    parallel: int,
    as_json: bool,
    verbose: bool,
    part: str | None = None,
    **_: Any,
) -> None:
    """Run the jobs of a file, one after another on one cluster.

    The whole file is checked before the first job runs, and the source of each job when its turn comes. The workers start when a job has something to do. The options of the
    command override the tables [cluster] and [run] of the file. To resume after a crash, run the same command again.

    The exit code is the worst one of the jobs.
    """
    with user_errors(file):
        jobs = read_job_file(file, only=only)
        workers = override(jobs.cluster, given_options(ClusterSpec))
        options = override(jobs.run, given_options(RunSpec))
        check_cluster(workers)
        chosen = given_slice(part, workers)
        rows, interrupts = list[JobRow](), list[int]()
        try:
            with (
                silence(options.log.quiet),
                stop_on_signals(options) as stop,
                notes_on_stderr(),
                warnings.catch_warnings(),
                cluster_on_demand(workers, verbose, stop) if chosen is None else threads_for_slices(workers, stop),
            ):
                warnings.simplefilter("ignore", UserWarning)
                one = _Run(options, stop, chosen, is_alone=parallel == 1)
                run = partial(_run_job, run_one=one, digest=jobs.digest)
                rows.extend(_run_all(jobs.jobs, run, stop, parallel, keep_going))
        except KeyboardInterrupt as stopped:
            interrupts.append(exit_code_of(stopped))
            raise
        finally:
            code = worst_of([*interrupts, *(row.exit_code for row in rows)])
            with silence(options.log.quiet):
                _tell(jobs, rows, code, as_json)
    sys.exit(worst_of(row.exit_code for row in rows))


class _Run(NamedTuple):
    """The common parts of all jobs of a command."""

    options: RunSpec
    stop: StopSignal
    part: Slice | None
    is_alone: bool

    def callbacks(self, name: str) -> Iterator[Callback]:
        """Yield the progress and the log of a job."""
        log = self.options.log
        if (progress := progress_callback(log.progress(), name, is_alone=self.is_alone)) is not None:
            yield progress
        yield from log.callbacks(name)

    def __call__(self, plan: JobPlan, callbacks: list[Callback], *, report: bool) -> ShardedStore | None:
        """Run the job of a plan, or a slice of it."""
        if self.part is not None:
            plan.run_slice(self.part.number, self.part.count, False, callbacks, stop=self.stop)
            return None
        options = {"progress": False, "report": report, **run_options(self.options), "callbacks": callbacks}
        return plan.run(**{**options, "max_duration": None, "stop": self.stop})


def _run_all(
    jobs: Sequence[JobSpec], run_job: Callable[[JobSpec], JobRow], stop: StopSignal, parallel: int, keep_going: bool
) -> Iterator[JobRow]:
    """Run jobs, and yield their rows in the order of the file; after a failure, the others are not run."""
    failed: list[str] = []

    def run(job: JobSpec) -> JobRow:
        if failed:
            return JobRow(name=job_name(job), destination=job.destination, state=f"not run after {failed[0]}")
        row = run_job(job)
        if row.exit_code in ENDS_ALL or not (keep_going or row.exit_code in GOES_ON):
            failed.append(row.name)
        return row

    if parallel == 1:
        yield from map(run, jobs)
        return
    with stop.deferred(), ThreadPoolExecutor(parallel, "shardedstore-job") as threads:
        started = [threads.submit(copy_context().run, run, job) for job in jobs]
        try:
            yield from (future.result() for future in started)
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            raise


def _run_job(job: JobSpec, *, run_one: _Run, digest: str) -> JobRow:
    """Run a job, and return its row; errors are printed."""
    name, end, begun = job_name(job), KeepEnd(), time.monotonic()
    code, causes, summary, report = ExitCode.DONE, list[str](), Summary(), None
    try:
        if find_moved(job) is not None:
            return JobRow(name=name, destination=job.destination, state="moved before")
        with pinging_refusal(job):
            plan = plan_spec(job)
        told = [end, *callbacks_of(job, sys.argv, digest), *run_one.callbacks(name)]
        report = find_report(told)
        result = run_one(plan, told, report=not job.no_report)
        if result is not None and result.summary is not None:
            summary = result.summary
        causes = list(failures(summary.failures))
        if summary.partial is not None:
            code = exit_code_of_failures(summary.failures)
        elif summary.holes:
            code = ExitCode.HOLES
        elif run_one.options.exit_code_if_unchanged and summary.unchanged:
            code = ExitCode.UNCHANGED
    except ShardsFailed as failed:
        code, causes = exit_code_of(failed), list(failures(failed.exceptions))
    except GuardsFailed as refused:
        code, causes = exit_code_of(refused), [f"{refused.reason}. {AGREE} [{refused.code}]"]
    except (ShardedStoreError, OSError) as error:
        code, causes = exit_code_of(error), [with_code(error)]
    for cause in causes:
        click.echo(f"{'hole' if code is ExitCode.HOLES else 'error'}: {name}: {cause}", err=True)
    row = JobRow.of(
        name,
        job.destination,
        code,
        None if end.end is None else end.end.progress,
        causes,
        time.monotonic() - begun,
        is_unchanged=summary.unchanged,
    )
    row = replace(
        row,
        failures_url=None if end.end is None else end.end.failures_url,
        report_url=None if report is None else report.html_url,
    )
    for line in place_lines(row.failures_url, row.report_url):
        note(f"{name}: {line}")
    return row


def _tell(jobs: JobFile, rows: Sequence[JobRow], code: int, as_json: bool) -> None:
    """Print the results of all jobs."""
    if as_json:
        results = [row.to_dict() for row in rows]
        tell(json.dumps({"file": jobs.path, "digest": jobs.digest, "exit_code": code, "jobs": results}), always=True)
    elif rows:
        tell_table(jobs_table(rows), jobs_lines(rows))


finalise = click.Command(
    "finalise",
    callback=run_command.callback,
    params=[option for option in run_command.params if option.name != "part"],
    short_help="Publish the results of jobs that ran in slices.",
    help="""Run the shards that the slices of `run JOBS.toml --slice I/N` have left, and publish the results.

    This is `run JOBS.toml` for the whole jobs. It is refused with exit code 5 while a slice runs.
    """,
)
