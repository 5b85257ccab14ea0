"""Checks of a hierarchy against OME-Zarr 0.5, and upgrades of attributes from 0.4."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from shardedstore.notices import node_name
from shardedstore.stores.hierarchy import Node
from shardedstore.zarr.metadata import ArrayMeta, GroupMeta, parse_json
from shardedstore.zarr.paths import join

VERSION = "0.5"
KINDS = ("multiscales", "plate", "well", "labels", "bioformats2raw.layout")  # the root has one of these


def why_not_ome(nodes: Mapping[str, Node]) -> str | None:
    """Return one reason why a hierarchy is not valid OME-Zarr 0.5; None if it is valid.

    Examples
    --------
    >>> why_not_ome({"": Node(GroupMeta(3), {"zarr.json": b'{"attributes": {"multiscales": []}}'})})
    "the root has the attribute 'multiscales' of OME-Zarr 0.4, which OME-Zarr 0.5 has below 'ome'"
    """
    return next(_faults(nodes), None)


def attributes_of(node: Node, path: str) -> dict[str, Any]:
    """Return the attributes of a v3 node; an empty dict if they are not a JSON object."""
    found = parse_json(node.documents.get("zarr.json", b"{}"), path, "zarr.json").get("attributes")
    return found if isinstance(found, dict) else {}


def old_attributes(attributes: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Return the attributes of OME-Zarr 0.4 that moved below ``ome`` in version 0.5.

    Other software uses some of the names too. These count only where OME-Zarr has them: ``labels`` in a group with that name,
    and ``series`` in the group ``OME``.

    Examples
    --------
    >>> old_attributes({"labels": ["a"], "omero": {"channels": []}, "multiscales": [{"axes": []}]}, "image")
    {'multiscales': [{'axes': []}], 'omero': {'channels': []}}
    >>> old_attributes({"labels": ["nuclei"]}, "image/labels"), old_attributes({"omero": {}}, "b")
    ({'labels': ['nuclei']}, {})
    """
    name = path.rpartition("/")[2]
    found = {key: attributes[key] for key in _OLD if key in attributes and _is_old(key, attributes[key], name)}
    if "multiscales" not in found:
        found.pop("omero", None)
        found.pop("image-label", None)
    return found


# For each attribute: its type; the name of its group, if other software uses the attribute too; and members of the object, of
# which OME-Zarr has at least one.
_OLD: dict[str, tuple[type, str, tuple[str, ...]]] = {
    "multiscales": (list, "", ()),
    "omero": (dict, "", ()),
    "image-label": (dict, "", ()),
    "plate": (dict, "", ("wells", "version")),
    "well": (dict, "", ("images", "version")),
    "bioformats2raw.layout": (int, "", ()),
    "labels": (list, "labels", ()),
    "series": (list, "OME", ()),
}


def _is_old(key: str, value: Any, name: str) -> bool:
    kind, group, members = _OLD[key]
    return (
        isinstance(value, kind)
        and group in ("", name)
        and (not members or any(member in _dict(value) for member in members))
    )


