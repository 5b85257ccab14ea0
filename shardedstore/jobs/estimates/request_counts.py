"""The requests of a job to object stores by kind, estimated from its plan."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from shardedstore.jobs.estimates.shard_states import ShardStates
from shardedstore.jobs.job import Job
from shardedstore.jobs.shards import Load, Plan, Run
from shardedstore.storage.outputs import part_nbytes
from shardedstore.storage.urls import is_remote
from shardedstore.stores.locations import url_of
from shardedstore.stores.zip import RUN

PAGE = 1000  # keys of a listing
DOCUMENTS = 3  # names of documents that a block reads, before its chunks and after them
DIRECTORY = 2  # reads of the directory of a zip
PER_TASK = {"PUT": 2, "GET": 5}  # the claim and the records of a task, which are read twice; and the job's manifest
PER_JOB = {
    "PUT": 8,
    "GET": 10,
    "LIST": 24,
    "HEAD": 2,
    "POST": 1,
}  # the lock, the manifest, the ledger, the documents that refuse readers, the config and the report

Requests = Mapping[str, int]


@dataclass(frozen=True)
class RunLoad:
    """The shards of a run to make, and their sizes.

    Attributes
    ----------
    run : Run
        The run.
    count : int
        The number of shards to make.
    load : Load
        The files and the decoded bytes of all shards of the run.
    objects, nbytes : int
        The numbers of objects and bytes to write.
    """

    run: Run
    count: int
    load: Load
    objects: int
    nbytes: int

    @property
    def share(self) -> float:
        """The share of the shards to make."""
        return self.count / (self.run.stop - self.run.first)


class JobRequests(NamedTuple):
    """The requests to the source and to the destination, by kind; empty for local folders."""

    source: Requests
    destination: Requests


def count_requests(job: Job, plan: Plan, loads: list[RunLoad], states: ShardStates) -> JobRequests:
    """Estimate the requests of a job, without retries."""
    source, destination = Counter[str](), Counter[str]()
    for one in loads:
        if one.count and is_remote(url_of(one.run.location) or ""):
            source.update(_reads(job, one))
        if one.count and job.layout.is_remote:
            destination.update(_writes(job, one))
    if is_remote(url_of(plan.config.base) or ""):
        source["GET"] += 2 * sum(len(node.documents) for node in plan.nodes.values())  # for the plan, and for the end
    if job.layout.is_remote:
        tasks = sum(one.count for one in loads)
        destination.update({kind: count * tasks for kind, count in PER_TASK.items()})
        destination.update(PER_JOB)
        destination["LIST"] += math.ceil(plan.shard_count / PAGE) * (not states.is_first)
    return JobRequests(_ordered(source), _ordered(destination))


def _ordered(counts: Counter[str]) -> Requests:
    return {kind: number for kind, number in counts.most_common() if number}


def _reads(job: Job, one: RunLoad) -> Requests:
    run, files = one.run, math.ceil(one.load.files * one.share)
    looks = {"metadata": 0, "listing": 2, "content": 0}[job.changed]
    if run.location.origin.is_file:
        lists = one.count + math.ceil(one.nbytes / RUN)  # neighbours share a request
        return {"GET": min(files, lists) + DIRECTORY * one.count}
    if run.blocks is not None:
        pages = math.ceil(files / PAGE / one.count) * looks * one.count
        return {"GET": files + 2 * DOCUMENTS * one.count, "LIST": pages}
    return {"GET": files, "LIST": (1 + looks) * max(one.count, math.ceil(files / PAGE))}


def _writes(job: Job, one: RunLoad) -> Requests:
    counts = Counter[str]()
    if job.chain.sink.writes_keys:
        counts["PUT"] = one.objects
        counts["LIST"] = one.count if job.layout.has_objects else 0
        return counts
    counts["HEAD"] = one.count  # a HEAD request for the finished object
    parts = list(_parts(one))
    for number in parts:
        counts["PUT"] += number
        counts["POST"] += 0 if number == 1 else 2
    return counts


def _parts(one: RunLoad) -> Iterator[int]:
    """Yield the number of parts of each object."""
    each, size = one.nbytes // one.count, part_nbytes(2 * one.run.nbytes)
    yield from [1 if each < size else math.ceil(each / size)] * one.count
