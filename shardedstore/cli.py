"""The command line: ``shardedstore convert``, ``shardedstore info`` and ``shardedstore verify``."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

import click

from shardedstore.access import take_options
from shardedstore.arguments import make_steps, parse_shards, parse_storage
from shardedstore.blobs import nbytes_of
from shardedstore.chain import Sink, Step, parse_chain
from shardedstore.config import FILE_NAME
from shardedstore.differences import LEVELS, Level
from shardedstore.errors import ShardedStoreError, ShardsFailed, UsageError
from shardedstore.job import prepare
from shardedstore.plan import make_plan
from shardedstore.progress import progress
from shardedstore.registry import make_sink
from shardedstore.running import cluster
from shardedstore.store import ShardedStore
from shardedstore.text import count, describe, one_line, preview, size
from shardedstore.urls import BESIDE, is_remote, join_url, normalize

FAILED, UNUSABLE, STOPPED = 1, 2, 130


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="shardedstore", prog_name="shardedstore")
def main() -> None:
    """Turn Zarrs of millions of files into a few hundred shards, on Dask. The source is never changed."""


@main.command()
@click.argument("source")
@click.argument("destination")
@click.option(
    "--to",
    "kinds",
    metavar="SINK",
    required=True,
    multiple=True,
    help="What is written: zip, zarr, sharding-codec, see above.",
)
@click.option("--shards", multiple=True, metavar="RULE", help="How to divide SOURCE, see above; may be repeated.")
@click.option("--include", multiple=True, metavar="PATH", help="Only these groups and arrays, by path or glob.")
@click.option("--exclude", multiple=True, metavar="PATH", help="Not these groups and arrays, by path or glob.")
@click.option("--v3", is_flag=True, help="From Zarr v2 to v3.")
@click.option(
    "--step", "steps", multiple=True, metavar="STEP", help="Another step by its name, after --v3; may be repeated."
)
@click.option("--codec", metavar="CODEC", help="Compress with another codec, like zstd or blosc:cname=lz4,clevel=9.")
@click.option("--consolidated/--no-consolidated", default=None, help="Consolidated metadata; the default: as SOURCE.")
@click.option("--name", help="How zips are named; the default is '{path}/{block}.zarr.zip'.")
@click.option("--source-storage", multiple=True, metavar="KEY=VALUE", help="An option of the object store of SOURCE.")
@click.option("--storage", multiple=True, metavar="KEY=VALUE", help="An option of the object store of DESTINATION.")
@click.option("--workers", type=click.IntRange(1), metavar="N", help="Worker processes here; default: one a core.")
@click.option("--scheduler", metavar="ADDRESS", help="Run on this Dask cluster instead, like tcp://host:8786.")
@click.option("--retries", type=click.IntRange(0), default=2, show_default=True, help="For errors that may pass.")
@click.option("--overwrite", is_flag=True, help="Write beside what else DESTINATION holds.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and write nothing.")
@click.option("--verbose", is_flag=True, help="Show the workers' logs, with a traceback for each error.")
def convert(
    source: str,
    destination: str,
    *,
    kinds: tuple[str, ...],
    shards: tuple[str, ...],
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    consolidated: bool | None,
    name: str | None,
    source_storage: tuple[str, ...],
    storage: tuple[str, ...],
    dry_run: bool,
    **options: Any,
) -> None:
    """Convert the Zarr SOURCE to DESTINATION, shard by shard.

    SOURCE is a folder, a zip or a URL, DESTINATION a folder or a URL: s3://, gs:// or az://. Run the same command again
    after any crash, and it goes on from there. The exit code is 0 when all shards are done, 1 when some failed, and 2
    when it can't be run.

    \b
    A SINK of --to is one of these, or the name of one that another package has installed:
      zip              a zip for each shard, and a config that opens them as one
      zarr             one ordinary Zarr; a Zarr for each shard with zarr:layout=shards
      sharding-codec   one ordinary Zarr v3, each array shard one object of the sharding codec

    \b
    A RULE of --shards is one of these; the default is '1 GiB':
      SIZE             all larger arrays in blocks of about SIZE decoded bytes
      PATH=SIZE        the same for a group, an array, or what a glob matches
      PATH=whole       all below PATH is one shard
      PATH=time:720    blocks of 720 elements along the dimension time
      PATH=720,-1,-1   the same as a shape; -1 is the whole dimension

    Steps and sinks take options as NAME:key=value,key=value. Credentials are the environment's; --storage is for what may
    be seen, like endpoint=https://host or the one word anonymous.

    \b
    Examples:
      shardedstore convert my.zarr out --to zip --dry-run
      shardedstore convert my.zarr out --to zip --shards 'wind_*=time:720' --shards '512 MiB'
      shardedstore convert old.zarr s3://bucket/new.zarr --to zarr --v3 --codec zstd:level=5
    """  # noqa: D301 (click reads the backspace)
    with user_errors():
        if options["workers"] is not None and options["scheduler"] is not None:
            raise UsageError(
                "--workers and --scheduler exclude each other: leave out --workers, the cluster has its own"
            )
        store = ShardedStore.partition(
            source,
            parse_shards(shards),
            include=list(include) or None,
            exclude=list(exclude) or None,
            storage_options=parse_storage(source_storage),
        )
        given = {"name": name, "storage_options": parse_storage(storage)}
        if len(kinds) > 1:
            raise UsageError(f"a chain has one sink, and --to was given {' and '.join(kinds)}: run two commands")
        sink = make_sink(kinds[0], destination, **{key: value for key, value in given.items() if value is not None})
        chain: list[Step | Sink] = [*make_steps(options.pop("v3"), options.pop("steps"), options.pop("codec")), sink]
        plan = make_plan(store.config, consolidated)
        prepare(plan, parse_chain(chain), None, options["overwrite"], options["retries"])
        if dry_run:
            click.echo(preview(plan))
        else:
            if is_remote(source) or is_remote(destination):
                click.echo("note: the workers use the credentials of their own environment", err=True)
            run(store, chain, consolidated=consolidated, **options)


def run(
    store: ShardedStore,
    chain: list[Step | Sink],
    *,
    consolidated: bool | None,
    workers: int | None,
    scheduler: str | None,
    retries: int,
    overwrite: bool,
    verbose: bool,
) -> None:
    """Run the job and say what it did."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that a batch system's end of time ends the workers
    with cluster(workers, scheduler, verbose), progress() as show:
        result = store.map_shards(
            *chain, retries=retries, overwrite=overwrite, consolidated=consolidated, progress=show
        )
    summary = result.summary
    before = f", {summary.skipped:,} were done before" if summary.skipped else ""
    click.echo(f"{count(summary.done, 'shard')} done now{before}; {size(summary.nbytes)} written")
    sink = chain[-1]
    assert isinstance(sink, Sink)
    click.echo(normalize(sink.url) if sink.is_one_zarr else join_url(normalize(sink.url), FILE_NAME))


