"""Shared parts of the benchmarks: measure subjects in turns, and print tables of their times.

The first round is not counted: it starts the processes, and its results are compared with the source. A subject that fails
is reported, and the others are measured. A ratio is the median of the ratios of all rounds.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

Out = TypeVar("Out")
Out_contra = TypeVar("Out_contra", contravariant=True)
Seconds = dict[str, list[float]]


class Subject(Protocol[Out_contra]):
    """Protocol of a measured subject."""

    @property
    def name(self) -> str:
        """The row of the table."""

    def prepare(self) -> str | None:
        """Prepare the subject, untimed; return the reason if it can't be measured here, else None."""

    def run(self, source: Path, out: Out_contra) -> float:
        """Do the work once, from the data at `source` into the new place `out`; return its time in seconds."""


@dataclass(frozen=True)
class Target:
    """Target of a subject: at most `limit` times the time of the fastest other; None only shows the ratio."""

    subject: str
    against: str | tuple[str, ...]
    limit: float | None
    words: str

    def line(self, seconds: Seconds) -> tuple[str, ...]:
        """The row of the table of ratios."""
        others = (self.against,) if isinstance(self.against, str) else self.against
        against = others[0] if len(others) == 1 else f"the faster of {', '.join(others)}"
        found = [seconds[name] for name in others if name in seconds]
        if self.subject not in seconds or not found:
            return (self.subject, against, "not measured", self.words, "-")
        rounds = zip(seconds[self.subject], zip(*found, strict=True), strict=True)
        ratio = statistics.median(ours / min(theirs) for ours, theirs in rounds)
        shown = f"{1 / ratio:.1f} {self.words.split(maxsplit=2)[2]}" if self.words[:1] == ">" else f"{ratio:.2f} x"
        reached = "-" if self.limit is None else "yes" if ratio <= self.limit else "NO"
        return (self.subject, against, shown, self.words, reached)


def measure(
    subjects: Sequence[Subject[Out]],
    source: Path,
    place: Callable[[], AbstractContextManager[Out]],
    check: Callable[[Out], str | None],
    rounds: int,
) -> tuple[Seconds, dict[str, str]]:
    """Measure subjects in turns: A B C, A B C, ...

    Parameters
    ----------
    place : callable
        Returns the context of one run, with a new folder to write to.
    check : callable
        Returns the error in the results of the first, uncounted run; None if they are right.

    Returns
    -------
    seconds, missing : dict
        The seconds of each subject in each round, and the reason for each subject that could not be measured.
    """
    seconds: Seconds = {}
    missing: dict[str, str] = {}
    for subject in subjects:
        try:
            why = subject.prepare()
            if why is None:
                with place() as out:
                    subject.run(source, out)
                    why = check(out)
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
        if why is None:
            seconds[subject.name] = []
        else:
            missing[subject.name] = why
    for _ in range(rounds):
        for subject in subjects:
            if subject.name in seconds:
                with place() as out:
                    seconds[subject.name].append(subject.run(source, out))
    return seconds, missing


def report(seconds: Seconds, missing: dict[str, str], targets: Sequence[Target]) -> None:
    """Print the times of all subjects, the reasons for missing ones, and the targets."""
    table(
        ("what", "median", "fastest", "slowest"),
        [
            (name, *(f"{figure:.3f} s" for figure in (statistics.median(took), min(took), max(took))))
            for name, took in seconds.items()
        ],
    )
    for name, why in missing.items():
        print(f"not measured: {name}: {why}")
    print()
    table(("what", "against", "is", "must be", "reached"), [target.line(seconds) for target in targets])


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Print a table."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, tuple("-" * width for width in widths), *rows):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")


def parser(name: str, doc: str | None, rounds: int, shards: int = 0, chunks: int = 0) -> argparse.ArgumentParser:
    """Return a parser with the common options, and optionally those for the numbers of shards and chunks."""
    made = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=(doc or "").partition("\n")[0])
    made.add_argument("--workdir", type=Path, default=Path("/dev/shm"), help="where the data lies (%(default)s)")
    made.add_argument("--rounds", type=int, default=rounds, help="rounds that count (%(default)s)")
    if shards:
        made.add_argument("--shards", type=int, default=shards, help="(%(default)s)")
        made.add_argument("--chunks", type=int, default=chunks, help="chunks in each shard (%(default)s)")
    return made


def circumstances(options: argparse.Namespace, rounds: int | None = None) -> str:
    """Return the conditions of a benchmark for its first line; `rounds` overrides that of the options."""
    return (
        f"{options.rounds if rounds is None else rounds} rounds; {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f} before;"
        f" on {_file_system(options.workdir)}"
    )


@contextmanager
def working_folder(options: argparse.Namespace, need: int) -> Iterator[Path]:
    """A folder with space for `need` bytes, which is removed at the end, also after a termination signal."""
    if shutil.disk_usage(options.workdir).free < need:
        sys.exit(f"{options.workdir} needs {need / 2**20:,.0f} MiB of free space; choose another with --workdir")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    with tempfile.TemporaryDirectory(prefix="bench-", dir=options.workdir) as folder:
        yield Path(folder)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A new folder, which is removed afterwards."""
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path)


def _file_system(folder: Path) -> str:
    """The type of the file system of `folder`, with a warning if it is not in memory."""
    try:
        mounts = [line.split()[1:3] for line in Path("/proc/self/mounts").read_text().splitlines()]
    except OSError:
        return "an unknown file system"
    above = {str(path) for path in (folder.resolve(), *folder.resolve().parents)}
    kind = max(((len(place), kind) for place, kind in mounts if place in above), default=(0, "unknown"))[1]
    return kind if kind in ("tmpfs", "ramfs") else f"{kind}, which is not in memory: the disk is measured, too"
