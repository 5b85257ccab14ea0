"""Digests of the decoded data in a shard's stream of entries, while it is written or for verification.

An array that can't be decoded here is digested in its stored form, so that it can be compared with a copy of itself.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from operator import add, mul
from typing import Any, NamedTuple, Protocol

from zarr.dtype import VariableLengthBytes, VariableLengthUTF8

from shardedstore.codecs.array_codecs import ChunkCodec
from shardedstore.codecs.array_document import ArrayDoc, data_type, parse_array_document
from shardedstore.codecs.array_info import read_fill_value
from shardedstore.codecs.digest import (
    MODULUS,
    VERSION,
    ChunkDigest,
    DataDigest,
    DataSum,
    Digester,
    ElementType,
    Hasher,
    Layout,
)
from shardedstore.errors import CorruptError
from shardedstore.stores.entries import Data, Entry, array_folder
from shardedstore.transforms.base.parallel import map_in_order
from shardedstore.transforms.base.shard import RESTORE, Entries, Shard, at_entry, shard_source
from shardedstore.zarr.grid import Coords
from shardedstore.zarr.metadata import ArrayMeta, parse_json
from shardedstore.zarr.paths import join

Found = list[tuple[Coords, ChunkDigest]]


class Sums:
    """The digests of arrays by path, summed chunk by chunk.

    Parameters
    ----------
    shapes : mapping of str to tuple of int, optional
        The shapes of divided arrays, by path. The metadata of a block has the shape of the block only.
    """

    def __init__(self, shapes: Mapping[str, Coords] | None = None) -> None:
        self.shapes = dict(shapes or {})
        self._totals: dict[str, _Total] = {}

    def add(self, digested: Digested) -> None:
        """Add the chunks of an entry to the digest of their array; an array's document starts its digest."""
        path, layout, found = digested.path, digested.layout, digested.found
        if layout is None:
            return
        total = self._totals.get(path)
        if total is None:
            total = self._totals[path] = _Total(layout)
        for _, (value, presence) in found:
            total.value += value
            total.presence += presence
        total.stored += len(found)

    @property
    def digests(self) -> dict[str, DataDigest]:
        """The digests by path."""
        return {path: total.digest() for path, total in self._totals.items()}

    def recorded(self) -> dict[str, DataSum]:
        """Return the digests in the form of the ledger's records."""
        return {path: digest.sum for path, digest in self.digests.items()}


@dataclass
class _Total:
    """Sums over one array's chunks; for speed, they are reduced only once, at the end."""

    layout: Layout
    value: int = 0
    stored: int = 0
    presence: int = 0

    def digest(self) -> DataDigest:
        return DataDigest(self.layout, self.value % MODULUS, self.stored, self.presence % MODULUS)


def tap(entries: Entries, shard: Shard, sums: Sums) -> Entries:
    """Yield the entries of a shard unchanged, and add the digests of its chunks to `sums`.

    Raises
    ------
    CorruptError
        If a chunk can't be decoded. The chunks before it were added.
    """
    for digested in digest_entries(entries, shard, sums.shapes):
        if digested.damage is not None:
            raise at_entry(CorruptError(f"{digested.damage}; {RESTORE}"), digested.entry, shard)
        sums.add(digested)
        yield digested.entry


class Digested(NamedTuple):
    """An entry, its array, and the digests of its chunks, or the error that prevents decoding them.

    `lower` has the places of chunks that were digested at a lower level than their array, each with its level; see
    `shardedstore.verify.levels`.
    """

    entry: Entry
    path: str = ""
    layout: Layout | None = None
    found: Found = []  # noqa: RUF012 (a default that nobody changes)
    damage: str | None = None
    lower: tuple[tuple[Coords, str], ...] = ()


class ChunkDigester(Protocol):
    """Digests the stored chunks of one array."""

    path: str

    @property
    def layout(self) -> Layout:
        """The layout, which must be equal in two digests to compare them."""

    def read(self, entry: Entry) -> Read:
        """Return the digests of the chunks in a stored object. Errors of decoding are returned, never raised."""


class Read(NamedTuple):
    """The digests of the chunks in a stored object, and the first error; see `Digested` for `lower`."""

    found: Found
    error: Exception | None = None
    lower: tuple[tuple[Coords, str], ...] = ()


ChunksOf = Callable[[str, dict[str, Any], ArrayMeta, Coords | None], ChunkDigester]


def digest_entries(
    entries: Entries, shard: Shard, shapes: Mapping[str, Coords], chunks_of: ChunksOf | None = None
) -> Iterator[Digested]:
    """Yield the entries of a shard, digested in a few threads; see `Sums` for `shapes`.

    `chunks_of` makes the `ChunkDigester` of an array from its path, document, metadata and whole shape; `ArrayChunks` by default.
    """
    pieces = _pieces(entries, shard, shapes, chunks_of or ArrayChunks)
    return map_in_order(_Piece.digested, pieces, _Piece.weight)


