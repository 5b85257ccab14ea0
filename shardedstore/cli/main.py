"""The command line: ``shardedstore convert``, ``plan``, ``status``, ``info``, ``verify`` and ``prune``."""

from __future__ import annotations

import click

from shardedstore.cli.check import check_command
from shardedstore.cli.common import warnings_on_stderr
from shardedstore.cli.convert import convert
from shardedstore.cli.diff import diff_command
from shardedstore.cli.export import export
from shardedstore.cli.info import info
from shardedstore.cli.init import init
from shardedstore.cli.ls import cat, ls
from shardedstore.cli.plan import plan_command
from shardedstore.cli.prune import prune_command
from shardedstore.cli.run import finalise, run_command
from shardedstore.cli.serve import serve
from shardedstore.cli.status import jobs_command, status_command
from shardedstore.cli.suggest import suggest
from shardedstore.cli.unpack import unpack_command
from shardedstore.cli.verify import verify_command


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="shardedstore", prog_name="shardedstore")
@click.pass_context
def main(context: click.Context) -> None:
    """Convert Zarrs of millions of files into a few hundred shards, with Dask. Only --move changes the source."""
    context.with_resource(warnings_on_stderr())


for command in (
    init,
    suggest,
    convert,
    unpack_command,
    run_command,
    finalise,
    plan_command,
    status_command,
    jobs_command,
    info,
    verify_command,
    check_command,
    diff_command,
    prune_command,
    ls,
    cat,
    export,
    serve,
):
    main.add_command(command)
