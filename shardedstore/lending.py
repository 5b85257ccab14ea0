"""What the workers of a cluster are given for a job, and what they prove before its first shard."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from shardedstore.access import granted
from shardedstore.config import locations
from shardedstore.errors import DestinationError
from shardedstore.plan import Plan
from shardedstore.preflight import places_of
from shardedstore.task import Job
from shardedstore.urls import BESIDE

if TYPE_CHECKING:
    from distributed import Client


@contextmanager
def access(client: Client, job: Job, plan: Plan) -> Iterator[None]:
    """Have the workers of a cluster hold the secret options that a job needs, also those that come while it runs."""
    name = lend(client, job, plan)
    try:
        yield
    finally:
        if name is not None:
            with suppress(Exception):  # a cluster that is gone has forgotten them
                client.unregister_worker_plugin(name)  # type: ignore[no-untyped-call]


def lend(client: Client, job: Job, plan: Plan) -> str | None:
    """Give a cluster's workers a plugin with the secret options that a job needs, and return its name."""
    places = places_of(location for _, location in locations(plan.config))
    written = [] if job.folder is None else [job.folder, job.folder.removesuffix(BESIDE)]
    grants = granted([*(place.url for place in places), *written])
    if not grants:
        return None
    from shardedstore.plugin import AccessPlugin

    name = f"shardedstore-{secrets.token_hex(4)}"
    client.register_plugin(AccessPlugin(name, grants))
    return name


def prove(client: Client, job: Job, plan: Plan) -> None:
    """Have each worker prove that it can read the source and write the destination.

    Raises
    ------
    DestinationError
        Naming the workers that can't, and what is missing.
    """
    places = places_of(location for _, location in locations(plan.config))
    found = client.run(job.find_missing, places, on_error="return")
    # An OSError is of a worker that died meanwhile, as workers may.
    missing = {worker: what for worker, what in found.items() if not isinstance(what, OSError | None)}
    if missing:
        shown = "; ".join(f"{worker}: {what}" for worker, what in list(missing.items())[:4])
        raise DestinationError(f"{len(missing)} of {len(found)} workers can't do the job: {shown}")
