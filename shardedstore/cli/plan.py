"""``shardedstore plan``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from shardedstore.cli.cluster import check_cluster
from shardedstore.cli.common import tell, tell_table, user_errors
from shardedstore.cli.exit_codes import ExitCode
from shardedstore.cli.job_files import each_job, is_job_file, only_option
from shardedstore.display.plan import plan_to_page, plan_to_rich, plan_to_text
from shardedstore.errors import UsageError
from shardedstore.jobfiles.cluster_spec import ClusterSpec
from shardedstore.jobfiles.estimate_spec import EstimateSpec, estimate_plan
from shardedstore.jobfiles.job import plan_spec
from shardedstore.jobfiles.options import SpecCommand, given_options, make_spec, override, spec_options
from shardedstore.jobfiles.read import job_name, read_job_file
from shardedstore.jobfiles.spec import JobSpec
from shardedstore.jobs.estimates.estimate import Estimate


@click.command("plan", cls=SpecCommand)
@click.argument("source", metavar="SOURCE|JOBS.toml")
@click.argument("destination", required=False)
@only_option
@spec_options(JobSpec, ClusterSpec, EstimateSpec, are_required=False)
@click.option("--json", "as_json", is_flag=True, help="Print the estimate as JSON.")
@click.option(
    "--html", "page", type=click.Path(dir_okay=False), metavar="FILE", help="Write the estimate to this file."
)
def plan_command(
    source: str, destination: str | None, *, only: tuple[str, ...], as_json: bool, page: str | None, **_: Any
) -> None:
    """Estimate a convert, or the jobs of a file. Nothing is written to DESTINATION.

    The options of convert have the same meaning; its help lists all forms of SINK and RULE. The plan shows the shards that are new, changed, kept and gone since
    the last run; files, bytes and requests before and after; the memory, the time and the free space. Each number says
    whether it was counted, sampled or computed: --count lists SOURCE, and --sample reads a few chunks. The exit code is 2
    if the job can't run, or if --test-write fails.

    \b
    Examples:
      shardedstore plan my.zarr out --to zip --codec zstd:level=5
      shardedstore plan my.zarr out --to zip --count --test-write --html plan.html
      shardedstore plan jobs.toml --count --only era5
      shardedstore plan s3://bucket/a.zarr s3://bucket/b --to zip --prices prices.toml --json
    """  # noqa: D301 (click reads the backspace)
    with user_errors():
        options = make_spec(EstimateSpec, given_options(EstimateSpec))
        if destination is None:
            sys.exit(plan_file(source, only, options, as_json=as_json, page=page))
        spec = make_spec(JobSpec, given_options(JobSpec, source=source, destination=destination))
        workers = make_spec(ClusterSpec, given_options(ClusterSpec))
        check_cluster(workers)
        estimate = estimate_plan(plan_spec(spec), options, workers)
        tell_estimate(estimate, as_json=as_json, page=page)
        sys.exit(_exit_code(estimate))


def plan_file(file: str, only: tuple[str, ...], options: EstimateSpec, *, as_json: bool, page: str | None) -> int:
    """Print a line for each job of a file, or the whole estimate of one job; return the worst exit code."""
    if not is_job_file(file):
        raise UsageError(f"plan needs a DESTINATION for {file!r}, or a job file, JOBS.toml")
    if given_options(JobSpec):
        raise UsageError(f"{file}: the options of its jobs stand in the file: leave out all but those of the estimate")
    jobs = read_job_file(file, only=only)
    workers = override(jobs.cluster, given_options(ClusterSpec))
    check_cluster(workers)
    if page is not None and len(jobs.jobs) > 1:
        raise UsageError("--html writes the estimate of one job: choose it with --only")

    def plan(job: JobSpec) -> tuple[dict[str, Any], int]:
        estimate = estimate_plan(plan_spec(job), options, workers)
        if not as_json and len(jobs.jobs) > 1:
            tell(f"{job_name(job)}: {estimate.headline.removeprefix('now: ')}")
        elif not as_json:
            tell_estimate(estimate, page=page)
        return estimate.to_dict(), _exit_code(estimate)

    return each_job(jobs, plan, as_json=as_json)


def _exit_code(estimate: Estimate) -> ExitCode:
    failed = estimate.write_test is not None and estimate.write_test.error
    return ExitCode.UNUSABLE if failed else ExitCode.DONE


def tell_estimate(estimate: Estimate, *, as_json: bool = False, page: str | None = None) -> None:
    """Print an estimate, and write it to an HTML file on request; the notices of the plan go to stderr."""
    if page is not None:
        Path(page).write_text(plan_to_page(estimate), "utf-8")
    if as_json:
        tell(json.dumps(estimate.to_dict(), indent=2))
    else:
        tell_table(plan_to_rich(estimate, notices=False), [plan_to_text(estimate, notices=False)])
    for notice in estimate.notices:
        click.echo(f"note: {notice}", err=True)
