"""What the workers of a cluster are given for a job, and what they prove before its first shard."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

from shardedstore.errors import DestinationError, UsageError
from shardedstore.jobs.preflight import all_places, places_of
from shardedstore.jobs.shards import Plan
from shardedstore.jobs.worker import Job
from shardedstore.storage.options import granted
from shardedstore.stores.locations import Config

if TYPE_CHECKING:
    from distributed import Client

logger = logging.getLogger("shardedstore")
PROOF_SECONDS = 15.0  # in which every worker must prove itself
SILENT = object()


@contextmanager
def access(client: Client, plan: Plan, written: Iterable[str] = ()) -> Iterator[None]:
    """Have the workers of a cluster hold the secret options that a job needs, also those that come while it runs.

    `written` are the URLs of the folders that it writes to.
    """
    name = lend(client, plan, written)
    try:
        yield
    finally:
        _forget(client, name)


def lend(client: Client, plan: Plan, written: Iterable[str] = ()) -> str | None:
    """Give a cluster's workers a plugin with the secret options that a job needs, and return its name."""
    return _register(client, [*_urls(plan.config), *written])


@contextmanager
def reading(client: Client, config: Config) -> Iterator[None]:
    """Have the workers of a cluster hold the secret options that the components of a store need, also later workers.

    Raises
    ------
    UsageError
        For an asynchronous client.
    """
    _check_synchronous(client)
    name = _register(client, _urls(config))
    try:
        yield
    finally:
        _forget(client, name)


def _urls(config: Config) -> list[str]:
    return [place.url for place in all_places(location for _, location in config.locations())]


def _forget(client: Client, name: str | None) -> None:
    if name is not None:
        with suppress(Exception):  # a cluster that is gone has forgotten them
            client.unregister_worker_plugin(name)  # type: ignore[no-untyped-call]


def _check_synchronous(client: Client) -> None:
    if client.asynchronous:
        raise UsageError("credentials can't be given by an asynchronous client: make one with asynchronous=False")


def _register(client: Client, urls: list[str]) -> str | None:
    grants = granted(urls)
    if not grants:
        return None
    _check_synchronous(client)
    from shardedstore.jobs.executors.plugin import AccessPlugin

    name = f"shardedstore-{secrets.token_hex(4)}"
    client.register_plugin(AccessPlugin(name, grants))
    return name


def prove(client: Client, job: Job, plan: Plan) -> None:
    """Have each worker prove that it can read the source and write the destination.

    A worker that does not answer in time is left out, with a warning: each task proves the same again.

    Raises
    ------
    DestinationError
        Naming the workers that can't, and what is missing.
    """
    places = places_of(location for _, location in plan.config.locations())
    found: dict[str, object] = client.sync(_ask, client, partial(job.find_missing, places), PROOF_SECONDS)  # type: ignore[no-untyped-call]
    silent = [worker for worker, what in found.items() if what is SILENT]
    if silent:
        logger.warning(
            "%d of %d workers do not answer: %s; the job begins without them. If they do not come back, end them",
            len(silent), len(found), ", ".join(silent[:4]),
        )  # fmt: skip
    # An OSError is of a worker that died meanwhile, as workers may.
    missing = {worker: what for worker, what in found.items() if isinstance(what, str | BaseException)}
    missing = {worker: what for worker, what in missing.items() if not isinstance(what, OSError)}
    if missing:
        shown = "; ".join(f"{worker}: {what}" for worker, what in list(missing.items())[:4])
        raise DestinationError(f"{len(missing)} of {len(found)} workers can't do the job: {shown}")


async def _ask(client: Client, function: Callable[[], object], seconds: float) -> dict[str, object]:
    """Return what a function gives in each worker, what is raised there, or `SILENT`."""
    workers = list(await client.nthreads())  # type: ignore[no-untyped-call]
    asked = [asyncio.ensure_future(client.run(function, workers=[worker], on_error="return")) for worker in workers]
    if not asked:
        return {}
    await asyncio.wait(asked, timeout=seconds)
    return {worker: _answer(task, worker) for worker, task in zip(workers, asked, strict=True)}


def _answer(task: asyncio.Future[dict[str, object]], worker: str) -> object:
    if not task.done():
        task.cancel()
        return SILENT
    error = task.exception()
    return task.result().get(worker) if error is None else error
