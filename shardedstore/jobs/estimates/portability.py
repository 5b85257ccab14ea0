"""`Portability`: the readers of the arrays that a job will write, by the rules of `codecs/readers.py`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shardedstore.codecs.readers import READERS, Obstacle, find_obstacles
from shardedstore.stores.hierarchy import Node
from shardedstore.zarr.metadata import ArrayMeta


@dataclass(frozen=True)
class Portability:
    """The obstacles for each known reader in the arrays that a job will write.

    Attributes
    ----------
    arrays : dict of str to tuple of Obstacle
        The obstacles of each array, by its path.
    by_references : bool
        Whether readers without this package need the references of `export`, or open each zip alone.
    """

    arrays: dict[str, tuple[Obstacle, ...]]
    by_references: bool = False

    def unread(self, reader: str) -> dict[str, tuple[Obstacle, ...]]:
        """Return the arrays that a reader can't read, with the obstacles."""
        found = {path: tuple(one for one in some if one.reader.name == reader) for path, some in self.arrays.items()}
        return {path: some for path, some in found.items() if some}

    def to_dict(self) -> dict[str, Any]:
        """Return the readers with the tested versions, and for each array the obstacles of each reader, as JSON values."""
        return {
            "by_references": self.by_references,
            "readers": {reader.name: reader.source for reader in READERS},
            "arrays": {path: _by_reader(some) for path, some in self.arrays.items()},
        }


def _by_reader(obstacles: tuple[Obstacle, ...]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {reader.name: [] for reader in READERS}
    for one in obstacles:
        found[one.reader.name].append(f"misreads {one}" if one.lack.misreads else str(one))
    return found


def find_portability(nodes: Mapping[str, Node], by_references: bool) -> Portability:
    """Return the obstacles in arrays, by their metadata after a chain."""
    arrays = {path: find_obstacles(node.documents) for path, node in nodes.items() if isinstance(node.meta, ArrayMeta)}
    return Portability(arrays, by_references)
