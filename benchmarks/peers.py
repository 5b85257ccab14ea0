"""Other programs that make archives: how to install, run and time them for the same work."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.pool import Pool
from pathlib import Path

from benchmarks.layouts import SmallChunks

CACHE = Path(__file__).resolve().parent.parent / ".cache"


@dataclass(frozen=True)
class Tar:
    """GNU tar: the lower limit of a copy into archives, as it does not even compute checksums."""

    layout: SmallChunks
    processes: int = 2

    @property
    def name(self) -> str:
        return f"tar cf, {self.processes} processes"

    def prepare(self) -> str | None:
        return _missing("tar")

    def run(self, source: Path, out: Path) -> float:
        parts = _parts(self.layout, source, self.processes)
        return _together([["tar", "cf", str(out / f"{n}.tar"), *folders] for n, folders in enumerate(parts)], source)


@dataclass(frozen=True)
class InfoZip:
    """Info-ZIP's `zip` without compression (the Debian package `zip`)."""

    layout: SmallChunks
    processes: int = 2

    @property
    def name(self) -> str:
        return f"Info-ZIP zip -0 -r, {self.processes} processes"

    def prepare(self) -> str | None:
        return _missing("zip")

    def run(self, source: Path, out: Path) -> float:
        parts = _parts(self.layout, source, self.processes)
        zips = [["zip", "-0", "-r", "-q", str(out / f"{n}.zip"), *folders] for n, folders in enumerate(parts)]
        return _together(zips, source)


@dataclass(frozen=True)
class Legacy:
    """`map_shards(to_zip_store_with_prefix(...))` of shardedstore 0.3.1, in a separate virtual environment.

    It is serial. Only `map_shards` is timed: not the start of Python, nor imports, nor making the stores.
    """

    layout: SmallChunks
    name: str = "shardedstore 0.3.1, serial"
    pins: tuple[str, ...] = ("shardedstore==0.3.1", "zarr==2.18.7", "numcodecs==0.15.2", "numpy==2.4.6")
    venv: Path = field(default=CACHE / f"shardedstore-0.3.1-py{sys.version_info.major}.{sys.version_info.minor}")

    @property
    def python(self) -> Path:
        return self.venv / "bin" / "python"

    def prepare(self) -> str | None:
        if self._works():
            return None
        shutil.rmtree(self.venv, ignore_errors=True)
        for command in (
            [sys.executable, "-m", "venv", str(self.venv)],
            [str(self.python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *self.pins],
        ):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                shutil.rmtree(self.venv, ignore_errors=True)
                errors = [line for line in done.stderr.splitlines() if "ERROR" in line] or ["no message"]
                return f"its environment can't be made: {errors[-1].strip()}"
        return None if self._works() else f"its environment {self.venv.name} can't import it"

    def run(self, source: Path, out: Path) -> float:
        groups = source.with_name(source.name + "-groups")
        names = sorted(p.name for p in groups.iterdir()) if groups.exists() else self.layout.link_groups(source, groups)
        job = json.dumps({"groups": str(groups), "names": names, "out": str(out)})
        done = self._python(_LEGACY_JOB, job)
        if done.returncode:
            raise RuntimeError(f"shardedstore 0.3.1 failed:\n{done.stderr}")
        return float(done.stdout)

    def _works(self) -> bool:
        if not self.python.exists():
            return False
        return self._python("import shardedstore; assert shardedstore.__version__ == '0.3.1'").returncode == 0

    def _python(self, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run code in its environment, isolated (`-I`) so that it does not import the package in the current folder."""
        command = [str(self.python), "-I", "-c", code, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)


_LEGACY_JOB = """
import json, sys, time
from shardedstore import ShardedStore, to_zip_store_with_prefix
from zarr.storage import DirectoryStore, MemoryStore

job = json.loads(sys.argv[1])
shards = {name: DirectoryStore(job["groups"] + "/" + name) for name in job["names"]}
store = ShardedStore(MemoryStore(), shards=shards)
started = time.perf_counter()
store.map_shards(to_zip_store_with_prefix(job["out"] + "/zips"))
print(time.perf_counter() - started)
"""


@dataclass(frozen=True)
class PlainLoop:
    """The minimum for Python: open, read and close each file, compute its CRC-32, and write all data in batches.

    This is a reference, not a competitor: our own task adds names, headers, checks and records.
    """

    layout: SmallChunks
    pool: Pool
    name: str = "(a bare loop in Python, no archive)"

    def prepare(self) -> str | None:
        return None

    def run(self, source: Path, out: Path) -> float:
        size = self.layout.chunk_bytes
        jobs = [(row, out / f"{row.name}.raw", size) for row in self.layout.rows(source)]
        started = time.perf_counter()
        for _ in self.pool.imap_unordered(_copy_with_crc, jobs):
            pass
        return time.perf_counter() - started


def _copy_with_crc(job: tuple[Path, Path, int]) -> int:
    """Two sizes matter: reads of 1 MiB take 2.1 times as long in total, batches of 512 files 1.6 times."""
    folder, target, size = job
    crc = 0
    here = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    out = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    batch: list[bytes] = []
    for name in sorted(os.listdir(here)):
        file = os.open(name, os.O_RDONLY, dir_fd=here)
        data = os.read(file, size + 1)
        os.close(file)
        crc ^= zlib.crc32(data)
        batch.append(data)
        if len(batch) == 32:
            os.writev(out, batch)
            batch.clear()
    os.writev(out, batch)
    os.close(out)
    os.close(here)
    return crc


def _missing(program: str) -> str | None:
    return None if shutil.which(program) else f"there is no program {program!r} here"


def _parts(layout: SmallChunks, source: Path, count: int) -> list[list[str]]:
    """The folders of all shards, relative to the source, in at most `count` groups of about equal length."""
    folders = [str(row.relative_to(source)) for row in layout.rows(source)]
    parts = [folders[n * len(folders) // count : (n + 1) * len(folders) // count] for n in range(count)]
    return [part for part in parts if part]


def _together(commands: Sequence[Sequence[str]], folder: Path) -> float:
    """Seconds from the start of the first command to the end of the last."""
    started = time.perf_counter()
    running = [subprocess.Popen(command, cwd=folder) for command in commands]
    codes = [process.wait() for process in running]
    took = time.perf_counter() - started
    if any(codes):
        raise RuntimeError(f"{commands[0][0]} ended with {codes}")
    return took
