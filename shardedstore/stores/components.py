"""The components of a sharded store, opened when they are first asked for."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Protocol

from zarr.abc.store import Store

from shardedstore.stores.group import GroupStore
from shardedstore.stores.locations import (
    BlockOf,
    Location,
    Mount,
    Opened,
    PartOf,
    ViewOf,
    at_block,
    beside_others,
    is_nowhere,
    member_at,
)
from shardedstore.stores.part import Part
from shardedstore.stores.routes import BASE, Place
from shardedstore.stores.views import Block, View
from shardedstore.zarr.grid import Coords, block_name

NOTHING = GroupStore.nothing()
MOST_OPEN = 512  # the least recently used is dropped, and closed when nothing reads from it any more


class Opener(Protocol):
    """What opens locations."""

    def __call__(self, location: Location, *, read_only: bool = True) -> Store:
        """Open a component."""


class Components:
    """The open components of a base and of what is mounted; those in `given` were opened by the user.

    The mounts may change, while a component is not asked for.
    """

    def __init__(
        self,
        base: Location,
        mounts: Mapping[str, Mount],
        opener: Opener,
        given: Mapping[Place, Store] | None = None,
        *,
        read_only: bool = True,
    ) -> None:
        self._base, self._mounts, self._open, self._read_only = base, mounts, opener, read_only
        self._given = given or {}
        self._opened: OrderedDict[Place, Store] = OrderedDict(self._given)
        self._sources: dict[Location, Store] = {}

    def at(self, place: Place) -> Store:
        """Return a component."""
        store = self._opened.get(place)
        if store is None:
            store = self._given.get(place) or self._open_component(*place)
            if len(self._opened) >= MOST_OPEN:
                self._opened.popitem(last=False)
            self._opened[place] = store
        else:
            self._opened.move_to_end(place)
        return store

    def forget(self, path: str) -> None:
        """Forget what was mounted at a path."""
        for place in [place for place in self._opened if place[0] == path]:
            del self._opened[place]

    def close(self) -> None:
        """Close all components that are open."""
        for store in self._opened.values():
            store.close()

    def _open_component(self, path: str | None, block: Coords | None) -> Store:
        if path is None:
            return self._open(self._base, read_only=self._read_only)
        mount = self._mounts[path]
        if mount.members is not None and block is not None:
            found = beside_others(member_at(mount, block[0]))
            if isinstance(found, ViewOf):
                return View(self.source(found.source), found.path)
            return self._open(found, read_only=self._read_only)
        exception = mount.exceptions.get(block_name(block))
        if is_nowhere(mount, block):
            return NOTHING
        location = mount.location if exception is None else exception
        if isinstance(location, ViewOf) and mount.blocks is not None and block is not None and exception is None:
            return Block(self.source(location.source), location.path, mount.blocks, block)
        if isinstance(location, ViewOf):
            return View(self.source(location.source), location.path)
        if block is not None and exception is None:
            location = at_block(location, block)
        if isinstance(location, BlockOf):
            return Block(self.source(location.source), location.path, location.blocks, location.block)
        return self._open(location, read_only=self._read_only)

    def source(self, source: Location) -> Store:
        """Return the source of a view, opened once for all, so that a zip's directory is read once."""
        if isinstance(source, Opened):
            return source.store
        if (store := self._shared(source)) is not None:
            return store
        if source not in self._sources:
            if len(self._sources) >= MOST_OPEN:
                del self._sources[next(iter(self._sources))]
            self._sources[source] = self._open(source)
        return self._sources[source]

    def _shared(self, source: Location) -> Store | None:
        """Return the source of a view where the base is of it too."""
        base, store = self._base, self.at(BASE)
        if isinstance(base, PartOf) and isinstance(store, Part):
            base, store = base.source, store.store
        if isinstance(source, PartOf) and source.source == base:
            return Part(store, source.only, source.without)
        return store if source == base else None
