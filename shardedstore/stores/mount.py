"""Mounts: the components at one path of a sharded store."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from shardedstore.stores.layers import Layer
from shardedstore.stores.location import Location, Place, url_of
from shardedstore.stores.members import Division, Members
from shardedstore.zarr.grid import Blocks, Coords, block_name, parse_block

if TYPE_CHECKING:
    from shardedstore.stores.location import AnyLocation


class Mount(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One component, or a component for each block of an array or for each member, mounted at a path."""

    location: Annotated[
        AnyLocation,
        Meta(
            description="The location of the component. With `blocks` it is a template, and `{block}` stands for the index of a block. With `members`, `{name}` stands for the name of a member, also in the path of a view, and `{block}` for the name of the shard that holds the member."
        ),
    ]
    blocks: Annotated[
        Blocks | None,
        Meta(description="The division of the array at the path, if there is one component for each of its blocks."),
    ] = None
    exceptions: Annotated[
        dict[str, AnyLocation],
        Meta(
            description="The locations of shards that do not follow the template, by the name of the shard. `{name}` stands for a member only in a shard of several members."
        ),
    ] = {}
    members: Annotated[
        Members | None, Meta(description="The names below the path, if there is one component for each of them.")
    ] = None

    @property
    def division(self) -> Division | None:
        """The blocks or the members; None for one component."""
        return self.members or self.blocks

    @property
    def count(self) -> int:
        """The number of shards."""
        return 1 if self.division is None else self.division.count

    def shard_names(self) -> Iterator[str]:
        """Yield the names of the shards, as in `exceptions`; an empty name for one component."""
        if self.members is not None:
            return self.members.shard_names()
        blocks = self.blocks
        return iter([""]) if blocks is None else (block_name(blocks.index(i)) for i in range(blocks.count))

    def map_places(self, change: Callable[[Place], Place]) -> Mount:
        """Return the mount with changed places."""
        exceptions = {name: location.map_places(change) for name, location in self.exceptions.items()}
        return msgspec.structs.replace(self, location=self.location.map_places(change), exceptions=exceptions)

    def locations(self) -> Iterator[Location]:
        """Yield the locations of the shards; a source that all blocks share appears once."""
        yield from self.exceptions.values()
        if self.blocks is not None and self.location.divides_source:
            yield self.location
            return
        for name in self.shard_names():
            if name not in self.exceptions:
                yield at_shard(self.location, self.division, name)

    def layers(self, blocks: Blocks) -> Iterator[Layer]:
        """Yield the layers of the divided array; the blocks of a divided source are one layer."""
        if self.location.divides_source:
            yield from self.location.layers("")
        for name in self.exceptions if self.location.divides_source else self.shard_names():
            location = self.exceptions.get(name) or self.location.at_block(blocks, parse_block(name))
            box = blocks.box(parse_block(name))
            yield from (layer.moved(box) for layer in location.layers(""))

    @property
    def is_view(self) -> bool:
        """Whether some blocks are views; the source may then hold chunks outside all known blocks."""
        return self.location.is_view or any(location.is_view for location in self.exceptions.values())

    def tells_apart(self, members: Members) -> bool:
        """Tell whether the location gives each member a place of its own."""
        return self.location.names_members or (members.together == 1 and "{block}" in (url_of(self.location) or ""))


def is_nowhere(mount: Mount, block: Coords | None) -> bool:
    """Tell whether a block has no chunks according to the config, and so no component.

    This is False for a view, since its source may have gained chunks.
    """
    if block is None or mount.blocks is None or mount.blocks.holds(block):
        return False
    return not mount.location.divides_source and block_name(block) not in mount.exceptions


def at_shard(
    location: Location, division: Division | None, name: str, exceptions: Mapping[str, Location] = MappingProxyType({})
) -> Location:
    """Return the location of one shard; ``{name}`` stays in it if the shard has several members.

    >>> from shardedstore.stores.view import ViewOf
    >>> from shardedstore.stores.zip import Zip
    >>> at_shard(ViewOf(Zip("/out/{block}.zip"), "{name}"), Members(("a", "b"), together=2), "0")
    ViewOf(source=Zip(url='/out/0.zip'), path='{name}')
    """
    if name in exceptions:
        return exceptions[name]
    match division:
        case None:
            return location
        case Members():
            return location.at_member(name, name if division.together == 1 else "{name}")
    return location.at_block(division, parse_block(name))


def member_at(mount: Mount, number: int) -> Location:
    """Return the location of one member.

    >>> from shardedstore.stores.directory import Directory
    >>> member_at(Mount(Directory("/in/{name}.zarr"), members=Members(("a", "b"))), 1)
    Directory(url='/in/b.zarr')
    """
    members = mount.members
    assert members is not None
    block = members.shard_name(members.shard_of(number))
    location = at_shard(mount.location, members, block, mount.exceptions)
    return location if members.together == 1 else location.at_member(block, members.names[number])
