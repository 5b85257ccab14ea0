"""The command line: ``shardedstore convert`` and ``shardedstore info``."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

import click
import dask

from shardedstore import transforms
from shardedstore.chain import Sink, parse_chain
from shardedstore.config import FILE_NAME, Config
from shardedstore.errors import ShardedStoreError, ShardsFailed, UsageError
from shardedstore.grid import block_name
from shardedstore.job import prepare
from shardedstore.locations import is_remote
from shardedstore.metadata import ArrayMeta
from shardedstore.partition import parse_size
from shardedstore.plan import Plan, make_plan
from shardedstore.progress import progress
from shardedstore.store import ShardedStore

SINKS: dict[str, Callable[..., Sink]] = {"zip": transforms.ToZip}
FAILED, UNUSABLE, STOPPED = 1, 2, 130
CONNECT_SECONDS = 10
OPTIONS = {"overwrite=True": "--overwrite", "shards[": "--shards [", "shards names": "--shards names"}  # by Python's


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="shardedstore")
def main() -> None:
    """Turn Zarrs of millions of files into a few hundred shards, on Dask. The source is never changed."""


@main.command()
@click.argument("source")
@click.argument("destination")
@click.option("--to", "kind", type=click.Choice(list(SINKS)), required=True, help="What each shard becomes.")
@click.option("--shards", multiple=True, metavar="RULE", help="How to divide SOURCE, see above; may be repeated.")
@click.option("--name", help="How zips are named; the default is '{path}/{block}.zarr.zip'.")
@click.option("--workers", type=click.IntRange(1), metavar="N", help="Worker processes here; default: one a core.")
@click.option("--scheduler", metavar="ADDRESS", help="Run on this Dask cluster instead, like tcp://host:8786.")
@click.option("--retries", type=click.IntRange(0), default=2, show_default=True, help="For errors that may pass.")
@click.option("--overwrite", is_flag=True, help="Write beside what else DESTINATION holds.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and write nothing.")
@click.option("--verbose", is_flag=True, help="Show the workers' logs, with a traceback for each error.")
def convert(
    source: str, destination: str, kind: str, shards: tuple[str, ...], name: str | None, dry_run: bool, **options: Any
) -> None:
    """Convert the Zarr SOURCE to shards in the folder DESTINATION.

    SOURCE is a folder, a zip or the URL of an object store. Run the same command again after any crash, and it goes
    on from there. The exit code is 0 when all shards are done, 1 when some failed, and 2 when it can't be run.

    \b
    A RULE of --shards is one of these; the default is '1 GiB':
      SIZE             all larger arrays in blocks of about SIZE decoded bytes
      PATH=SIZE        the same for a group, an array, or what a glob matches
      PATH=whole       all below PATH is one shard
      PATH=time:720    blocks of 720 elements along the dimension time
      PATH=720,-1,-1   the same as a shape; -1 is the whole dimension

    \b
    Examples:
      shardedstore convert my.zarr out --to zip --dry-run
      shardedstore convert my.zarr out --to zip --shards 'wind_*=time:720' --shards '512 MiB'
    """
    with user_errors():
        store = ShardedStore.partition(source, parse_shards(shards))
        sink = SINKS[kind](destination, **({} if name is None else {"name": name}))
        plan = make_plan(store.config)
        prepare(plan, parse_chain([sink]), None, options["overwrite"], options["retries"])
        if dry_run:
            click.echo(preview(plan))
        else:
            run(store, sink, **options)


def run(
    store: ShardedStore,
    sink: Sink,
    workers: int | None,
    scheduler: str | None,
    retries: int,
    overwrite: bool,
    verbose: bool,
) -> None:
    """Run the job and say what it did."""
    if workers is not None and scheduler is not None:
        raise UsageError("--workers and --scheduler exclude each other: leave out --workers, the cluster has its own")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that a batch system's end of time ends the workers
    with cluster(workers, scheduler, verbose), progress() as show:
        summary = store.map_shards(sink, retries=retries, overwrite=overwrite, progress=show).summary
    before = f", {summary.skipped:,} were done before" if summary.skipped else ""
    click.echo(f"{count(summary.done, 'shard')} done now{before}; {size(summary.nbytes)} written")
    click.echo(os.path.join(os.path.abspath(sink.url), FILE_NAME))


@main.command()
@click.argument("what")
def info(what: str) -> None:
    """Say what a Zarr, a zip or a config holds, from its metadata alone.

    WHAT is a folder, a zip, a shardedstore.json or the folder that holds it, or the URL of a Zarr.
    """
    with user_errors():
        is_config = what.endswith(".json") or os.path.isfile(os.path.join(what, FILE_NAME))
        store = ShardedStore.load(what, allow=["/"]) if is_config else ShardedStore(what)
        plan = make_plan(store.config)
        kind = "sharded, by its config" if is_config else "a Zarr"
        click.echo(f"{what}: {kind}, {count(plan.shard_count, 'shard')}" if is_config else f"{what}: {kind}")
        for path, node in plan.nodes.items():
            click.echo(describe(path, node.meta, store.config))
        click.echo(f"  at most {count(plan.files, 'file')} as a plain Zarr; {size(plan.nbytes)} decoded")


def describe(path: str, meta: Any, config: Config) -> str:
    """Return a line about a group or an array."""
    mount = config.shards.get(path)
    blocks = "" if mount is None else f", {count(1 if mount.blocks is None else mount.blocks.count, 'shard')}"
    if not isinstance(meta, ArrayMeta):
        return f"  /{path}  group, v{meta.zarr_format}{', consolidated' if meta.consolidated else ''}{blocks}"
    chunks = "unknown" if meta.chunks is None else meta.chunks
    return f"  /{path}  array {meta.shape}, chunks {chunks}, {size(meta.nbytes)}{blocks}"


def preview(plan: Plan) -> str:
    """Return what a job would do, by arithmetic: chunks that are missing are counted, and sizes are decoded."""
    files, base = f"at most {plan.files:,} files", plan.loads[0]
    lines = [f"{files} -> {count(plan.shard_count, 'shard')}; {size(plan.nbytes)} decoded; base {size(base.nbytes)}"]
    for run, load in zip(plan.runs[1:], plan.loads[1:], strict=True):
        grid = "" if run.blocks is None or run.stop == 1 else f" ({block_name(run.blocks.grid).replace('/', ' x ')})"
        lines.append(f"  /{run.path}: {load.files:,} files -> {count(run.stop, 'shard')}{grid}; {size(load.nbytes)}")
    return "\n".join(lines)


def count(number: int, what: str) -> str:
    """Return a number of things.

    >>> count(1, "shard"), count(1200, "shard")
    ('1 shard', '1,200 shards')
    """
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def size(nbytes: int) -> str:
    """Return a size for people.

    >>> size(512), size(96 * 2**30)
    ('512 bytes', '96.0 GiB')
    """
    value, unit = float(nbytes), "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB", "PiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:,.0f} {unit}" if unit == "bytes" else f"{value:,.1f} {unit}"


def parse_shards(options: tuple[str, ...]) -> Any:
    """Return what the options for `shards` stand for.

    >>> parse_shards(()), parse_shards(("512 MiB",)), parse_shards(("t=time:720", "w_*=720,-1", "s/*=whole"))
    ('1 GiB', '512 MiB', {'t': {'time': 720}, 'w_*': (720, -1), 's/*': 'whole'})
    """
    rules: dict[str, Any] = {}
    for option in options:
        path, equals, rule = option.rpartition("=")
        if not equals and parse_size(rule) is None:
            raise UsageError(f"--shards {option!r} is no size like '512 MiB': for a path say '{option}=whole', for one")
        if (path or "*") in rules:
            raise UsageError(f"--shards says twice how to divide {path or 'what is left'!r}: leave one of them out")
        rules[path or "*"] = _parse_rule(rule, option)
    if len(rules) == 1 and "*" in rules:
        return rules["*"]
    return rules or "1 GiB"


def _parse_rule(text: str, option: str) -> Any:
    try:
        if ":" in text:
            return {name.strip(): int(count) for name, _, count in (part.rpartition(":") for part in text.split(","))}
        if "," in text:
            return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"--shards {option!r} can't be read: after the path write =whole, ='512 MiB', =720,-1,-1 or =time:720"
        ) from None
    return text


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Turn the package's own errors, and the system's, into lines and exit codes; others keep their tracebacks."""
    try:
        yield
    except ShardsFailed as failed:
        for error in failed.exceptions:
            click.echo(f"error: {one_line(error)}", err=True)
        click.echo(f"error: {failed.message.partition(':')[0]}: run the same command again to go on", err=True)
        sys.exit(FAILED)
    except (ShardedStoreError, OSError) as error:
        click.echo(f"error: {one_line(error)}", err=True)
        sys.exit(UNUSABLE)
    except KeyboardInterrupt:
        click.echo("stopped: run the same command again, and it goes on from there", err=True)
        sys.exit(STOPPED)