@main.command()
@click.argument("what")
@click.option("--storage", multiple=True, metavar="KEY=VALUE", help="An option of the object store; see convert.")
def info(what: str, storage: tuple[str, ...]) -> None:
    """Say what a Zarr, a zip or a config holds.

    Only metadata is read. WHAT is a Zarr, a zip, a shardedstore.json or the folder that holds it: a path or a URL.
    """
    with user_errors(what):
        store, is_config = open_any(what, parse_storage(storage))
        plan = make_plan(store.config)
        parts = f" in {count(plan.shard_count, 'shard')}" if is_config else ""
        rebuilt = ", with consolidated metadata" if store.config.consolidated is not None else ""
        click.echo(f"{what}: a Zarr{parts}{rebuilt}")
        for path, node in plan.nodes.items():
            click.echo(describe(path, node.meta, store.config))
        click.echo(f"  at most {count(plan.files, 'file')} as a plain Zarr; {size(plan.nbytes)} decoded")


def open_any(what: str, options: Any) -> tuple[ShardedStore, bool]:
    """Open a Zarr, a zip or a config, and tell whether it is a config."""
    url = normalize(what)
    if url.endswith(".json") or nbytes_of(join_url(url, FILE_NAME), take_options(url, options)) is not None:
        return ShardedStore.load(what, allow=[] if is_remote(url) else ["/"], storage_options=options), True
    return ShardedStore.partition(what, [], storage_options=options), False


