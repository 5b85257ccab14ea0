"""Checks of a listing: chunks without bytes, keys that no array has, and the chunks that are missing.

A listing is read once. It keeps the numbers of the stored chunks, 8 bytes each, and a digest for each range of chunks.
"""

from __future__ import annotations

import hashlib
from array import array as numbers
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from shardedstore.checks.contents import CheckedNode
from shardedstore.checks.documents import MOST_CHUNKS
from shardedstore.checks.finding import MOST_NAMED, Finding, rest
from shardedstore.fields import FILE_NAME, MOVING
from shardedstore.jobs.ledger import FOLDER
from shardedstore.storage.publish import is_temporary
from shardedstore.stores.reader import StoreReader
from shardedstore.zarr.grid import place_of
from shardedstore.zarr.metadata import CONSOLIDATED_V2, DOCUMENTS, GroupMeta

MOST_FOLDERS = 100_000  # folders whose array is kept in memory
MODULUS = 1 << 64
OME_XML = "OME/METADATA.ome.xml"  # of the layout of bioformats2raw


@dataclass
class StoredChunks:
    """The stored objects of one array.

    `empty` is the number of further objects without bytes. `ranges` has a digest of the keys, sizes and tags in each range of `per_range` chunks, to find changed ranges.
    """

    node: CheckedNode
    per_range: int
    places: numbers[int] = field(default_factory=lambda: numbers("Q"))
    nbytes: int = 0
    empty: int = 0
    ranges: dict[int, int] = field(default_factory=dict)

    def add(self, place: int, nbytes: int, text: str) -> None:
        """Note an object."""
        self.places.append(place)
        self.nbytes += nbytes
        if text:
            digest = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
            number = place // self.per_range
            self.ranges[number] = (self.ranges.get(number, 0) + digest) % MODULUS


class Listing:
    """All keys of a store, counted by array.

    Parameters
    ----------
    nodes : mapping of str to CheckedNode
        The groups and arrays.
    per_range : callable
        Returns the number of chunks in a task of an array.
    has_digests : bool
        Whether to compute the digests of ranges.

    Attributes
    ----------
    unexpected : list of str
        Keys of documents that are not in `nodes`.
    """

    def __init__(self, nodes: Mapping[str, CheckedNode], per_range: Mapping[str, int], has_digests: bool) -> None:
        self.nodes = nodes
        self.chunks = {path: StoredChunks(nodes[path], size) for path, size in per_range.items()}
        self.unexpected: list[str] = []
        self._digests = has_digests
        self._damaged = {
            path
            for path, node in nodes.items()
            if node.meta is None and {"zarr.json", ".zarray"} & node.documents.keys()
        }
        self._owners: dict[str, str | None] = {}
        self._named: Counter[tuple[str, str]] = Counter()
        self._findings: list[Finding] = []

    def read(self, reader: StoreReader[Any]) -> None:
        """List the store."""
        if reader.has_tags:
            for key, nbytes, tag in reader.tags_below("", None):
                self.add(key, nbytes, tag)
        else:
            for key in reader.keys("", None):
                self.add(key, None, "")

    def add(self, key: str, nbytes: int | None, tag: str) -> None:
        """Note one key."""
        folder, _, name = key.rpartition("/")
        if name in DOCUMENTS and name not in (node := self.nodes.get(folder, _NOTHING)).documents:
            self.unexpected.append(key)
        elif name in DOCUMENTS:
            self._document(key, folder, name, node)
        elif not _is_known(key, name):
            self._other(key, folder, nbytes, tag)

    def _document(self, key: str, folder: str, name: str, node: CheckedNode) -> None:
        is_group_v2 = isinstance(node.meta, GroupMeta) and ".zgroup" in node.documents
        is_stray = not is_group_v2 if name == CONSOLIDATED_V2 else node.meta is None and not node.error
        if is_stray and name in node.content and folder not in self._damaged:
            self._note("stray-key", folder, key, f"{key!r} is a document without a group or array")

    def _other(self, key: str, folder: str, nbytes: int | None, tag: str) -> None:
        path = self._owner(folder)
        if path is None:
            self._note("stray-key", folder, key, f"{key!r} belongs to no array")
            return
        array = self.nodes[path].array
        if array is None or array.keys is None or array.chunks is None:
            return
        rest = key[len(path) + 1 :] if path else key
        coords = array.keys.decode(rest, array.chunk_grid)
        if coords is None:
            other = array.keys.misfit(rest, array.chunk_grid)
            if other is not None:
                what = f"{key!r} looks like a chunk, but the metadata says keys such as {array.keys.encode((0,) * len(array.shape))!r}"
                self._note("chunk-key", path, key, what)
            else:
                self._note(
                    "stray-key",
                    path,
                    key,
                    f"{key!r} is no chunk of {path!r}, which has a grid of {array.chunk_grid} chunks",
                )
            return
        if nbytes == 0:
            self.chunks[path].empty += 1
            self._note("empty-chunk", path, key, f"{key!r} has no bytes")
        elif array.chunk_count <= MOST_CHUNKS:
            text = f"{key}\0{nbytes}\0{tag}" if self._digests else ""
            self.chunks[path].add(place_of(coords, array.chunk_grid), nbytes or 0, text)

    def _owner(self, folder: str) -> str | None:
        """Return the path of the array that holds a folder; of a damaged array if there is one."""
        if folder not in self._owners:
            if len(self._owners) >= MOST_FOLDERS:
                self._owners.clear()
            is_array = folder in self.chunks or folder in self._damaged or self._is_unknown(folder)
            self._owners[folder] = folder if is_array else self._owner(folder.rpartition("/")[0]) if folder else None
        return self._owners[folder]

    def _is_unknown(self, path: str) -> bool:
        return path in self.nodes and self.nodes[path].array is not None

    def _note(self, code: str, path: str, key: str, what: str) -> None:
        self._named[code, path] += 1
        if self._named[code, path] <= MOST_NAMED:
            self._findings.append(Finding(code, what, path, key))

    def findings(self) -> Iterator[Finding]:
        """Yield the findings; of many in one array or folder, the first ones and a number."""
        yield from self._findings
        for (code, path), number in self._named.items():
            if number > MOST_NAMED:
                yield rest(code, path, number - MOST_NAMED)


_NOTHING = CheckedNode("", {})


def _is_known(key: str, name: str) -> bool:
    """Tell whether a key is a file of this package, such as a config or a ledger, or of a known layout."""
    return key.endswith(OME_XML) or key in (FILE_NAME, MOVING) or key.startswith(f"{FOLDER}/") or is_temporary(name)


def missing_chunks(node: CheckedNode, missing: int, limit: float | None) -> Iterator[Finding]:
    """Yield a finding if more chunks are missing than a limit allows: a number, or below 1 a share of the chunks."""
    if limit is None or node.array is None:
        return
    total = node.array.chunk_count
    most = limit * total if 0 < limit < 1 else limit
    if missing > most:
        shown = f"{limit:.4%}".replace("0000%", "%") if 0 < limit < 1 else f"{limit:,.0f}"
        what = f"{node.path!r} lacks {missing:,} of {total:,} chunks, more than {shown}"
        yield Finding("missing-chunks", what, node.path, count=missing)
