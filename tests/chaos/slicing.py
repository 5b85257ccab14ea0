"""``kill -9`` of slices that overlap and run twice, and of ``finalise``; another ``finalise`` then publishes the result."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from typing import Any

import dask

from chaos.place import Scene
from chaos.processes import forked, kill
from chaos.trial import MOST_ATTEMPTS, PAUSE_SECONDS, Trial, make_trial
from chaos.work import SHARDS, Work

DESTINATIONS = (("zips", False), ("zips", True), ("copy", False), ("copy", True), ("sharding", False))
LINES = 2 * SHARDS  # of the trace when everything is read
MOST_ROUNDS = 3
MOST_SLICES = 5
MOST_SECONDS = 0.3


@dataclass(frozen=True)
class SliceWork(Work):
    """A slice of a job; without `count`, the run that publishes the result."""

    number: int = 1
    count: int = 0

    def _run(self) -> Any:
        if not self.count:
            return self.plan().run()
        return self.plan().run_slice(self.number, self.count)


def _run_here(work: Work, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    with dask.config.set(scheduler="threads", num_workers=2):
        work.run()


def _start(trial: Trial, number: int = 1, count: int = 0) -> Any:
    return forked(_run_here, trial.folder / "log", replace(trial.work, number=number, count=count), trial.environment)


def sliced(scene: Scene, seed: str, sink: str, in_cloud: bool) -> Trial:
    """Run slices that die, overlap and run twice, and then finalise, until the result is published."""
    trial = make_trial(scene, seed, sink, in_cloud=in_cloud, weights=(1, 600, 3000))
    trial.work = SliceWork(trial.work.source, trial.work.target, sink, trial.work.log, weight=trial.work.weight)
    count = trial.random.randint(2, MOST_SLICES)
    processes: list[Any] = []
    try:
        for _ in range(trial.random.randint(1, MOST_ROUNDS)):
            processes = _started(trial, count)
            _kill_some(trial, processes)
        _finalise(trial)
    finally:
        kill(*processes)
        trial.close()
    return trial


def _started(trial: Trial, count: int) -> list[Any]:
    """Start some slices of a job: most of its own, one twice, one of another division, and sometimes an early finalise."""
    numbers = [number + 1 for number in range(count) if trial.random.random() < 0.8] or [1]
    parts = [(number, count) for number in (*numbers, trial.random.choice(numbers))]
    parts += [(trial.random.randint(1, 2), 2)] if trial.random.random() < 0.5 else []
    parts += [(1, 0)] if trial.random.random() < 0.3 else []
    trial.random.shuffle(parts)
    trial.tell(f"started {parts}")
    return [_start(trial, *part) for part in parts]


def _kill_some(trial: Trial, processes: list[Any]) -> None:
    """Kill some processes at a random moment; wait for the others, or kill them as well."""
    before = len(trial.trace())
    line = trial.random.randint(before, max(before, LINES) + 2)
    trial.wait(lambda: len(trial.trace()) >= line or not any(one.is_alive() for one in processes), processes[0])
    time.sleep(trial.random.uniform(0, MOST_SECONDS))
    doomed = [one for one in processes if trial.random.random() < 0.6] or processes[:1]
    kill(*doomed)
    trial.tell(f"killed {len(doomed)} of {len(processes)}")
    for one in processes:
        if one not in doomed and trial.random.random() < 0.7:
            trial.ended(one)
    kill(*processes)
    trial.look()


def _finalise(trial: Trial) -> None:
    """Run finalise until it ends well; kill it at first sometimes."""
    if trial.random.random() < 0.5:
        early = _start(trial)
        early.join(trial.random.uniform(0, 1))
        kill(early)
        trial.tell("killed finalise")
        trial.look()
    for _ in range(MOST_ATTEMPTS):
        if trial.ended(_start(trial)):
            trial.check()
            return
        time.sleep(PAUSE_SECONDS)
    trial.lost.append(f"finalise did not end well in {MOST_ATTEMPTS} attempts")
