"""References to the keys of a store: metadata documents by value, and chunks by their byte ranges.

A million references are held in arrays of numbers, which take a tenth of the memory of as many tuples.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from toolz import partition_all
from zarr.abc.store import Store

from shardedstore.errors import UsageError
from shardedstore.storage.urls import is_remote, unquote_name
from shardedstore.stores.ranges import ranges_of
from shardedstore.stores.reader import reader_of
from shardedstore.zarr.grid import Coords, KeyParser, place_of
from shardedstore.zarr.metadata import CONSOLIDATED_V2, METADATA_NAMES, ArrayMeta, parse_node
from shardedstore.zarr.paths import parents

PAGE = 10_000  # keys whose byte ranges are looked up at a time
DOCUMENTS = frozenset({*METADATA_NAMES, CONSOLIDATED_V2})
Numbers = np.ndarray[tuple[int], np.dtype[Any]]


class ChunkTable(NamedTuple):
    """The chunks of one array in C order.

    Attributes
    ----------
    path : str
        The path of the array.
    grid : tuple of int
        The number of chunks along each dimension.
    places : ndarray of int
        The position of each chunk in the grid, counted in C order.
    numbers : ndarray of int
        The number of each reference.
    """

    path: str
    grid: Coords
    places: Numbers
    numbers: Numbers


@dataclass(frozen=True, eq=False)
class References:
    """The keys of a store.

    Attributes
    ----------
    documents : dict of str to bytes
        The metadata documents, by key.
    keys : list of str
        The other keys, sorted; chunks nearly always.
    urls : list of str
        The files and objects with the values.
    files, starts, sizes : ndarray of int
        For each of the other keys, the index of the file, the first byte, and the number of bytes.
    """

    documents: dict[str, bytes]
    keys: list[str]
    urls: list[str]
    files: Numbers
    starts: Numbers
    sizes: Numbers

    @property
    def total(self) -> int:
        """The number of keys."""
        return len(self.documents) + len(self.keys)

    def arrays(self) -> dict[str, ArrayMeta]:
        """Return the metadata of the arrays, by path."""
        nodes: defaultdict[str, dict[str, bytes]] = defaultdict(dict)
        for key, data in self.documents.items():
            folder, _, name = key.rpartition("/")
            nodes[folder][name] = data
        found = ((path, parse_node(documents, path)) for path, documents in nodes.items())
        return {path: node for path, node in found if isinstance(node, ArrayMeta)}

    def chunks(self) -> Iterator[ChunkTable]:
        """Yield the chunks of each array.

        Raises
        ------
        UsageError
            If a key is no chunk of an array. The formats that need coordinates can't hold it.
        """
        finders = {path: _Finder(path, node) for path, node in self.arrays().items()}
        for number, key in enumerate(self.keys):
            if not any((finder := finders.get(path)) and finder.takes(key, number) for path in parents(key)):
                raise UsageError(
                    f"{key!r} is not a chunk of an array, and this format holds chunks only: export the store as JSON, or leave "
                    "the file out of the result"
                )
        return (finder.chunks() for finder in finders.values() if finder.numbers)


class _Finder:
    """Finds the chunks of one array."""

    def __init__(self, path: str, node: ArrayMeta) -> None:
        self.path, self.grid = path, node.chunk_grid
        self._start = len(path) + bool(path)
        self._parse = None if node.keys is None else KeyParser(node.keys, node.chunk_grid)
        self.places, self.numbers = array("q"), array("q")

    def takes(self, key: str, number: int) -> bool:
        """Tell whether a key is a chunk of the array, and keep it if it is."""
        coords = None if self._parse is None else self._parse(key[self._start :])
        if coords is None:
            return False
        self.places.append(place_of(coords, self.grid))
        self.numbers.append(number)
        return True

    def chunks(self) -> ChunkTable:
        places, numbers = np.asarray(self.places), np.asarray(self.numbers)
        order = np.argsort(places)
        return ChunkTable(self.path, self.grid, places[order], numbers[order])


def references_to(store: Store, only: int | None = None, otherwise: str = "") -> References:
    """List the keys of a store with their byte ranges, and read its metadata documents. No chunk is read.

    The ranges of keys are looked up while the keys are listed, so that the directory of a zip is read once.

    Parameters
    ----------
    store : Store
        The store.
    only : int, optional
        The format of Zarr that the references can hold.
    otherwise : str, optional
        The message of the error for another format.

    Raises
    ------
    UsageError
        If the store has another format, or if a value is no byte range, such as a compressed member of a foreign zip.
    HoleError
        If a shard is a hole, since other readers would see fill values there.
    """
    reader = reader_of(store)
    documents, table = list[str](), _Table()
    for page in partition_all(PAGE, reader.keys("", None)):
        found = [key for key in page if key.rpartition("/")[2] in DOCUMENTS]
        if only is not None and any((key.rpartition("/")[2] == "zarr.json") != (only == 3) for key in found):
            raise UsageError(otherwise)
        documents += found
        table.add(store, [key for key in page if key.rpartition("/")[2] not in DOCUMENTS])
    documents.sort()
    values = zip(documents, reader.fetch(documents), strict=True)
    return table.references({key: data for key, data in values if data is not None})


class _Table:
    """References in the order of a listing."""

    def __init__(self) -> None:
        self.keys, self.urls = list[str](), dict[str, int]()
        self.files, self.starts, self.sizes = array("q"), array("q"), array("q")

    def add(self, store: Store, keys: list[str]) -> None:
        """Look up the byte ranges of keys."""
        self.keys += keys
        for url, start, nbytes in ranges_of(store, keys):
            self.files.append(self.urls.setdefault(url, len(self.urls)))
            self.starts.append(start)
            self.sizes.append(nbytes)

    def references(self, documents: dict[str, bytes]) -> References:
        """Return the references, sorted by key."""
        keys = self.keys
        order = sorted(range(len(keys)), key=keys.__getitem__)
        columns = (np.asarray(column)[order] for column in (self.files, self.starts, self.sizes))
        return References(documents, [keys[number] for number in order], list(self.urls), *columns)


def shown_url(url: str) -> str:
    """Return the URL of a file or object as fsspec and GDAL read it: with a scheme, and unquoted.

    >>> shown_url("/data/a b.zip"), shown_url("s3://bucket/a%20b.zip")
    ('file:///data/a b.zip', 's3://bucket/a b.zip')
    """
    return unquote_name(url, url) if is_remote(url) else f"file://{url}"
