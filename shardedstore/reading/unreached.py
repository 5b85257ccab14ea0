"""Groups and arrays that consolidated metadata leads to, and a walk does not: a group above them has no document."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from zarr.abc.store import Store
from zarr.core.sync import sync

from shardedstore.metadata import METADATA_NAMES
from shardedstore.mounts import join, parents
from shardedstore.reading.hierarchy import Node
from shardedstore.readonly import PROTOTYPE


def unreached(store: Store, nodes: Mapping[str, Node], groups: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield the paths that have documents of their own and were not walked, each with that of the group that has none."""
    for path in sorted({path for group in groups for path in _named(nodes[group], group)} - nodes.keys()):
        missing = next((parent for parent in reversed([*parents(path)]) if parent not in nodes), None)
        if missing is not None and sync(_is_there(store, path)):
            yield path, missing


def _named(node: Node, group: str) -> Iterator[str]:
    for name in node.inherited:
        folder, _, document = name.rpartition("/")
        yield join(group, folder if document in METADATA_NAMES else name)


async def _is_there(store: Store, path: str) -> bool:
    return any([await store.get(join(path, name), PROTOTYPE) is not None for name in METADATA_NAMES])
