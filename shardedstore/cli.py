"""The command line: ``shardedstore convert`` and ``shardedstore info``."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

import click
import dask

from shardedstore import transforms
from shardedstore.chain import Sink, parse_chain
from shardedstore.config import FILE_NAME
from shardedstore.errors import ShardedStoreError, ShardsFailed, UsageError
from shardedstore.job import prepare
from shardedstore.patterns import parse_size
from shardedstore.plan import make_plan
from shardedstore.progress import progress
from shardedstore.store import ShardedStore
from shardedstore.text import count, describe, preview, size
from shardedstore.urls import is_remote

SINKS: dict[str, Callable[..., Sink]] = {"zip": transforms.ToZip}
FAILED, UNUSABLE, STOPPED = 1, 2, 130
CONNECT_SECONDS = 10
QUIET_WORKER = """
import logging, signal
logging.getLogger("shardedstore").disabled = True
signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the command line ends its workers
"""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="shardedstore", prog_name="shardedstore")
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
    r"""Convert the Zarr SOURCE to shards in the folder DESTINATION.

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
        if options["workers"] is not None and options["scheduler"] is not None:
            raise UsageError(
                "--workers and --scheduler exclude each other: leave out --workers, the cluster has its own"
            )
        store = ShardedStore.partition(source, parse_shards(shards))
        sink = SINKS[kind](destination, **({} if name is None else {"name": name}))
        plan = make_plan(store.config)
        prepare(plan, parse_chain([sink]), None, options["overwrite"], options["retries"])
        if dry_run:
            click.echo(preview(plan))
        else:
            if is_remote(source):
                click.echo("note: the workers read the source with the credentials of their own environment", err=True)
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
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that a batch system's end of time ends the workers
    with cluster(workers, scheduler, verbose), progress() as show:
        summary = store.map_shards(sink, retries=retries, overwrite=overwrite, progress=show).summary
    before = f", {summary.skipped:,} were done before" if summary.skipped else ""
    click.echo(f"{count(summary.done, 'shard')} done now{before}; {size(summary.nbytes)} written")
    click.echo(os.path.join(os.path.abspath(sink.url), FILE_NAME))


@main.command()
@click.argument("what")
def info(what: str) -> None:
    """Say what a Zarr, a zip or a config holds.

    Only metadata is read. WHAT is a folder, a zip, a shardedstore.json or the folder that holds it, or the URL of a Zarr.
    """
    with user_errors(what):
        is_config = what.endswith(".json") or os.path.isfile(os.path.join(what, FILE_NAME))
        store = ShardedStore.load(what, allow=["/"]) if is_config else ShardedStore(what)
        plan = make_plan(store.config)
        parts = f" in {count(plan.shard_count, 'shard')}" if is_config else ""
        rebuilt = ", with consolidated metadata" if store.config.consolidated is not None else ""
        click.echo(f"{what}: a Zarr{parts}{rebuilt}")
        for path, node in plan.nodes.items():
            click.echo(describe(path, node.meta, store.config))
        click.echo(f"  at most {count(plan.files, 'file')} as a plain Zarr; {size(plan.nbytes)} decoded")


def parse_shards(options: tuple[str, ...]) -> Any:
    """Return what the options for `shards` stand for.

    >>> parse_shards(()), parse_shards(("t=time:720", "w_*=720,-1", "s/*=whole", "9 MiB"))
    ('1 GiB', {'t': {'time': 720}, 'w_*': (720, -1), 's/*': 'whole', '*': '9 MiB'})
    """
    rules: dict[str, Any] = {}
    for option in options:
        path, equals, rule = option.rpartition("=")
        if not equals and parse_size(rule) is None:
            raise UsageError(f"--shards {option!r} is no size like '512 MiB': for a path say '{option}=whole', for one")
        if (path or "*") in rules:
            raise UsageError(f"--shards says twice how to divide {path or 'what is left'!r}: leave one of them out")
        rules[path or "*"] = _parse_rule(rule, option)
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


def one_line(error: BaseException) -> str:
    r"""Return a message in the words of the command line, without the lines that an object store's client adds.

    >>> one_line(UsageError("say overwrite=True\n\nDebug source: ..."))
    'say --overwrite'
    """
    text = str(error).partition("\n")[0] or type(error).__name__
    return text.replace("overwrite=True", "--overwrite")


@contextlib.contextmanager
def cluster(workers: int | None, scheduler: str | None, verbose: bool) -> Iterator[None]:
    """Make a Dask client the active one: of a cluster that is there, or of worker processes on this machine."""
    if not verbose:
        dask.config.set({"logging": {"distributed": "critical", "distributed.client": "critical"}})
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


def local_cluster(processes: int, verbose: bool) -> Any:
    """Return a cluster of processes; the workers' logs and tracebacks are for --verbose, as errors are told at the end."""
    from distributed import LocalCluster

    # Without this, a worker that dies twice in 15 seconds can be given up for ever, and a job without workers waits.
    dask.config.set({"distributed.deploy.lost-worker-timeout": "1 day"})
    quiet = {"silence_logs": logging.CRITICAL, "preload": [QUIET_WORKER]}
    return LocalCluster(  # type: ignore[no-untyped-call]
        n_workers=processes,
        threads_per_worker=1,
        dashboard_address="127.0.0.1:0",  # any port: None would still open 8787, and warn where it is taken
        **({"silence_logs": False} if verbose else quiet),
    )
