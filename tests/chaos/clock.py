"""Workers whose clock jumps by days, forward and back, for the whole process including compiled code."""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
from pathlib import Path

from chaos.place import Scene
from chaos.trial import Trial, make_trial
from chaos.work import SHARDS

SOURCE = Path(__file__).with_suffix(".c")
DAYS = (-400, -3, 0, 3, 400)


def can_jump() -> bool:
    """Tell whether a compiler exists for the library that changes a process's clock."""
    return sys.platform == "linux" and shutil.which("cc") is not None


def jumping(scene: Scene, seed: str, sink: str) -> Trial:
    """Change the clock of both workers several times during a job."""
    trial = make_trial(scene, seed, sink, seconds=0.1)
    file, library = trial.folder / "clock", trial.folder / "clock.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, SOURCE], check=True)
    file.write_bytes(struct.pack("=q", 0))
    try:
        cluster = trial.cluster(workers=0)
        variables = {"LD_PRELOAD": str(library), "CHAOS_CLOCK": str(file)}
        workers = [cluster.add_worker_with(variables) for _ in range(2)]
        client = cluster.run(trial.work)
        for count in range(4, 2 * SHARDS, 8):
            trial.wait(lambda count=count: len(trial.trace()) >= count, client)
            days = trial.random.choice(DAYS)
            with file.open("r+b") as open_file:
                open_file.write(struct.pack("=q", days * 86_400))
            trial.tell(f"{days:+} days")
            trial.look()
        # distributed removes a worker whose clock went back, as its heartbeats stop; a nanny would start another worker
        trial.wait(lambda: all(worker.poll() is not None for worker in workers), client)
        if client.is_alive():
            trial.tell("all workers were given up")
            workers.append(cluster.add_worker_with(variables))
        if trial.ended(client):
            trial.check()
        else:
            trial.finish()
    finally:
        trial.close()
    return trial
