"""A destination's disk that gets full, has no inodes left, or can only be read, while a job writes to it."""

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

Fill = Callable[[Trial, Path], list[Path]]  # makes a disk full, and returns the files that do
SIZE, INODES = 2 << 20, 1000  # of the disk: more than a result needs
LEFT_BYTES, LEFT_INODES = (8 << 10, 120 << 10), (12, 60)  # what is left of them for the job, which needs more


@cache
def can_mount() -> bool:
    """Tell whether this process may mount a disk of its own."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            with _mounted(Path(folder)):
                return True
        except (OSError, subprocess.CalledProcessError):
            return False


def full(scene: Scene, seed: str, sink: str) -> Trial:
    """Fill the disk but for a little, run a job into it, and make room."""

    def fill(trial: Trial, disk: Path) -> list[Path]:
        data = bytes(SIZE - trial.random.randint(*LEFT_BYTES))
        (disk / "filler").write_bytes(data)
        return [disk / "filler"]

    return _starved(scene, seed, sink, fill, "No space left on device")


def without_inodes(scene: Scene, seed: str, sink: str) -> Trial:
    """Use up the disk's inodes but for a few, run a job into it, and make room."""

    def fill(trial: Trial, disk: Path) -> list[Path]:
        fillers = [disk / f"filler-{i}" for i in range(INODES - trial.random.randint(*LEFT_INODES))]
        for path in fillers:
            path.touch()
        return fillers

    return _starved(scene, seed, sink, fill, "No space left on device")


def read_only(scene: Scene, seed: str, sink: str) -> Trial:
    """Have a disk be read-only from some moment of a job on, and then writable again."""
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
        while not _remounted(disk, "ro") and time.monotonic() < end:  # which is refused while a file is written
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
    """Expect that a job fails, which tells why and shows no result; then take the cause away, and go on."""
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
