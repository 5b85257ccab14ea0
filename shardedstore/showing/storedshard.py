"""One shard of a store, to look at and to open alone; and where each shard of a mount is."""

from __future__ import annotations

import msgspec
from zarr.abc.store import Store

from shardedstore.chain import Shard
from shardedstore.components.kinds import (
    BlockOf,
    Config,
    Group,
    Location,
    Mount,
    Opened,
    Own,
    VeiledOf,
    ViewOf,
    Zip,
    at_block,
    at_shard,
    member_at,
    object_of,
    show,
    url_of,
)
from shardedstore.components.members import Division, Members
from shardedstore.components.opening import open_location
from shardedstore.components.views import Remainder
from shardedstore.errors import CorruptError
from shardedstore.grid import Blocks, Coords, block_name
from shardedstore.mounts import join
from shardedstore.showing.text import shown
from shardedstore.storage.blobs import nbytes_of


class StoredShard(msgspec.Struct, frozen=True):
    """One shard of a store, and where it is.

    Attributes
    ----------
    name : str
        How messages call it: ``"(base)"``, a path, or a path and the index of a block, like ``"temperature[1/2]"``.
    path : str
        Where it is mounted; ``""`` for the base.
    block : tuple of int or None
        The index of the block, of an array that is divided.
    location
        Where it is, as a config names it.
    """

    name: str
    path: str
    block: Coords | None
    location: Location
    without: dict[str, Division | None] | None = None  # of the base: what is mounted on it

    @property
    def kind(self) -> str:
        """What kind of component it is, as a config names it, such as ``"zip"``; of an opened store, its class."""
        return kind_of(self.location)

    @property
    def url(self) -> str | None:
        """The URL of the component, of a view that of its source; None for a component that has none."""
        return url_of(self.location)

    @property
    def nbytes(self) -> int | None:
        """The size in bytes of a zip, which is asked for each time; None for all else, where it would take a listing.

        Raises
        ------
        CorruptError
            When the zip is not there.
        """
        place = object_of(self.location)
        if not isinstance(place, Zip):
            return None
        nbytes = nbytes_of(place.url, place.options)
        if nbytes is None:
            raise CorruptError(
                f"shard {self.name!r} is not there: {show(self.location)} was removed, or is not yet uploaded"
            )
        return nbytes

    def __repr__(self) -> str:
        return f"<Shard {shown(self.name)}: {self.kind} {shown(show(self.location))}>"

    def open(self) -> Store:
        """Open it alone, to be read: a block as an array of its own, and the base without what is mounted on it.

        Several stores of a collection that are one shard are there by their names.
        """
        store = open_location(self.location)
        return Remainder(store, self.without) if self.without else store


def grid_of(mount: Mount) -> Coords:
    """Return the number of a mount's shards along each of the dimensions that they are divided along."""
    return (mount.count,) if mount.blocks is None else mount.blocks.grid


def nth_shard(path: str | None, mount: Mount, i: int) -> tuple[Shard, Location]:
    """Return one of the shards of a mount by its number in it, and where it is; the path is None for the base."""
    match mount.division:
        case None:
            return Shard(path or "", is_base=path is None), object_of(
                mount.location
            ) if path is None else mount.location
        case Members() as members:
            return _of_members(path or "", mount, members, i)
        case blocks:
            block = blocks.index(i)
            return Shard(path or "", blocks, block), _of_block(mount, blocks, block)


def _of_block(mount: Mount, blocks: Blocks, block: Coords) -> Location:
    if (exception := mount.exceptions.get(block_name(block))) is not None:
        return exception
    if isinstance(mount.location, ViewOf):
        return BlockOf(mount.location.source, mount.location.path, blocks, block)
    return at_block(mount.location, block)


def _of_members(path: str, mount: Mount, members: Members, i: int) -> tuple[Shard, Location]:
    name, some = members.shard_name(i), members.cut(i, i + 1)
    if members.together == 1:
        return Shard(join(path, name), members=some.names), member_at(mount, i)
    location = at_shard(mount.location, members, name, mount.exceptions)
    together = holder(location) or Config(Group(), {"": Mount(location, members=some)})
    return Shard(path, members=some.names, bundle=i), together


def holder(location: Location) -> Location | None:
    """Return what holds several stores of a collection by their names, and nothing else; None where each is elsewhere."""
    return location.source if isinstance(location, ViewOf) and location.path == "{name}" else None


def kind_of(location: Location) -> str:
    """Return the kind of a component, as configs name it, or for a kind of one's own its name; of an opened store, its class.

    >>> kind_of(Zip("/a.zip"))
    'zip'
    """
    if isinstance(location, Opened):
        return type(location.store).__name__
    if isinstance(location, VeiledOf):
        return kind_of(location.source)
    if isinstance(location, Own):
        return location.name
    return str(location.__struct_config__.tag)
