"""Workers that the scheduler has removed and that still write, as they were stopped or cut off."""

from __future__ import annotations

import time
from typing import Any

from chaos.place import Scene
from chaos.processes import Cluster, go_on, kill, stop
from chaos.trial import Trial, make_trial
from chaos.wire import Wire
from chaos.work import BEGUN, READ, SHARDS

WAKE_SECONDS = 10.0  # time for a continued worker to write its shard or give up


def paused(scene: Scene, seed: str, sink: str, in_cloud: bool) -> Trial:
    """Stop a worker in the middle of a shard until another has started the shard; then both write it."""
    trial = make_trial(scene, seed, sink, in_cloud=in_cloud, seconds=0.2)
    late = trial.random.random() < 0.5  # continue it when the job has ended, or at once
    try:
        cluster = trial.cluster()
        client = cluster.run(trial.work)
        worker, shard = _stopped(trial, cluster, client)
        trial.look()
        trial.wait(lambda: late or trial.begun()[shard] > 1, client)
        well = trial.ended(client) if late else False
        go_on(worker)
        well = well or trial.ended(client)
        _let_write(trial, worker, shard, trial.work.log)
        if well:
            trial.check()
        else:
            trial.finish(cluster)
    finally:
        trial.close()
    return trial


def cut_off(scene: Scene, seed: str, sink: str, in_cloud: bool) -> Trial:
    """Cut a worker off from the scheduler, which removes it, while it continues with its tasks."""
    trial = make_trial(scene, seed, sink, in_cloud=in_cloud, seconds=0.4)
    try:
        cluster = trial.cluster(workers=1)
        with Wire(cluster.address) as wire:
            worker = cluster.add_worker(wire.address)
            client = cluster.run(trial.work)
            count = trial.random.randrange(1, SHARDS // 3)
            trial.wait(lambda: _of(trial, worker, BEGUN) >= count, client)
            trial.look()
            wire.cut.set()
            trial.tell("cut off")
            well = trial.ended(client)
            trial.tell(f"the worker wrote {_of(trial, worker, READ)}")
        if well:
            trial.check()
        else:
            trial.finish()
    finally:
        trial.close()
    return trial


def overtaken(scene: Scene, seed: str) -> Trial:
    """Stop a worker of one job, and continue it when another job with another chain uses the destination."""
    trial = make_trial(scene, seed, "zips", seconds=0.2)
    alone = trial.random.random() < 0.5  # without a scheduler that could end it
    try:
        cluster = trial.cluster()
        client = cluster.run(trial.work)
        worker, shard = _stopped(trial, cluster, client)
        kill(client, *([cluster.scheduler] if alone else []))
        log = trial.work.log
        trial.become(recompress=True, overwrite=True)
        if not trial.ended(trial.cluster().run(trial.work)):
            trial.lost.append("the later job did not end well")
        go_on(worker)
        _let_write(trial, worker, shard, log)
        trial.check(objects=False)
    finally:
        trial.close()
    return trial


def _stopped(trial: Trial, cluster: Cluster, client: Any) -> tuple[Any, str]:
    """Stop one of the workers during a shard, and return both."""
    worker = trial.random.choice(cluster.workers)
    count = trial.random.randrange(1, SHARDS // 3)
    trial.wait(lambda: _of(trial, worker, BEGUN) >= count, client)
    stop(worker)
    time.sleep(0.05)
    shard = [shard for _, pid, shard in trial.trace() if pid == str(worker.pid)][-1]
    trial.tell(f"stopped a worker in {shard}")
    return worker, shard


def _of(trial: Trial, worker: Any, wanted: str) -> int:
    """Return the number of lines of a kind from a worker in the trace."""
    return sum(event == wanted and pid == str(worker.pid) for event, pid, _ in trial.trace())


def _let_write(trial: Trial, worker: Any, shard: str, log: str) -> None:
    """Wait until a continued worker has read and published its shard, or has died."""
    line = [READ, str(worker.pid), shard]
    trial.wait(lambda: line in trial.trace(log), worker, WAKE_SECONDS)
    trial.tell(f"woke, and {'wrote' if line in trial.trace(log) else 'gave up'} {shard}")
    time.sleep(1)
