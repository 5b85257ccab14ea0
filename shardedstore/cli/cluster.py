"""The Dask cluster of a command."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import time
from collections.abc import Iterator
from contextvars import copy_context
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import dask
from dask.system import CPU_COUNT

from shardedstore.cli.cluster_classes import start_cluster
from shardedstore.errors import ClusterError, UsageError
from shardedstore.jobfiles.cluster_spec import ClusterSpec
from shardedstore.jobs.executors.active import scheduler_executor, use_executor
from shardedstore.jobs.executors.base import Executor
from shardedstore.jobs.executors.on_demand import OnDemandExecutor
from shardedstore.jobs.stop_signal import StopSignal, is_requested
from shardedstore.text import one_line

CONNECT_SECONDS = 10
LEAST_MEMORY = 512 << 20  # bytes, for each worker process
DEAF_WORKER = """
import logging, signal
for name in ("SIGINT", "SIGTERM", "SIGUSR1"):  # a terminal or a scheduler sends them to all processes; the command ends its workers
    if hasattr(signal, name):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
"""
QUIET_WORKER = (
    DEAF_WORKER
    + """
import warnings
logging.getLogger("shardedstore").disabled = True
warnings.simplefilter("ignore")  # the command line has told them when it planned
"""
)
LOUD_WORKER = DEAF_WORKER + 'logging.getLogger("shardedstore").setLevel(logging.DEBUG)'  # with tracebacks


def check_cluster(spec: ClusterSpec) -> None:
    """Raise UsageError where the options of a cluster exclude each other, or name files that do not exist."""
    places = {"--scheduler": spec.scheduler, "--scheduler-file": spec.scheduler_file, "class": spec.class_}
    given = [name for name, value in places.items() if value is not None]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} exclude each other: name one cluster")
    is_elsewhere = spec.scheduler is not None or spec.scheduler_file is not None
    own = {"--workers": spec.workers, "--threads": spec.threads, "adapt": spec.adapt}
    for name, value in own.items() if is_elsewhere else ():
        if value is not None:
            raise UsageError(
                f"{name} and {given[0]} exclude each other: leave out {name}, the cluster has its own workers"
            )
    if spec.threads is not None and spec.class_ is not None:
        raise UsageError(
            f"threads is for workers on this machine: give {spec.class_} its own options in the table options"
        )
    if spec.options and spec.class_ is None:
        raise UsageError("options of a cluster need a class: add one, such as class = 'dask_jobqueue.SLURMCluster'")
    if spec.class_ is not None and spec.workers is None and spec.adapt is None:
        raise UsageError(f"{spec.class_} starts no workers by itself: add workers = N or adapt = {{maximum = N}}")
    if spec.adapt is not None and spec.adapt.minimum > spec.adapt.maximum:
        raise UsageError(
            f"adapt has the minimum {spec.adapt.minimum} above its maximum {spec.adapt.maximum}: exchange them"
        )
    for path in spec.tls or ():
        if not os.path.isfile(path):
            raise UsageError(f"the file {path!r} of --tls is not there: name the files CA,CERT,KEY")


def configured_scheduler() -> str | None:
    """Return the address of a scheduler in Dask's configuration (``DASK_SCHEDULER_ADDRESS``)."""
    address = dask.config.get("scheduler-address", None)
    return None if address is None else str(address)


@contextlib.contextmanager
def cluster_on_demand(spec: ClusterSpec, verbose: bool, stop: StopSignal | None = None) -> Iterator[None]:
    """Run jobs on a cluster that starts when the first job has work; connect to an existing one at once."""
    stack, context = contextlib.ExitStack(), copy_context()

    def connect() -> Executor:
        stack.enter_context(cluster(spec, verbose, stop))
        return scheduler_executor()

    def connect_here() -> Executor:
        return context.run(connect)  # a client is closed in the context in which it was made, and jobs have their own

    try:
        executor = connect_here() if find_address(spec) is not None else OnDemandExecutor(connect_here)
        with use_executor(executor):
            yield
    finally:
        context.run(stack.close)


def find_address(spec: ClusterSpec) -> str | None:
    """Return the address of an existing scheduler; None if the command starts a cluster.

    Raises
    ------
    ClusterError
        If the scheduler file is not there.
    """
    if spec.scheduler_file is not None:
        return _read_address(spec.scheduler_file)
    is_own = any(value is not None for value in (spec.workers, spec.threads, spec.class_, spec.adapt))
    return spec.scheduler or (None if is_own else configured_scheduler())


def _read_address(path: str) -> str:
    end = time.monotonic() + CONNECT_SECONDS
    while True:
        try:
            return str(json.loads(Path(path).read_text("utf-8"))["address"])
        except FileNotFoundError as error:
            if time.monotonic() > end:
                raise ClusterError(
                    f"the scheduler file {path!r} is not there after {CONNECT_SECONDS} s: start `dask scheduler --scheduler-file {path}`, or name its file"
                ) from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            if time.monotonic() > end:  # it may be half written
                raise UsageError(
                    f"{path!r} is no scheduler file ({one_line(error)}): name the file of `dask scheduler --scheduler-file`"
                ) from error
        time.sleep(0.2)


