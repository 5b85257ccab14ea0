"""Commands that take a job file in place of a source or a result."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import click

from shardedstore.cli.common import tell, with_code
from shardedstore.cli.exit_codes import exit_code_of, worst_of
from shardedstore.errors import ShardedStoreError
from shardedstore.jobfiles.read import JobFile, job_name
from shardedstore.jobfiles.spec import JobSpec
from shardedstore.storage.urls import is_remote

only_option = click.option(
    "--only", multiple=True, metavar="NAME", help="Take only this job of JOBS.toml. May be repeated."
)


def is_job_file(argument: str) -> bool:
    """Tell whether an argument of a command names a job file.

    >>> is_job_file("jobs.toml"), is_job_file("s3://bucket/jobs.toml"), is_job_file("my.zarr")
    (True, False, False)
    """
    return argument.endswith(".toml") and not is_remote(argument)


def each_job(
    jobs: JobFile, work: Callable[[JobSpec], tuple[dict[str, Any], int]], *, as_json: bool, indent: int | None = 2
) -> int:
    """Call a function for each job, print its results as JSON on request, and return the worst exit code.

    The function prints the results of its job, and returns them with the exit code. An error of a job does not end the others.
    """
    results: list[dict[str, Any]] = []
    for job in jobs.jobs:
        try:
            result, code = work(job)
        except (ShardedStoreError, OSError) as error:
            result, code = {"error": with_code(error)}, exit_code_of(error)
            click.echo(f"error: {job_name(job)}: {with_code(error)}", err=True)
        results.append({"name": job_name(job), "exit_code": int(code), **result})
    code = worst_of(result["exit_code"] for result in results)
    if as_json:
        document = {"file": jobs.path, "digest": jobs.digest, "exit_code": code, "jobs": results}
        tell(json.dumps(document, indent=indent))
    return code
