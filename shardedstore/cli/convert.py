"""``shardedstore convert``."""

from __future__ import annotations

import signal
import sys
import warnings
from typing import Any

import click
from dask.utils import format_bytes

from shardedstore.cli.cluster import cluster
from shardedstore.cli.common import (
    FAILED,
    HOLES,
    failures,
    make_steps,
    notes_on_stderr,
    open_any,
    parse_shard_options,
    parse_storage,
    tell,
    tell_table,
    user_errors,
)
from shardedstore.cli.registry import make_sink
from shardedstore.errors import UsageError
from shardedstore.jobs.change_detection import LEVELS as CHANGED
from shardedstore.jobs.job_plan import JobPlan
from shardedstore.jobs.object_sizes import MAX_BASE
from shardedstore.jobs.worker import MOST_FAILURES
from shardedstore.storage.urls import is_remote, normalize
from shardedstore.store import ShardedStore
from shardedstore.text import count
from shardedstore.transforms.base.chain import Sink, Step


@click.command()
@click.argument("source")
@click.argument("destination")
@click.option(
    "--to",
    "kinds",
    metavar="SINK",
    required=True,
    multiple=True,
    help="The format of the result: zip, zarr or sharding-codec; see above.",
)
@click.option("--shards", multiple=True, metavar="RULE", help="Divide SOURCE by this rule; see above. May be repeated.")
@click.option(
    "--include",
    multiple=True,
    metavar="PATH",
    help="Keep only these groups and arrays, by path or glob. May be repeated.",
)
@click.option(
    "--exclude",
    multiple=True,
    metavar="PATH",
    help="Leave out these groups and arrays, by path or glob. May be repeated.",
)
@click.option("--v3", is_flag=True, help="Convert Zarr v2 to v3.")
@click.option(
    "--step", "steps", multiple=True, metavar="STEP", help="Add a step by its name, after --v3. May be repeated."
)
@click.option("--codec", metavar="CODEC", help="Compress with this codec, such as zstd or blosc:cname=lz4,clevel=9.")
@click.option(
    "--consolidated/--no-consolidated", default=None, help="Write consolidated metadata.  [default: if SOURCE has some]"
)
@click.option("--name", help="The names of zips.  [default: {path}/{block}.zarr.zip]")
@click.option(
    "--source-storage", multiple=True, metavar="KEY=VALUE", help="Set an option of the object store of SOURCE."
)
@click.option("--storage", multiple=True, metavar="KEY=VALUE", help="Set an option of the object store of DESTINATION.")
@click.option(
    "--workers",
    type=click.IntRange(1),
    metavar="N",
    help="The number of worker processes on this machine. The default is one for each core that this process may use.",
)
@click.option("--scheduler", metavar="ADDRESS", help="Run on this Dask cluster instead, such as tcp://host:8786.")
@click.option(
    "--max-base", default=MAX_BASE, metavar="SIZE", show_default=True, help="The largest decoded size of the base."
)
@click.option(
    "--retries",
    type=click.IntRange(0),
    default=2,
    show_default=True,
    metavar="N",
    help="Repeat a shard up to N times after a temporary error.",
)
@click.option(
    "--changed",
    type=click.Choice(CHANGED),
    default="metadata",
    show_default=True,
    help="The comparison that finds changes in SOURCE since the last run.",
)
@click.option(
    "--on-error",
    type=click.Choice(("finish", "stop", "partial")),
    default="finish",
    show_default=True,
    help="finish: run all other shards after a failure. stop: stop at the first failure. partial: as finish, and print how to open the unfinished result.",
)
@click.option(
    "--max-failures",
    type=click.IntRange(1),
    default=MOST_FAILURES,
    show_default=True,
    metavar="N",
    help="Stop after this number of failed shards.",
)
@click.option(
    "--accept-failed",
    multiple=True,
    metavar="SHARD",
    help="Publish the result without this shard if it fails, such as 't2m[5]'. May be repeated.",
)
@click.option(
    "--max-missing",
    type=click.IntRange(0),
    default=0,
    metavar="N",
    help="Publish the result without up to N other failed shards.",
)
@click.option("--digest", is_flag=True, help="Record digests of the decoded data, so that verify needs no SOURCE.")
@click.option("--overwrite", is_flag=True, help="Write to a DESTINATION that holds other files; they are kept.")
@click.option("--dry-run", is_flag=True, help="Show the plan, and write nothing.")
@click.option("--verbose", is_flag=True, help="Show the logs of the workers, with a traceback for each error.")
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

    SOURCE is a Zarr: a folder, a zip or a URL. With * in its name, it stands for many Zarrs, and each is a shard. It can
    also be a config (.json): its shards are kept if no RULE is given. DESTINATION is a folder or a URL: s3://, gs:// or
    az://. To resume after a crash, run the same command again.

    \b
    SINK is one of these names, or the name of a sink that another package has installed:
      zip              a zip for each shard, and a config that opens them as one Zarr;
                       zip:per_zip=1000 packs a thousand small shards in each zip
      zarr             one ordinary Zarr; a Zarr for each shard with zarr:layout=shards
      sharding-codec   one ordinary Zarr v3, each array shard one object of the sharding codec

    \b
    RULE is one of these forms; arrays without a RULE are divided by '1 GiB':
      SIZE             all larger arrays in blocks of about SIZE decoded bytes
      PATH=SIZE        the same for a group, an array, or the matches of a glob
      PATH=whole       all groups and arrays below PATH are one shard
      PATH=base        all groups and arrays below PATH stay in the base, undivided
      PATH=time:720    blocks of 720 elements along the dimension time
      PATH=720,-1,-1   the same as a shape; -1 is the whole dimension
      PATH?=RULE       the same, if PATH exists; other patterns must match something

    Steps and sinks take options as NAME:key=value,key=value. Credentials come from the environment. Use --storage for
    public options only, such as endpoint=https://host or the word anonymous.

    \b
    The exit code is 0 when all shards are done. Other exit codes:
      1  some shards failed
      2  the job can't run
      4  the result has accepted holes: shards that failed, as --accept-failed or
         --max-missing allows. Reading a hole is an error. The next run tries it again.

    \b
    Examples:
      shardedstore convert my.zarr out --to zip --dry-run
      shardedstore convert my.zarr out --to zip --shards 'wind_*=time:720' --shards '512 MiB'
      shardedstore convert 'cells/*.zarr' out --to zip:per_zip=1000
      shardedstore convert old.zarr s3://bucket/new.zarr --to zarr --v3 --codec zstd:level=5
    """  # noqa: D301 (click reads the backspace)
    with user_errors():
        if options["workers"] is not None and options["scheduler"] is not None:
            raise UsageError(
                "--workers and --scheduler exclude each other: leave out --workers, the cluster has its own"
            )
        store = open_shards(source, shards, include, exclude, parse_storage(source_storage))
        given = {"name": name, "storage_options": parse_storage(storage)}
        if len(kinds) > 1:
            raise UsageError(f"a chain has one sink, but --to was given {' and '.join(kinds)}: run two commands")
        sink = make_sink(kinds[0], destination, **{key: value for key, value in given.items() if value is not None})
        chain: list[Step | Sink] = [*make_steps(options.pop("v3"), options.pop("steps"), options.pop("codec")), sink]
        workers = {key: options.pop(key) for key in ("workers", "scheduler", "verbose")}
        plan = store.plan(*chain, consolidated=consolidated, **options)
        if dry_run:
            tell_table(plan, [str(plan)])
            for notice in plan.notices:
                click.echo(f"note: {notice}", err=True)
        else:
            if is_remote(source) or is_remote(destination):
                click.echo("note: the workers use the credentials of their own environment", err=True)
            run_plan(plan, sink, changed=options["changed"], **workers)


CHANGED_AS = (
    "as the source has changed, or was compared less closely before",
    "as the source or its division has changed",
)


def open_shards(
    source: str, shards: tuple[str, ...], include: tuple[str, ...], exclude: tuple[str, ...], options: Any
) -> ShardedStore:
    """Return SOURCE with its own shards if it is a config or many Zarrs, else divided by the options."""
    is_asked = bool(shards or include or exclude)
    if "*" in source:
        if is_asked:
            raise UsageError(
                f"--shards, --include and --exclude are for one Zarr, but {source!r} stands for many: leave them out"
            )
        return ShardedStore.collect(source, storage_options=options)
    what: str | ShardedStore = source
    if source.endswith(".json"):
        what, is_config = open_any(source, options)
        if is_config and not is_asked:
            return what
    return ShardedStore.partition(
        what,
        parse_shard_options(shards),
        include=list(include) or None,
        exclude=list(exclude) or None,
        storage_options=options if what is source else None,
    )


def run_plan(
    plan: JobPlan, sink: Sink, *, changed: str, workers: int | None, scheduler: str | None, verbose: bool
) -> None:
    """Run the job and print its result."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # at a batch system's time limit, end the workers as well
    with notes_on_stderr(), warnings.catch_warnings(), cluster(workers, scheduler, verbose):
        warnings.simplefilter("ignore", UserWarning)  # failures are printed below
        result = plan.run(progress=True)
    summary = result.summary
    assert summary is not None
    reasons = {
        CHANGED_AS[changed == "metadata"]: summary.changed,
        "as their objects are missing": summary.missing,
    }
    again = "".join(f", {number:,} of them again {why}" for why, number in reasons.items() if number)
    before = f", {summary.skipped:,} were done before" if summary.skipped else ""
    tell(f"{count(summary.done, 'shard')} done now{again}{before}; {format_bytes(summary.nbytes)} written")
    if summary.throttled:
        click.echo(f"note: the server was too busy {summary.throttled:,} times; these requests were repeated", err=True)
    place = normalize(sink.url)
    for line in failures(summary.failures):
        click.echo(f"{'hole' if summary.holes else 'error'}: {line}", err=True)
    if result.partial is not None:
        click.echo(f"error: {result.partial}", err=True)
        click.echo(
            f"error: no config was written; ShardedStore.load({place!r}, partial=True, allow=[...]) opens the finished shards",
            err=True,
        )
        sys.exit(FAILED)
    tell(str(plan.opened_url))
    if summary.holes:
        click.echo(
            f"note: the result has {count(len(summary.holes), 'hole')}: run the same command again to try again",
            err=True,
        )
        sys.exit(HOLES)
