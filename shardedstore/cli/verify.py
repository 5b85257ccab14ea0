"""``shardedstore verify``."""

from __future__ import annotations

import contextlib
import json
import sys

import click

from shardedstore.cli.cluster import cluster
from shardedstore.cli.common import FAILED, HOLES, open_any, parse_shards, parse_storage, tell, user_errors
from shardedstore.errors import UsageError
from shardedstore.fields import FILE_NAME
from shardedstore.storage.blobs import nbytes_of
from shardedstore.storage.options import take_options
from shardedstore.storage.urls import BESIDE, join_url, normalize
from shardedstore.store import ShardedStore
from shardedstore.verify.differences import LEVELS, Level


@click.command()
@click.argument("result")
@click.option("--against", metavar="SOURCE", help="The source, or any Zarr that must hold the same data.")
@click.option("--shards", multiple=True, metavar="RULE", help="How SOURCE is divided to be read; see convert.")
@click.option("--level", type=click.Choice(LEVELS), help="What is compared, see above.")
@click.option("--storage", multiple=True, metavar="KEY=VALUE", help="An option of the object store of RESULT.")
@click.option("--source-storage", multiple=True, metavar="KEY=VALUE", help="An option of the object store of SOURCE.")
@click.option("--workers", type=click.IntRange(1), metavar="N", help="Worker processes here; default: one a core.")
@click.option("--scheduler", metavar="ADDRESS", help="Run on this Dask cluster instead, like tcp://host:8786.")
@click.option("--mark", is_flag=True, help="Mark what differs, so that the same convert makes those shards again.")
@click.option("--resume", metavar="FOLDER", help="Keep what is right so far here, and not beside the ledger.")
@click.option("--no-resume", is_flag=True, help="Keep nothing, and begin anew.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("--verbose", is_flag=True, help="Show the workers' logs.")
def verify(
    result: str,
    *,
    against: str | None,
    shards: tuple[str, ...],
    level: Level | None,
    storage: tuple[str, ...],
    source_storage: tuple[str, ...],
    workers: int | None,
    scheduler: str | None,
    mark: bool,
    resume: str | None,
    no_resume: bool,
    as_json: bool,
    verbose: bool,
) -> None:
    """Compare a result with what was written, or with its source.

    RESULT is what a job wrote, or any Zarr; SOURCE a Zarr, a zip or a config. No data is changed. Run the same command
    again after an interruption, and it goes on. The exit code is 0 when all is as it should be, 1 when something
    differs, 2 when it can't be told, and 4 when all is there but for holes that were accepted.

    \b
    The levels of --level:
      exists   every object is there, with its size: one listing
      stored   all bytes are those that were written; the default without --against
      decoded  all data are equal to those of SOURCE, whatever codecs, format and
               shards they are in; the default with --against. Without it: equal to
               what was written, if the job kept digests of its data,
               else to the source that the job had
    """  # noqa: D301 (click reads the backspace)
    with user_errors(result):
        options = parse_storage(storage)
        url = normalize(result)
        if no_resume and resume is not None:
            raise UsageError("--resume and --no-resume say the opposite of each other: leave one out")
        beside = join_url(url + BESIDE, FILE_NAME)
        is_beside = nbytes_of(beside, take_options(url, options)) is not None
        store, _ = open_any(beside if is_beside else result, options)
        other = None
        if against is not None:
            source_options = parse_storage(source_storage)
            if shards and "*" in against:
                raise UsageError(f"--shards divides one Zarr, and {against!r} stands for many: leave it out")
            if shards:
                other = ShardedStore.partition(against, parse_shards(shards), storage_options=source_options)
            else:
                other, is_config = open_any(against, source_options)
                if not is_config and "*" not in against:  # as convert divides it
                    other = ShardedStore.partition(against, storage_options=source_options)
        needs_cluster = level != "exists"
        with cluster(workers, scheduler, verbose) if needs_cluster else contextlib.nullcontext():
            report = store.verify(other, level=level, resume=not no_resume if resume is None else resume, mark=mark)
    tell(json.dumps(report.to_dict(), indent=2) if as_json else str(report))
    if not report.ok:
        sys.exit(HOLES if report.has_holes_only else FAILED)
