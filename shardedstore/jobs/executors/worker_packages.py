"""Compare the packages of a cluster's workers with those of the client."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from shardedstore.errors import UsageError

if TYPE_CHECKING:
    from distributed import Client

logger = logging.getLogger("shardedstore")
EQUAL = "shardedstore"  # tasks are pickled objects of this package, so its versions must be equal
NEEDED = ("zarr", "numcodecs", "obstore", "msgspec", "numpy")
ANSWER_SECONDS = 15.0  # another check reports workers that do not answer
SHOWN = 3  # workers that a message names

Versions = Mapping[str, str | None]


def check_packages(client: Client) -> None:
    """Compare the packages of the workers with those of this process.

    Other versions of libraries are warned of. A package without metadata, such as one on PYTHONPATH, is not compared.

    Raises
    ------
    UsageError
        If workers have another version of shardedstore.
    """
    here, there = client.sync(_ask, client)  # type: ignore[no-untyped-call]
    other = {name: _others(name, here, there) for name in (EQUAL, *NEEDED, "python")}
    if other[EQUAL]:
        version, workers = next(iter(other[EQUAL].items()))
        raise UsageError(
            f"{len(workers)} of {len(there)} workers have {EQUAL} {version} ({_some(workers)}), and this process has {here[EQUAL]}: install the same "
            "version where the workers run"
        )
    found = [
        f"{name} {' and '.join(map(str, versions))}, here {here[name]}" for name, versions in other.items() if versions
    ]
    if found:
        logger.warning(
            "workers have other versions of libraries than this process: %s; if shards fail, install the same versions",
            "; ".join(found),
        )


def _others(name: str, here: Versions, there: Mapping[str, Versions]) -> dict[str, list[str]]:
    """Return the workers with another version of a package than this process, by their version."""
    found: dict[str, list[str]] = {}
    for worker, versions in there.items():
        version = versions.get(name)
        if version and here[name] and version != here[name]:
            found.setdefault(version, []).append(worker)
    return found


def _some(workers: list[str]) -> str:
    more = len(workers) - SHOWN
    return ", ".join(workers[:SHOWN]) + (f" and {more} more" if more > 0 else "")


async def _ask(client: Client) -> tuple[Versions, dict[str, Versions]]:
    """Return the versions of this process, and of each worker that answers."""
    from distributed.versions import get_versions

    packages = [EQUAL, *NEEDED]
    message = {"op": "versions", "packages": packages}
    try:
        scheduler: Any = client.scheduler
        answers = await asyncio.wait_for(scheduler.broadcast(msg=message, on_error="ignore"), ANSWER_SECONDS)
    except (TimeoutError, OSError):
        answers = {}
    return _versions(get_versions(packages=packages)), {
        worker: _versions(answer) for worker, answer in answers.items() if isinstance(answer, Mapping)
    }


def _versions(answer: Mapping[str, Any]) -> Versions:
    """Return the version of each package, and of Python without its patch level."""
    python = ".".join(map(str, str(answer["host"]["python"]).split(".")[:2]))
    return {**answer["packages"], "python": python}
