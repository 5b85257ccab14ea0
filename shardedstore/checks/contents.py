"""The metadata documents of a Zarr, parsed without trust: a damaged document does not stop the others."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from shardedstore.checks.finding import Finding
from shardedstore.codecs.array_document import ArrayDoc, parse_array_document
from shardedstore.errors import CorruptError, ShardedStoreError
from shardedstore.stores.reader import StoreReader
from shardedstore.zarr.metadata import CONSOLIDATED_V2, ArrayMeta, GroupMeta, format_above, parse_node
from shardedstore.zarr.paths import join

Documents = dict[str, bytes]  # by key


@dataclass
class CheckedNode:
    """A group, an array, or documents that define neither.

    Attributes
    ----------
    path : str
        The path.
    documents : dict
        The documents by name.
    content : dict
        The documents that are JSON objects, by name.
    meta : ArrayMeta or GroupMeta or None
        The properties; None if the documents are damaged or define no node.
    error : str
        The reason why there is no `meta`.
    doc : ArrayDoc or None
        The codecs of an array; None if they are unknown.
    """

    path: str
    documents: Documents
    content: dict[str, dict[str, Any]] = field(default_factory=dict)
    meta: ArrayMeta | GroupMeta | None = None
    error: str = ""
    doc: ArrayDoc | None = None

    @property
    def array(self) -> ArrayMeta | None:
        """The properties of an array; None for all other nodes."""
        return self.meta if isinstance(self.meta, ArrayMeta) else None

    @property
    def name(self) -> str:
        """The name of the document of an array."""
        return "zarr.json" if self.meta is not None and self.meta.zarr_format == 3 else ".zarray"

    @property
    def document(self) -> dict[str, Any]:
        """The content of the document of an array."""
        return self.content[self.name]

    @property
    def attributes(self) -> Any:
        """The attributes; any value, as the document may be wrong."""
        if self.meta is not None and self.meta.zarr_format == 2:
            return self.content.get(".zattrs", {})
        return self.content.get("zarr.json", {}).get("attributes") or {}

    def key(self, name: str | None = None) -> str:
        """Return the key of a document, by default of the array's."""
        return join(self.path, name or self.name)


def parse_contents(documents: Mapping[str, bytes]) -> dict[str, CheckedNode]:
    """Return the nodes by path, parents first."""
    nodes: dict[str, CheckedNode] = {}
    for key in sorted(documents, key=lambda key: (key.count("/"), key)):
        folder, _, name = key.rpartition("/")
        nodes.setdefault(folder, CheckedNode(folder, {})).documents[name] = documents[key]
    formats: dict[str, int] = {}
    for path, node in nodes.items():
        _parse(node, format_above(formats, path))
        if node.meta is not None:
            formats[path] = node.meta.zarr_format
    return nodes


def _parse(node: CheckedNode, above: int | None) -> None:
    for name, data in node.documents.items():
        with suppress(ValueError, RecursionError):
            content = json.loads(data)
            if isinstance(content, dict):
                node.content[name] = content
    readable = {name: data for name, data in node.documents.items() if name in node.content or name == ".zattrs"}
    if ".zattrs" in readable and ".zattrs" not in node.content:
        readable[".zattrs"] = b"{}"
    elif _has_wrong_attributes(node):
        readable["zarr.json"] = json.dumps({**node.content["zarr.json"], "attributes": {}}).encode()
    try:
        node.meta = parse_node(
            {name: data for name, data in readable.items() if name != CONSOLIDATED_V2}, node.path, above
        )
    except CorruptError as error:
        node.error = _cause(str(error))
    if node.array is not None:
        try:
            node.doc = parse_array_document(node.document, node.path)
        except (ShardedStoreError, ValueError, TypeError, AttributeError, KeyError) as error:
            node.error = _cause(str(error))


def _has_wrong_attributes(node: CheckedNode) -> bool:
    return not isinstance(node.content.get("zarr.json", {}).get("attributes") or {}, dict)


def _cause(message: str) -> str:
    """Return an error's message without its advice."""
    return message.partition(": fix it")[0].partition(": leave ")[0]


def read_documents(reader: StoreReader[Any], keys: Iterable[str]) -> tuple[Documents, list[Finding]]:
    """Read documents one by one, and return the readable ones and findings for the others."""
    found: Documents = {}
    findings = []
    for key in keys:
        try:
            (data,) = reader.fetch([key])
        except CorruptError as error:
            findings.append(Finding("zip-member", str(error), key=key))
            continue
        if data is not None:
            found[key] = data
    return found, findings


def arrays_in(nodes: Mapping[str, CheckedNode]) -> Iterator[CheckedNode]:
    """Yield the arrays."""
    return (node for node in nodes.values() if node.array is not None)
