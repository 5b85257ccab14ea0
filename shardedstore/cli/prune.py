"""``shardedstore prune``."""

from __future__ import annotations

import click

from shardedstore.cli.common import parse_storage, tell, user_errors
from shardedstore.jobs.prune import parse_age
from shardedstore.store import ShardedStore
from shardedstore.text import count, size


@click.command()
@click.argument("destination")
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and remove nothing.")
@click.option("--older-than", metavar="AGE", help="Keep what was replaced lately, in the last 36h or 7d, say.")
@click.option("--storage", multiple=True, metavar="KEY=VALUE", help="An option of the object store; see convert.")
@click.option("--verbose", is_flag=True, help="Name each file.")
def prune(destination: str, *, dry_run: bool, older_than: str | None, storage: tuple[str, ...], verbose: bool) -> None:
    """Remove what earlier jobs left at DESTINATION.

    That is what no config in the folder names: objects that later ones took the place of, the records of such jobs, and
    what killed processes left half written. Only what is known to be a job's own is removed, and nothing while a job runs.
    Who still reads by an earlier config, or by a copy of one elsewhere, is disturbed.
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
        tell(f"{count(len(pruned.names), 'file')} {done}; {size(pruned.nbytes)}")
