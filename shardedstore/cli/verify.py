"""``shardedstore verify``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import click

from shardedstore.cli.cluster import check_cluster, cluster_on_demand
from shardedstore.cli.common import tell, user_errors
from shardedstore.cli.exit_codes import ExitCode
from shardedstore.cli.job_files import each_job, is_job_file, only_option
from shardedstore.cli.storage import parse_side, storage_params
from shardedstore.errors import UsageError
from shardedstore.fields import FILE_NAME
from shardedstore.jobfiles.cluster_spec import ClusterSpec
from shardedstore.jobfiles.job import destination_options
from shardedstore.jobfiles.open import open_any
from shardedstore.jobfiles.options import SpecCommand, given_options, make_spec, override, spec_options
from shardedstore.jobfiles.parse import parse_shard_options
from shardedstore.jobfiles.read import job_name, read_job_file
from shardedstore.jobfiles.spec import JobSpec
from shardedstore.storage.blobs import seems_there
from shardedstore.storage.options import take_options
from shardedstore.storage.urls import BESIDE, join_url, normalize
from shardedstore.store import ShardedStore
from shardedstore.text import command_words
from shardedstore.verify.report import LEVELS, Level, VerifyReport


@click.command("verify", cls=SpecCommand)
@click.argument("result", metavar="RESULT|JOBS.toml")
@only_option
@click.option("--against", metavar="SOURCE", help="The source, or any other Zarr that should hold the same data.")
@click.option("--shards", multiple=True, metavar="RULE", help="Divide SOURCE by this rule for reading; see convert.")
@click.option("--level", type=click.Choice(LEVELS), help="The level of comparison; see above.")
@storage_params("RESULT")
@storage_params("SOURCE", "source-")
@spec_options(ClusterSpec)
@click.option("--mark", is_flag=True, help="Record the shards that differ, so that the same convert makes them again.")
@click.option(
    "--resume", metavar="FOLDER", help="Keep the findings so far in this folder instead of beside the ledger."
)
@click.option("--no-resume", is_flag=True, help="Keep no findings, and start from the beginning.")
@click.option("--include", multiple=True, metavar="PATH", help="With --against, compare only these groups and arrays.")
@click.option("--exclude", multiple=True, metavar="PATH", help="With --against, leave out these groups and arrays.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("--verbose", is_flag=True, help="Show the logs of the workers.")
def verify_command(
    result: str,
    *,
    only: tuple[str, ...],
    against: str | None,
    shards: tuple[str, ...],
    level: Level | None,
    storage: tuple[str, ...],
    profile: str | None,
    source_storage: tuple[str, ...],
    source_profile: str | None,
    mark: bool,
    resume: str | None,
    no_resume: bool,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    as_json: bool,
    verbose: bool,
    **_cluster: Any,
) -> None:
    """Compare a result with its ledger, or with its source.

    RESULT is the result of a job, or any Zarr. JOBS.toml stands for the results of its jobs; see run. SOURCE is a Zarr, a zip or a config. No data are changed. To resume after an
    interruption, run the same command again.

    \b
    The levels of --level:
      exists   Every object is there, with the recorded size. This takes one listing.
      stored   All bytes equal the written bytes. The default without --against.
      decoded  All decoded data equal SOURCE, whatever the codecs, the format, the
               chunks and the shards. The default with --against. Without --against, the data
               are compared with the digests that the job kept, or else with the
               source of the job.

    \b
    Exit codes:
      0  no difference
      1  something differs
      2  the comparison can't be made as asked
      4  nothing differs, but the result has accepted holes
      5  a temporary error, such as a server that does not answer
    """  # noqa: D301 (click reads the backspace)
    with user_errors(result, against):
        if is_job_file(result):
            if against is not None or resume is not None or include or exclude:
                raise UsageError("--against, --resume, --include and --exclude are for one result: leave them out")
            check = partial(ShardedStore.verify, level=level, resume=not no_resume, mark=mark)
            sys.exit(verify_file(result, only, check, as_json=as_json, verbose=verbose))
        workers = make_spec(ClusterSpec, given_options(ClusterSpec))
        check_cluster(workers)
        options = parse_side("destination", result, storage, profile)
        if no_resume and resume is not None:
            raise UsageError("--resume and --no-resume contradict each other: leave one out")
        store = open_result(result, options)
        other = None
        if against is not None:
            source_options = parse_side("source", against, source_storage, source_profile)
            if shards and "*" in against:
                raise UsageError(f"--shards divides one Zarr, but {against!r} stands for many: leave it out")
            if shards:
                other = ShardedStore.partition(against, parse_shard_options(shards), storage_options=source_options)
            else:
                other, is_config = open_any(against, source_options)
                if not is_config and "*" not in against:  # use the same default division as convert
                    other = ShardedStore.partition(against, storage_options=source_options)
        with cluster_on_demand(workers, verbose):
            report = store.verify(
                other,
                level=level,
                resume=not no_resume if resume is None else resume,
                mark=mark,
                include=include or None,
                exclude=exclude or None,
            )
    tell(json.dumps(report.to_dict(), indent=2) if as_json else command_words(str(report)))
    sys.exit(_exit_code(report))


def verify_file(
    file: str, only: tuple[str, ...], check: Callable[[ShardedStore], VerifyReport], *, as_json: bool, verbose: bool
) -> int:
    """Verify the results of the jobs of a file on one cluster, and return the worst exit code."""
    jobs = read_job_file(file, only=only)
    workers = override(jobs.cluster, given_options(ClusterSpec))
    check_cluster(workers)

    def verify(job: JobSpec) -> tuple[dict[str, Any], int]:
        report = check(open_result(job.destination, destination_options(job)))
        if not as_json:
            tell(f"{job_name(job)}: {command_words(str(report))}")
        return report.to_dict(), _exit_code(report)

    with cluster_on_demand(workers, verbose):
        return each_job(jobs, verify, as_json=as_json)


def open_result(result: str, options: Any) -> ShardedStore:
    """Open a result of a job, or any Zarr; the config of one ordinary Zarr is beside it."""
    url = normalize(result)
    beside = join_url(url + BESIDE, FILE_NAME)
    is_beside = seems_there(beside, take_options(url, options))
    return open_any(beside if is_beside else result, options)[0]


def _exit_code(report: VerifyReport) -> ExitCode:
    if report.ok:
        return ExitCode.DONE
    return ExitCode.HOLES if report.has_holes_only else ExitCode.FAILED
