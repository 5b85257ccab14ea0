"""``shardedstore info``."""

from __future__ import annotations

import click
from dask.utils import format_bytes

from shardedstore.cli.common import tell, tell_table, user_errors
from shardedstore.cli.storage import parse_side, storage_params
from shardedstore.display.describe import node_line, node_table
from shardedstore.jobfiles.open import open_any
from shardedstore.jobs.partial import unfinished
from shardedstore.jobs.shards import make_plan
from shardedstore.storage.options import take_options
from shardedstore.storage.urls import normalize
from shardedstore.text import count


@click.command()
@click.argument("what", metavar="PATH")
@storage_params("PATH")
def info(what: str, storage: tuple[str, ...], profile: str | None) -> None:
    """Describe a Zarr, a zip or a config.

    PATH is a path or a URL of a Zarr, a zip, a shardedstore.json, or the folder that holds it. Only metadata is read.
    """
    with user_errors(what):
        options = parse_side("destination", what, storage, profile)
        store, is_config = open_any(what, options)
        plan = make_plan(store.config)
        parts = f" in {count(plan.shard_count, 'shard')}" if is_config else ""
        rebuilt = ", with consolidated metadata" if store.config.consolidated is not None else ""
        tell(f"{what}: a Zarr{parts}{rebuilt}")
        tell_table(
            node_table(plan.nodes, store.config),
            (node_line(path, node, store.config) for path, node in plan.nodes.items()),
        )
        for hole in store.config.holes():
            tell(f"  {hole.shard} is a hole: {hole.cause}")
        if is_config and (half := unfinished(_folder(what), take_options(_folder(what), options))):
            click.echo(f"note: a later job has not ended: {half}", err=True)
        for notice in plan.notices:
            click.echo(f"note: {notice}", err=True)
        supposed = ", if all stores are like the first" if any(node.is_sample for node in plan.nodes.values()) else ""
        tell(f"  at most {count(plan.files, 'file')} as a plain Zarr; {format_bytes(plan.nbytes)} decoded{supposed}")


def _folder(what: str) -> str:
    """Return the folder of a config."""
    url = normalize(what)
    return url.rpartition("/")[0] or "/" if url.endswith(".json") else url
