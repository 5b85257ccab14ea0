"""Arrays that are divided into shards while they are written: their documents, mounts and blocks.

Each shard has the documents of its array, with the shape of its own block.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from shardedstore.stores.http_index import named_by
from shardedstore.stores.locations import Mount
from shardedstore.writing.arrayshards import Rule, check_separate
from shardedstore.zarr.attributes import carried
from shardedstore.zarr.grid import Blocks, Coords
from shardedstore.zarr.metadata import ArrayMeta, crop_document, parse_json, parse_node
from shardedstore.zarr.paths import Mounts, is_below, join

Documents = Mapping[str, bytes]


class Placed(NamedTuple):
    """An array of a sharded store: its documents by name, its metadata and its mount.

    The mount is None if the array has no shards yet. `is_unnamed` is True if the array can't be divided before its
    dimensions have names.
    """

    path: str
    documents: Documents = {}  # noqa: RUF012 (a default that nobody changes)
    array: ArrayMeta | None = None
    mount: Mount | None = None
    is_unnamed: bool = False

    @property
    def blocks(self) -> Blocks | None:
        """The division into blocks; None without a mount."""
        return None if self.mount is None else self.mount.blocks

    def is_chunk(self, rest: str) -> bool:
        """Tell whether a key inside the array is a chunk key, also one outside the chunk grid."""
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
    """Changes to the documents in one shard of a changed array; `is_less` is True if its block became smaller."""

    block: Coords
    written: Documents
    deleted: tuple[str, ...]
    is_less: bool


def changes(before: Placed, after: Placed) -> Iterator[Change]:
    """Yield the changes to the shards; documents that no longer exist, and those of removed blocks, are deleted."""
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
    """The arrays that are divided by rules: their known documents, and their mounts.

    Parameters
    ----------
    rules : mapping of str to Rule
        The rules by path.
    mounted : dict of str to Mount
        The mounts of the store, which this object keeps up to date.
    changed : callable
        Called with a path and its new mount after each change.
    """

    def __init__(
        self, rules: Mapping[str, Rule], mounted: dict[str, Mount], changed: Callable[[str, Mount | None], None]
    ) -> None:
        self.rules, self._mounted, self._changed = rules, mounted, changed
        self.keys = {join(path, name): (path, name) for path in rules for name in NAMES}
        self.known = {path: Placed(path) for path in rules}
        self._paths = Mounts(rules)

    def placed(self, path: str, documents: Documents) -> Placed:
        """Return an array as these documents describe it.

        Raises
        ------
        UsageError, PartitionError
            If it can't be divided by its rule.
        """
        meta, rule = parse_node(documents, path), self.rules[path]
        if not isinstance(meta, ArrayMeta):
            return Placed(path, documents)
        if meta.zarr_format == 2 and isinstance(rule.shape, Mapping) and meta.dimension_names is None:
            return Placed(path, documents, meta, is_unnamed=True)  # .zattrs, which has the names, is written later
        mount = rule.mount(meta, self._mounted.get(path))
        if mount is not None:
            check_separate({**self._mounted, path: mount})
        return Placed(path, documents, meta, mount)

    def take(self, placed: Placed) -> None:
        """Use this state of an array from now on."""
        self.known[placed.path] = placed
        if placed.mount is None:
            self._mounted.pop(placed.path, None)
        else:
            self._mounted[placed.path] = placed.mount
        self._changed(placed.path, placed.mount)

    def forget(self, path: str) -> None:
        """Remove an array that was deleted."""
        self.take(Placed(path))

    def absent(self) -> Iterator[str]:
        """Yield the paths of rules whose arrays do not exist yet."""
        return (path for path, placed in self.known.items() if not placed.documents)

    def holder(self, key: str) -> str | None:
        """Return the array that contains a key; None for its documents, and if the path is a group."""
        found = self._paths.resolve(key)
        if found is None or not found[1] or key in self.keys:
            return None
        known = self.known[found[0]]
        return None if known.array is None and known.documents else found[0]

    def differing(self, key: str, data: bytes) -> Iterator[str]:
        """Yield the arrays whose known documents differ from this consolidated metadata."""
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
        """Yield the paths of arrays that may have keys with this prefix."""
        for path in self.rules:
            start = f"{path}/" if path else ""
            if start.startswith(prefix) or prefix.startswith(start):
                yield path

    def below(self, path: str) -> Iterator[str]:
        """Yield the paths of arrays at or below a path."""
        return (own for own in self.rules if own == path or is_below(own, path))


def _content(document: bytes | None) -> object:
    return None if document is None else parse_json(document, "", "")
