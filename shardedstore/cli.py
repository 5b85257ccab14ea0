"""The command line: ``shardedstore convert``, ``info``, ``verify`` and ``prune``."""

from __future__ import annotations

import click

from shardedstore.clicommon import FAILED, STOPPED, UNUSABLE
from shardedstore.cliconvert import convert
from shardedstore.cliinfo import info
from shardedstore.cliprune import prune
from shardedstore.cliverify import verify

__all__ = ["FAILED", "STOPPED", "UNUSABLE", "main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="shardedstore", prog_name="shardedstore")
def main() -> None:
    """Turn Zarrs of millions of files into a few hundred shards, on Dask. The source is never changed."""


for command in (convert, info, verify, prune):
    main.add_command(command)
