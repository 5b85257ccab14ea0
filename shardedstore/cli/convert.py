"""``shardedstore convert``."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import click
from dask.utils import format_bytes

from shardedstore.callbacks.outcome import KeepEnd
from shardedstore.callbacks.report import find_report
from shardedstore.cli.cluster import check_cluster, cluster_on_demand
from shardedstore.cli.common import (
    failures,
    note,
    notes_on_stderr,
    silence,
    tell,
    user_errors,
)
from shardedstore.cli.exit_codes import ExitCode, exit_code_of_failures
from shardedstore.cli.outcome import Outcome, outcome
from shardedstore.cli.plan import tell_estimate
from shardedstore.cli.signals import stop_on_signals
from shardedstore.cli.slices import NEXT, given_slice, slice_option, threads_for_slices
from shardedstore.jobfiles.callbacks import callbacks_of, pinging_refusal
from shardedstore.jobfiles.cluster_spec import ClusterSpec
from shardedstore.jobfiles.estimate_spec import EstimateSpec, estimate_plan
from shardedstore.jobfiles.job import find_moved, plan_spec, run_options
from shardedstore.jobfiles.options import Command, SpecCommand, given_options, make_spec, spec_options
from shardedstore.jobfiles.spec import JobSpec, RunSpec
from shardedstore.jobfiles.write import to_toml
from shardedstore.jobs.job_plan import JobPlan
from shardedstore.jobs.slices import Slice
from shardedstore.jobs.stop_signal import StopSignal
from shardedstore.storage.urls import is_remote, normalize
from shardedstore.text import count


def job_options(function: Command) -> Command:
    """Add the options of a command that runs one job, besides those of its spec."""
    for option in (
        click.option("--verbose", is_flag=True, help="Show the logs of the workers, with a traceback for each error."),
        click.option(
            "--json", "as_json", is_flag=True, help="Print the end of the job as JSON: the last line of stdout."
        ),
        click.option("--dry-run", is_flag=True, help="Show the plan, and write nothing; see plan."),
        slice_option,
        click.option("--print-job", is_flag=True, help="Print the job file that stands for this command; see run."),
    ):
        function = option(function)
    return function


@click.command(cls=SpecCommand)
@click.argument("source")
@click.argument("destination")
@spec_options(JobSpec, ClusterSpec, RunSpec)
@job_options
def convert(
    source: str,
    destination: str,
    *,
    print_job: bool,
    part: str | None,
    dry_run: bool,
    as_json: bool,
    verbose: bool,
    **_: Any,
) -> None:
    """Convert the Zarr SOURCE to DESTINATION, shard by shard.

    SOURCE is a Zarr: a folder, a zip or a URL. With * in its name, it stands for many Zarrs, and each is a shard. It can
    also be a config (.json): its shards are kept if no RULE is given. DESTINATION is a folder or a URL: s3://, gs:// or
    az://. To resume after a crash, run the same command again.

    \b
    SINK is one of these names, or the name of a sink that another package has installed:
      zip              a zip for each shard, and a config that opens them as one Zarr;
                       zip:per_zip=1000 packs a thousand small shards in each zip;
                       one zip with everything if DESTINATION ends in .zip or .ozx
      zarr             one ordinary Zarr; a Zarr for each shard with zarr:layout=shards
      sharding-codec   one ordinary Zarr v3, each array shard one object of the sharding codec

    \b
    RULE is one of these forms; arrays without a RULE are divided by '1 GiB':
      SIZE             all larger arrays in blocks of about SIZE decoded bytes
      PATH=SIZE        the same for a group, an array, or the matches of a glob
      PATH=whole       all groups and arrays below PATH are one shard
      PATH=base        all groups and arrays below PATH stay in the base, undivided
      PATH=time:720    blocks of 720 elements along the dimension time
      PATH=720,-1,-1   the same as a shape; -1 is the whole dimension
      PATH?=RULE       the same, if PATH exists; other patterns must match something

    Steps and sinks take options as NAME:key=value,key=value. Credentials come from the environment, or from
    --source-profile and --profile. Variables that begin with SHARDEDSTORE_SOURCE_ or SHARDEDSTORE_DESTINATION_, such as
    SHARDEDSTORE_SOURCE_AWS_ACCESS_KEY_ID, are for one side. Use --storage for public options only, such as
    endpoint=https://host or the word anonymous.

    \b
    The exit code is 0 when all shards are done. Other exit codes:
      1  some shards failed, or SOURCE lost data and must not replace the result
      2  the job can't run as asked: change the command
      4  the result has accepted holes: shards that failed, as --accept-failed or
         --max-missing allows. Reading a hole is an error. The next run tries it again.
      5  a temporary error, such as a server that does not answer, or another job
         that writes to DESTINATION: run the same command again later
      10, 130, 143
         the time was up, or a signal ended the command: the same command resumes it

    \b
    Examples:
      shardedstore convert my.zarr out --to zip --dry-run
      shardedstore convert my.zarr out --to zip --shards 'wind_*=time:720' --shards '512 MiB'
      shardedstore convert 'cells/*.zarr' out --to zip:per_zip=1000
      shardedstore convert old.zarr s3://bucket/new.zarr --to zarr --v3 --codec zstd:level=5
    """  # noqa: D301 (click reads the backspace)
    convert_one(
        {"source": source, "destination": destination},
        print_job=print_job,
        part=part,
        dry_run=dry_run,
        as_json=as_json,
        verbose=verbose,
    )


def convert_one(
    given: dict[str, Any], *, print_job: bool, part: str | None, dry_run: bool, as_json: bool, verbose: bool
) -> None:
    """Run the job of a command: some values of its spec are given, and the others are options."""
    with outcome(as_json) as end, user_errors(), end.noting_errors():
        spec = make_spec(JobSpec, given_options(JobSpec, **given))
        workers = make_spec(ClusterSpec, given_options(ClusterSpec))
        run = make_spec(RunSpec, given_options(RunSpec))
        check_cluster(workers)
        chosen = given_slice(part, workers)
        if print_job:
            tell(to_toml(spec, workers, run))
            return
        if not dry_run and (moved := find_moved(spec)) is not None:
            tell(f"{moved} was moved before: nothing is left to do")
            return
        with silence(run.log.quiet), stop_on_signals(run) as stop:
            with pinging_refusal(spec):
                plan = plan_spec(spec)
            if dry_run:
                tell_estimate(estimate_plan(plan, EstimateSpec(), workers))
            else:
                if is_remote(spec.source) or is_remote(spec.destination):
                    note(
                        "the workers use the credentials of their own environment, unless a profile or variables of a "
                        "side are given"
                    )
                if chosen is not None:
                    tell_slice(plan, chosen, workers, run, stop, end)
                else:
                    run_plan(plan, spec, workers, run, stop, end, verbose=verbose)


CHANGED_AS = (
    "as the source has changed, or was compared less closely before",
    "as the source or its division has changed",
)


def tell_slice(plan: JobPlan, part: Slice, workers: ClusterSpec, run: RunSpec, stop: StopSignal, end: KeepEnd) -> None:
    """Run a slice of the job and print its numbers."""
    with notes_on_stderr(), warnings.catch_warnings(), threads_for_slices(workers, stop):
        warnings.simplefilter("ignore", UserWarning)  # failures are printed by `user_errors`
        callbacks = [*run.log.callbacks(), end]
        summary = plan.run_slice(part.number, part.count, run.log.progress(), callbacks, stop=stop)
    before = f", {summary.skipped:,} were done before" if summary.skipped else ""
    written = format_bytes(summary.nbytes)
    tell(f"slice {part}: {count(summary.done, 'shard')} done now{before}; {written} written; {NEXT}")


def run_plan(
    plan: JobPlan, spec: JobSpec, workers: ClusterSpec, run: RunSpec, stop: StopSignal, end: Outcome, *, verbose: bool
) -> None:
    """Run the job and print its result."""
    with notes_on_stderr(), warnings.catch_warnings(), cluster_on_demand(workers, verbose, stop):
        warnings.simplefilter("ignore", UserWarning)  # failures are printed below
        callbacks = [*callbacks_of(spec, sys.argv), *run.log.callbacks(spec.name or ""), end]
        end.report = find_report(callbacks)
        options = {"progress": run.log.progress(), "report": not spec.no_report, **run_options(run)}
        result = plan.run(**{**options, "callbacks": callbacks, "max_duration": None, "stop": stop})
    summary = result.summary
    assert summary is not None
    reasons = {
        CHANGED_AS[spec.changed == "metadata"]: summary.changed,
        "as their objects are missing": summary.missing,
    }
    again = "".join(f", {number:,} of them again {why}" for why, number in reasons.items() if number)
    before = f", {summary.skipped:,} were done before" if summary.skipped else ""
    tell(f"{count(summary.done, 'shard')} done now{again}{before}; {format_bytes(summary.nbytes)} written")
    if summary.moved:
        tell(f"{count(summary.moved, 'shard')} moved: {format_bytes(summary.freed)} deleted in {spec.source}")
    if summary.throttled:
        note(f"the server was too busy {summary.throttled:,} times; these requests were repeated")
    place = normalize(spec.destination)
    for line in failures(summary.failures):
        click.echo(f"{'hole' if summary.holes else 'error'}: {line}", err=True)
    if result.partial is not None:
        click.echo(f"error: {result.partial}", err=True)
        click.echo(
            f"error: no config was written; ShardedStore.load({place!r}, partial=True, allow=[...]) opens the finished shards",
            err=True,
        )
        sys.exit(exit_code_of_failures(summary.failures))
    tell(str(plan.opened_url))
    if summary.holes:
        note(f"the result has {count(len(summary.holes), 'hole')}: run the same command again to try again")
        sys.exit(ExitCode.HOLES)
    if run.exit_code_if_unchanged and summary.unchanged:
        sys.exit(ExitCode.UNCHANGED)