@contextlib.contextmanager
def cluster(spec: ClusterSpec, verbose: bool, stop: StopSignal | None = None) -> Iterator[None]:
    """Activate a Dask client, of an existing cluster or of new workers; after a stop, own workers end at once."""
    if not verbose:
        dask.config.set({"logging": {"distributed": "critical", "distributed.client": "critical"}})
    from distributed import Client  # imported here, as it takes a second, and info and --dry-run do not need it

    scheduler = find_address(spec)
    if scheduler is None:
        with _own_cluster(spec, verbose) as own, Client(own):  # type: ignore[no-untyped-call]
            try:
                yield
            finally:
                if is_requested(stop) and spec.class_ is None:
                    _kill_workers(own)
        return
    with _connected(scheduler, spec) as client, client.as_current():
        if not client.nthreads():
            click.echo(f"the cluster at {scheduler} has no workers: waiting for the first", err=True)
        yield


def _connected(scheduler: str, spec: ClusterSpec) -> Any:
    from distributed import Client

    try:
        # A client that can't connect would stay this process's default.
        return Client(scheduler, timeout=CONNECT_SECONDS, set_as_default=False, security=_security(spec))  # type: ignore[no-untyped-call]
    except (OSError, ValueError, TypeError, RuntimeError) as error:  # a TypeError for tls:// without certificates
        if urlsplit(scheduler).scheme == "tls" and spec.tls is None and not isinstance(error, OSError):
            raise UsageError(
                f"{scheduler!r} needs certificates, but none are configured here ({one_line(error)}): give --tls CA,CERT,KEY, or set them in "
                "Dask's configuration, distributed.comm.tls.ca-file, .client.cert and .client.key, or by DASK_DISTRIBUTED__COMM__TLS__..."
            ) from error
        kind = ClusterError if isinstance(error, OSError) else UsageError
        raise kind(
            f"no Dask scheduler answers at {scheduler!r} ({one_line(error)}): give the address that the scheduler printed "
            "at its start, like tcp://host:8786"
        ) from error


def _kill_workers(local: Any) -> None:
    """End the worker processes at once, because Dask waits some seconds for their running tasks."""
    for nanny in local.workers.values():
        nanny.close_gracefully("the job was stopped")  # so that it starts no other process
        if nanny.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(nanny.pid, signal.SIGKILL)


def _security(spec: ClusterSpec) -> Any:
    """Return the certificates of --tls; None stands for Dask's configuration."""
    if spec.tls is None:
        return None
    from distributed import Security

    ca, cert, key = spec.tls
    return Security(tls_ca_file=ca, tls_client_cert=cert, tls_client_key=key, require_encryption=True)  # type: ignore[no-untyped-call]


def _own_cluster(spec: ClusterSpec, verbose: bool) -> Any:
    # Without this, Dask may never restart a worker that dies twice in 15 seconds, and a job without workers waits forever.
    dask.config.set({"distributed.deploy.lost-worker-timeout": "1 day"})
    if spec.class_ is not None:
        return start_cluster(spec)
    with _signals_blocked():
        own = local_cluster(spec, verbose)
    if spec.adapt is not None:
        own.adapt(minimum=spec.adapt.minimum, maximum=spec.adapt.maximum)
    return own


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """Block signals in the threads and processes that start in the block, also later workers.

    Schedulers send signals to all processes of a job. Workers ignore them, but they need a second to start.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    numbers = {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        resource_tracker.ensure_running()  # a process of multiprocessing, whose start unblocks signals
        signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def local_workers(threads: int) -> int:
    """Return the default number of worker processes on this machine, by its cores and its memory.

    Only the cores and the memory that this process may use count, by its affinity and its control group.
    """
    from distributed.system import MEMORY_LIMIT

    return max(1, min(CPU_COUNT // threads, MEMORY_LIMIT // LEAST_MEMORY))


def local_cluster(spec: ClusterSpec, verbose: bool) -> Any:
    """Return a cluster of processes; the logs of the workers are shown with --verbose only."""
    from distributed import LocalCluster

    threads = spec.threads or 1
    quiet = {"silence_logs": logging.CRITICAL, "preload": [QUIET_WORKER]}
    loud = {"silence_logs": False, "preload": [LOUD_WORKER]}
    return LocalCluster(  # type: ignore[no-untyped-call]
        n_workers=(spec.workers or local_workers(threads)) if spec.adapt is None else 0,
        threads_per_worker=threads,
        dashboard_address="127.0.0.1:0",  # any free port; None would open 8787, and warn if that is in use
        **(loud if verbose else quiet),
    )
