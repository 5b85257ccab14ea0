"""The Dask cluster of a command."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from collections.abc import Iterator
from contextvars import copy_context
from typing import Any
from urllib.parse import urlsplit

import click
import dask
from dask.system import CPU_COUNT

from shardedstore.errors import ClusterError, JobStopped, UsageError
from shardedstore.jobfiles.spec import ClusterSpec
from shardedstore.jobs.executors.active import scheduler_executor, use_executor
from shardedstore.jobs.executors.base import Executor
from shardedstore.jobs.executors.on_demand import OnDemandExecutor
from shardedstore.text import one_line

CONNECT_SECONDS = 10
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
    """Raise UsageError where the options of a cluster exclude each other."""
    if spec.workers is not None and spec.scheduler is not None:
        raise UsageError("--workers and --scheduler exclude each other: leave out --workers, the cluster has its own")


@contextlib.contextmanager
def cluster_on_demand(spec: ClusterSpec, verbose: bool) -> Iterator[None]:
    """Run jobs on a cluster that starts when the first job has work; connect to an existing one at once."""
    stack, context = contextlib.ExitStack(), copy_context()

    def connect() -> Executor:
        stack.enter_context(cluster(spec, verbose))
        return scheduler_executor()

    def connect_here() -> Executor:
        return context.run(connect)  # a client is closed in the context in which it was made, and jobs have their own

    try:
        executor = connect_here() if spec.scheduler is not None else OnDemandExecutor(connect_here)
        with use_executor(executor):
            yield
    finally:
        context.run(stack.close)


@contextlib.contextmanager
def cluster(spec: ClusterSpec, verbose: bool) -> Iterator[None]:
    """Activate a Dask client, of an existing cluster or of new worker processes on this machine."""
    scheduler = spec.scheduler
    if not verbose:
        dask.config.set({"logging": {"distributed": "critical", "distributed.client": "critical"}})
    from distributed import Client  # imported here, as it takes a second, and info and --dry-run do not need it

    if scheduler is None:
        with local_cluster(spec.workers or CPU_COUNT, verbose) as local, Client(local):  # type: ignore[no-untyped-call]
            try:
                yield
            except (JobStopped, KeyboardInterrupt):
                _kill_workers(local)
                raise
        return
    try:
        # A client that can't connect would stay this process's default.
        client = Client(scheduler, timeout=CONNECT_SECONDS, set_as_default=False)  # type: ignore[no-untyped-call]
    except (OSError, ValueError, TypeError, RuntimeError) as error:  # a TypeError for tls:// without certificates
        if urlsplit(scheduler).scheme == "tls" and not isinstance(error, OSError):
            raise UsageError(
                f"{scheduler!r} needs certificates, but none are configured here ({one_line(error)}): set them in Dask's "
                "configuration, distributed.comm.tls.ca-file, .client.cert and .client.key, or by DASK_DISTRIBUTED__COMM__TLS__..."
            ) from error
        kind = ClusterError if isinstance(error, OSError) else UsageError
        raise kind(
            f"no Dask scheduler answers at {scheduler!r} ({one_line(error)}): give the address that the scheduler printed "
            "at its start, like tcp://host:8786"
        ) from error
    with client, client.as_current():
        if not client.nthreads():  # type: ignore[no-untyped-call]
            click.echo(f"the cluster at {scheduler} has no workers: waiting for the first", err=True)
        yield


def _kill_workers(local: Any) -> None:
    """End the worker processes at once, because Dask waits some seconds for their running tasks."""
    for nanny in local.workers.values():
        nanny.close_gracefully("the job was stopped")  # so that it starts no other process
        if nanny.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(nanny.pid, signal.SIGKILL)


def local_cluster(processes: int, verbose: bool) -> Any:
    """Return a cluster of processes; the logs of the workers are shown with --verbose only."""
    from distributed import LocalCluster

    # Without this, Dask may never restart a worker that dies twice in 15 seconds, and a job without workers waits forever.
    dask.config.set({"distributed.deploy.lost-worker-timeout": "1 day"})
    quiet = {"silence_logs": logging.CRITICAL, "preload": [QUIET_WORKER]}
    loud = {"silence_logs": False, "preload": [LOUD_WORKER]}
    return LocalCluster(  # type: ignore[no-untyped-call]
        n_workers=processes,
        threads_per_worker=1,
        dashboard_address="127.0.0.1:0",  # any free port; None would open 8787, and warn if that is in use
        **(loud if verbose else quiet),
    )
