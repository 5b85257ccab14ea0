"""``shardedstore diff``."""

from __future__ import annotations

import json
import sys

import click

from shardedstore.checks.diff import diff
from shardedstore.cli.common import tell, user_errors
from shardedstore.cli.exit_codes import ExitCode
from shardedstore.cli.storage import parse_side, storage_params


@click.command("diff")
@click.argument("a")
@click.argument("b")
@click.option(
    "--include", multiple=True, metavar="PATH", help="Compare only these groups and arrays, or globs of them."
)
@click.option("--exclude", multiple=True, metavar="PATH", help="Leave out these groups and arrays, or globs of them.")
@storage_params("A", "source-")
@storage_params("B")
@click.option("--json", "as_json", is_flag=True, help="Print the differences as JSON, in one line.")
def diff_command(
    a: str,
    b: str,
    *,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    source_storage: tuple[str, ...],
    source_profile: str | None,
    storage: tuple[str, ...],
    profile: str | None,
    as_json: bool,
) -> None:
    """Compare the structures of two Zarrs.

    A and B are Zarrs, zips or configs. Only metadata are read: groups and arrays, shapes, chunks, data types, fill values, codecs,
    dimension names and attributes. To compare the data, use verify A --against B.

    \b
    Exit codes:
      0  the structures are equal
      1  they differ
      2  one of the two can't be read
      5  a temporary error, such as a server that does not answer
    """  # noqa: D301 (click reads the backspace)
    with user_errors(a, b):
        found = diff(
            a,
            b,
            include=include or None,
            exclude=exclude or None,
            storage_options=parse_side("source", a, source_storage, source_profile),
            b_storage_options=parse_side("destination", b, storage, profile),
        )
    tell(json.dumps(found.to_dict()) if as_json else str(found))
    sys.exit(ExitCode.DONE if found.is_equal else ExitCode.FAILED)
