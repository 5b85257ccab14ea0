"""Check of consolidated metadata: each copy of a document equals the document."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from shardedstore.checks.contents import CheckedNode
from shardedstore.checks.finding import Finding
from shardedstore.checks.registry import Subject, metadata_check
from shardedstore.errors import CorruptError
from shardedstore.zarr.metadata import CONSOLIDATED_V2, NAMES_OF, consolidated_nodes
from shardedstore.zarr.paths import is_below, join

SHOWN = 3  # names in one message
DEFAULTS = (
    "attributes",
    "dimension_names",
    "storage_transformers",
)  # fields that mean the same if they are empty or absent


@metadata_check
def consolidated_is_fresh(subject: Subject) -> Iterator[Finding]:
    """Find copies in consolidated metadata that differ from the documents, or are without them."""
    node = subject.node
    for name in (CONSOLIDATED_V2, "zarr.json"):
        document = node.content.get(name)
        if document is None or (name == "zarr.json" and not document.get("consolidated_metadata")):
            continue
        try:
            copies = consolidated_nodes(document, node.path, name)
        except CorruptError:
            yield Finding(
                "stale-consolidated", f"{node.key(name)!r} has invalid consolidated metadata", node.path, node.key(name)
            )
            continue
        wrong = [*(_wrong_v2 if name == CONSOLIDATED_V2 else _wrong_v3)(copies, subject.nodes, node.path)]
        if wrong:
            more = f" and {len(wrong) - SHOWN:,} more" if len(wrong) > SHOWN else ""
            what = f"the consolidated metadata in {node.key(name)!r} {', '.join(wrong[:SHOWN])}{more}"
            yield Finding("stale-consolidated", what, node.path, node.key(name))


def _wrong_v2(copies: Mapping[str, Any], nodes: Mapping[str, CheckedNode], group: str) -> Iterator[str]:
    start = len(group) + 1 if group else 0
    for key, copy in copies.items():
        folder, _, name = join(group, key).rpartition("/")
        if not _is_damaged(nodes, folder, name):
            document = nodes[folder].content.get(name) if folder in nodes else None
            yield from _compared(key, _bare(copy), _bare(document))
    for path, node in nodes.items():
        for name in node.documents if path == group or is_below(path, group) else ():
            key = join(path[start:], name)
            if name in NAMES_OF[2] and key not in copies and (node.content.get(name) or name != ".zattrs"):
                yield f"lacks {key!r}"


def _wrong_v3(copies: Mapping[str, Any], nodes: Mapping[str, CheckedNode], group: str) -> Iterator[str]:
    start = len(group) + 1 if group else 0
    for key, copy in copies.items():
        path = join(group, key)
        if _is_damaged(nodes, path, "zarr.json"):
            continue
        yield from _compared(key, _bare(copy), _bare(nodes[path].content.get("zarr.json")) if path in nodes else None)
    for path, node in nodes.items():
        if is_below(path, group) and "zarr.json" in node.documents and path[start:] not in copies:
            yield f"lacks {path[start:]!r}"


def _is_damaged(nodes: Mapping[str, CheckedNode], path: str, name: str) -> bool:
    """Tell whether a document is there that can't be parsed, which another check names."""
    return path in nodes and name in nodes[path].documents and name not in nodes[path].content


def _bare(document: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return a document without nested consolidated metadata and empty fields."""
    if document is None:
        return None
    return {
        name: value
        for name, value in document.items()
        if name != "consolidated_metadata" and not (name in DEFAULTS and not value)
    }


def _compared(key: str, copy: dict[str, Any] | None, document: dict[str, Any] | None) -> Iterator[str]:
    if document is None:
        if copy:
            yield f"names {key!r}, which has no document"
    elif _text(copy) != _text(document):
        fields = (copy or {}).keys() | document.keys()
        wrong = sorted(field for field in fields if _text((copy or {}).get(field)) != _text(document.get(field)))
        yield f"has another {', '.join(map(repr, wrong[:SHOWN]))} of {key!r} than its document"


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
