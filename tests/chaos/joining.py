"""``kill -9`` while the parts of one zip are joined: on a local disk at each step, in an object store at each request."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
from faultproxy import FaultProxy, Rule

from chaos.place import Scene, read_all
from chaos.processes import forked, kill
from chaos.trial import MOST_ATTEMPTS, PAUSE_SECONDS, Trial, make_trial
from chaos.work import ONE_ZIP, SHARDS, Work
from shardedstore.fields import FILE_NAME
from shardedstore.storage.blobs import nbytes_of
from shardedstore.storage.publish import is_temporary
from shardedstore.storage.urls import BESIDE

LINES = 2 * SHARDS  # of the trace when everything is read
REQUEST_SECONDS = 0.03
MOST_REQUESTS = 40  # after the last shard
MOST_KILLS = 3


def _run_here(work: Work, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    with dask.config.set(scheduler="threads", num_workers=2):
        work.run()


def _start(trial: Trial) -> Any:
    return forked(_run_here, trial.folder / "log", trial.work, trial.environment)


def joined(scene: Scene, seed: str, in_cloud: bool) -> Trial:
    """Kill a job once or several times while it joins its zip, and run it again until it ends."""
    trial = make_trial(scene, seed, ONE_ZIP, in_cloud=in_cloud, weights=(1, 600, 3000), seconds=0.0)
    if not in_cloud:
        return _joined(trial, _at_a_step)
    assert scene.server is not None
    with FaultProxy(scene.server.endpoint, Rule("", "delay", REQUEST_SECONDS)) as proxy:
        trial.environment = scene.environment(proxy.url)
        return _joined(trial, _at_a_request)


def _joined(trial: Trial, wait: Callable[[Trial, Any], None]) -> Trial:
    process = None
    try:
        for _ in range(trial.random.randint(1, MOST_KILLS)):
            process = _start(trial)
            trial.wait(lambda: len(trial.trace()) >= LINES, process)
            wait(trial, process)
            trial.tell(f"killed {'after its end' if not process.is_alive() else 'while it joined'}")
            kill(process)
            _check_whole(trial)
            trial.look()
        for _ in range(MOST_ATTEMPTS):
            process = _start(trial)
            if trial.ended(process):
                trial.check()
                return trial
            time.sleep(PAUSE_SECONDS)
        trial.lost.append(f"the job did not end well in {MOST_ATTEMPTS} attempts")
        return trial
    finally:
        if process is not None:
            kill(process)
        trial.close()


def _at_a_step(trial: Trial, process: Any) -> None:
    """Wait for a step of the publication on a local disk, and for some milliseconds more."""
    url = Path(trial.work.target)
    beside = Path(f"{url}{BESIDE}")
    steps: dict[str, Callable[[], object]] = {
        "at once": lambda: True,
        "a temporary file": lambda: any(is_temporary(path.name) for path in beside.iterdir()),
        "the zip": url.exists,
        "the config": (beside / FILE_NAME).exists,
        "no parts": lambda: not any(beside.glob("parts/**/*.zip")),
    }
    step = trial.random.choice(sorted(steps))
    end = time.monotonic() + 5
    while process.is_alive() and not steps[step]() and time.monotonic() < end:
        time.sleep(0.0005)
    time.sleep(trial.random.uniform(0, 0.01))
    trial.tell(f"saw {step}")


def _at_a_request(trial: Trial, process: Any) -> None:
    """Wait for some of the slowed requests after the last shard."""
    process.join(trial.random.uniform(0, MOST_REQUESTS) * REQUEST_SECONDS)


def _check_whole(trial: Trial) -> None:
    """Check that there is no zip, or the whole one."""
    expected, _ = trial.scene.expected[ONE_ZIP, False]
    if nbytes_of(trial.work.target) is not None and read_all(trial.work.target) != expected["zip"]:
        trial.lost.append("a part of the zip was published")
