"""References to the keys of a store: metadata documents by value, and chunks by their byte ranges."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from zarr.abc.store import Store

from shardedstore.errors import UsageError
from shardedstore.storage.urls import is_remote, unquote_name
from shardedstore.stores.ranges import Range, ranges_of
from shardedstore.stores.reader import reader_of
from shardedstore.zarr.grid import Coords
from shardedstore.zarr.metadata import CONSOLIDATED_V2, METADATA_NAMES, ArrayMeta, parse_node
from shardedstore.zarr.paths import parents

PAGE = 10_000  # keys whose byte ranges are looked up at a time
DOCUMENTS = frozenset({*METADATA_NAMES, CONSOLIDATED_V2})


class Chunk(NamedTuple):
    """One chunk: the path and the metadata of its array, and its coordinates."""

    path: str
    array: ArrayMeta
    coords: Coords


class References(NamedTuple):
    """The keys of a store.

    Attributes
    ----------
    documents : dict of str to bytes
        The metadata documents, by key.
    others : list of str
        The other keys, sorted; chunks nearly always.
    store : Store
        The store of the keys.
    """

    documents: dict[str, bytes]
    others: list[str]
    store: Store

    def ranges(self) -> Iterator[tuple[str, Range]]:
        """Yield the other keys with their byte ranges.

        Raises
        ------
        UsageError
            If a value is no byte range, such as a compressed member of a foreign zip.
        """
        for start in range(0, len(self.others), PAGE):
            keys = self.others[start : start + PAGE]
            yield from zip(keys, ranges_of(self.store, keys), strict=True)

    def chunks(self) -> Iterator[tuple[Chunk, Range]]:
        """Yield the chunks with their byte ranges, sorted by key.

        Raises
        ------
        UsageError
            If a key is no chunk of an array. The formats that need coordinates can't hold it.
        """
        arrays = self.arrays()
        for key, found in self.ranges():
            yield _chunk_of(arrays, key), found

    def arrays(self) -> dict[str, ArrayMeta]:
        """Return the metadata of the arrays, by path."""
        nodes: defaultdict[str, dict[str, bytes]] = defaultdict(dict)
        for key, data in self.documents.items():
            folder, _, name = key.rpartition("/")
            nodes[folder][name] = data
        found = ((path, parse_node(documents, path)) for path, documents in nodes.items())
        return {path: node for path, node in found if isinstance(node, ArrayMeta)}


def _chunk_of(arrays: Mapping[str, ArrayMeta], key: str) -> Chunk:
    for folder in parents(key):
        array = arrays.get(folder)
        if array is not None and array.keys is not None:
            coords = array.keys.decode(key[len(folder) + bool(folder) :], array.chunk_grid)
            if coords is not None:
                return Chunk(folder, array, coords)
    raise UsageError(
        f"{key!r} is not a chunk of an array, and this format holds chunks only: export the store as JSON, or leave the file out "
        "of the result"
    )


def references_to(store: Store) -> References:
    """List the keys of a store, and read its metadata documents. No chunk is read.

    Raises
    ------
    HoleError
        If a shard is a hole, since other readers would see fill values there.
    """
    reader = reader_of(store)
    documents, others = list[str](), list[str]()
    for key in reader.keys("", None):
        (documents if key.rpartition("/")[2] in DOCUMENTS else others).append(key)
    documents.sort()
    others.sort()
    values = zip(documents, reader.fetch(documents), strict=True)
    return References({key: data for key, data in values if data is not None}, others, store)


def shown_url(url: str) -> str:
    """Return the URL of a file or object as fsspec and GDAL read it: with a scheme, and unquoted.

    >>> shown_url("/data/a b.zip"), shown_url("s3://bucket/a%20b.zip")
    ('file:///data/a b.zip', 's3://bucket/a b.zip')
    """
    return unquote_name(url, url) if is_remote(url) else f"file://{url}"
