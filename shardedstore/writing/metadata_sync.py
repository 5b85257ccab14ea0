"""Synchronise the documents of divided arrays between the base and the shards.

A shard's document never describes a smaller block than the base's document. Therefore a growing array is written to the
shards first and then to the base, and a shrinking array in the opposite order. After an interruption in between, repeat the
same write: nothing is lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TypeVar
from weakref import WeakKeyDictionary

from zarr.abc.store import Store
from zarr.core.buffer import Buffer

from shardedstore.errors import UsageError
from shardedstore.partition.shard_sizes import is_kept
from shardedstore.stores.components import Components
from shardedstore.stores.locations import Mount
from shardedstore.stores.routes import BASE
from shardedstore.writing.divided import NAMES, Change, DividedArrays, Placed, changes
from shardedstore.zarr.grid import Coords, block_name
from shardedstore.zarr.metadata import ArrayMeta, parse_node
from shardedstore.zarr.paths import join
from shardedstore.zarr.readonly import PROTOTYPE

IN_FLIGHT = 64
Item = TypeVar("Item")


class SpreadDocuments:
    """Reads and writes the documents of divided arrays."""

    def __init__(self, divided: DividedArrays, components: Components) -> None:
        self._divided, self._components = divided, components
        self._locks: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, asyncio.Lock]] = WeakKeyDictionary()

    @asynccontextmanager
    async def locked(self, paths: Iterable[str]) -> AsyncIterator[None]:
        """Lock the documents of some arrays against other tasks in this event loop."""
        locks = self._locks.setdefault(asyncio.get_running_loop(), {})
        async with AsyncExitStack() as stack:
            for path in sorted(paths):
                await stack.enter_async_context(locks.setdefault(path, asyncio.Lock()))
            yield

    async def refresh(self, path: str) -> None:
        """Read the documents of an array again, and use them from now on.

        Raises
        ------
        UsageError, PartitionError
            If the array can't be divided by its rule, or already exists and is divided in another way.
        """
        async with self.locked([path]):
            await self.read(path)

    async def read(self, path: str) -> Placed:
        """Do the same as `refresh` while the caller holds the lock."""
        while (found := await self._documents(path)) != self._divided.known[path].documents:
            placed = self._divided.placed(path, found)
            wrong = await self._wrong_shards(placed)
            if wrong is None:
                self._divided.take(placed)
            elif await self._documents(path) == found and await self._wrong_shards(placed) is not None:
                raise wrong  # the documents are unchanged, so no other process is deleting or rewriting the array
        return self._divided.known[path]

    async def _documents(self, path: str) -> dict[str, bytes]:
        base = self._components.at(BASE)
        values = await asyncio.gather(*(base.get(join(path, name), PROTOTYPE) for name in NAMES))
        return {name: value.to_bytes() for name, value in zip(NAMES, values, strict=True) if value is not None}

    async def _wrong_shards(self, placed: Placed) -> UsageError | None:
        """Return an error if an array's first shard is missing or has another shape, as chunks would seem missing."""
        array, mount = placed.array, placed.mount
        block, shape, documents = next(placed.cropped(), ((), (), {}))
        if array is None or mount is None:
            return None
        name = "zarr.json" if "zarr.json" in documents else ".zarray"
        value = await self._open(mount, block).get(name, PROTOTYPE)
        if value is None:
            return UsageError(
                f"{placed.path!r} already exists, but not in the shards of array_shard_funcs: {_at(mount, block)} does not hold "
                "the first shard. Use the factory that it was written with, or write to another place"
            )
        first = parse_node({name: value.to_bytes()}, placed.path)
        found = first.shape if isinstance(first, ArrayMeta) else ()
        sizes = zip(found, shape, array.shape, strict=False)
        if len(found) == len(shape) and all(n == m or n > m == whole for n, m, whole in sizes):
            return None  # the only block may be larger than needed after an interrupted change
        return UsageError(
            f"{placed.path!r} already exists in shards of {found}, but array_shard_funcs gives {shape}: use the existing shape, "
            "or write to another place"
        )

    async def set(self, path: str, name: str, value: Buffer) -> None:
        """Write a document of an array to the base and, for each block, to its shard.

        Raises
        ------
        UsageError, PartitionError
            If the array can't be divided by its rule, if the change would move existing chunks to other shards, or if a
            shard of a new array is not empty. Nothing is written in these cases.
        """
        data = value.to_bytes()
        async with self.locked([path]):
            before = await self.read(path)
            after = self._divided.placed(path, {**before.documents, name: data})
            _check_kept(before, after)
            if before.mount is None and after.mount is not None:
                await self._check_empty(after, after.mount)
            todo = list(changes(before, after))
            await self._write(after.mount, (change for change in todo if not change.is_less))
            await self._components.at(BASE).set(join(path, name), value)
            self._divided.take(after)
            await self._write(after.mount, (change for change in todo if change.is_less))
            await self._delete(before.mount, todo)

    async def delete(self, path: str, name: str) -> None:
        """Delete a document of an array, first in the base and then in its shards; other keys stay."""
        async with self.locked([path]):
            before = await self.read(path)
            after = self._divided.placed(path, {own: data for own, data in before.documents.items() if own != name})
            await self._components.at(BASE).delete(join(path, name))
            self._divided.take(after)
            await self._delete(before.mount, changes(before, after))

    async def _check_empty(self, placed: Placed, mount: Mount) -> None:
        """Refuse chunks that exist before the array.

        Chunks in the shards would become chunks of the array. Chunks in the base would never be found.
        """
        start = f"{placed.path}/" if placed.path else ""
        async for key in self._components.at(BASE).list_prefix(start):
            if placed.is_chunk(key[len(start) :]):
                raise UsageError(
                    f"{placed.path!r} can't be written in shards, as the base already holds its chunk {key!r}, which would not be "
                    "found: delete it. When you copy key by key, copy the array's document first"
                )

        async def check(block: Coords) -> None:
            store = self._open(mount, block)
            async for key in store.list():
                if key not in NAMES and not key.endswith(".partial"):  # an interrupted write may leave these
                    raise UsageError(
                        f"{placed.path!r} can't be written to {_at(mount, block)}, which already holds {key!r}: delete "
                        "it, or write to another place"
                    )

        await for_each(check, (block for block, _, _ in placed.cropped()))

    async def _write(self, mount: Mount | None, todo: Iterable[Change]) -> None:
        async def write(change: Change) -> None:
            if mount is not None and change.written:
                store = self._open(mount, change.block)
                for name, data in change.written.items():
                    await store.set(name, PROTOTYPE.buffer.from_bytes(data))

        await for_each(write, todo)

    async def _delete(self, mount: Mount | None, todo: Iterable[Change]) -> None:
        async def delete(change: Change) -> None:
            if mount is not None and change.deleted:
                store = self._open(mount, change.block)
                for name in change.deleted:
                    await store.delete(name)

        await for_each(delete, todo)

    def _open(self, mount: Mount, block: Coords) -> Store:
        assert mount.blocks is not None
        location = mount.exceptions.get(block_name(block)) or mount.location.at_block(mount.blocks, block)
        return location.open(read_only=False)


async def for_each(act: Callable[[Item], Awaitable[None]], items: Iterable[Item]) -> None:
    """Call a function for each item, a bounded number at once; an error is raised after the running calls have ended."""
    left = iter(items)

    async def work() -> None:
        nonlocal left
        try:
            for item in left:
                await act(item)
        except BaseException:
            left = iter(())
            raise

    ended = await asyncio.gather(*(work() for _ in range(IN_FLIGHT)), return_exceptions=True)
    for error in ended:
        if error is not None:
            raise error


def _check_kept(before: Placed, after: Placed) -> None:
    """Refuse to change the division of an existing array, as its chunks would not be found."""
    if before.array is None or before.blocks is None or (after.array is not None and not all(after.array.shape)):
        return
    if after.blocks is None or not is_kept(before.blocks, after.blocks):
        raise UsageError(
            f"{before.path!r} already exists in shards, and other chunks or dimension names would divide it in another way: "
            "delete it first, or write to another path"
        )


def _at(mount: Mount, block: Coords) -> str:
    assert mount.blocks is not None
    return (mount.exceptions.get(block_name(block)) or mount.location.at_block(mount.blocks, block)).show()
