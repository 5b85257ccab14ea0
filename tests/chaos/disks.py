"""A destination's disk that becomes full, runs out of inodes, or becomes read-only while a job writes to it."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from chaos.place import Scene
from chaos.trial import Trial, make_trial
from shardedstore.fields import FILE_NAME
from shardedstore.storage.urls import BESIDE

Fill = Callable[[Trial, Path], list[Path]]  # fills a disk, and returns the files that fill it
SIZE, INODES = 2 << 20, 1000  # size of the disk: more than a result needs
LEFT_BYTES, LEFT_INODES = (8 << 10, 120 << 10), (12, 60)  # remaining for the job, which needs more


@cache
def can_mount() -> bool:
    """Tell whether this process may mount a disk."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            with _mounted(Path(folder)):
                return True
        except (OSError, subprocess.CalledProcessError):
            return False


def full(scene: Scene, seed: str, sink: str) -> Trial:
    """Fill most of the disk, run a job into it, and free the space."""

    def fill(trial: Trial, disk: Path) -> list[Path]:
        data = bytes(SIZE - trial.random.randint(*LEFT_BYTES))
        (disk / "filler").write_bytes(data)
        return [disk / "filler"]

    return _starved(scene, seed, sink, fill, "No space left on device")


def without_inodes(scene: Scene, seed: str, sink: str) -> Trial:
    """Use most inodes of the disk, run a job into it, and free the inodes."""

    def fill(trial: Trial, disk: Path) -> list[Path]:
        fillers = [disk / f"filler-{i}" for i in range(INODES - trial.random.randint(*LEFT_INODES))]
        for path in fillers:
            path.touch()
        return fillers

    return _starved(scene, seed, sink, fill, "No space left on device")


def read_only(scene: Scene, seed: str, sink: str) -> Trial:
    """Make a disk read-only at some moment of a job, and writable again later."""
    trial = make_trial(scene, seed, sink)
    with ExitStack() as stack:
        disk = stack.enter_context(_mounted(trial.folder / "disk"))
        stack.callback(trial.close)
        trial.work = replace(trial.work, target=str(disk / "out.zarr"))
        cluster = trial.cluster()
        client = cluster.run(trial.work)
        line = trial.random.randint(1, 40)
        trial.wait(lambda: len(trial.trace()) >= line, client)
        end = time.monotonic() + 10
        while not _remounted(disk, "ro") and time.monotonic() < end:  # the system refuses this while a file is written
            time.sleep(0.001)
        trial.tell("read-only")
        trial.look()
        _go_on_when_mended(trial, client, lambda: _remounted(disk, "rw"), "Read-only file system")
    return trial


def _starved(scene: Scene, seed: str, sink: str, fill: Fill, message: str) -> Trial:
    trial = make_trial(scene, seed, sink)
    with ExitStack() as stack:
        disk = stack.enter_context(_mounted(trial.folder / "disk"))
        stack.callback(trial.close)
        trial.work = replace(trial.work, target=str(disk / "out.zarr"))
        fillers = fill(trial, disk)

        def mend() -> None:
            for path in fillers:
                path.unlink()

        _go_on_when_mended(trial, trial.cluster().run(trial.work), mend, message)
    return trial


def _go_on_when_mended(trial: Trial, client: Any, mend: Callable[[], object], message: str) -> None:
    """Expect a job to fail with the cause and without a result; then remove the cause, and resume."""
    if trial.ended(client):
        trial.lost.append("the job ended well where it can't")
    target = Path(trial.work.target)
    config = Path(f"{target}{'' if trial.work.sink == 'zips' else BESIDE}") / FILE_NAME
    if config.exists():
        trial.lost.append("a job that failed wrote a config")
    if message not in trial.log:
        trial.lost.append(f"the log does not tell {message!r}")
    trial.look()
    mend()
    trial.tell("mended")
    trial.finish(trial.clusters[-1])


@contextmanager
def _mounted(folder: Path) -> Iterator[Path]:
    folder.mkdir(exist_ok=True)
    options = f"size={SIZE},nr_inodes={INODES}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "chaos", folder], check=True, capture_output=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def _remounted(disk: Path, mode: str) -> bool:
    done = subprocess.run(["mount", "-o", f"remount,{mode}", disk], check=False, capture_output=True)
    return done.returncode == 0
