"""``shardedstore prune``."""

from __future__ import annotations

import json
import sys
from collections import Counter
from typing import Any

import click
from dask.utils import format_bytes

from shardedstore.cli.common import tell, user_errors
from shardedstore.cli.exit_codes import ExitCode
from shardedstore.cli.job_files import each_job, is_job_file, only_option
from shardedstore.cli.storage import parse_side, storage_params
from shardedstore.errors import UsageError
from shardedstore.jobfiles.job import destination_options
from shardedstore.jobfiles.read import job_name, read_job_file
from shardedstore.jobfiles.spec import JobSpec
from shardedstore.jobs.prune import Pruned
from shardedstore.store import ShardedStore
from shardedstore.text import count


@click.command("prune")
@click.argument("destination", metavar="DESTINATION|JOBS.toml")
@only_option
@click.option("--dry-run", is_flag=True, help="List the files that would be removed, and remove nothing.")
@click.option(
    "--keep-last",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    metavar="N",
    help="Keep the files of the last N published results.",
)
@click.option("--older-than", default="0s", metavar="AGE", help="Keep files that were replaced in this time: 36h, 30d.")
@storage_params("DESTINATION")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("--upload-rule", is_flag=True, help="Print a rule for the bucket; see above. Remove nothing.")
@click.option("--verbose", is_flag=True, help="List each file.")
def prune_command(
    destination: str,
    *,
    only: tuple[str, ...],
    upload_rule: bool,
    storage: tuple[str, ...],
    profile: str | None,
    as_json: bool,
    verbose: bool,
    **options: Any,
) -> None:
    """Remove the files of earlier jobs.

    DESTINATION is the destination of jobs. A job file stands for the destinations of its jobs. Three kinds of files are
    removed: objects that later objects replaced and that no config in the folder names, the records of such jobs, and partly
    written files of killed processes. Files of unknown origin are kept. The command is refused while a job runs. Readers that still use an earlier config, or a copy of one elsewhere, lose its objects;
    --keep-last and --older-than keep them.

    Parts of uploads that a killed worker left in a bucket are not seen here. With --upload-rule, the command prints
    the lifecycle rule that removes them after a week, as JSON for the bucket of DESTINATION.

    \b
    Examples:
      shardedstore prune jobs.toml --older-than 30d
      shardedstore prune out --keep-last 2 --older-than 7d --dry-run --json
      shardedstore prune s3://bucket/out --upload-rule > rule.json
    """  # noqa: D301 (click reads the backspace)
    with user_errors(destination):
        if is_job_file(destination):
            if upload_rule or storage or profile is not None:
                raise UsageError("--upload-rule, --storage and --profile are for one DESTINATION: leave them out")
            sys.exit(prune_file(destination, only, options, as_json=as_json, verbose=verbose))
        if upload_rule:
            _tell_rule(destination)
            return
        given = parse_side("destination", destination, storage, profile)
        pruned = ShardedStore.prune(destination, storage_options=given, **options)
        if as_json:
            tell(json.dumps({"destination": destination, "dry_run": options["dry_run"], **pruned.to_dict()}))
        else:
            _tell_pruned(pruned, "would be removed" if options["dry_run"] else "removed", verbose=verbose)


def prune_file(file: str, only: tuple[str, ...], options: dict[str, Any], *, as_json: bool, verbose: bool) -> int:
    """Prune the destinations of the jobs of a file, and return the worst exit code."""
    done = "would be removed" if options["dry_run"] else "removed"

    def prune(job: JobSpec) -> tuple[dict[str, Any], int]:
        pruned = ShardedStore.prune(job.destination, storage_options=destination_options(job), **options)
        if not as_json:
            _tell_pruned(pruned, done, verbose=verbose, name=f"{job_name(job)}: ")
        result = {"destination": job.destination, "dry_run": options["dry_run"], **pruned.to_dict()}
        return result, ExitCode.DONE

    return each_job(read_job_file(file, only=only), prune, as_json=as_json)


def _tell_rule(destination: str) -> None:
    rule = ShardedStore.upload_rule(destination)
    if rule is None:
        click.echo(
            "note: no rule is needed: a local folder has no uploads, and Azure removes them after a week", err=True
        )
    else:
        tell(json.dumps(rule, indent=2))


def _tell_pruned(pruned: Pruned, done: str, *, verbose: bool, name: str = "") -> None:
    for path in pruned.names if verbose else ():
        tell(f"{name}{path}")
    if verbose:
        for path, reason in pruned.kept.items():
            click.echo(f"kept: {name}{path} {reason}", err=True)
    else:
        for reason, number in Counter(pruned.kept.values()).items():
            first = next(path for path, found in pruned.kept.items() if found == reason)
            more = f" and {count(number - 1, 'other')}" if number > 1 else ""
            click.echo(f"kept: {name}{first} {reason}{more}", err=True)
    tell(f"{name}{count(len(pruned.names), 'file')} {done}; {format_bytes(pruned.nbytes)}")
