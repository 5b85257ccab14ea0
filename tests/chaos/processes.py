"""Schedulers, workers and clients that start in milliseconds, forked from a process with all imports."""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import dask

from chaos.work import Work

TESTS = Path(__file__).parents[1]
START_SECONDS = 30.0
SHOW = signal.SIGUSR1  # makes a process write the stacks of its threads to its log
WORKER_TTL = "3s"  # without a heartbeat; distributed uses at least five seconds
SETTINGS = {
    "distributed.comm.timeouts.connect": "3s",
    "distributed.scheduler.worker-ttl": WORKER_TTL,
    "distributed.scheduler.allowed-failures": 10,
    "distributed.worker.memory.terminate": False,
}
WORKER = "import sys; from chaos import processes; processes.run_worker(*sys.argv[1:])"

_context = multiprocessing.get_context("forkserver")


def prepare() -> None:
    """Start the process from which all others are forked, unless it already runs."""
    path = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(TESTS), str(TESTS.parent), path]))
    try:
        _context.set_forkserver_preload(["chaos.preload"])
        forkserver.ensure_running()
    finally:
        if path is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = path


class Cluster:
    """A scheduler, workers of one thread each, and their clients, as processes."""

    def __init__(self, folder: Path, environment: Mapping[str, str], workers: int = 2) -> None:
        self.folder, self.environment = folder, dict(environment)
        folder.mkdir(parents=True, exist_ok=True)
        receive, send = _context.Pipe(duplex=False)
        self.scheduler = forked(_run_scheduler, folder / "log", send)
        send.close()
        if not receive.poll(START_SECONDS):
            raise TimeoutError("the scheduler did not start")
        self.address: str = receive.recv()
        self.workers: list[Any] = []
        self.clients: list[Any] = []
        for _ in range(workers):
            self.add_worker()

    def add_worker(self, address: str = "") -> Any:
        """Start a worker, optionally with another address for the scheduler."""
        arguments = address or self.address, str(self.folder), self.environment
        self.workers.append(forked(_run_worker, self.folder / "log", *arguments))
        return self.workers[-1]

    def add_worker_with(self, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """Start a worker with environment variables for preloaded libraries; it is not forked."""
        path = os.pathsep.join([str(TESTS), str(TESTS.parent)])
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", WORKER, self.address, str(self.folder)],
                env={**os.environ, **self.environment, **environment, "PYTHONPATH": path},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.workers.append(process)
        return process

    def replace_dead_workers(self) -> None:
        """Start a worker for each one that has died."""
        dead = [worker for worker in self.workers if not worker.is_alive()]
        self.workers = [worker for worker in self.workers if worker not in dead]
        for _ in dead:
            self.add_worker()

    def run(self, work: Work) -> Any:
        """Start a client with some work, and return its process."""
        self.clients.append(forked(_run_client, self.folder / "log", self.address, work, self.environment))
        return self.clients[-1]

    def kill(self) -> None:
        """End all processes with SIGKILL."""
        kill(*self.clients, *self.workers, self.scheduler)


def kill(*processes: Any) -> None:
    """Kill processes at once with SIGKILL, including stopped ones, and wait for their end."""
    for process in processes:
        process.kill()
    for process in processes:
        process.wait(START_SECONDS) if isinstance(process, subprocess.Popen) else process.join(START_SECONDS)


def stop(process: Any) -> None:
    """Stop a process with SIGSTOP."""
    os.kill(process.pid, signal.SIGSTOP)


def go_on(process: Any) -> None:
    """Continue a stopped process."""
    os.kill(process.pid, signal.SIGCONT)


def run_worker(address: str, folder: str) -> None:
    """Run a worker in this process."""
    dask.config.set(SETTINGS)
    asyncio.run(_work(address, folder))


def forked(target: Any, log: Path, *arguments: Any) -> Any:
    """Run a function in a new process, with its output in a log."""
    process = _context.Process(target=_logged, args=(target, str(log), arguments), daemon=True)
    process.start()
    return process


def _logged(target: Any, log: str, arguments: Any) -> None:
    """Run a function in a new process, and append its output to a file."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout = sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, force=True)
    faulthandler.register(SHOW)
    dask.config.set(SETTINGS)
    target(*arguments)


def _run_scheduler(send: Any) -> None:
    from distributed import Scheduler

    async def serve() -> None:
        async with Scheduler(host="127.0.0.1", port=0, dashboard=False, dashboard_address="127.0.0.1:0") as scheduler:
            send.send(scheduler.address)
            send.close()
            await scheduler.finished()

    asyncio.run(serve())


def _run_worker(address: str, folder: str, environment: Mapping[str, str]) -> None:
    os.environ.update(environment)
    asyncio.run(_work(address, folder))


async def _work(address: str, folder: str) -> None:
    from distributed import Worker

    options: Any = {"nthreads": 1, "memory_limit": 0, "local_directory": folder, "dashboard_address": "127.0.0.1:0"}
    async with Worker(address, host="127.0.0.1", **options) as worker:
        await worker.finished()


def _run_client(address: str, work: Work, environment: Mapping[str, str]) -> None:
    from distributed import Client

    os.environ.update(environment)
    with Client(address):
        work.run()