def one_line(error: BaseException) -> str:
    """Return a message in the words of the command line, without the lines that an object store's client adds.

    >>> one_line(UsageError("say overwrite=True\\n\\nDebug source: ..."))
    'say --overwrite'
    """
    text = str(error).partition("\n")[0] or type(error).__name__
    for python, option in OPTIONS.items():
        text = text.replace(python, option)
    return text


@contextlib.contextmanager
def cluster(workers: int | None, scheduler: str | None, verbose: bool) -> Iterator[None]:
    """Make a Dask client the active one: of a cluster that is there, or of worker processes on this machine."""
    if not verbose:
        dask.config.set({"logging": {name: "critical" for name in ("distributed", "distributed.client")}})  # type: ignore[no-untyped-call]
    from distributed import Client  # a second of import time that info and --dry-run do not need

    if scheduler is None:
        with local_cluster(workers or os.cpu_count() or 1, verbose) as local, Client(local):  # type: ignore[no-untyped-call]
            yield
        return
    try:
        client = Client(scheduler, timeout=CONNECT_SECONDS)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        raise UsageError(
            f"no Dask scheduler answers at {scheduler!r} ({one_line(error)}): give the address that it printed when it "
            "was started, like tcp://host:8786"
        ) from error
    with client:
        if not client.nthreads():  # type: ignore[no-untyped-call]
            click.echo(f"the cluster at {scheduler} has no workers: waiting for the first", err=True)
        yield


def local_cluster(count: int, verbose: bool) -> Any:
    """Return a cluster of processes; the workers' logs and tracebacks are for --verbose, as errors are told at the end."""
    from distributed import LocalCluster

    quiet = {
        "silence_logs": "critical",
        "preload": ["import logging; logging.getLogger('shardedstore').disabled = True"],
    }
    return LocalCluster(  # type: ignore[no-untyped-call]
        n_workers=count, threads_per_worker=1, dashboard_address=None, **({"silence_logs": False} if verbose else quiet)
    )
