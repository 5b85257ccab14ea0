"""Arrays as xarray opens them: index coordinates, coordinates, and the sizes of dimensions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from toolz import groupby

from shardedstore.errors import ChainError
from shardedstore.stores.hierarchy import Node
from shardedstore.zarr.metadata import ArrayMeta, parse_json


def index_coordinates(nodes: Mapping[str, Node]) -> Iterator[str]:
    """Yield the one-dimensional arrays that have the name of their dimension."""
    for path, node in nodes.items():
        if isinstance(node.meta, ArrayMeta) and node.meta.dimension_names == (path.rpartition("/")[2],):
            yield path


def coordinates(nodes: Mapping[str, Node]) -> frozenset[str]:
    """Return the arrays that xarray opens as coordinates; all others are data variables.

    A coordinate has the name of a dimension, or is named by an attribute ``coordinates`` of its group or of an array in
    the same group.
    """
    arrays = [path for path, node in nodes.items() if isinstance(node.meta, ArrayMeta)]
    found: set[str] = set()
    for group, paths in groupby(_parent, arrays).items():
        beside = {path.rpartition("/")[2]: nodes[path] for path in paths}
        names = {name for node in beside.values() for name in _dimensions(node)}
        for path, node in [(group, nodes.get(group)), *((path, nodes[path]) for path in paths)]:
            said = {} if node is None else _attributes(node, path)
            names.update(str(said.get("coordinates", "")).split())
        found.update(path for path in paths if path.rpartition("/")[2] in names)
    return frozenset(found)


def check_sizes(before: Mapping[str, Node], after: Mapping[str, Node]) -> None:
    """Raise ChainError if steps give a dimension of a group two sizes, where it had one."""
    arrays = [path for path, node in after.items() if isinstance(node.meta, ArrayMeta)]
    resized = {_parent(path) for path in arrays if path in before and _shape(before[path]) != _shape(after[path])}
    for group, paths in groupby(_parent, arrays).items() if resized else ():
        if group in resized:
            _check_group(group, paths, before, after)


def _check_group(group: str, paths: list[str], before: Mapping[str, Node], after: Mapping[str, Node]) -> None:
    had, has = _sizes(paths, before), _sizes(paths, after)
    for name, sizes in has.items():
        if len(sizes) > 1 and len(had.get(name, ())) == 1:
            (size, path), (other, beside), *_ = sizes.items()
            raise ChainError(
                f"the dimension {name!r} of {f'the group {group!r}' if group else 'the root'} would have {size} elements in {path!r} "
                f"and {other} in {beside!r}, but both have {next(iter(had[name]))} now: change all arrays with this dimension, "
                "coordinates too, with another step if necessary, or leave out the others with exclude"
            )


def _sizes(paths: list[str], nodes: Mapping[str, Node]) -> dict[str, dict[int, str]]:
    """Return the sizes of dimensions by their names, each with one array of this size."""
    found: dict[str, dict[int, str]] = {}
    for path in paths:
        node = nodes.get(path)
        for name, size in zip(_dimensions(node), _shape(node), strict=False) if node is not None else ():
            if name is not None:
                found.setdefault(name, {}).setdefault(size, path)
    return found


def _parent(path: str) -> str:
    return path.rpartition("/")[0] if path else "/"  # an array at the root has no group


def _shape(node: Node) -> tuple[int, ...]:
    return node.meta.shape if isinstance(node.meta, ArrayMeta) else ()


def _dimensions(node: Node) -> tuple[str | None, ...]:
    return (node.meta.dimension_names or ()) if isinstance(node.meta, ArrayMeta) else ()


def _attributes(node: Node, path: str) -> Mapping[str, Any]:
    name = "zarr.json" if node.meta.zarr_format == 3 else ".zattrs"
    document = parse_json(node.documents.get(name, b"{}"), path, name)
    found = document.get("attributes") if node.meta.zarr_format == 3 else document
    return found if isinstance(found, Mapping) else {}
