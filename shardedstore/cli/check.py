"""``shardedstore check``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from shardedstore.checks.report import CheckReport
from shardedstore.checks.run import MAX_CHUNK, check
from shardedstore.cli.cluster import check_cluster, cluster_on_demand
from shardedstore.cli.common import tell, tell_table, user_errors
from shardedstore.cli.exit_codes import ExitCode
from shardedstore.cli.storage import parse_side, storage_params
from shardedstore.errors import UsageError
from shardedstore.jobfiles.cluster_spec import ClusterSpec
from shardedstore.jobfiles.options import SpecCommand, given_options, make_spec, spec_options


def parse_share(text: str | None) -> float | None:
    """Return a number of chunks, or below 1 a share of them.

    >>> parse_share("10"), parse_share("5%"), parse_share(None)
    (10.0, 0.05, None)
    """
    if text is None:
        return None
    try:
        found = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        found = -1
    if found < 0 or (text.endswith("%") and found >= 1):
        raise UsageError(
            f"--max-missing {text!r} is not a number of chunks, or a percentage below 100%: write 0, 10 or 5%"
        )
    return found


@click.command("check", cls=SpecCommand)
@click.argument("what", metavar="ZARR")
@click.option("--quick", is_flag=True, help="Check only the documents and the listing; read no chunks.")
@click.option("--max-missing", metavar="N|P%", help="The most missing chunks of an array, as a number or a percentage.")
@click.option("--ignore", multiple=True, metavar="KIND", help="Leave out a kind of damage, such as stray-key.")
@click.option("--max-chunk", metavar="SIZE", default=MAX_CHUNK, show_default=True, help="Decode no larger chunks.")
@click.option("--resume", metavar="FOLDER", help="Keep the checked parts in this folder until the end, to resume.")
@storage_params("ZARR")
@spec_options(ClusterSpec)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON, in one line.")
@click.option("--html", metavar="FILE", help="Also write the report as an HTML document.")
@click.option("--verbose", is_flag=True, help="Show the logs of the workers.")
def check_command(
    what: str,
    *,
    quick: bool,
    max_missing: str | None,
    ignore: tuple[str, ...],
    max_chunk: str,
    resume: str | None,
    storage: tuple[str, ...],
    profile: str | None,
    as_json: bool,
    html: str | None,
    verbose: bool,
    **_cluster: Any,
) -> None:
    """Find damage in a Zarr of any writer.

    ZARR is a Zarr, a zip or a config, on a disk, in an object store or on a web server. Nothing is changed. The checks cover the
    metadata, consolidated metadata, dimensions, the listing, zips, indexes of the sharding codec, and every chunk, which is decoded.

    \b
    Examples:
      shardedstore check era5.zarr
      shardedstore check s3://bucket/era5.zarr --quick --max-missing 1% --json

    \b
    Exit codes:
      0  no damage
      1  damage
      2  the check can't be made as asked
      5  a temporary error, such as a server that does not answer
    """  # noqa: D301 (click reads the backspace)
    with user_errors(what):
        workers = make_spec(ClusterSpec, given_options(ClusterSpec))
        check_cluster(workers)
        limit, options = parse_share(max_missing), parse_side("destination", what, storage, profile)
        with cluster_on_demand(workers, verbose):
            report = check(
                what,
                quick=quick,
                max_missing=limit,
                ignore=ignore,
                max_chunk=max_chunk,
                resume=resume,
                storage_options=options,
            )
        if html is not None:
            Path(html).write_text(report.to_html(), "utf-8")
    if as_json:
        tell(json.dumps(report.to_dict()))
    else:
        tell_table(report.table(), ())
        tell(str(report))
    sys.exit(_exit_code(report))


def _exit_code(report: CheckReport) -> ExitCode:
    if report.ok:
        return ExitCode.DONE
    return ExitCode.TEMPORARY if report.is_unread_only else ExitCode.FAILED
