"""Helpers of job tests: steps and functions that workers import by name, and a cluster of processes."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import dask
import numpy as np
import psutil
import zarr
from conformance import check_same_contents, contents_of
from distributed import Client, LocalCluster
from servers import Folder, upload
from sources import SOURCES, Source, build, to_folder
from zarr.abc.store import Store
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import LocalStore, MemoryStore

from shardedstore import ShardedStore, Step
from shardedstore.jobs import shards
from shardedstore.jobs.ledger import FOLDER, Ledger
from shardedstore.jobs.manifest import generations, ledger_of, read_generation
from shardedstore.storage.folders import open_folder
from shardedstore.storage.publish import TEMPORARY
from shardedstore.transforms import ToZip
from shardedstore.transforms.base.shard import Entries, Shard
from shardedstore.zarr.refusal import REFUSALS

HERE = Path(__file__).parent
CUBE = SOURCES["cube-v3/"]
CUBE_SHARDS = sum(CUBE.mounts.values()) + 1  # the base too
PROTOTYPE = default_buffer_prototype()
TARGET = "SHARDEDSTORE_TEST_TARGET"  # destination of `copied`


# Steps. `shard` is the name of the changed shard, as in messages.


@dataclass(frozen=True)
class Fail(Step):
    """Fails for one shard until a file exists."""

    shard: str
    mended: str = "/nonexistent"

    def __call__(self, entries: Entries, shard: Shard) -> Entries:
        for entry in entries:
            yield entry
            if shard.name == self.shard and not os.path.exists(self.mended):
                raise ValueError(f"{entry.key} is not to the step's taste")


@dataclass(frozen=True)
class FailFirst(Step):
    """Fails for one shard with an OSError in the first attempts; each attempt leaves a file in a folder."""

    shard: str
    attempts: str
    times: int
    code: int = errno.EIO

    def __call__(self, entries: Entries, shard: Shard) -> Entries:
        if shard.name == self.shard and mark(self.attempts) <= self.times:
            raise OSError(self.code, os.strerror(self.code))
        return entries


@dataclass(frozen=True)
class Poison(Step):
    """Ends the worker process that runs one shard; each attempt leaves a file in a folder."""

    shard: str
    attempts: str

    def __call__(self, entries: Entries, shard: Shard) -> Entries:
        if shard.name == self.shard:
            mark(self.attempts)
            time.sleep(0.2)  # Dask's nanny may not restart a worker that dies during its start
            os._exit(77)
        return entries


@dataclass(frozen=True)
class KillOnce(Step):
    """Kills its process at some entry of one shard until a file exists."""

    shard: str
    at: int
    mended: str

    def __call__(self, entries: Entries, shard: Shard) -> Entries:
        for i, entry in enumerate(entries):
            if i == self.at and shard.name == self.shard and not os.path.exists(self.mended):
                os.kill(os.getpid(), signal.SIGKILL)
            yield entry


@dataclass(frozen=True)
class Remove(Step):
    """Removes a listed file at the first entry of a shard."""

    shard: str
    file: str

    def __call__(self, entries: Entries, shard: Shard) -> Entries:
        for i, entry in enumerate(entries):
            if i == 0 and shard.name == self.shard:
                os.unlink(self.file)
            yield entry


@dataclass(frozen=True)
class Slow(Step):
    """Takes time for every shard, half of it after the last entry."""

    seconds: float
    pace: ClassVar[float] = 1  # 0 for a job that goes on, and is the same job

    def __call__(self, entries: Entries, shard: Shard) -> Entries:
        time.sleep(self.pace * self.seconds / 2)
        yield from entries
        time.sleep(self.pace * self.seconds / 2)


@dataclass(frozen=True)
class Seen(Step):
    """Leaves a file in a folder for every shard."""

    folder: str

    def __call__(self, entries: Entries, shard: Shard) -> Entries:
        mark(self.folder)
        return entries


def unchanged(entries: Entries, shard: Shard) -> Entries:
    yield from entries


def mark(folder: str) -> int:
    """Leave a file, and return the number of files."""
    os.makedirs(folder, exist_ok=True)
    count = len(os.listdir(folder)) + 1
    Path(folder, f"{count}-{os.getpid()}-{time.monotonic_ns()}").touch()
    return count


# Functions of stores, as in shardedstore 0.3.1.


def copied(store: Store, shard_path: str, chunk_dims: str | None) -> Store:
    """Copy a component to a separate folder."""
    place = Path(os.environ[TARGET], shard_path or "base", *(chunk_dims or "whole").split("/"), "copy")

    async def copy() -> LocalStore:
        target = LocalStore(place)
        async for key in store.list():
            await target.set(key, await store.get(key, PROTOTYPE))
        return target

    return sync(copy())


def forgotten(store: Store, shard_path: str, chunk_dims: str | None) -> Store:
    """Return a store that no other process can open."""
    return MemoryStore()


# Sources and results


def cube_at(folder: Path, source: Source = CUBE) -> Path:
    return to_folder(source.contents(), folder)


def division(path: Path, source: Source = CUBE) -> ShardedStore:
    return ShardedStore.partition(path, source.shards)


def undisturbed(folder: Path, *steps: Step) -> dict[str, bytes]:
    """The files of an undisturbed job."""
    with dask.config.set(scheduler="synchronous"):
        division(cube_at(folder / "source.zarr")).map_shards(*steps, ToZip(folder / "out"))
    return files_of(folder / "out")


def files_of(folder: Path) -> dict[str, bytes]:
    """All files below a folder, without the ledger and the documents that refuse readers of Zarr."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    found = {str(path.relative_to(folder)): path.read_bytes() for path in paths}
    return {
        name: data for name, data in found.items() if not name.startswith(f"{FOLDER}/") and REFUSALS.get(name) != data
    }


