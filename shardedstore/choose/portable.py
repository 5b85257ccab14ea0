"""Chains whose results all readers of the table can read: steps are added, and the remaining obstacles are refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from shardedstore.codecs.readers import Feature, Obstacle
from shardedstore.errors import ChainError
from shardedstore.jobs.estimates.arrays import nodes_after
from shardedstore.jobs.estimates.portability import Portability, find_portability
from shardedstore.jobs.job_plan import JobPlan
from shardedstore.text import count
from shardedstore.transforms.base.sink import Sink
from shardedstore.transforms.make_portable import MakePortable
from shardedstore.transforms.migrate_v3 import MigrateV3

LEAVE_OUT = "or leave the array out with exclude="
NEXT: dict[Feature, str] = {
    "types": f"convert it to numbers first, for example with MapChunks(dtype=...), {LEAVE_OUT}",
    "sharded": f"convert it to numbers first, for example with MapChunks(dtype=...), {LEAVE_OUT}",
    "dtypes": f"convert it to numbers first, for example with MapChunks(dtype=...), {LEAVE_OUT}",
    "keys": f'make it again from Zarr v2 with MigrateV3(chunk_keys="default"), {LEAVE_OUT}',
    "order": "convert it to Zarr v3 with MigrateV3() (--v3)",
}


def portable_chain(chain: Iterable[Any]) -> tuple[Any, ...]:
    """Return a chain with portable options and a last step that replaces codecs.

    Raises
    ------
    ChainError
        If the chain is a function of stores, which no step can follow.
    """
    *steps, sink = chain
    if not isinstance(sink, Sink):
        raise ChainError("portable=True needs a chain of steps and a sink: a function of stores writes its own arrays")
    made = [
        dataclasses.replace(step, chunk_keys="default", portable=True) if isinstance(step, MigrateV3) else step
        for step in steps
    ]
    return (*made, MakePortable(), sink)


def check_portable(plan: JobPlan) -> None:
    """Refuse a plan whose result has features that some reader lacks, unless the core specification has them.

    Raises
    ------
    ChainError
        Names the arrays, the readers and the next step.
    """
    nodes = nodes_after(plan._job.chain, plan._plan)
    portability = find_portability(nodes, by_references=False)
    if told := _told(portability):
        more = f" and {count(len(told) - MOST, 'other obstacle')}" if len(told) > MOST else ""
        raise ChainError(f"portable=True: {'; '.join(told[:MOST])}{more}")


MOST = 3  # obstacles that a message names


def _told(portability: Portability) -> list[str]:
    """Return a sentence for each obstacle that no step can remove."""
    found: dict[tuple[str, str], list[Obstacle]] = {}
    for path, obstacles in portability.arrays.items():
        for one in obstacles:
            if not one.lack.is_core:
                found.setdefault((path, str(one)), []).append(one)
    return [
        f"{path!r} has {text}, which {_readers(some)} can't read: {_next(some[0])}"
        for (path, text), some in found.items()
    ]


def _readers(obstacles: Iterable[Obstacle]) -> str:
    return ", ".join(dict.fromkeys(one.reader.name for one in obstacles))


def _next(obstacle: Obstacle) -> str:
    return NEXT.get(obstacle.lack.feature, "leave the array out with exclude=")
