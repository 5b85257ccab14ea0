"""A job from its checks to its config: what is done once, before the first shard and after the last. It knows no Dask."""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections.abc import Mapping
from dataclasses import replace
from urllib.parse import urlsplit

from shardedstore.access import StorageOptions, take_options
from shardedstore.chain import Chain
from shardedstore.config import FILE_NAME, dump, to_dict
from shardedstore.destination import check_apart, check_new_zarr, check_outputs, check_unused
from shardedstore.errors import DestinationError
from shardedstore.fingerprint import fingerprint
from shardedstore.folders import open_folder
from shardedstore.generations import ONCE, Identity, check_destination, open_destination
from shardedstore.hierarchy import Node
from shardedstore.ledger import Ledger
from shardedstore.names import check_names
from shardedstore.onezarr import LAST
from shardedstore.plan import Plan, Segment
from shardedstore.task import MOST_FAILURES, Job
from shardedstore.unfinished import UNFINISHED, bucket_rule
from shardedstore.urls import BESIDE, is_remote, normalize

logger = logging.getLogger("shardedstore")


def prepare(
    plan: Plan,
    chain: Chain,
    to: str | None,
    overwrite: bool,
    retries: int,
    storage_options: StorageOptions = None,
    max_failures: int = MOST_FAILURES,
) -> Job:
    """Check everything that can be checked before anything is written, and return the job.

    Raises
    ------
    UsageError
        The one thing that keeps the job from running.
    """
    nodes: Mapping[str, Node] = plan.nodes
    for step in chain.steps:
        step.check(nodes)
        nodes = step.changed(nodes)
    if chain.sink is not None:
        chain.sink.check(nodes)
    destination = to if chain.sink is None else chain.sink.url
    if destination is None:
        return Job(chain, None, retries=retries, max_failures=max_failures)
    folder = normalize(destination)
    options = take_options(folder, storage_options) if chain.sink is None else chain.sink.options
    if "{block}" in folder:
        raise DestinationError(
            f"the destination {folder!r} has {{block}} in its name, which stands for an index: rename it"
        )
    if urlsplit(folder).scheme in ("http", "https"):
        raise DestinationError(
            f"{folder!r} is a web server, which can only be read: name a folder, s3://, gs:// or az://"
        )
    check_apart(folder, plan.config)
    if chain.sink is None:
        pass
    elif chain.sink.is_one_zarr:
        check_new_zarr(folder, plan, chain.sink)
        folder += BESIDE
    else:
        check_names(plan, chain.sink)
        check_outputs(folder, plan, chain.sink)
    job = Job(chain, folder, retries=retries, options=options, max_failures=max_failures)
    check_destination(job.place, identity(plan, chain), overwrite and not chain.is_one_zarr)
    return job


def identity(plan: Plan, chain: Chain) -> Identity:
    """Return what a job's result is made from."""
    source = hashlib.sha256(dump(plan.config, None) + plan.source.encode()).hexdigest()
    token = fingerprint(chain) or f"{ONCE}{secrets.token_hex(16)}"
    return Identity(source, token, config=to_dict(plan.config))


def start(job: Job, wanted: Identity, overwrite: bool) -> Job:
    """Open the destination for writing, and return the job with its generation there.

    What `prepare` saw of it is looked at again: a lazy job may run much later, when another has written there.
    """
    if job.folder is None:
        return job
    one_zarr = job.chain.is_one_zarr
    if one_zarr:
        check_unused(job.folder.removesuffix(BESIDE), job.options)
    ledger = open_destination(job.place, wanted, overwrite and not one_zarr, again=overwrite and one_zarr)
    if overwrite and one_zarr:  # so that nothing opens a mixture of the old and the new, whenever this job ends
        job.place.remove(FILE_NAME)
        zarr = open_folder(job.folder.removesuffix(BESIDE), job.options)
        for name in reversed(LAST):
            zarr.remove(name)
    if is_remote(job.folder) and ledger.unfinished():
        logger.warning(UNFINISHED, job.folder, bucket_rule(job.folder.removesuffix(BESIDE)))
    return replace(job, generation=ledger.generation)


def remaining(job: Job, plan: Plan, segments: list[Segment]) -> tuple[list[Segment], int]:
    """Return the segments that have shards to do, without those that are done, and how many are done."""
    if job.folder is None:
        return segments, 0
    records = Ledger(job.place, job.generation).read()
    if not records:
        return segments, 0
    done = job.done(plan.runs, records, job.listed())
    left = [segment.without(done) for segment in segments]
    return [segment for segment in left if segment.runs], len(done)
