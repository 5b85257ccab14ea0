"""``shardedstore prune``."""

from __future__ import annotations

import click
from dask.utils import format_bytes

from shardedstore.cli.common import parse_storage, tell, user_errors
from shardedstore.errors import UsageError
from shardedstore.store import ShardedStore
from shardedstore.text import count, parse_seconds


@click.command("prune")
@click.argument("destination")
@click.option("--dry-run", is_flag=True, help="List the files that would be removed, and remove nothing.")
@click.option("--older-than", metavar="AGE", help="Keep files that were replaced in this time, such as 36h or 7d.")
@click.option("--storage", multiple=True, metavar="KEY=VALUE", help="Set an option of the object store; see convert.")
@click.option("--verbose", is_flag=True, help="List each file.")
def prune_command(
    destination: str, *, dry_run: bool, older_than: str | None, storage: tuple[str, ...], verbose: bool
) -> None:
    """Remove the files of earlier jobs at DESTINATION.

    Three kinds of files are removed: objects that later objects replaced and that no config in the folder names, the
    records of such jobs, and partly written files of killed processes. Files of unknown origin are kept. The command is
    refused while a job runs. Readers that still use an earlier config, or a copy of one elsewhere, lose its objects.
    """
    with user_errors(destination):
        age = 0.0 if older_than is None else parse_age(older_than)
        pruned = ShardedStore.prune(
            destination, older_than=age, dry_run=dry_run, storage_options=parse_storage(storage)
        )
        for name in pruned.names if verbose else ():
            tell(name)
        for text in pruned.kept:
            click.echo(f"kept: {text}", err=True)
        done = "would be removed" if dry_run else "removed"
        tell(f"{count(len(pruned.names), 'file')} {done}; {format_bytes(pruned.nbytes)}")


def parse_age(text: str) -> float:
    """Return an age in seconds, or raise UsageError where the text is not an age."""
    seconds = parse_seconds(text)
    if seconds is None:
        raise UsageError(f"{text!r} is no age: write a number and one of the units s, m, h, d, w, like 36h or 7d")
    return seconds
