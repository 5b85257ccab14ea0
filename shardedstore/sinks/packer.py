"""A shard's chunks on their way into objects of the sharding codec, each written while its chunks come."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping

from shardedstore.chain import Entries, Shard, Tally, undecodable
from shardedstore.codecs.shardwriter import ShardWriter
from shardedstore.components.kinds import Config
from shardedstore.errors import ChainError
from shardedstore.grid import Coords
from shardedstore.mounts import join, parents
from shardedstore.reading.entries import Entry, array_folder, check_fits, is_document, is_misfit
from shardedstore.sinks.packing import KEYS, Packing, find_packing, parse_array
from shardedstore.storage.access import Options
from shardedstore.storage.outputs import output
from shardedstore.storage.urls import object_url

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
