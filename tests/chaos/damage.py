"""A source file that vanishes, is cut short or becomes garbage while its shard is read, and is restored later."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

from chaos.place import Scene
from chaos.trial import Trial, make_trial

KINDS = ("vanishes", "is cut short", "becomes garbage")
VICTIMS = (  # shards of several chunks, and the last chunk of each
    ("temperature[0/0]", "temperature/c/1/0/1"),
    ("temperature[1/2]", "temperature/c/3/2/1"),
    ("simulation/fine", "simulation/fine/field/c/2/1"),
)


def damaged(scene: Scene, seed: str, kind: str) -> Trial:
    """Damage the last chunk of a shard after its first chunk was read; the chain decodes all chunks."""
    changed = "listing" if kind == "vanishes" else "metadata"  # a missing chunk is valid in a Zarr
    trial = make_trial(scene, seed, "zips", recompress=True, changed=changed)
    try:
        source = trial.folder / "source.zarr"
        shutil.copytree(scene.source, source)
        trial.work = replace(trial.work, source=str(source))
        shard, key = trial.random.choice(VICTIMS)
        file = source / key
        whole = file.read_bytes()
        orders = {
            "vanishes": {"remove": str(file)},
            "is cut short": {"path": str(file), "data": whole[: len(whole) // 2].hex()},
            "becomes garbage": {"path": str(file), "data": trial.random.randbytes(len(whole)).hex()},
        }
        order = Path(f"{trial.work.log}.json")
        order.write_text(json.dumps({"shard": shard, **orders[kind]}))
        cluster = trial.cluster()
        well = trial.ended(cluster.run(trial.work))
        order.unlink()
        trial.tell(f"{key} {kind}: {'it was read before' if well else 'the job failed'}")
        if not well and shard not in trial.log:
            trial.lost.append(f"the log does not name {shard}")
        trial.look()
        file.write_bytes(whole)
        trial.finish(cluster)
    finally:
        trial.close()
    return trial
