"""The metadata documents that the shards of an array hold: those of the array, each with the shape of its own block."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from shardedstore.grid import Blocks, Coords
from shardedstore.kinds import Mount
from shardedstore.metadata import ArrayMeta, crop_document

Documents = Mapping[str, bytes]
Change = tuple[Coords, str, bytes | None]


class Placed(NamedTuple):
    """An array of a sharded store: its documents by name, and what is mounted for it; None where that is nothing."""

    path: str
    documents: Documents
    array: ArrayMeta | None = None
    mount: Mount | None = None

    @property
    def blocks(self) -> Blocks | None:
        """How it is divided."""
        return None if self.mount is None else self.mount.blocks

    def cropped(self) -> Iterator[tuple[Coords, Documents]]:
        """Yield the blocks, each with the documents of its shard."""
        array, blocks, made = self.array, self.blocks, dict[Coords, Documents]()
        if array is None or blocks is None or array.chunks is None:
            return
        for block in map(blocks.index, range(blocks.count)):
            shape = blocks.crop(array.shape, array.chunks, block)
            if shape not in made:
                made[shape] = {name: self._crop(name, data, shape) for name, data in self.documents.items()}
            yield block, made[shape]

    def _crop(self, name: str, data: bytes, shape: Coords) -> bytes:
        return data if name == ".zattrs" else crop_document(data, shape, self.path, name)


def changes(before: Placed, after: Placed) -> Iterator[Change]:
    """Yield what is to be written to the shards of an array that has changed: a block, a document's name, and the document.

    It is None where it is to be deleted: of what is no document or no block any more.
    """
    had = dict(before.cropped())
    for block, documents in after.cropped():
        old = had.pop(block, {})
        yield from ((block, name, data) for name, data in documents.items() if old.get(name) != data)
        yield from ((block, name, None) for name in old if name not in documents)
    for block, old in had.items():
        yield from ((block, name, None) for name in old)
