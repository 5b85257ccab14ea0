"""``shardedstore info``."""

from __future__ import annotations

import json

import click
from dask.utils import format_bytes

from shardedstore.cli.common import tell, tell_table, user_errors
from shardedstore.cli.storage import parse_side, storage_params
from shardedstore.display.info import info_lines, info_table
from shardedstore.jobfiles.open import open_any
from shardedstore.jobfiles.parse import parse_shard_options
from shardedstore.jobs.partial import unfinished
from shardedstore.jobs.store_info import StoreInfo
from shardedstore.storage.options import take_options
from shardedstore.storage.urls import normalize
from shardedstore.store import ShardedStore
from shardedstore.text import count


@click.command()
@click.argument("what", metavar="PATH")
@click.option("--shards", multiple=True, metavar="RULE", help="Show the division by this rule; see convert.")
@click.option("--count", "is_counted", is_flag=True, help="List the files, for their exact number and size.")
@click.option("--json", "as_json", is_flag=True, help="Print the description as JSON.")
@storage_params("PATH")
def info(
    what: str,
    shards: tuple[str, ...],
    *,
    is_counted: bool,
    as_json: bool,
    storage: tuple[str, ...],
    profile: str | None,
) -> None:
    """Describe a Zarr, a zip or a config.

    PATH is a path or a URL of a Zarr, a zip, a shardedstore.json, or the folder that holds it. Only metadata is read, and with
    --count the names of the files.
    """
    with user_errors(what):
        options = parse_side("destination", what, storage, profile)
        store, is_config = open_any(what, options)
        if shards:
            divided = store if is_config else what
            store = ShardedStore.partition(
                divided, parse_shard_options(shards), storage_options=None if is_config else options
            )
        found = store.info(count=is_counted)
        if as_json:
            tell(json.dumps(found.to_dict(), indent=2))
            return
        parts = f" in {count(found.shard_count, 'shard')}" if is_config or shards else ""
        tell(f"{what}: a Zarr{parts}{', with consolidated metadata' if found.is_consolidated else ''}")
        tell_table(info_table(found), info_lines(found))
        for hole in store.config.holes():
            tell(f"  {hole.shard} is a hole: {hole.cause}")
        if is_config and (half := unfinished(_folder(what), take_options(_folder(what), options))):
            click.echo(f"note: a later job has not ended: {half}", err=True)
        for notice in found.notices:
            click.echo(f"note: {notice}", err=True)
        tell(f"  {_sizes(found)}")


def _sizes(found: StoreInfo) -> str:
    """Return the number and the size of all files in a line."""
    if found.stored is not None:
        files = f"{count(found.files.value, 'file')}, {format_bytes(found.stored.value)} stored"
    else:
        files = f"at most {count(found.files.value, 'file')} as a plain Zarr"
    supposed = ", if all stores are like the first" if any(node.is_sample for node in found.nodes) else ""
    return f"{files}; {format_bytes(found.nbytes)} decoded{supposed}"


def _folder(what: str) -> str:
    """Return the folder of a config."""
    url = normalize(what)
    return url.rpartition("/")[0] or "/" if url.endswith(".json") else url
