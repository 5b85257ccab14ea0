"""The metadata documents that the shards of an array hold: those of the array, each with the shape of its own block."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from shardedstore.stores.http_index import named_by
from shardedstore.stores.locations import Mount
from shardedstore.writing.arrayshards import Rule, check_apart
from shardedstore.zarr.attributes import carried
from shardedstore.zarr.grid import Blocks, Coords
from shardedstore.zarr.metadata import ArrayMeta, crop_document, parse_json, parse_node
from shardedstore.zarr.paths import Mounts, is_below, join

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


NAMES = ("zarr.json", ".zarray", ".zattrs")


class DividedArrays:
    """What the documents of some arrays say, and what is mounted for them by their rules.

    Parameters
    ----------
    rules : mapping of str to Rule
        By path.
    mounted : dict of str to Mount
        What is mounted in the store, which is kept up to date.
    changed : callable
        Is called with a path and what is mounted there from then on.
    """

    def __init__(
        self, rules: Mapping[str, Rule], mounted: dict[str, Mount], changed: Callable[[str, Mount | None], None]
    ) -> None:
        self.rules, self._mounted, self._changed = rules, mounted, changed
        self.keys = {join(path, name): (path, name) for path in rules for name in NAMES}
        self.known = {path: Placed(path) for path in rules}
        self._paths = Mounts(rules)

    def placed(self, path: str, documents: Documents) -> Placed:
        """Return what an array is with other documents.

        Raises
        ------
        UsageError, PartitionError
            Where it can't be divided by its rule.
        """
        meta, rule = parse_node(documents, path), self.rules[path]
        if not isinstance(meta, ArrayMeta):
            return Placed(path, documents)
        if meta.zarr_format == 2 and isinstance(rule.shape, Mapping) and meta.dimension_names is None:
            return Placed(path, documents, meta, is_unnamed=True)  # names are attributes there, which are written apart
        mount = rule.mount(meta, self._mounted.get(path))
        if mount is not None:
            check_apart({**self._mounted, path: mount})
        return Placed(path, documents, meta, mount)

    def take(self, placed: Placed) -> None:
        """Go by what an array is now."""
        self.known[placed.path] = placed
        if placed.mount is None:
            self._mounted.pop(placed.path, None)
        else:
            self._mounted[placed.path] = placed.mount
        self._changed(placed.path, placed.mount)

    def forget(self, path: str) -> None:
        """Take an array as not there any more."""
        self.take(Placed(path))

    def absent(self) -> Iterator[str]:
        """Yield the paths at which there is nothing yet."""
        return (path for path, placed in self.known.items() if not placed.documents)

    def holder(self, key: str) -> str | None:
        """Return the array that a key lies in, but for its documents; None also where there is a group instead."""
        found = self._paths.resolve(key)
        if found is None or not found[1] or key in self.keys:
            return None
        known = self.known[found[0]]
        return None if known.array is None and known.documents else found[0]

    def differing(self, key: str, data: bytes) -> Iterator[str]:
        """Yield the arrays that consolidated metadata describes otherwise than they are known."""
        group, _, name = key.rpartition("/")
        described = named_by(name, data)
        for path in self.rules if described.is_whole else ():
            if is_below(path, group):
                inside, known = path.removeprefix(f"{group}/"), self.known[path].documents
                if any(
                    _content(described.documents.get(join(inside, own))) != _content(known.get(own)) for own in NAMES
                ):
                    yield path

    def near(self, prefix: str) -> Iterator[str]:
        """Yield the paths of those whose keys a prefix may begin."""
        for path in self.rules:
            start = f"{path}/" if path else ""
            if start.startswith(prefix) or prefix.startswith(start):
                yield path

    def below(self, path: str) -> Iterator[str]:
        """Yield the paths of those at or below a path."""
        return (own for own in self.rules if own == path or is_below(own, path))


def _content(document: bytes | None) -> object:
    return None if document is None else parse_json(document, "", "")
