"""The registry of checks of metadata: one check is one small function."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from shardedstore.checks.contents import CheckedNode
from shardedstore.checks.finding import Finding


class Subject(NamedTuple):
    """A node to check, and all nodes by path.

    `max_chunk` is the largest decoded size of a chunk in bytes.
    """

    node: CheckedNode
    nodes: Mapping[str, CheckedNode]
    max_chunk: int


Check = Callable[[Subject], Iterator[Finding]]
METADATA_CHECKS: list[Check] = []


def metadata_check(check: Check) -> Check:
    """Register a check of each node's documents."""
    METADATA_CHECKS.append(check)
    return check


def check_metadata(nodes: Mapping[str, CheckedNode], max_chunk: int) -> Iterator[Finding]:
    """Yield the findings of all registered checks."""
    for node in nodes.values():
        for check in METADATA_CHECKS:
            yield from check(Subject(node, nodes, max_chunk))