@main.command()
@click.argument("result")
@click.option("--against", metavar="SOURCE", help="The source, or any Zarr that must hold the same data.")
@click.option("--shards", multiple=True, metavar="RULE", help="How SOURCE was divided for the job; see convert.")
@click.option("--level", type=click.Choice(LEVELS), help="What is compared, see above.")
@click.option("--storage", multiple=True, metavar="KEY=VALUE", help="An option of the object store of RESULT.")
@click.option("--source-storage", multiple=True, metavar="KEY=VALUE", help="An option of the object store of SOURCE.")
@click.option("--workers", type=click.IntRange(1), metavar="N", help="Worker processes here; default: one a core.")
@click.option("--scheduler", metavar="ADDRESS", help="Run on this Dask cluster instead, like tcp://host:8786.")
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
    as_json: bool,
    verbose: bool,
) -> None:
    """Compare a result with what was written, or with its source.

    RESULT is what a job wrote, or any Zarr; SOURCE a Zarr, a zip or a config. Nothing is written. The exit code is 0 when
    all is as it should be, 1 when something differs, and 2 when it can't be told.

    \b
    The levels of --level:
      exists   every object is there, with its size: one listing
      stored   all bytes are those that were written; the default without --against
      decoded  all data are equal to those of SOURCE, whatever codecs, format and
               shards they are in; the default with --against
    """  # noqa: D301 (click reads the backspace)
    with user_errors(result):
        options = parse_storage(storage)
        url = normalize(result)
        beside = join_url(url + BESIDE, FILE_NAME)
        is_beside = nbytes_of(beside, take_options(url, options)) is not None
        store, _ = open_any(beside if is_beside else result, options)
        other = None
        if against is not None:
            source_options = parse_storage(source_storage)
            if shards:
                other = ShardedStore.partition(against, parse_shards(shards), storage_options=source_options)
            else:
                other, is_config = open_any(against, source_options)
                if not is_config:  # as convert divides it
                    other = ShardedStore.partition(against, storage_options=source_options)
        needs_cluster = level != "exists"
        with cluster(workers, scheduler, verbose) if needs_cluster else contextlib.nullcontext():
            report = store.verify(other, level=level)
    click.echo(json.dumps(report.to_dict(), indent=2) if as_json else str(report))
    if not report.ok:
        sys.exit(FAILED)


@contextlib.contextmanager
def user_errors(subject: str = "") -> Iterator[None]:
    """Turn the package's own errors, and the system's, into lines and exit codes; others keep their tracebacks."""
    try:
        yield
    except ShardsFailed as failed:
        for error in failed.exceptions:
            click.echo(f"error: {one_line(error)}", err=True)
        click.echo(f"error: {failed.message.partition(':')[0]}: run the same command again to go on", err=True)
        sys.exit(FAILED)
    except (ShardedStoreError, OSError) as error:
        text = one_line(error)
        named = os.path.basename(subject) in text
        click.echo(f"error: {text}" if named else f"error: {subject}: {text}", err=True)
        sys.exit(UNUSABLE)
    except KeyboardInterrupt:
        click.echo("stopped: run the same command again, and it goes on from there", err=True)
        sys.exit(STOPPED)
