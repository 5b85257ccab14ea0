"""The components of a sharded store, each opened at its first use."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress

from zarr.abc.store import Store

from shardedstore.stores.group import GroupStore
from shardedstore.stores.location import Location, Opened
from shardedstore.stores.mount import Mount, is_nowhere, member_at
from shardedstore.stores.part import Part
from shardedstore.stores.routes import BASE, Address
from shardedstore.zarr.grid import Coords, block_name

NOTHING = GroupStore.nothing()
MOST_OPEN = 512  # the least recently used one is dropped, and closes once its last reader is done


class Components:
    """The open components of a sharded store: the base and the mounts.

    The components in `given` were opened by the user. The mounts may change between two calls.
    """

    def __init__(
        self,
        base: Location,
        mounts: Mapping[str, Mount],
        given: Mapping[Address, Store] | None = None,
        *,
        read_only: bool = True,
    ) -> None:
        self._base, self._mounts, self._read_only = base, mounts, read_only
        self._given = given or {}
        self._opened: OrderedDict[Address, Store] = OrderedDict(self._given)
        self._sources: dict[Location, Store] = {}

    def at(self, place: Address) -> Store:
        """Return a component."""
        store = self._opened.get(place)
        if store is None:
            store = self._given.get(place) or self._open_component(*place)
            if len(self._opened) >= MOST_OPEN:
                self._opened.popitem(last=False)
            self._opened[place] = store
        else:
            with suppress(KeyError):  # another thread dropped it
                self._opened.move_to_end(place)
        return store

    def forget(self, path: str) -> None:
        """Forget the components that were mounted at a path."""
        for place in [place for place in self._opened if place[0] == path]:
            del self._opened[place]

    def close(self) -> None:
        """Close all open components."""
        for store in self._opened.values():
            store.close()

    def _open_component(self, path: str | None, block: Coords | None) -> Store:
        if path is None:
            return self._base.open(read_only=self._read_only)
        mount = self._mounts[path]
        if is_nowhere(mount, block):
            return NOTHING
        location = mount.location
        if mount.members is not None and block is not None:
            location = member_at(mount, block[0]).beside_others()
        elif mount.blocks is not None and block is not None:
            location = mount.exceptions.get(block_name(block)) or location.at_block(mount.blocks, block)
        if location.is_view:
            source, _ = location.view
            return location.with_source(Opened(self.source(source))).open()
        return location.open(read_only=self._read_only)

    def source(self, source: Location) -> Store:
        """Return the source of a view.

        All views share one open source, so the directory of a zip is read once.
        """
        if source.is_open:
            return source.open()
        if (store := self._shared(source)) is not None:
            return store
        if source not in self._sources:
            if len(self._sources) >= MOST_OPEN:
                del self._sources[next(iter(self._sources))]
            self._sources[source] = source.open()
        return self._sources[source]

    def _shared(self, source: Location) -> Store | None:
        """Return the source of a view if the base has the same source."""
        store = self.at(BASE)
        if source == self._base:
            return store
        base = self._base.whole
        if isinstance(store, Part):
            store = store.store
        if source == base:
            return store
        return source.with_source(Opened(store)).open() if source.whole == base else None
