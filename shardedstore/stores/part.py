"""A store without some of its groups and arrays: what is left out is neither listed nor read."""

from __future__ import annotations

from collections.abc import AsyncIterator, Container, Iterable
from typing import Any

from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype

from shardedstore.stores.views import Left
from shardedstore.zarr.metadata import CONSOLIDATED_V2, METADATA_NAMES, dump_json, parse_json
from shardedstore.zarr.paths import Mounts, join
from shardedstore.zarr.readonly import ReadOnlyStore, cut

DOCUMENTS = (*METADATA_NAMES, CONSOLIDATED_V2)


class Part(ReadOnlyStore):
    """What of a store is at or below the paths in `only`, and neither at nor below those in `without`.

    Of the groups above those in `only`, their metadata documents are there too; None is everything. Consolidated
    metadata names what is there, and nothing else.

    Examples
    --------
    >>> from zarr.storage import MemoryStore
    >>> part = Part(MemoryStore(), ["a", "g/b"], ["g/b/c"])
    >>> [key for key in ("zarr.json", "x", "x/0", "a/0", "g/zarr.json", "g/b", "g/b/c/0") if part.holds(key)]
    ['zarr.json', 'a/0', 'g/zarr.json', 'g/b']
    """

    def __init__(self, store: Store, only: Iterable[str] | None, without: Iterable[str]) -> None:
        super().__init__()
        self.store, self.only, self.without = store, None if only is None else tuple(only), tuple(without)
        self._only = None if self.only is None else Mounts(self.only)
        self._without = Mounts(self.without)

    def __eq__(self, other: object) -> bool:
        return type(other) is Part and (self.store, self.only, self.without) == (other.store, other.only, other.without)

    def __repr__(self) -> str:
        return f"Part({self.store!r})"

    def holds(self, path: str) -> bool:
        """Tell whether a key or a folder, if it exists, is there."""
        if self._without.resolve(path) is not None:
            return False
        if self._only is None or self._only.resolve(path) is not None or self._only.any_below(path):
            return True
        folder, _, name = path.rpartition("/")
        return name in DOCUMENTS and self._only.any_below(folder)

    def is_cut(self, folder: str) -> bool:
        """Tell whether some of what is below a folder is left out, as far as paths can tell."""
        above_some = self._only is not None and self._only.any_below(folder)
        return above_some or self._without.any_below(folder)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        # docstring inherited
        if not self.holds(key):
            return None
        group, _, name = key.rpartition("/")
        if name not in ("zarr.json", CONSOLIDATED_V2) or not self.is_cut(group):
            return await self.store.get(key, prototype, byte_range)
        data = await self.store.get(key, prototype)
        return None if data is None else cut(prototype.buffer.from_bytes(self._trim(data.to_bytes(), key)), byte_range)

    def _trim(self, data: bytes, key: str) -> bytes:
        """Return a group's document whose consolidated metadata, if it has some, is of what is there."""
        group, _, name = key.rpartition("/")
        if b'"metadata"' not in data:
            return data
        document = parse_json(data, group, name)
        holder: Any = document if name == CONSOLIDATED_V2 else document.get("consolidated_metadata")
        if not isinstance(holder, dict) or not isinstance(holder.get("metadata"), dict):
            return data
        holder["metadata"] = {path: node for path, node in holder["metadata"].items() if self.holds(join(group, path))}
        return dump_json(document)

    async def exists(self, key: str) -> bool:
        # docstring inherited
        return self.holds(key) and await self.store.exists(key)

    async def list(self) -> AsyncIterator[str]:
        # docstring inherited
        async for key in self.list_prefix(""):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        # docstring inherited
        async for key in self.store.list_prefix(prefix):
            if self.holds(key):
                yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        # docstring inherited
        folder = prefix.strip("/")
        if self.holds(folder):
            async for name in self.store.list_dir(folder):
                if self.holds(join(folder, name)):
                    yield name


class Rest:
    """What a bulk reader lists of a part's store: what `remainder` leaves of the part."""

    def __init__(self, part: Part, remainder: Left | None) -> None:
        self.part, self.remainder = part, remainder

    def holds(self, key: str) -> bool:
        # docstring inherited
        return self.part.holds(key) and (self.remainder is None or self.remainder.holds(key))

    def is_mounted(self, folder: str) -> bool:
        # docstring inherited
        return not self.part.holds(folder) or (self.remainder is not None and self.remainder.is_mounted(folder))

    def is_cut(self, folder: str) -> bool:
        # docstring inherited
        return self.part.is_cut(folder)

    def chunk_names(self, folder: str) -> Container[str]:
        # docstring inherited
        if self.part.is_cut(folder):
            return _Denied(self, folder)
        return () if self.remainder is None else self.remainder.chunk_names(folder)


class _Denied(Container[str]):
    def __init__(self, rest: Rest, folder: str) -> None:
        self.rest, self.folder = rest, folder

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and not self.rest.holds(join(self.folder, name))