class _Piece(NamedTuple):
    entry: Entry
    chunks: ChunkDigester | None = None
    shard: Shard | None = None

    def weight(self) -> int:
        if self.chunks is None or self.entry.coords is None or self.entry.array is None:
            return 0
        return 1 + max(len(self.entry.data), self.entry.array.chunk_nbytes)

    def digested(self) -> Digested:
        entry, chunks, shard = self
        if chunks is None or shard is None:
            return Digested(entry)
        if entry.coords is None:
            return Digested(entry, chunks.path, chunks.layout)
        found, error, lower = chunks.read(entry)
        damage = None
        if error is not None:
            where = f"{shard.prefix}{shard_source(entry, shard)} (chunk {entry.coords} of {chunks.path!r})"
            damage = f"{where} can't be decoded: {type(error).__name__}: {error}"
        return Digested(entry, chunks.path, chunks.layout, found, damage, lower)


def _pieces(entries: Entries, shard: Shard, shapes: Mapping[str, Coords], chunks_of: ChunksOf) -> Iterator[_Piece]:
    arrays: dict[str, ChunkDigester] = {}
    for entry in entries:
        folder, _, name = entry.key.rpartition("/")
        if entry.coords is not None and entry.array is not None and entry.array.keys is not None:
            yield _Piece(entry, arrays.get(array_folder(entry)), shard)
        elif entry.array is not None and name == ("zarr.json" if entry.array.zarr_format == 3 else ".zarray"):
            path = join(shard.path, folder)
            document = parse_json(bytes(entry.data), path, name)
            arrays[folder] = chunks_of(path, document, entry.array, shapes.get(path))
            yield _Piece(entry, arrays[folder], shard)
        else:
            yield _Piece(entry)


class ArrayChunks:
    """Digests the chunks of one array: decoded, or as stored if the array can't be decoded."""

    def __init__(self, path: str, document: dict[str, Any], meta: ArrayMeta, shape: Coords | None = None) -> None:
        self.path = path
        shape = meta.shape if shape is None else shape
        try:
            doc = parse_array_document(document, path)
            fill_value = read_fill_value(doc, doc.document.get("fill_value"))
            self.hasher: Hasher = Digester(shape, doc.chunks, element_type(doc), fill_value)
            self.codec = ChunkCodec(doc, arrays=True)
            self.doc = doc
        except Exception:  # noqa: BLE001 (the data type, a codec or the chunk grid is unknown)
            self.hasher = Hasher(stored_layout(document, meta, shape))

    @property
    def layout(self) -> Layout:
        # docstring inherited
        return self.hasher.layout

    def read(self, entry: Entry) -> Read:
        # docstring inherited
        try:
            return Read(self.digest(entry))
        except Exception as error:  # noqa: BLE001 (codecs raise errors of any type)
            return Read([], error)

    def digest(self, entry: Entry) -> Found:
        """Return the digests of the chunks in a stored object.

        Raises
        ------
        Exception
            Of any type, if a chunk can't be decoded.
        """
        assert entry.coords is not None
        if not isinstance(self.hasher, Digester):
            return [(entry.coords, self.hasher.hash(entry.coords, entry.data))]
        made: Found = []
        for index, data in inner_chunks(self.doc, entry):
            found = self.hasher.chunk(index, self.codec.decode(data))
            made += [] if found is None else [(index, found)]
        return made


def inner_chunks(doc: ArrayDoc, entry: Entry) -> Iterator[tuple[Coords, Data]]:
    """Yield the inner chunks of a stored object, or the one chunk that it is, with their places.

    Raises
    ------
    ValueError
        If an object of the sharding codec is cut short or damaged.
    """
    assert entry.coords is not None
    if doc.index is None:
        yield entry.coords, entry.data
        return
    first = tuple(map(mul, entry.coords, doc.inner_grid))
    places = itertools.product(*map(range, doc.inner_grid))
    for place, data in zip(places, doc.index.split(entry.data), strict=True):
        if data is not None:
            yield tuple(map(add, first, place)), data


def element_type(doc: ArrayDoc) -> ElementType:
    """Return the type of an array's elements for `Digester`."""
    zdtype = data_type(doc.document)
    if isinstance(zdtype, VariableLengthUTF8):
        return "string"
    return "bytes" if isinstance(zdtype, VariableLengthBytes) else zdtype.to_native_dtype()


def stored_layout(document: Mapping[str, Any], meta: ArrayMeta, shape: Coords) -> Layout:
    """Return the layout of an array that can't be decoded: all metadata that defines its stored bytes.

    It can't be confused with a layout of decoded data, as no `dtype` of those begins like this one.
    """
    kept = {key: value for key, value in document.items() if key not in ("shape", "attributes", "dimension_names")}
    dtype = json.dumps(["stored", VERSION, kept], ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return Layout(shape, meta.chunks or shape, dtype, "")
