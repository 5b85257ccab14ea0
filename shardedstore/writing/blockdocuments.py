"""The metadata documents that the shards of an array hold: those of the array, each with the shape of its own block."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from shardedstore.attributes import carried
from shardedstore.components.kinds import Mount
from shardedstore.grid import Blocks, Coords
from shardedstore.metadata import ArrayMeta, crop_document

Documents = Mapping[str, bytes]


class Placed(NamedTuple):
    """An array of a sharded store: its documents by name, and what is mounted for it; None where that is nothing.

    `is_unnamed` tells that it can't be divided before its dimensions have names.
    """

    path: str
    documents: Documents = {}  # noqa: RUF012 (a default that nobody changes)
    array: ArrayMeta | None = None
    mount: Mount | None = None
    is_unnamed: bool = False

    @property
    def blocks(self) -> Blocks | None:
        """How it is divided."""
        return None if self.mount is None else self.mount.blocks

    def is_chunk(self, rest: str) -> bool:
        """Tell whether a key inside the array is a chunk's, within its grid or not."""
        if self.array is None or self.array.keys is None:
            return False
        return self.array.keys.decode(rest, (sys.maxsize,) * len(self.array.shape)) is not None

    def cropped(self) -> Iterator[tuple[Coords, Coords, Documents]]:
        """Yield the blocks, each with its shape in elements and the documents of its shard."""
        array, blocks, made = self.array, self.blocks, dict[Coords, Documents]()
        if array is None or blocks is None or array.chunks is None:
            return
        for block in map(blocks.index, range(blocks.count)):
            shape = blocks.crop(array.shape, array.chunks, block)
            if shape not in made:
                made[shape] = {name: self._crop(name, data, shape) for name, data in self.documents.items()}
            yield block, shape, made[shape]

    def _crop(self, name: str, data: bytes, shape: Coords) -> bytes:
        own = data if name == ".zattrs" else crop_document(data, shape, self.path, name)
        return carried(name, own, self.path)


class Change(NamedTuple):
    """What is to be done in one shard of an array that has changed; `is_less` tells that its block is smaller than before."""

    block: Coords
    written: Documents
    deleted: tuple[str, ...]
    is_less: bool


def changes(before: Placed, after: Placed) -> Iterator[Change]:
    """Yield what is to be done in the shards; of what is no document or no block any more, the documents are deleted."""
    had = {block: (shape, documents) for block, shape, documents in before.cropped()}
    for block, shape, documents in after.cropped():
        old_shape, old = had.pop(block, (shape, {}))
        written = {name: data for name, data in documents.items() if old.get(name) != data}
        deleted = tuple(name for name in old if name not in documents)
        if written or deleted:
            is_less = any(n < m for n, m in zip(shape, old_shape, strict=False))
            yield Change(block, written, deleted, is_less)
    for block, (_, old) in had.items():
        yield Change(block, {}, tuple(old), True)
