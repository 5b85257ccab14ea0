"""``kill -9`` of some or all processes of a job, once, twice or three times, at random moments."""

from __future__ import annotations

import time
from collections.abc import Callable

from chaos.place import Scene
from chaos.processes import Cluster, kill
from chaos.trial import Trial, make_trial
from chaos.work import SHARDS

LINES = 2 * SHARDS  # of the trace when everything is read
DESTINATIONS = (("zips", False), ("copy", False), ("sharding", False), ("zips", True), ("copy", True))
WHO = ("a worker", "all workers", "the scheduler", "the client", "everything")
WEIGHTS = (1, 600, 3000)  # weights of a task: one shard, a few, and most of them


def killed(scene: Scene, seed: str, who: str, sink: str, in_cloud: bool) -> Trial:
    """Kill some processes of a job and run it again, possibly with more kills, until it ends."""
    trial = make_trial(scene, seed, sink, in_cloud=in_cloud, weights=WEIGHTS)
    cluster: Cluster | None = None
    try:
        for one in who, *(trial.random.choice(WHO) for _ in range(trial.random.choice((0, 0, 1, 2)))):
            cluster = cluster or trial.cluster()
            has_ended = _killed(trial, cluster, one)
            cluster = None if one in ("the scheduler", "everything") else cluster
            if has_ended:
                break
        trial.finish(cluster)
    finally:
        trial.close()
    return trial


def _killed(trial: Trial, cluster: Cluster, who: str) -> bool:
    """Run a job, kill some processes, and wait for its end; return whether it succeeded."""
    before = len(trial.trace())
    line = trial.random.randint(before, max(before, LINES) + 2)
    delay = trial.random.uniform(0, 1 if line == before else 0.1)
    orphans = trial.random.random() < 0.5  # the rest of a cluster without a scheduler continues for a while
    client = cluster.run(trial.work)
    trial.wait(lambda: len(trial.trace()) >= line, client)
    time.sleep(delay)
    trial.look()
    trial.tell(f"killed {who}")
    chosen = trial.random.choice(cluster.workers)
    doomed: dict[str, Callable[[], None]] = {
        "a worker": lambda: kill(chosen),
        "all workers": lambda: kill(*cluster.workers),
        "the scheduler": lambda: kill(cluster.scheduler),
        "the client": lambda: kill(client),
        "everything": cluster.kill,
    }
    doomed[who]()
    if who == "everything":
        trial.look_for_uploads()
    if who in ("the client", "everything"):
        return False
    if who != "the scheduler":
        cluster.replace_dead_workers()
    well = trial.ended(client)
    if who == "the scheduler" and not orphans:
        cluster.kill()
    return well
