"""A folder of an object store as zarr's own store, in which no marker of a folder is listed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import obstore
from zarr.storage import ObjectStore

from shardedstore.storage.markers import is_marked, unmarked


class ObjectFolder(ObjectStore[Any]):
    """As its base, which fails on a folder whose marker has the folder's own name."""

    async def list(self) -> AsyncIterator[str]:  # type: ignore[override]
        # docstring inherited
        async for key in self.list_prefix(""):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:  # type: ignore[override]
        # docstring inherited
        async for batch in obstore.list(self.store, prefix=prefix or None):
            for found in await asyncio.to_thread(list, unmarked(self.store, batch)):
                yield found["path"]

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:  # type: ignore[override]
        # docstring inherited
        folder = prefix.rstrip("/")
        listed = await obstore.list_with_delimiter_async(self.store, prefix=folder or None)
        objects = [found["path"] for found in listed["objects"] if found["size"] or not is_marked(found["path"])]
        start = f"{folder}/" if folder else ""
        for path in dict.fromkeys([*listed["common_prefixes"], *objects]):
            if path != folder:  # the folder's own marker
                yield path.removeprefix(start).rstrip("/")
