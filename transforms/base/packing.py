"""Pack the chunks of arrays into objects of Zarr v3's sharding codec: arithmetic, documents and writing."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from operator import mul
from typing import Any

from shardedstore.codecs.array_document import SHARDING, ArrayDoc, name_of, parse_array_document
from shardedstore.codecs.sharding import Data, ShardIndex, ShardWriter
from shardedstore.errors import ChainError, CorruptError
from shardedstore.partition.shard_sizes import automatic
from shardedstore.storage.options import Options
from shardedstore.storage.outputs import output
from shardedstore.storage.urls import object_url
from shardedstore.stores.entries import Entry, array_folder, check_fits, is_document, is_misfit
from shardedstore.stores.locations import Config
from shardedstore.transforms.base.shard import Entries, Shard, undecodable
from shardedstore.transforms.base.sink import Tally
from shardedstore.zarr.grid import Blocks, ChunkKeys, Coords
from shardedstore.zarr.metadata import ArrayMeta, dump_json, parse_json, parse_node
from shardedstore.zarr.paths import join, parents

KEYS = ChunkKeys("default", "/")

PER_CHUNK = 1 << 10  # bytes; the largest expected overhead of an encoded chunk

_CODED_INDEX = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]


@dataclass(frozen=True)
class Packing:
    """Packing of an array: one object for each block of its chunk grid.

    Parameters
    ----------
    blocks : Blocks
        The blocks of stored chunks.
    stored : tuple of int
        The shape of a stored chunk.
    chunks : tuple of int
        The shape of the chunks in the new objects: of inner chunks, if the array already uses the sharding codec.
    codecs : list
        The codecs of the chunks in the new objects, as in a document.
    itemsize : int
        The size of an element in bytes.
    index : ShardIndex, optional
        Splits the stored objects into inner chunks, if the array already uses the sharding codec.

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
        """The shape of each object, also of objects that the array's edge cuts."""
        lead = len(self.blocks.chunks)
        return tuple(map(mul, self.blocks.chunks + self.blocks.chunk_grid[lead:], self.stored))

    @cached_property
    def count(self) -> int:
        """The number of chunks in an object, including missing chunks."""
        return math.prod(self._grid)

    @property
    def most(self) -> int:
        """The largest expected size of an object in bytes."""
        return 2 * math.prod(self.shape) * self.itemsize + PER_CHUNK * self.count

    def key(self, block: Coords) -> str:
        """Return the key of a block's object in its array."""
        return KEYS.encode(block + (0,) * (len(self.shape) - len(block)))

    def split(self, coords: Coords, data: Data) -> Iterator[tuple[int, Data]]:
        """Yield the chunks in a stored object, with their numbers in the new object.

        Raises
        ------
        ValueError
            If the stored object is cut short or damaged.
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
        """The difference between the numbers of neighbouring chunks along each dimension in the new object."""
        return tuple(math.prod(self._grid[axis + 1 :]) for axis in range(len(self._grid)))

    @cached_property
    def _strides(self) -> Coords:
        """The same difference for neighbouring stored chunks."""
        return tuple(n // c * s for n, c, s in zip(self.stored, self.chunks, self._steps, strict=True))

    @cached_property
    def _numbers(self) -> list[int]:
        """The numbers in the new object of the inner chunks of its first stored object."""
        spans = [range(0, n // c * s, s) for n, c, s in zip(self.stored, self.chunks, self._steps, strict=True)]
        return list(map(sum, itertools.product(*spans)))

    def document(self, data: bytes, path: str) -> bytes:
        """Return the array's document as zarr writes it for ``create_array(shards=...)``.

        The objects have a new grid. Therefore they get zarr's default keys, whatever the old keys were.
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
    """Return the packing of an array; None if its chunks are copied unchanged.

    Parameters
    ----------
    data : bytes
        The array's ``zarr.json``.
    path : str
        The array's path.
    blocks : Blocks, optional
        The division of the array into shards. An undivided array gets objects of about `size` decoded bytes, unless it
        already uses the sharding codec, or each object would hold one chunk.
    size : int
        The decoded size of objects in bytes.
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
    """Return the metadata in a ``zarr.json``; None if it is not that of a valid array."""
    try:
        meta = parse_node({"zarr.json": data}, path)
    except CorruptError:
        return None
    return meta if isinstance(meta, ArrayMeta) else None


def _apart(document: dict[str, Any], path: str) -> ArrayDoc | None:
    """Return the parsed document of an array with the sharding codec; None if its objects can't be split."""
    try:
        return parse_array_document(document, path)
    except ChainError:
        return None


