"""``kill -9`` of a move at random moments: the pair of source and result holds every value, and the same call ends the move."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import dask
from conformance import contents_of
from servers import upload

from chaos.place import Place, Scene
from chaos.processes import Cluster, forked, kill
from chaos.trial import BUCKET, END_SECONDS, Trial, make_trial
from chaos.work import SHARDS, SOURCE, Work
from shardedstore import Move, ShardedStore
from shardedstore.jobs.ledger import MOVED
from shardedstore.jobs.manifest import read_manifest
from shardedstore.storage.folders import open_folder
from shardedstore.transforms import CopyTo, Recompress, ToZip
from shardedstore.zarr.metadata import DOCUMENTS

SINKS = {"zips": ToZip, "copy": lambda url: CopyTo(url, layout="shards")}
DESTINATIONS = (("zips", False), ("zips", True), ("copy", False), ("copy", True))
SCRATCH = ("24 KiB", "1 GiB")
MOST_KILLS = 6
MOST_CALLS = 1600  # of the operating system, in one move to zips on a local disk
MOST_SECONDS = 4.0  # of about one move in an object store
KILLED = "killed"
RECOMPRESSED = 0.4  # of the moves to zips
EVENTS = {"open", "os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.scandir", "os.listdir"}


@dataclass(frozen=True)
class MoveWork(Work):
    """A move. The process kills itself at the call of the operating system with the number `last`, unless that is 0."""

    scratch: str = "1 GiB"
    last: int = 0

    def _run(self) -> ShardedStore:
        if self.last:
            _kill_at(self.last)
        if ShardedStore.finish_move(self.target) is not None:
            return ShardedStore.load(self.target)
        store = ShardedStore.partition(self.source, SOURCE.shards)
        sink = SINKS[self.sink](self.target)
        steps = [Recompress("gzip", level=1)] if self.recompress else []
        return store.map_shards(*steps, sink, move=Move(scratch=self.scratch, yes_delete_source=True))


def _kill_at(last: int) -> None:
    """Kill this process at one of its next calls of the operating system."""
    calls = count(1)

    def hook(event: str, _: Any) -> None:
        if event in EVENTS and next(calls) == last:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def _run_here(work: MoveWork, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    with dask.config.set(scheduler="threads", num_workers=2):
        work.run()


def moved(scene: Scene, seed: str, sink: str, in_cloud: bool, on_cluster: bool = False) -> Trial:
    """Kill a move some times, look at the pair after each kill, and let it end."""
    trial = make_trial(scene, seed, sink, in_cloud=in_cloud)
    source = _source(trial, in_cloud)
    scratch, weight = trial.random.choice(SCRATCH), trial.random.choice((1, 600, 3000))
    trial.work = MoveWork(
        source,
        trial.work.target,
        sink,
        trial.work.log,
        weight=weight,
        scratch=scratch,
        recompress=sink == "zips" and trial.random.random() < RECOMPRESSED,
    )
    cluster = trial.cluster() if on_cluster else None
    try:
        for _ in range(trial.random.randint(1, MOST_KILLS)):
            well = _killed_on(trial, cluster) if cluster is not None else _killed(trial, in_cloud)
            _check_pair(trial)
            if well or trial.lost:
                break
        for _ in range(MOST_KILLS):  # the lock of a killed client may still be held
            if trial.ended(cluster.run(trial.work) if cluster else _start(trial)):
                break
        _check_end(trial, source)
    finally:
        trial.close()
    return trial


def _source(trial: Trial, in_cloud: bool) -> str:
    """Make the source of a trial."""
    if not in_cloud:
        return str(shutil.copytree(trial.scene.source, trial.folder / "source.zarr"))
    assert trial.scene.server is not None
    prefix = f"{trial.folder.name}/source.zarr"
    upload(trial.scene.server.folder(BUCKET).client, SOURCE.contents(), prefix)
    return f"s3://{BUCKET}/{prefix}"


def _start(trial: Trial, **changes: Any) -> Any:
    work = replace(trial.work, **changes)
    return forked(_run_here, trial.folder / "log", work, trial.environment)


def _killed(trial: Trial, in_cloud: bool) -> bool:
    """Start a move in a process of its own, and kill it; return whether it had ended."""
    last = 0 if in_cloud else trial.random.randint(1, MOST_CALLS)
    client = _start(trial, last=last)
    client.join(trial.random.uniform(0.2, MOST_SECONDS) if in_cloud else END_SECONDS)
    if client.exitcode == 0:
        return True
    kill(client)
    trial.tell(f"{KILLED} {last or ''}")
    return False


def _killed_on(trial: Trial, cluster: Cluster) -> bool:
    """Start a move on a cluster, kill a worker or the client, and wait for the end; return whether it had ended."""
    client = cluster.run(trial.work)
    client.join(trial.random.uniform(0.3, MOST_SECONDS))
    if client.exitcode == 0:
        return True
    trial.tell(KILLED)
    if trial.random.random() < 0.5:
        kill(trial.random.choice(cluster.workers))
        cluster.replace_dead_workers()
        return trial.ended(client)
    kill(client)  # and its tasks go on for a while
    return False


def _shown(trial: Trial) -> ShardedStore:
    """Open the pair, or the source as long as nothing is published."""
    place = open_folder(trial.work.target)
    if read_manifest(place) is None:
        return ShardedStore.partition(trial.work.source, SOURCE.shards)
    return ShardedStore.load(trial.work.target, partial=True, allow=[trial.work.source])


def _check_pair(trial: Trial) -> None:
    """Compare all chunks and other files of the pair with those of the original source."""
    try:
        found = contents_of(_shown(trial))
    except Exception as error:  # noqa: BLE001 (what can't be opened is lost)
        trial.lost.append(f"the pair can't be read: {type(error).__name__}: {error}")
        return
    _, ended = trial.scene.expected["zips", trial.work.recompress]
    if found == ended:  # the config was published before the kill
        return
    for key, data in SOURCE.contents().items():
        if key.rpartition("/")[2] not in DOCUMENTS and found.get(key) != data:
            trial.lost.append(f"{key} of the pair {'differs' if key in found else 'is missing'}")
        elif key not in found:
            trial.lost.append(f"{key} of the pair is missing")


def _check_end(trial: Trial, source: str) -> None:
    """Check that the result holds everything, and that the source is gone."""
    _, shown = trial.scene.expected["zips", trial.work.recompress]
    found = contents_of(ShardedStore.load(trial.work.target))
    trial.lost += [f"{key} of the result" for key in shown.keys() | found.keys() if shown.get(key) != found.get(key)]
    if left := [name for name, _ in open_folder(source).sizes()]:
        trial.lost.append(f"{left} are left of the source")
    place = Place(trial.work.target, is_one_zarr=False)
    records = place.records()
    if len(records) != SHARDS or {record.moved for record in records.values()} != {MOVED[-1]}:
        trial.lost.append(f"the ledger has {len(records)} records of {SHARDS}, or some are not moved")
    if left := place.temporaries():
        trial.lost.append(f"{left} are left")
