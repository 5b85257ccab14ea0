"""How the chunks of one array are gathered in objects of Zarr v3's sharding codec: pure arithmetic, and its document."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from operator import mul
from typing import Any

from shardedstore.codecs.array_document import SHARDING, ArrayDoc, name_of, parse
from shardedstore.codecs.sharding import Data, ShardIndex, ShardWriter
from shardedstore.errors import ChainError, CorruptError
from shardedstore.partition.shapes import automatic
from shardedstore.storage.options import Options
from shardedstore.storage.outputs import output
from shardedstore.storage.urls import object_url
from shardedstore.stores.entries import Entry, array_folder, check_fits, is_document, is_misfit
from shardedstore.stores.locations import Config
from shardedstore.transforms.base.chain import Entries, Shard, Tally, undecodable
from shardedstore.zarr.grid import Blocks, ChunkKeys, Coords
from shardedstore.zarr.metadata import ArrayMeta, dump_json, parse_json, parse_node
from shardedstore.zarr.paths import join, parents

KEYS = ChunkKeys("default", "/")

PER_CHUNK = 1 << 10  # bytes that an encoded chunk may have more than its elements

_CODED_INDEX = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]


@dataclass(frozen=True)
class Packing:
    """One object for each block of an array's chunk grid.

    Parameters
    ----------
    blocks : Blocks
        Of the chunks as they are stored now.
    stored : tuple of int
        The shape of such a chunk.
    chunks : tuple of int
        The shape of the chunks in the new objects: of inner chunks, where the array uses the sharding codec already.
    codecs : list
        The codecs of these, as they stand in a document.
    itemsize : int
        The bytes of an element.
    index : ShardIndex, optional
        How to take the stored objects apart, where they are to be.

    Examples
    --------
    >>> packing = Packing(Blocks((7, 5), (3,), KEYS), (10, 10), (10, 10), ["bytes"], 4)
    >>> packing.shape, packing.count, packing.key((2,))
    ((30, 50), 15, 'c/2/0')
    >>> list(packing.split((6, 4), b"a chunk"))
    [(4, b'a chunk')]
    """

    blocks: Blocks
    stored: Coords
    chunks: Coords
    codecs: list[Any]
    itemsize: int
    index: ShardIndex | None = None

    @cached_property
    def shape(self) -> Coords:
        """The shape of an object: of all alike, also where the array's edge cuts a block."""
        lead = len(self.blocks.chunks)
        return tuple(map(mul, self.blocks.chunks + self.blocks.chunk_grid[lead:], self.stored))

    @cached_property
    def count(self) -> int:
        """The number of chunks in an object, stored or missing."""
        return math.prod(self._grid)

    @property
    def most(self) -> int:
        """The most bytes that an object should have."""
        return 2 * math.prod(self.shape) * self.itemsize + PER_CHUNK * self.count

    def key(self, block: Coords) -> str:
        """Return the key of a block's object in its array."""
        return KEYS.encode(block + (0,) * (len(self.shape) - len(block)))

    def split(self, coords: Coords, data: Data) -> Iterator[tuple[int, Data]]:
        """Yield the chunks of what is stored at a place of the chunk grid, with their numbers in the new object.

        Raises
        ------
        ValueError
            For an object that is cut or damaged.
        """
        _, local = self.blocks.split(coords)
        first = sum(map(mul, local, self._strides))
        if self.index is None:
            yield first, data
            return
        for number, chunk in zip(self._numbers, self.index.split(data), strict=True):
            if chunk is not None:
                yield first + number, chunk

    @cached_property
    def _grid(self) -> Coords:
        return tuple(n // c for n, c in zip(self.shape, self.chunks, strict=True))

    @cached_property
    def _steps(self) -> Coords:
        """How far apart neighbours along each dimension are in the new object."""
        return tuple(math.prod(self._grid[axis + 1 :]) for axis in range(len(self._grid)))

    @cached_property
    def _strides(self) -> Coords:
        """The same for neighbours among the chunks that are stored now."""
        return tuple(n // c * s for n, c, s in zip(self.stored, self.chunks, self._steps, strict=True))

    @cached_property
    def _numbers(self) -> list[int]:
        """The numbers in the new object of the inner chunks of its first stored one."""
        spans = [range(0, n // c * s, s) for n, c, s in zip(self.stored, self.chunks, self._steps, strict=True)]
        return list(map(sum, itertools.product(*spans)))

    def document(self, data: bytes, path: str) -> bytes:
        """Return the array's document as zarr writes it for ``create_array(shards=...)``.

        The objects are new and in a grid of their own, so they get zarr's keys for new arrays, whatever the old ones were.
        """
        configuration = {
            "chunk_shape": list(self.chunks),
            "codecs": self.codecs,
            "index_codecs": _CODED_INDEX,
            "index_location": "end",
        }
        return dump_json(
            {
                **parse_json(data, path, "zarr.json"),
                "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(self.shape)}},
                "chunk_key_encoding": {"name": KEYS.name, "configuration": {"separator": KEYS.separator}},
                "codecs": [{"name": SHARDING, "configuration": configuration}],
            }
        )


def find_packing(data: bytes, path: str, blocks: Blocks | None, size: int) -> Packing | None:
    """Return how the array that a ``zarr.json`` describes is to be packed; None where its chunks are copied as they are.

    Parameters
    ----------
    blocks : Blocks, optional
        How the array is divided into shards. One that is not gets objects of about `size` decoded bytes, unless it uses
        the sharding codec already, or the objects would hold one chunk each.
    """
    meta = parse_array(data, path)
    if meta is None or meta.chunks is None:
        return None
    document = parse_json(data, path, "zarr.json")
    uses_codec = any(name_of(codec) == SHARDING for codec in document["codecs"])
    if blocks is None:
        blocks = None if uses_codec else automatic(meta, size)
        if blocks is None or math.prod(blocks.chunks + meta.chunk_grid[len(blocks.chunks) :]) == 1:
            return None
    doc = _apart(document, path) if uses_codec else None
    if doc is None or not isinstance(doc.index, ShardIndex):
        return Packing(blocks, meta.chunks, meta.chunks, document["codecs"], meta.itemsize)
    codecs = [*doc.filters, doc.serializer, *doc.compressors]
    return Packing(blocks, doc.stored, doc.chunks, codecs, meta.itemsize, doc.index)


def parse_array(data: bytes, path: str) -> ArrayMeta | None:
    """Return what a ``zarr.json`` says of an array; None where it is another's, or no metadata."""
    try:
        meta = parse_node({"zarr.json": data}, path)
    except CorruptError:
        return None
    return meta if isinstance(meta, ArrayMeta) else None


def _apart(document: dict[str, Any], path: str) -> ArrayDoc | None:
    """Return a document that uses the sharding codec; None where it does so in a form that is packed as it is."""
    try:
        return parse(document, path)
    except ChainError:
        return None


_OBJECT = re.compile(r"(?:(.*)/)?(c(?:/[0-9]+)+)")

EMPTY = "it has 0 bytes, which a chunk in an object of the sharding codec can't have: is its file cut short?"

Place = tuple[str, Coords]  # an array's folder in the shard, and a block of its chunk grid


def packed(entries: Entries, shard: Shard, url: str, options: Options, size: int, tally: Tally) -> Entries:
    """Write the chunks that belong in objects of the sharding codec, and yield all other entries.

    Parameters
    ----------
    entries : iterator of Entry
        Where each array's metadata comes before its chunks, and these are in C order, as they are read.
    url : str
        Of the Zarr that the objects are written into.
    size : int
        What an array that is not divided into shards must have to be packed, and each of its objects then has; see
        `find_packing`.
    tally : Tally
        Gets the objects.

    Raises
    ------
    CorruptError
        For a stored object that can't be taken apart.
    ChainError
        For entries that come in another order, or that have the names of objects.
    """
    packer = Packer(shard, size)
    done: set[Place] = set()
    for place, run in itertools.groupby(entries, packer.place):
        if place is None:
            yield from run
            continue
        folder, block = place
        packing = packer.packing(folder)
        assert packing is not None
        key = join(join(shard.path, folder), packing.key(block))
        if place in done:
            raise ChainError(
                f"the chunks of {key!r} don't come together: a step before the sink must keep the order of the chunks"
            )
        done.add(place)
        writer = _write(run, packing, object_url(url, key), options, shard)
        tally.add(key, writer.nbytes, writer.crc)


def _write(entries: Iterator[Entry], packing: Packing, url: str, options: Options, shard: Shard) -> ShardWriter:
    with output(url, options, packing.most) as write:
        writer = ShardWriter(write, packing.count)
        for entry in entries:
            assert entry.coords is not None
            try:
                chunks = list(packing.split(entry.coords, entry.data))
            except ValueError as error:
                raise undecodable(entry, shard, "sharding_indexed", error) from None
            for number, data in chunks:
                if not data:
                    raise undecodable(entry, shard, "any codec", ValueError(EMPTY))
                writer.add(number, data)
        writer.close()
    return writer


class Packer:
    """Finds the place of each entry, from the documents that came before it."""

    def __init__(self, shard: Shard, size: int) -> None:
        self.shard, self.size = shard, size
        self.documents: dict[str, bytes] = {}
        self.packings: dict[str, Packing | None] = {}

    def place(self, entry: Entry) -> Place | None:
        """Return which object an entry belongs in; None for one that stays as it is."""
        array = entry.array
        if entry.coords is not None and array is not None and array.keys is not None and array.zarr_format == 3:
            if self.shard.block is not None:
                return "", self.shard.block
            folder = array_folder(entry)
            packing = self.packing(folder)
            return None if packing is None else (folder, packing.blocks.split(entry.coords)[0])
        folder, _, name = entry.key.rpartition("/")
        if not is_document(entry):
            self._refuse_clash(entry.key)
            self._refuse_misfit(entry)
        elif name == "zarr.json":
            self.documents[folder] = bytes(entry.data)
        return None

    def packing(self, folder: str) -> Packing | None:
        """Return how the array in a folder of the shard is packed."""
        if folder not in self.packings:
            path = join(self.shard.path, folder)
            if folder not in self.documents:
                raise ChainError(
                    f"the chunks of {path!r} come before its zarr.json: a step before the sink must pass metadata on first"
                )
            self.packings[folder] = find_packing(self.documents[folder], path, self.shard.blocks, self.size)
        return self.packings[folder]

    def _refuse_misfit(self, entry: Entry) -> None:
        """Raise for a file that may be a chunk of an array that is packed, here or in shards of its own."""
        for folder in parents(entry.key) if is_misfit(entry) else ():
            is_divided = join(self.shard.path, folder) in self.shard.divided
            if is_divided or (folder in self.documents and self.packing(folder) is not None):
                check_fits(entry, self.shard.path, "ToShardingCodec")

    def _refuse_clash(self, key: str) -> None:
        """Raise for a file that zarr does not know, and that has the name of an object which some shard may write."""
        found = _OBJECT.fullmatch(key)
        if found is None:
            return
        folder, rest = found[1] or "", found[2]
        path = join(self.shard.path, folder)
        meta = parse_array(self.documents.get(folder, b""), path)
        if meta is not None and meta.keys is not None and KEYS.decode(rest, meta.chunk_grid) is not None:
            raise ChainError(
                f"{join(path, rest)!r} is no chunk of {path!r}, but has the name of an object of the sharding codec there: "
                "move it out of the source, or leave the array out with exclude="
            )


def packed_documents(documents: Mapping[str, bytes], config: Config, size: int) -> dict[str, bytes]:
    """Return the documents of a whole, by key, with those of the arrays that `packed` packs changed."""
    changed = dict(documents)
    for key, data in documents.items():
        path, _, name = key.rpartition("/")
        if name == "zarr.json":
            mount = config.shards.get(path)
            packing = find_packing(data, path, None if mount is None else mount.blocks, size)
            if packing is not None:
                changed[key] = packing.document(data, path)
    return changed
