"""Sharded stores: a base and the components that are mounted on it, read as one zarr store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta
from zarr.abc.store import Store

from shardedstore.fields import PathText
from shardedstore.stores.hole import Hole
from shardedstore.stores.layers import Layer
from shardedstore.stores.locate import locate_store
from shardedstore.stores.location import Location, Place
from shardedstore.stores.mount import Mount, member_at
from shardedstore.stores.routing import RoutedStore
from shardedstore.zarr.paths import Mounts

if TYPE_CHECKING:
    from shardedstore.stores.location import AnyLocation


class Config(Location, frozen=True, tag="sharded", omit_defaults=True):
    """A sharded store: a base and the components that are mounted on it."""

    base: Annotated[AnyLocation, Meta(description="The component that holds everything outside the mounted ones.")]
    shards: Annotated[dict[PathText, Mount], Meta(description="The mounted components, by path.")] = {}  # noqa: RUF012 (msgspec copies it)
    consolidated: Annotated[
        AnyLocation | None, Meta(description="The component that holds the rebuilt consolidated metadata.")
    ] = None

    def __hash__(self) -> int:
        return hash(self.base)

    def open(self, *, read_only: bool = True) -> Store:
        # docstring inherited
        return RoutedStore(self)

    def show(self) -> str:
        # docstring inherited
        return f"the sharded store on {self.base.show()}"

    def show_in(self, folder: str) -> str:
        # docstring inherited
        return ""

    @property
    def has_tags(self) -> bool:
        # docstring inherited
        return False

    def places(self) -> Iterator[Location]:
        # docstring inherited
        yield from self.base.places()
        for mount in self.shards.values():
            for location in mount.locations():
                yield from location.places()
        if self.consolidated is not None:
            yield from self.consolidated.places()

    def map_places(self, change: Callable[[Place], Place]) -> Config:
        # docstring inherited
        return Config(
            base=self.base.map_places(change),
            shards={path: mount.map_places(change) for path, mount in self.shards.items()},
            consolidated=self.consolidated and self.consolidated.map_places(change),
        )

    def layers(self, path: str) -> Iterator[Layer]:
        # docstring inherited
        found = Mounts(self.shards).resolve(path)
        if found is None:
            return self.base.layers(path)
        mount, rest = self.shards[found[0]], found[1]
        if mount.blocks is not None:
            return mount.layers(mount.blocks)
        member = None if mount.members is None else mount.members.find(rest)
        return mount.location.layers(rest) if member is None else member_at(mount, member[0]).layers(member[1])

    def locations(self) -> Iterator[tuple[str, Location]]:
        """Yield all locations, each with its role in words; for nested stores, their locations."""
        yield from _nested("the base", self.base)
        for path, mount in self.shards.items():
            yield from _nested(f"shard {path!r}", mount.location)
            for index, location in mount.exceptions.items():
                yield from _nested(f"shard {path!r}, block {index!r}", location)
        if self.consolidated is not None:
            yield from _nested("the consolidated metadata", self.consolidated)

    def holes(self) -> Iterator[Hole]:
        """Yield the holes."""
        yield from (location.hole for _, location in self.locations() if location.hole is not None)


def _nested(role: str, location: Location) -> Iterator[tuple[str, Location]]:
    inner = location.origin
    if isinstance(inner, Config):
        yield from ((f"{role}: {part}", found) for part, found in inner.locations())
    else:
        yield role, location


@locate_store.register
def _(store: RoutedStore) -> Location:
    return store.config
