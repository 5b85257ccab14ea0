"""Checks of the names of dimensions: one name a dimension, and one size for each name in a group."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from shardedstore.checks.contents import CheckedNode
from shardedstore.checks.finding import Finding
from shardedstore.checks.registry import Subject, metadata_check
from shardedstore.zarr.metadata import DIMENSIONS

PYRAMIDS = ("multiscales", "ome")  # attributes of groups whose arrays are levels of one image


@metadata_check
def dimensions_have_names(subject: Subject) -> Iterator[Finding]:
    """Find lists of names that do not fit the number of dimensions, or are no texts."""
    node = subject.node
    if node.array is None:
        return
    names = node.document.get("dimension_names") if node.array.zarr_format == 3 else _names_v2(node)
    if names is not None and node.array.dimension_names is None:
        what = f"{node.path!r} has {len(node.array.shape)} dimensions and the dimension names {names!r}"
        yield Finding("dimension-names", what, node.path, node.key())


def _names_v2(node: CheckedNode) -> Any:
    return node.attributes.get(DIMENSIONS)


@metadata_check
def dimensions_have_one_size(subject: Subject) -> Iterator[Finding]:
    """Find dimensions of one name and different sizes in the arrays of a group."""
    group = subject.node
    if group.array is not None or group.meta is None or _is_pyramid(group):
        return
    seen: dict[str, tuple[int, str]] = {}
    for node in _arrays_of(subject.nodes, group.path):
        assert node.array is not None
        for name, size in zip(node.array.dimension_names or (), node.array.shape, strict=False):
            if name is None:
                continue
            first, path = seen.setdefault(name, (size, node.path))
            if size != first:
                what = f"the dimension {name!r} has the size {size} in {node.path!r} and {first} in {path!r}"
                yield Finding("dimension-size", what, node.path, node.key())


def _is_pyramid(group: CheckedNode) -> bool:
    return isinstance(group.attributes, dict) and any(name in group.attributes for name in PYRAMIDS)


def _arrays_of(nodes: Mapping[str, CheckedNode], group: str) -> Iterator[CheckedNode]:
    for path, node in nodes.items():
        if node.array is not None and path and path.rpartition("/")[0] == group:
            yield node