_OBJECT = re.compile(r"(?:(.*)/)?(c(?:/[0-9]+)+)")

EMPTY = "it has 0 bytes, but a chunk in an object of the sharding codec can't be empty: is its file cut short?"

Place = tuple[str, Coords]  # an array's folder in the shard, and a block of its chunk grid


def packed(entries: Entries, shard: Shard, url: str, options: Options, size: int, tally: Tally) -> Entries:
    """Write the chunks of packed arrays to objects of the sharding codec, and yield all other entries.

    Parameters
    ----------
    entries : iterator of Entry
        The entries of the shard: each array's metadata before its chunks, and the chunks in C order.
    url : str
        The URL of the Zarr that holds the objects.
    size : int
        The decoded size of objects of undivided arrays in bytes; see `find_packing`.
    tally : Tally
        Counts the written objects.

    Raises
    ------
    CorruptError
        If a stored object can't be split.
    ChainError
        If entries come in another order, or have the names of objects.
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
                f"other chunks come between the chunks of {key!r}: a step before the sink must keep the order of the chunks"
            )
        done.add(place)
        writer = _write(run, packing, object_url(url, key), options, shard)
        tally.add(key, writer.nbytes, writer.crc)


def _write(entries: Iterator[Entry], packing: Packing, url: str, options: Options, shard: Shard) -> ShardWriter:
    with output(url, options, packing.most) as out:
        writer = ShardWriter(out.write, packing.count)
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
    """Assigns entries to objects, by the documents that came before them."""

    def __init__(self, shard: Shard, size: int) -> None:
        self.shard, self.size = shard, size
        self.documents: dict[str, bytes] = {}
        self.packings: dict[str, Packing | None] = {}

    def place(self, entry: Entry) -> Place | None:
        """Return the object that holds an entry; None if the entry is not packed."""
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
        """Return the packing of the array in a folder of the shard."""
        if folder not in self.packings:
            path = join(self.shard.path, folder)
            if folder not in self.documents:
                raise ChainError(
                    f"the chunks of {path!r} come before its zarr.json: a step before the sink must pass metadata on first"
                )
            self.packings[folder] = find_packing(self.documents[folder], path, self.shard.blocks, self.size)
        return self.packings[folder]

    def _refuse_misfit(self, entry: Entry) -> None:
        """Raise ChainError if a file may be a misplaced chunk of a packed array, in this or another shard."""
        for folder in parents(entry.key) if is_misfit(entry) else ():
            is_divided = join(self.shard.path, folder) in self.shard.divided
            if is_divided or (folder in self.documents and self.packing(folder) is not None):
                check_fits(entry, self.shard.path, "ToShardingCodec")

    def _refuse_clash(self, key: str) -> None:
        """Raise ChainError if a file that is not a chunk has the name of an object that a shard may write."""
        found = _OBJECT.fullmatch(key)
        if found is None:
            return
        folder, rest = found[1] or "", found[2]
        path = join(self.shard.path, folder)
        meta = parse_array(self.documents.get(folder, b""), path)
        if meta is not None and meta.keys is not None and KEYS.decode(rest, meta.chunk_grid) is not None:
            raise ChainError(
                f"{join(path, rest)!r} is not a chunk of {path!r}, but has the name of one of its objects of the sharding "
                "codec: move it out of the source, or leave the array out with exclude="
            )


def packed_documents(documents: Mapping[str, bytes], config: Config, size: int) -> dict[str, bytes]:
    """Return all documents of the hierarchy by key, with new documents for the arrays that `packed` packs."""
    changed = dict(documents)
    for key, data in documents.items():
        path, _, name = key.rpartition("/")
        if name == "zarr.json":
            mount = config.shards.get(path)
            packing = find_packing(data, path, None if mount is None else mount.blocks, size)
            if packing is not None:
                changed[key] = packing.document(data, path)
    return changed
