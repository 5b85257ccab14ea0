"""``shardedstore init``."""

from __future__ import annotations

import os
from pathlib import Path

import click

from shardedstore.cli.common import tell, user_errors
from shardedstore.cli.suggest import access_option, parse_access
from shardedstore.errors import UsageError
from shardedstore.jobfiles import schema
from shardedstore.jobfiles.init import job_file

SCHEMA = "jobs.schema.json"  # written beside the job file, and replaced there


@click.command("init")
@click.argument("sources", nargs=-1, metavar="SOURCE...")
@click.option("-o", "--output", metavar="FILE", help="Write to this new file instead of standard output.")
@access_option
@click.option("--schema", "prints_schema", is_flag=True, help="Print the JSON Schema of job files, for editors.")
def init(sources: tuple[str, ...], *, output: str | None, access: tuple[str, ...], prints_schema: bool) -> None:
    """Write a job file with comments.

    The file has a job for each SOURCE, a Zarr, with its arrays as comments and a proposal for the shards, as by
    suggest. Only metadata is read. With --output, the JSON Schema of job files is written beside it as jobs.schema.json,
    so that editors complete and check the file.

    \b
    Examples:
      shardedstore init era5.zarr -o jobs.toml
      shardedstore init era5.zarr --access time=series > jobs.toml
      shardedstore init s3://bucket/a.zarr s3://bucket/b.zarr > jobs.toml
    """  # noqa: D301 (click reads the backspace)
    with user_errors():
        if bool(sources) is prints_schema:
            raise UsageError("init needs a SOURCE, or --schema alone")
        if output is not None and os.path.exists(output):
            raise UsageError(f"{output!r} exists: name another file, or remove it")
        text = (
            schema.FILE.read_text("utf-8")
            if prints_schema
            else job_file(
                sources, output or "jobs.toml", parse_access(access), schema="" if output is None else f"./{SCHEMA}"
            )
        )
        if output is None:
            tell(text.rstrip("\n"))
        else:
            Path(output).write_text(text, "utf-8")
            if not prints_schema:
                Path(output).with_name(SCHEMA).write_text(schema.FILE.read_text("utf-8"), "utf-8")
