"""The operator of nights.py, who runs the jobs and checks each result."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import dask
from click.testing import CliRunner
from distributed import LocalCluster
from nights_world import SHARDS, Dataset, Reader, Source, WebServer, store_at

from shardedstore.cli.exit_codes import worst_of
from shardedstore.cli.main import main as shardedstore

SLOW = {"limits": {"bytes_per_second": "20 kB"}}
PATIENCE = 60.0  # seconds
READERS = 4  # of each dataset
DISK = 64 << 20  # bytes
LEFT = 24 << 10  # bytes on the full disk, fewer than the shards of a night need
CLOSED = "http://127.0.0.1:9"  # where no server is
EXPIRED = {"AWS_SECRET_ACCESS_KEY": "expired"}
Number = int | Callable[[Dataset], int] | None
Row = dict[str, Any]


class Skipped(Exception):
    """Raised by a night that can't be played here."""


class Operator:
    """Runs the jobs of all datasets, and checks the exit codes, the JSON, the results and their readers."""

    def __init__(self, folder: Path, datasets: tuple[Dataset, ...], url: str | None, scheduler: str) -> None:
        self.folder, self.url, self.scheduler = folder, url, scheduler
        self.datasets = tuple(dataset for dataset in datasets if not (url and dataset.is_web))
        (folder / "sources").mkdir(parents=True)
        self.web = WebServer(folder / "sources")
        self.disk = Disk(folder / "results", is_local=url is None)
        self.sources = {dataset: Source(dataset, store_at(self.source(dataset))) for dataset in self.datasets}
        self.values = {dataset: source.values() for dataset, source in self.sources.items()}
        self.names = {dataset: dataset.name for dataset in self.datasets}  # of destinations
        self.readers = {dataset: deque[Reader](maxlen=READERS) for dataset in self.datasets}
        self.runs: list[str] = []

    @classmethod
    @contextlib.contextmanager
    def hired(cls, folder: Path, datasets: tuple[Dataset, ...], url: str | None) -> Iterator[Self]:
        """Start a scheduler with two threads in this process, and return an operator who uses it."""
        options = {"dashboard_address": "127.0.0.1:0", "protocol": "tcp", "host": "127.0.0.1"}
        with (
            dask.config.set({"distributed.worker.memory.terminate": False}),
            LocalCluster(processes=False, n_workers=1, threads_per_worker=2, **options) as cluster,
        ):
            operator = cls(folder, datasets, url, cluster.scheduler_address)
            try:
                yield operator
            finally:
                operator.web.close()
                operator.disk.close()

    def source(self, dataset: Dataset) -> str:
        """Return the place where the source of a dataset is written."""
        return f"{self.url or self.folder}/sources/{dataset.name}.zarr"

    def destination(self, dataset: Dataset) -> str:
        """Return the destination of a dataset."""
        return f"{self.url or self.folder}/results/{self.names[dataset]}"

    def is_remote(self, dataset: Dataset) -> bool:
        """Whether the dataset is on a server."""
        return dataset.is_web or self.url is not None

    def change(self, change: str) -> None:
        """Change all sources."""
        for source in self.sources.values():
            getattr(source, change)()
        self._learn()

    def _learn(self) -> None:
        self.values = {dataset: source.values() for dataset, source in self.sources.items()}

    def renew_one_zarrs(self) -> None:
        """Name new destinations for results that can't follow a change of their sources."""
        for dataset in self.datasets:
            if dataset.is_one_zarr:
                self.names[dataset] += "-new"

    def run(
        self,
        *,
        code: Number,
        done: Number,
        kept: Number,
        failed: Number = 0,
        only: Callable[[Dataset], bool] = bool,
        is_intact: bool = True,
        is_readable: bool = True,
        parallel: int = 1,
        **options: Any,
    ) -> list[Row]:
        """Run the jobs, and compare the exit code, the numbers of shards and all results; None allows every number."""
        chosen = [dataset for dataset in self.datasets if only(dataset)]
        if not chosen:
            return []
        self.write_jobs(options)
        rows = self._call([*self._command(chosen), f"--parallel={parallel}"])
        assert [row["name"] for row in rows] == [dataset.name for dataset in chosen]
        expected = {"exit_code": code, "done": done, "skipped": kept, "failed": failed}
        for dataset, row in zip(chosen, rows, strict=True):
            compare(dataset, row, expected)
            if is_readable and (is_intact or dataset.decodes):  # else the result has the damaged chunk
                self._open(dataset, is_new=row["exit_code"] in (0, 3))
            if is_readable:
                self._read(dataset)
        return rows

    def _open(self, dataset: Dataset, *, is_new: bool) -> None:
        """Open the published result, which has the values of the source, or still those of the last success."""
        readers = self.readers[dataset]
        if is_new:
            readers.append(Reader.of(dataset, self.destination(dataset), self.values[dataset]))
        elif readers:
            readers.append(Reader.of(dataset, readers[-1].place, readers[-1].expected))

    def _read(self, dataset: Dataset) -> None:
        """Compare the values of all readers, the earlier ones too."""
        for reader in self.readers[dataset]:
            reader.check(self.values[dataset] if dataset.is_one_zarr else None)

    def write_jobs(self, options: dict[str, Any]) -> None:
        """Write the job file, with more options for each job."""
        lines = ["[run]", "exit_code_if_unchanged = true", "[defaults]", *_lines({"retries": 0, "shards": SHARDS})]
        for dataset in self.datasets:
            place = f"{self.web.url}/{dataset.name}.zarr" if dataset.is_web else self.source(dataset)
            lines += ["[[job]]", *_lines({**dataset.job(place, self.destination(dataset)), **options})]
        (self.folder / "jobs.toml").write_text("\n".join(lines) + "\n")

    def _command(self, datasets: list[Dataset]) -> list[str]:
        names = [f"--only={dataset.name}" for dataset in datasets]
        return ["run", f"{self.folder}/jobs.toml", "--keep-going", "--json", "--scheduler", self.scheduler, *names]

    def _call(self, command: list[str]) -> list[Row]:
        result = CliRunner().invoke(shardedstore, command, catch_exceptions=False)
        return self._note(result.stdout, result.exit_code)

    def _note(self, stdout: str, code: int) -> list[Row]:
        """Return the rows of the last line of a command, whose exit code is that of its worst job."""
        told = json.loads(stdout.splitlines()[-1])
        rows: list[Row] = told["jobs"]
        assert code == told["exit_code"] == worst_of(row["exit_code"] for row in rows), told
        states = Counter(row["state"] for row in rows)
        done, kept, failed = (sum(row[key] for row in rows) for key in ("done", "skipped", "failed"))
        text = ", ".join(f"{number} {state}" for state, number in states.items())
        self.runs.append(f"exit {code} ({text}): {done} made, {kept} kept, {failed} failed")
        return rows

    @contextlib.contextmanager
    def paused_run(self, dataset: Dataset, **expected: int) -> Iterator[None]:
        """Pause a run in another process after its first shard, then continue it, and check its end."""
        with self.slow_run(dataset) as process:
            process.send_signal(signal.SIGSTOP)
            yield
            process.send_signal(signal.SIGCONT)
            stdout, _ = process.communicate(timeout=PATIENCE)
            (row,) = self._note(stdout, process.returncode)
            compare(dataset, row, {**expected, "failed": 0})

    @contextlib.contextmanager
    def slow_run(self, dataset: Dataset) -> Iterator[subprocess.Popen[str]]:
        """Run one job slowly in another process, from its first shard on."""
        self.write_jobs(SLOW)
        log = self.folder / "slow.log"
        log.write_text("")
        command = [*self._command([dataset]), "--log-format=json", f"--log-file={log}"]
        process = subprocess.Popen(
            [sys.executable, "-m", "shardedstore", *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            wait_until(lambda: '"done":1' in log.read_text() or process.poll() is not None)
            assert process.poll() is None, process.communicate()
            yield process
        finally:
            process.kill()
            process.wait()

    def status(self, dataset: Dataset) -> Row:
        """Return the state of a job, as another process sees it."""
        found: Row = json.loads(self._ask("status", self.destination(dataset), "--json"))
        return found

    def prune(self, dataset: Dataset, *, keep_last: int) -> int:
        """Remove the objects of earlier results, forget their readers, and return the number of objects."""
        command = ["prune", self.destination(dataset), "--keep-last", str(keep_last), "--json"]
        would = json.loads(self._ask(*command, "--dry-run"))
        pruned = json.loads(self._ask(*command))
        assert pruned["names"] == would["names"]
        assert pruned["names"] or dataset.is_one_zarr, pruned
        while len(self.readers[dataset]) > keep_last:
            self.readers[dataset].popleft()
        return len(pruned["names"])

    def _ask(self, *command: str) -> str:
        return CliRunner().invoke(shardedstore, command, catch_exceptions=False).stdout

    def server_away(self) -> contextlib.AbstractContextManager[None]:
        """Stop the server of the remote datasets."""
        return self.web.away() if self.url is None else environment(AWS_ENDPOINT_URL=CLOSED)

    def credentials_expired(self) -> contextlib.AbstractContextManager[None]:
        """Make the server refuse the requests for the remote datasets."""
        return self.web.refusing() if self.url is None else environment(**EXPIRED)


class Disk:
    """A small memory file system for results; a plain folder, if this process can't mount one."""

    def __init__(self, folder: Path, *, is_local: bool) -> None:
        self.folder = folder
        folder.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "none", str(folder)]
        can = is_local and sys.platform == "linux" and os.geteuid() == 0
        self.is_small = can and subprocess.run(mount, capture_output=True, check=False).returncode == 0

    @contextlib.contextmanager
    def filled(self) -> Iterator[None]:
        """Fill the disk almost."""
        if not self.is_small:
            raise Skipped("no small disk can be mounted")
        free = os.statvfs(self.folder)
        ballast = self.folder / "ballast"
        ballast.write_bytes(bytes(free.f_bavail * free.f_frsize - LEFT))
        yield
        ballast.unlink()

    def close(self) -> None:
        """Unmount the file system."""
        if self.is_small:
            subprocess.run(["umount", "-l", str(self.folder)], check=True)


def compare(dataset: Dataset, row: Row, expected: dict[str, Number]) -> None:
    """Compare the row of a job with the expected numbers."""
    for key, number in expected.items():
        wanted = number(dataset) if callable(number) else number
        assert wanted is None or row[key] == wanted, f"{dataset.name}: {key} is {row[key]}, not {wanted}: {row}"


@contextlib.contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Set environment variables for a while."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    yield
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for a condition."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"waited {PATIENCE:.0f} s"
        time.sleep(0.02)


def _lines(table: dict[str, Any]) -> list[str]:
    return [f"{key} = {_toml(value)}" for key, value in table.items()]


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml(item)}" for key, item in value.items()) + "}"
    return json.dumps(value)
