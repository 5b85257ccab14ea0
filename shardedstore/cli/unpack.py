"""``shardedstore unpack``: the way back from a result to one ordinary Zarr."""

from __future__ import annotations

from typing import Any

import click

from shardedstore.cli.convert import convert_one, job_options
from shardedstore.jobfiles.cluster_spec import ClusterSpec
from shardedstore.jobfiles.options import SpecCommand, spec_options
from shardedstore.jobfiles.spec import JobSpec, RunSpec

FIXED = ("to", "v3", "steps", "codec", "move")  # the sink is given, and nothing is changed on the way


@click.command("unpack", cls=SpecCommand)
@click.argument("result")
@click.argument("destination")
@spec_options(JobSpec, ClusterSpec, RunSpec, without=FIXED)
@job_options
def unpack_command(result: str, destination: str, **options: Any) -> None:
    """Unpack RESULT to one ordinary Zarr at DESTINATION: the way back.

    RESULT is the folder or the config of a result, one zip, or any other Zarr. This is convert RESULT DESTINATION --to zarr without
    steps. Every key keeps its bytes. Consolidated metadata is made again. To resume after a crash, run the same command again.
    The exit codes are those of convert.

    \b
    Examples:
      shardedstore unpack era5-zips era5.zarr
      shardedstore unpack era5.zarr.zip era5.zarr --include t2m --include 'winds/*'
      shardedstore unpack s3://bucket/era5-zips era5.zarr
    """  # noqa: D301 (click reads the backspace)
    given = {name: options[name] for name in ("print_job", "part", "dry_run", "as_json", "verbose")}
    convert_one({"source": result, "destination": destination, "to": "zarr"}, **given)
