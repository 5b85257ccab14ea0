"""Consolidated metadata of a group, made from the documents below it."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

from shardedstore.stores.hierarchy import Node, named
from shardedstore.zarr.metadata import CONSOLIDATED_V2, METADATA_NAMES, GroupMeta, dump_json, parse_json
from shardedstore.zarr.paths import is_below, join


def consolidate(nodes: Mapping[str, Node], group: str, inherited: Mapping[str, Any]) -> tuple[str, bytes]:
    """Return the key and the document of a group's consolidated metadata.

    The layout is zarr's. Entries of the source's consolidated metadata that have no document are kept if they have the same
    format. Nodes without a chain of groups above them are left out, unless the source's consolidated metadata names them:
    zarr can't read consolidated metadata that names such nodes.
    """
    start = len(group) + 1 if group else 0
    below = {path[start:]: node for path, node in nodes.items() if is_below(path, group)}
    if nodes[group].meta.zarr_format == 2:
        known = {path for path in named(Node(nodes[group].meta, {}, dict(inherited)), "") if path}
        documents = {
            join(path, name): parse_json(data, path, name)
            for path, node in {"": nodes[group], **_led_to(below, known, 2)}.items()
            for name, data in sorted(node.documents.items())
            if name != "zarr.json"
        }
        metadata = {key: value for key, value in inherited.items() if key not in documents} | documents
        return join(group, CONSOLIDATED_V2), dump_json({"metadata": metadata, "zarr_consolidated_format": 1})
    root: dict[str, Any] = parse_json(nodes[group].documents["zarr.json"], group, "zarr.json")
    kept = {path: node for path, node in inherited.items() if path.rpartition("/")[2] not in METADATA_NAMES}
    documents = {
        path: parse_json(node.documents["zarr.json"], path, "zarr.json")
        for path, node in _led_to(below, kept, 3).items()
        if "zarr.json" in node.documents
    }
    metadata = {path: node for path, node in kept.items() if path not in documents} | documents
    root["consolidated_metadata"] = {"kind": "inline", "must_understand": False, "metadata": metadata}
    return join(group, "zarr.json"), dump_json(root)


def undocumented(nodes: Mapping[str, Node], group: str) -> dict[str, Any]:
    """Return the entries of a group's consolidated metadata that have no document."""
    node, start = nodes[group], len(group) + 1 if group else 0
    if not node.inherited:
        return {}
    below = {path[start:]: found for path, found in nodes.items() if is_below(path, group)}
    led = _led_to(below, (), node.meta.zarr_format).items()
    if node.meta.zarr_format == 2:
        keys = {join(path, name) for path, found in (("", node), *led) for name in found.documents}
    else:
        keys = {path for path, found in led if "zarr.json" in found.documents}
    return {key: value for key, value in node.inherited.items() if key not in keys}


def _led_to(below: Mapping[str, Node], known: Container[str], zarr_format: int) -> dict[str, Node]:
    """Return the known nodes below a group, and the nodes whose groups all have documents."""
    led: dict[str, Node] = {}
    leads = {""}
    for path, node in below.items():  # parents first
        parent = path.rpartition("/")[0]
        if path in known or parent in leads or parent in known:
            led[path] = node
            if isinstance(node.meta, GroupMeta) and node.meta.zarr_format == zarr_format and node.documents:
                leads.add(path)
    return led