def upgraded(attributes: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Return a group's attributes, upgraded from OME-Zarr 0.4 to 0.5.

    >>> upgraded({"a": 1, "multiscales": [{"version": "0.4", "axes": []}]}, "")
    {'a': 1, 'ome': {'version': '0.5', 'multiscales': [{'axes': []}]}}
    """
    old = old_attributes(attributes, path)
    if not old:
        return dict(attributes)
    kept = {key: value for key, value in attributes.items() if key not in old and key != "ome"}
    moved = {key: _without_version(key, value) for key, value in old.items()}
    return {**kept, "ome": {"version": VERSION, **moved, **_dict(attributes.get("ome"))}}


def _without_version(key: str, value: Any) -> Any:
    """Return a value of OME-Zarr 0.4 without its own version; a plate gets version 0.5, which it requires."""
    if isinstance(value, list):
        return [_without_version(key, item) for item in value]
    if not isinstance(value, dict):
        return value
    kept = {name: item for name, item in value.items() if name != "version"}
    return {**kept, "version": VERSION} if key == "plate" else kept


def why_not_upgraded(old: Mapping[str, Any]) -> str | None:
    """Return the reason why attributes of OME-Zarr can't be upgraded to 0.5; None if they can.

    >>> why_not_upgraded({"multiscales": [{"version": "0.3", "axes": ["y", "x"]}]})
    "version 0.3: its images have no axes with names of their own in 'multiscales'"
    """
    for multiscale in old.get("multiscales", ()):
        version = f"version {_dict(multiscale).get('version', 'unknown')}: its images have no"
        if axes_names(multiscale) is None:
            return f"{version} axes with names of their own in 'multiscales'"
        if datasets(multiscale) is None:
            return f"{version} 'datasets' with a path and a scale each in 'multiscales'"
    return None


def levels_of(ome: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the path of each level of a group's images, with the names of its axes."""
    given = ome.get("multiscales")
    for multiscale in given if isinstance(given, list) else ():
        names = axes_names(multiscale)
        yield from ((level["path"], tuple(names)) for level in datasets(multiscale) or () if names is not None)


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _faults(nodes: Mapping[str, Node]) -> Iterator[str]:
    old = next((path for path, node in nodes.items() if node.meta.zarr_format != 3), None)
    if old is not None:
        yield f"{node_name(old)} is Zarr v2, and OME-Zarr {VERSION} is Zarr v3"
        return
    groups = {path: attributes_of(node, path) for path, node in nodes.items() if isinstance(node.meta, GroupMeta)}
    if "" not in groups:
        yield "the root is not a group"
        return
    for path, attributes in groups.items():
        yield from _faults_of_old(attributes, path)
    for path, attributes in groups.items():
        yield from _faults_of_group(nodes, groups, attributes.get("ome"), path)


def _faults_of_old(attributes: Mapping[str, Any], path: str) -> Iterator[str]:
    for key in old_attributes(attributes, path):
        yield f"{node_name(path)} has the attribute {key!r} of OME-Zarr 0.4, which OME-Zarr {VERSION} has below 'ome'"


Groups = Mapping[str, Mapping[str, Any]]


def _faults_of_group(nodes: Mapping[str, Node], groups: Groups, ome: Any, path: str) -> Iterator[str]:
    if ome is None and path:
        return
    if not isinstance(ome, dict) or ome.get("version") != VERSION:
        version = ome.get("version") if isinstance(ome, dict) else None
        yield f"{node_name(path)} has no attribute 'ome' of version {VERSION} (but {version!r})"
        return
    if not path and not any(kind in ome for kind in KINDS):
        yield f"the root's attribute 'ome' has none of {', '.join(map(repr, KINDS))}"
    if "multiscales" in ome:
        yield from _faults_of_image(nodes, ome["multiscales"], path)
    for kind, below in _named_groups(ome):
        if kind not in (groups.get(join(path, below), {}).get("ome") or {}):
            yield f"{node_name(path)} names {below!r}, which is not a group with {kind!r} below 'ome'"


def _named_groups(ome: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the attribute that a named group must have, and the group's path."""
    lists = (
        ("well", [well.get("path") for well in _dicts(_dict(ome.get("plate")).get("wells"))]),
        ("multiscales", [image.get("path") for image in _dicts(_dict(ome.get("well")).get("images"))]),
        ("multiscales", ome.get("labels")),
    )
    for kind, paths in lists:
        yield from ((kind, str(path)) for path in (paths if isinstance(paths, list) else ()))


def axes_names(multiscale: Any) -> list[str] | None:
    """Return the names of an image's axes; None if the axes have no unique names, as before OME-Zarr 0.4."""
    names = [axis.get("name") for axis in _dicts(_dict(multiscale).get("axes"))]
    is_named = _is_names(names) and len(names) == len(multiscale["axes"]) == len(set(names)) if names else False
    return [str(name) for name in names] if is_named else None


def datasets(multiscale: Any) -> list[dict[str, Any]] | None:
    """Return an image's levels; None if a level has no path or no scale."""
    found = _dicts(_dict(multiscale).get("datasets"))
    is_whole = all(isinstance(one.get("path"), str) and _has_scale(one) for one in found)
    return found if found and is_whole and len(found) == len(multiscale["datasets"]) else None


def _has_scale(dataset: Mapping[str, Any]) -> bool:
    steps = dataset.get("coordinateTransformations")
    return bool(steps) and isinstance(steps, list) and _dict(steps[0]).get("type") == "scale"


def _faults_of_image(nodes: Mapping[str, Node], multiscales: Any, path: str) -> Iterator[str]:
    if not multiscales or not isinstance(multiscales, list):
        yield f"{node_name(path)} has no image in 'multiscales'"
        return
    for multiscale in multiscales:
        names, levels = axes_names(multiscale), datasets(multiscale)
        if names is None or not 2 <= len(names) <= 5:
            yield f"{node_name(path)} has no two to five axes with names of their own in 'multiscales'"
        elif levels is None:
            yield f"{node_name(path)} has no 'datasets' with a path and a scale each in 'multiscales'"
        else:
            yield from filter(None, (_fault_of_level(nodes, join(path, one["path"]), names) for one in levels))


def _fault_of_level(nodes: Mapping[str, Node], path: str, names: list[str]) -> str | None:
    node = nodes.get(path)
    if node is None or not isinstance(node.meta, ArrayMeta):
        return f"{node_name(path)}, which 'multiscales' names, is not an array"
    if node.meta.dimension_names != tuple(names):
        return f"{node_name(path)} has the dimension_names {node.meta.dimension_names}, and its axes are {tuple(names)}"
    return None


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
