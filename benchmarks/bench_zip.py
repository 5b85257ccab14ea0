"""Zip many small chunks: shardedstore beside tar, Info-ZIP and the original shardedstore 0.3.1.

    python -m benchmarks.bench_zip

All subjects run turn by turn (A B C, A B C, ...) in one run on a memory file system, so that neither a disk nor a busy
minute of the machine decides. A first round is not counted: it starts what has to be started, and what it has written
is read back and compared with the source. The tables show medians beside what must be reached; a ratio is the median of
the ratios of each round. All data is removed at the end; only the environment of 0.3.1 stays, in `.cache/`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import signal
import statistics
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from distributed import Client, LocalCluster

from benchmarks.layouts import SmallChunks
from benchmarks.ours import BareTasks, OnDask
from benchmarks.peers import InfoZip, Legacy, PlainLoop, Subject, Tar

WORKERS = 2


@dataclass(frozen=True)
class Target:
    """What one subject must reach against another: at most `limit` times its time."""

    subject: str
    against: str
    limit: float
    words: str

    def line(self, seconds: dict[str, list[float]]) -> tuple[str, ...]:
        """Its row of the table of ratios."""
        if self.subject not in seconds or self.against not in seconds:
            return (self.subject, self.against, "not measured", self.words, "-")
        rounds = zip(seconds[self.subject], seconds[self.against], strict=True)
        ratio = statistics.median(ours / theirs for ours, theirs in rounds)
        shown = f"{ratio:.2f} x" if self.limit >= 1 else f"{1 / ratio:.1f} x faster"
        return (self.subject, self.against, shown, self.words, "yes" if ratio <= self.limit else "NO")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the tables."""
    options = _options(arguments)
    layout = SmallChunks(shards=options.shards, chunks=options.chunks)
    need = 3 * layout.payload
    if shutil.disk_usage(options.workdir).free < need:
        sys.exit(f"{options.workdir} needs {need / 2**20:,.0f} MiB of free space; choose another with --workdir")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # so that the data is removed then, too

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-zip-", dir=options.workdir)))
        pool = stack.enter_context(multiprocessing.get_context("spawn").Pool(WORKERS))
        cluster = stack.enter_context(
            LocalCluster(n_workers=WORKERS, threads_per_worker=1, processes=True, dashboard_address=None)
        )
        stack.enter_context(Client(cluster))

        tar, infozip, legacy = Tar(layout, WORKERS), InfoZip(layout, WORKERS), Legacy(layout)
        bare, dask = BareTasks(pool), OnDask()
        subjects: list[Subject] = [tar, infozip, legacy, PlainLoop(layout, pool), bare, dask]
        targets = [
            Target(bare.name, tar.name, 1.25, "<= 1.25 x"),
            Target(dask.name, tar.name, 1.6, "<= 1.6 x"),
            Target(dask.name, legacy.name, 1 / 4, ">= 4 x faster"),
            Target(dask.name, infozip.name, 1 / 2, ">= 2 x faster"),
        ]
        print(
            f"{layout.shards} shards x {layout.chunks:,} chunks of {layout.chunk_bytes:,} bytes"
            f" = {layout.payload / 2**20:,.0f} MiB; {options.rounds} rounds; {os.cpu_count()} processors,"
            f" load {os.getloadavg()[0]:.1f} before; on {_file_system(options.workdir)}\n"
        )
        seconds, missing = measure(layout, subjects, folder, options.rounds)

    _print_table(
        ("what", "median", "fastest", "slowest"),
        [
            (name, *(f"{figure:.3f} s" for figure in (statistics.median(took), min(took), max(took))))
            for name, took in seconds.items()
        ],
    )
    for name, why in missing.items():
        print(f"not measured: {name}: {why}")
    print()
    _print_table(("what", "against", "is", "must be", "reached"), [target.line(seconds) for target in targets])


def measure(
    layout: SmallChunks, subjects: Sequence[Subject], folder: Path, rounds: int
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """The seconds of each subject in each round, and for each that could not be measured the reason."""
    source, out = folder / "source.zarr", folder / "out"
    layout.write(source)
    expected = Counter(zlib.crc32(file.read_bytes()) for row in layout.rows(source) for file in row.iterdir())
    seconds: dict[str, list[float]] = {}
    missing: dict[str, str] = {}
    ready: list[Subject] = []
    for subject in subjects:
        try:
            why = subject.prepare()
            if why is None:
                with _new_folder(out):
                    subject.run(source, out)
                    if Counter(_checksums(out, layout.chunk_bytes)) != expected:
                        why = "what it wrote does not hold the chunks of the source"
        except Exception as error:  # what fails is told, and the others are measured
            why = f"{type(error).__name__}: {error}"
        if why is None:
            ready.append(subject)
            seconds[subject.name] = []
        else:
            missing[subject.name] = why
    for _ in range(rounds):
        for subject in ready:
            with _new_folder(out):
                seconds[subject.name].append(subject.run(source, out))
    return seconds, missing


def _checksums(out: Path, size: int) -> Iterator[int]:
    """The CRC-32 of each chunk in the archives below `out`: of whatever in them has the size of a chunk."""
    for path in out.rglob("*.zip"):
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if entry.file_size == size:
                    yield zlib.crc32(archive.read(entry))
    for path in out.rglob("*.tar"):
        with tarfile.open(path) as tar:
            for member in tar:
                file = tar.extractfile(member)
                if file is not None and member.size == size:
                    yield zlib.crc32(file.read())
    for path in out.rglob("*.raw"):
        data = memoryview(path.read_bytes())
        for start in range(0, len(data), size):
            yield zlib.crc32(data[start : start + size])


@contextmanager
def _new_folder(path: Path) -> Iterator[None]:
    """A new folder, and none again afterwards."""
    path.mkdir()
    try:
        yield
    finally:
        shutil.rmtree(path)


def _file_system(folder: Path) -> str:
    """The type of the file system that holds `folder`, with a word of warning if it is not in memory."""
    try:
        mounts = [line.split()[1:3] for line in Path("/proc/self/mounts").read_text().splitlines()]
    except OSError:
        return "an unknown file system"
    above = {str(path) for path in (folder.resolve(), *folder.resolve().parents)}
    kind = max(((len(place), kind) for place, kind in mounts if place in above), default=(0, "unknown"))[1]
    return kind if kind in ("tmpfs", "ramfs") else f"{kind}, which is not in memory: the disk is measured, too"


def _print_table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, tuple("-" * width for width in widths), *rows):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_zip", description=__doc__.partition("\n")[0])
    parser.add_argument("--workdir", type=Path, default=Path("/dev/shm"), help="where the data lies (%(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds that count (%(default)s)")
    parser.add_argument("--shards", type=int, default=32, help="(%(default)s)")
    parser.add_argument("--chunks", type=int, default=1000, help="chunks in each shard (%(default)s)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