def check_zips_as_of_a_folder(far: Folder, source: Source, folder: Path) -> None:
    """Check that a source in an object store equals one in a local folder, and gives zips with equal bytes."""
    contents = source.contents()
    upload(far.client, contents)
    view = ShardedStore.partition(far.url, source.shards)
    check_same_contents(view, contents)
    with dask.config.set(scheduler="threads"):
        result = view.map_shards(ToZip(folder / "far"))
        ShardedStore.partition(to_folder(contents, folder / "a"), source.shards).map_shards(ToZip(folder / "near"))
    assert contents_of(result).keys() == contents.keys()
    far_zips, near_zips = (
        {name: data for name, data in files_of(folder / where).items() if name.endswith(".zip")}
        for where in ("far", "near")
    )
    assert far_zips == near_zips


def temporaries(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.startswith(TEMPORARY)]


def blocks_source(store: Store, count: int) -> None:
    """A Zarr with one array of many chunks, each of which can be a shard."""
    root = zarr.create_group(store)
    root.create_array("a", data=np.arange(1, count + 1, dtype="i4"), chunks=(1,), dimension_names=("x",))


def blocks_at(folder: Path, count: int) -> ShardedStore:
    path = to_folder(build(blocks_source, count), folder)
    return ShardedStore.partition(path, {"a": {"x": 1}})


# Processes


def environment() -> dict[str, str]:
    path = os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    impatient = {"DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "3s"}
    return {**os.environ, **impatient, "PYTHONPATH": path.rstrip(os.pathsep)}


def python(*arguments: str, log: Path) -> subprocess.Popen[bytes]:
    """Start a Python process as the leader of a new session."""
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, *arguments],
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )


def script_of(module: str, call: str) -> str:
    """Return a script for `python -c` that imports a test module, by its ``__file__``, and calls one of its functions."""
    folder, name = os.path.split(module)
    name = name.removesuffix(".py")
    return f"import sys; sys.path.insert(0, {folder!r}); import {name}; {name}.{call}"


def kill_session(process: subprocess.Popen[bytes]) -> None:
    """Kill a process from `python` and its children with SIGKILL.

    Python's resource tracker then ends by itself, and removes their semaphores in /dev/shm.
    """
    try:
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        family = [member for member in family if "resource_tracker" not in " ".join(member.cmdline())]
    except psutil.NoSuchProcess:
        family = []
    for member in family:
        try:
            member.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
    process.wait(10)
    psutil.wait_procs(family, 10)


def wait_until(condition: Callable[[], object], seconds: float = 60, what: str = "") -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds} s for {what or condition}")
        time.sleep(0.02)


class Cluster:
    """A scheduler and workers as processes that are started from the command line."""

    def __init__(self, folder: Path, workers: int) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / "scheduler.json"
        listen = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(self.file)]
        self.scheduler = python("-m", "dask", "scheduler", *listen, log=folder / "scheduler.log")
        wait_until(self.file.exists, what="the scheduler's file")
        self.workers: list[subprocess.Popen[bytes]] = []
        for _ in range(workers):
            self.add_worker()

    def add_worker(self) -> subprocess.Popen[bytes]:
        """Start one worker of one thread."""
        at = ["--scheduler-file", str(self.file), "--host", "127.0.0.1"]
        options = ["--nthreads", "1", "--no-dashboard", "--local-directory", str(self.folder), "--memory-limit", "0"]
        log = self.folder / f"worker-{len(self.workers)}.log"
        self.workers.append(python("-m", "dask", "worker", *at, *options, log=log))
        return self.workers[-1]

    def close(self) -> None:
        for process in (*self.workers, self.scheduler):
            kill_session(process)


@contextmanager
def cluster(folder: Path, workers: int = 2) -> Iterator[Cluster]:
    made = Cluster(folder, workers)
    try:
        yield made
    finally:
        made.close()


def slow_job(source: str, destination: str, seconds: str = "0.1", scheduler_file: str = "") -> None:
    """Run a job with slow shards on two worker processes, in a separate process."""
    shards.LEAST_WEIGHT = 1
    store = division(Path(source))
    made = (
        None
        if scheduler_file
        else LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, memory_limit=0)
    )
    with Client(scheduler_file=scheduler_file) if made is None else Client(made):
        result = store.map_shards(Slow(float(seconds)), ToZip(destination))
    print(f"done {result.summary.done} skipped {result.summary.skipped}", flush=True)


def start_slow_job(source: Path, destination: Path, log: Path, scheduler_file: str = "", seconds: float = 0.1):
    arguments = [str(source), str(destination), str(seconds), scheduler_file]
    return python("-c", f"import helpers_jobs; helpers_jobs.slow_job(*{arguments!r})", log=log)


def quietly(**variables: str) -> dict[str, str]:
    """An environment in which Dask does not log lost connections between ending workers and schedulers."""
    return {**os.environ, "DASK_LOGGING__DISTRIBUTED": "critical", **variables}


def ledger_at(url: object, generation: int = 1) -> Ledger:
    """The ledger of a job, which is empty if no job has started."""
    folder = open_folder(str(url))
    known = generation in generations(folder)
    return ledger_of(folder, read_generation(folder, generation)) if known else Ledger(folder, generation)
