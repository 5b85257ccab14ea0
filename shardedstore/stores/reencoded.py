"""A part of a source whose missing chunks are in a result in another form; they are encoded again as in the source."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Literal, NamedTuple

from zarr import AsyncArray
from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import MemoryStore, StorePath

from shardedstore.zarr.grid import Coords
from shardedstore.zarr.metadata import DOCUMENTS, METADATA_NAMES, ArrayMeta, parse_node
from shardedstore.zarr.paths import join, parents
from shardedstore.zarr.readonly import PROTOTYPE, DerivedStore, cut


class _Array(NamedTuple):
    path: str
    meta: ArrayMeta
    documents: dict[str, bytes]

    def coords(self, key: str) -> Coords | None:
        """Return the coordinates of a chunk by its key in the store; None for another key."""
        rest = key[len(self.path) :].lstrip("/")
        return None if self.meta.keys is None else self.meta.keys.decode(rest, self.meta.chunk_grid)


class Reencoded(DerivedStore):
    """The keys of a source, and its missing chunks with the values of a result.

    Both have the same groups, arrays and chunk grids.
    """

    def __init__(self, source: Store, result: Store) -> None:
        super().__init__(source)
        self.result = result
        self._arrays: Arrays = {}
        self._others: Arrays = {}

    def __eq__(self, other: object) -> bool:
        return type(other) is Reencoded and (self.store, self.result) == (other.store, other.result)

    def __repr__(self) -> str:
        return f"Reencoded({self.store!r}, {self.result!r})"

    async def get(
        self, key: str, prototype: BufferPrototype = PROTOTYPE, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        # docstring inherited
        found = await self.store.get(key, prototype, byte_range)
        if found is not None or key.rpartition("/")[2] in DOCUMENTS:
            return found
        data = await self._encoded(key)
        return None if data is None else cut(prototype.buffer.from_bytes(data), byte_range)

    async def exists(self, key: str) -> bool:
        # docstring inherited
        return await self.get(key) is not None

    async def list(self) -> AsyncIterator[str]:
        # docstring inherited
        seen = set[str]()
        async for key in self.store.list():
            seen.add(key)
            yield key
        async for key in self.result.list():
            own = None if key.rpartition("/")[2] in DOCUMENTS else await self._own_key(key)
            if own is not None and own not in seen:
                yield own

    async def _own_key(self, key: str) -> str | None:
        """Return the key in the source of a chunk in the result; None for another key."""
        theirs = await _array_above(self.result, key, self._others)
        mine = None if theirs is None else await _array_above(self.store, join(theirs.path, "x"), self._arrays)
        coords = None if theirs is None else theirs.coords(key)
        if mine is None or coords is None or mine.meta.keys is None:
            return None
        return join(mine.path, mine.meta.keys.encode(coords))

    async def _encoded(self, key: str) -> bytes | None:
        """Return the chunk of a key with the values of the result and the codecs of the source; None if it is missing there."""
        array = await _array_above(self.store, key, self._arrays)
        coords = None if array is None else array.coords(key)
        if array is None or coords is None or array.meta.chunks is None:
            return None
        box = tuple(
            slice(i * c, min((i + 1) * c, n))
            for i, c, n in zip(coords, array.meta.chunks, array.meta.shape, strict=True)
        )
        zarr_format: Literal[2, 3] = 3 if array.meta.zarr_format == 3 else 2
        made = await AsyncArray.open(StorePath(self.result, array.path), zarr_format=None)
        values = await made.getitem(box)
        memory = MemoryStore()
        for name, data in array.documents.items():
            await memory.set(name, PROTOTYPE.buffer.from_bytes(data))
        encoder = await AsyncArray.open(StorePath(memory), zarr_format=zarr_format)
        await encoder.setitem(box, values)
        found = await memory.get(key[len(array.path) :].lstrip("/"), PROTOTYPE)
        return None if found is None else found.to_bytes()


Arrays = dict[str, _Array | None]  # by path; None for a path without an array


async def _array_above(store: Store, key: str, known: Arrays) -> _Array | None:
    """Return the array that a key lies in."""
    for path in dict.fromkeys((*parents(key), "")):
        if path not in known:
            known[path] = await _read(store, path)
        if (array := known[path]) is not None:
            return array
    return None


async def _read(store: Store, path: str) -> _Array | None:
    found = [(name, await store.get(join(path, name), PROTOTYPE)) for name in METADATA_NAMES]
    documents = {name: data.to_bytes() for name, data in found if data is not None}
    meta = parse_node(documents, path)
    return _Array(path, meta, documents) if isinstance(meta, ArrayMeta) else None
