"""One trial: a job that is resumed after each fault until it ends, and the proof that nothing was lost."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

from chaos.place import Place, Scene, target_name
from chaos.processes import SHOW, Cluster, kill
from chaos.work import BEGUN, SHARDS, Work
from shardedstore.jobs.ledger import Record
from shardedstore.storage.outputs import UNFINISHED
from shardedstore.storage.urls import is_remote

BUCKET = "tests"
END_SECONDS = 60.0  # limit of one attempt, on a quiet machine
MOST_ATTEMPTS = 20
PAUSE_SECONDS = 1.0  # pause between two attempts


@dataclass
class Trial:
    """One trial and its observations.

    Attributes
    ----------
    known : dict
        The records before a fault, by shard number, with the number of lines in the trace at that time.
    lost : list of str
        The errors, each in a line.
    must_tell : str
        Text that the log must contain at the end.
    story : list of str
        The events, each with the number of lines in the trace at that time.
    """

    scene: Scene
    random: Random
    work: Work
    environment: dict[str, str]
    folder: Path
    known: dict[int, tuple[Record, int]] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    story: list[str] = field(default_factory=list)
    hung: int = 0
    must_tell: str = ""
    clusters: list[Cluster] = field(default_factory=list)

    @property
    def place(self) -> Place:
        """The place of the result."""
        return Place(self.work.target, self.work.sink != "zips")

    @property
    def log(self) -> str:
        """The output of all processes."""
        return (self.folder / "log").read_text(errors="replace")

    def cluster(self, workers: int = 2) -> Cluster:
        """Start a cluster, which is killed at the end of the trial."""
        self.clusters.append(Cluster(self.folder, self.environment, workers))
        return self.clusters[-1]

    def close(self) -> None:
        """Kill all processes."""
        while self.clusters:
            self.clusters.pop().kill()

    def become(self, **changes: Any) -> None:
        """Continue with another job, whose shards have a separate trace."""
        self.work = replace(self.work, log=f"{self.work.log}-2", **changes)
        self.known.clear()

    def trace(self, log: str = "") -> list[list[str]]:
        """Return the trace of this or another job: the events, each with its process and shard."""
        try:
            return [line.split(" ") for line in Path(log or self.work.log).read_text().splitlines()]
        except FileNotFoundError:
            return []

    def begun(self) -> Counter[str]:
        """Return the number of starts of each shard."""
        return Counter(shard for event, _, shard in self.trace() if event == BEGUN)

    @property
    def again(self) -> int:
        """The number of repeated starts of shards."""
        return self.begun().total() - len(self.begun())

    def look(self) -> None:
        """Remember the present records: their shards must not be done again."""
        records = self.place.records()
        lines = len(self.trace())
        for number, record in records.items():
            self.known.setdefault(number, (record, lines))

    def look_for_uploads(self) -> None:
        """Remember whether killed processes may have left parts of uploads, which the next run must report."""
        if is_remote(self.place.url) and self.place.ledger.unfinished():
            self.must_tell = UNFINISHED.partition("%s")[0]

    def tell(self, text: str) -> None:
        """Add an event to the story."""
        self.story.append(f"{text} at {len(self.trace())}")

    def wait(self, condition: Callable[[], object], process: Any = None, seconds: float = 30) -> None:
        """Wait for a condition or for the end of a process."""
        end = time.monotonic() + seconds
        while not condition() and time.monotonic() < end and (process is None or process.is_alive()):
            time.sleep(0.005)

    def ended(self, client: Any) -> bool:
        """Wait for a client, and return whether it has done its job."""
        seconds = END_SECONDS * max(
            1.0, os.getloadavg()[0] / (os.cpu_count() or 1)
        )  # on a busy machine, slow is not hung
        client.join(seconds)
        if client.is_alive():
            os.kill(client.pid, SHOW)
            self.hung += 1
            self.tell(f"the client did not end within {seconds:.0f} s")
            time.sleep(1)
            kill(client)
            return False
        self.tell(f"client ended with {client.exitcode}")
        return bool(client.exitcode == 0)

    def finish(self, cluster: Cluster | None = None) -> None:
        """Repeat the same call without further faults until it succeeds, and check its result."""
        for _ in range(MOST_ATTEMPTS):
            cluster = cluster or self.cluster()
            if self.ended(cluster.run(self.work)):
                self.check()
                return
            cluster.kill()
            cluster = None
            time.sleep(PAUSE_SECONDS)
        self.lost.append(f"the same call did not end well in {MOST_ATTEMPTS} attempts")

    def check(self, *, objects: bool = True) -> None:
        """Compare the result with that of an undisturbed job, and the ledger with its earlier records.

        Without `objects`, only the contents as a Zarr are compared, and not the objects.
        """
        expected, shown = self.scene.expected[self.work.sink, self.work.recompress]
        if objects:
            self._compare(expected, self.place.contents())
        self._compare(shown, self.place.read())
        records, trace, names = self.place.records(), self.trace(), self.scene.names
        if len(records) != SHARDS:
            self.lost.append(f"the ledger has {len(records)} records of {SHARDS}")
        for number, (record, lines) in self.known.items():
            if records.get(number) != record:
                self.lost.append(f"the record of {names[number]} was {record} and is {records.get(number)}")
            if any(event == BEGUN and shard == names[number] for event, _, shard in trace[lines:]):
                self.lost.append(f"{names[number]} was recorded and done again")
        if self.must_tell not in self.log:
            self.lost.append(f"the log does not tell: {self.must_tell}")
        if left := self.place.temporaries():
            self.lost.append(f"{left} are left")

    def _compare(self, expected: dict[str, bytes], found: dict[str, bytes]) -> None:
        for name in sorted(expected.keys() | found.keys()):
            if expected.get(name) != found.get(name):
                what = "is missing" if name not in found else "differs" if name in expected else "should not be there"
                self.lost.append(f"{name} {what}")


def make_trial(
    scene: Scene, seed: str, sink: str, *, in_cloud: bool = False, weights: tuple[int, ...] = (1,), **options: Any
) -> Trial:
    """Return a trial with a separate destination and folder, and a job that its seed determines."""
    random = Random(seed)
    folder = scene.folder / seed.replace("/", "-")
    folder.mkdir(parents=True)
    name = target_name(sink)
    target = f"s3://{BUCKET}/{folder.name}/{name}" if in_cloud else str(folder / name)
    work = Work(str(scene.source), target, sink, str(folder / "trace"), weight=random.choice(weights))
    return Trial(scene, random, replace(work, **options), scene.environment(), folder)
