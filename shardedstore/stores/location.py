"""Locations: descriptions of stores that a config holds and that a worker opens.

Each kind of location is one class in a file of its own, with everything that depends on the kind. `shardedstore.stores.locations`
lists the kinds. A location names its kind and its URL, never a Python class, and holds no credentials.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar, Self

import msgspec
from msgspec import Meta
from zarr.abc.store import Store

from shardedstore.errors import UsageError
from shardedstore.storage.options import Options
from shardedstore.storage.urls import fill_url
from shardedstore.stores.layers import Layer
from shardedstore.stores.reader import reader_of
from shardedstore.zarr.grid import Blocks, Coords, block_name

if TYPE_CHECKING:
    from typing import TypeAlias

    from shardedstore.stores.hole import Hole

    AnyLocation: TypeAlias = "Location"


class Location(msgspec.Struct, frozen=True, tag_field="kind", forbid_unknown_fields=True):
    """Description of a store: the protocol of all kinds.

    Attributes
    ----------
    is_view : bool
        Whether the keys belong to another component, so that the source may have more keys than the config knows.
    divides_source : bool
        Whether a block of an array at this location is a block of the source; otherwise the location is a template.
    is_folder, is_file : bool
        Whether each key is a file or object below the URL, or the whole store is one file or object.
    is_in_config : bool
        Whether the config itself holds the whole store, so that nothing is read.
    is_open : bool
        Whether this is an open store of this process, which no config can name.
    is_legacy : bool
        Whether this is a form of shardedstore 0.3.1, which is read but not saved.
    """

    is_view: ClassVar[bool] = False
    divides_source: ClassVar[bool] = False
    is_folder: ClassVar[bool] = False
    is_file: ClassVar[bool] = False
    is_in_config: ClassVar[bool] = False
    is_open: ClassVar[bool] = False
    is_legacy: ClassVar[bool] = False

    def open(self, *, read_only: bool = True) -> Store:
        """Open the store; only folders and object stores can be opened for writing."""
        raise NotImplementedError

    def show(self) -> str:
        """Return the name of the location in messages.

        >>> from shardedstore.stores.view import ViewOf
        >>> from shardedstore.stores.zip import Zip
        >>> ViewOf(Zip("/data/a.zip"), "t").show()
        "'t' in '/data/a.zip'"
        """
        raise NotImplementedError

    @property
    def pipeline(self) -> str:
        """The URL pipeline of Zarr's ZEP 8, which other readers accept; for other kinds the name in messages."""
        return self.show()

    def show_in(self, folder: str) -> str:
        """Return the name of the location in a table, relative to a folder if it lies there."""
        return self.show().replace(f"'{folder}/", "'") if folder else self.show()

    @property
    def kind(self) -> str:
        """The name of the kind in configs."""
        return str(self.__struct_config__.tag)

    @property
    def has_tags(self) -> bool:
        """Whether the store lists its keys with sizes and tags, so that ``changed="listing"`` works."""
        return reader_of(self.open()).has_tags

    @property
    def origin(self) -> Location:
        """The source behind all views and parts; the location itself for other kinds.

        >>> from shardedstore.stores.view import ViewOf
        >>> from shardedstore.stores.zip import Zip
        >>> ViewOf(ViewOf(Zip("/data/a.zip"), "t"), "u").origin
        Zip(url='/data/a.zip')
        """
        return self

    @property
    def hole(self) -> Hole | None:
        """The hole, for a failed shard that the user accepted as missing; None for other kinds."""
        return None

    def places(self) -> Iterator[Location]:
        """Yield the innermost sources of this location; for a config, the innermost sources of all its shards."""
        yield self

    @property
    def whole(self) -> Location:
        """The location without a selection of groups and arrays."""
        return self

    @property
    def selection(self) -> str:
        """The groups and arrays of `whole` that are kept, in words."""
        return "everything"

    @property
    def shared_groups(self) -> frozenset[str]:
        """The groups that have kept and other members in `whole`; empty without a selection."""
        return frozenset()

    @property
    def view(self) -> tuple[Location, str]:
        """The source of a view and the path in it; the location itself and an empty path for other kinds."""
        return self, ""

    @property
    def held(self) -> Location:
        """The object that holds a shard; for several members in one shard, the object that holds all of them."""
        return self

    @property
    def shared_source(self) -> Location | None:
        """The source that several views may share and that is opened once; None for other kinds and for templates."""
        return None

    def with_source(self, source: Location) -> Location:
        """Return the location with another source; the location itself if it has no source."""
        return self

    @property
    def files_url(self) -> str | None:
        """The URL of the files of this store alone; None if they can't be listed."""
        return None

    def layers(self, path: str) -> Iterator[Layer]:
        """Yield the stored arrays that together are the array at a path; a later one covers the earlier ones.

        Raises
        ------
        UsageError
            If a chunk of the array is in no ordinary Zarr.
        HoleError
            If a shard is a hole.
        """
        raise UsageError(
            f"{path or 'the array'!r} in {self.show()} is not an ordinary Zarr in a file or folder: convert the store with "
            "ToZip or CopyTo, and export the result"
        )

    def measure(self) -> tuple[int, int] | None:
        """Return the number of files and their bytes; zeros if they can't be listed, None if there are none."""
        return 0, 0

    @property
    def undeletable(self) -> str | None:
        """The reason why single keys can't be deleted here; None for a folder with a file or object for each key."""
        return f"{self.show()} is a {self.kind}, not a folder with a file or object for each key"

    @property
    def written_to(self) -> object:
        """A value that is equal for locations written to in the same place; None if this one can't be written to."""
        return None

    def is_same(self, other: Location) -> bool:
        """Tell whether another location leads to the same store; documents inside the config may differ."""
        return self == other

    def check(self) -> None:
        """Check that paths stay inside their source, and blocks inside their grid.

        Raises
        ------
        UsageError
            If a path leads out of its source.
        ConfigError
            If a block lies outside its grid.
        """

    def check_there(self) -> None:
        """Raise a storage error if the bucket is missing; otherwise only its keys would seem to be missing."""

    def map_places(self, change: Callable[[Place], Place]) -> Location:
        """Return the location with changed places; a view or a part changes the places of its source."""
        return self

    def at_block(self, blocks: Blocks, block: Coords) -> Location:
        """Return the location of one block of an array at this location.

        >>> from shardedstore.stores.zip import Zip
        >>> from shardedstore.zarr.grid import ChunkKeys
        >>> Zip("/data/t/{block}.zip").at_block(Blocks((4, 4), (2, 2), ChunkKeys("v2", ".")), (0, 1))
        Zip(url='/data/t/0/1.zip')
        """
        name = block_name(block)
        return self.map_places(lambda place: place.at(place.url.replace("{block}", name)))

    def is_in_place(self, blocks: Blocks, block: Coords) -> bool:
        """Tell whether a block has the same chunk keys in `view` as in the array that it is mounted in."""
        return False

    def open_block(self, blocks: Blocks, block: Coords, chunks: tuple[Coords, ...] | None = None) -> Store:
        """Open one block; `chunks` holds the coordinates of the existing chunks, if they are known."""
        return self.at_block(blocks, block).open()

    def at_member(self, block: str, name: str) -> Location:
        """Return the location of one member: fill in ``{block}`` and ``{name}`` in the template.

        >>> from shardedstore.stores.view import ViewOf
        >>> from shardedstore.stores.zip import Zip
        >>> ViewOf(Zip("/out/{block}.zip"), "{name}").at_member("0", "a")
        ViewOf(source=Zip(url='/out/0.zip'), path='a')
        """
        return self.map_places(lambda place: place.at(fill_url(place.url, block=block, name=name)))

    @property
    def names_members(self) -> bool:
        """Whether the location contains ``{name}``."""
        return "{name}" in (url_of(self) or "")

    def beside_others(self) -> Location:
        """Return a folder of an object store as a view of its parent, so that one client reads many folders.

        >>> from shardedstore.stores.directory import Directory
        >>> Directory("s3://bucket/cells/a%20b.zarr").beside_others()
        ViewOf(source=Directory(url='s3://bucket/cells'), path='a b.zarr')
        """
        return self


class Place(Location, frozen=True):
    """A location with a URL and public storage options."""

    if TYPE_CHECKING:

        @property
        def url(self) -> str: ...

        @property
        def options(self) -> Options: ...

    def show(self) -> str:
        # docstring inherited
        return repr(self.url)

    def at(self, url: str) -> Self:
        """Return the place at another URL."""
        return msgspec.structs.replace(self, url=url)

    def map_places(self, change: Callable[[Place], Place]) -> Location:
        # docstring inherited
        return change(self)

    @property
    def proofs(self) -> list[str]:
        """URLs to probe: at least one exists if the store can be read. Empty if no such URLs are known.

        Raises
        ------
        UsageError
            If this process can't open stores of the kind.
        """
        return [self.url]


class Derived(Location, frozen=True):
    """A location that is made from another."""

    source: Annotated[AnyLocation, Meta(description="The component that this one is made from.")]

    def show(self) -> str:
        # docstring inherited
        return self.source.show()

    @property
    def origin(self) -> Location:
        # docstring inherited
        return self.source.origin

    def places(self) -> Iterator[Location]:
        # docstring inherited
        return self.source.places()

    def check(self) -> None:
        # docstring inherited
        self.source.check()

    def with_source(self, source: Location) -> Location:
        # docstring inherited
        return msgspec.structs.replace(self, source=source)

    def map_places(self, change: Callable[[Place], Place]) -> Location:
        # docstring inherited
        return msgspec.structs.replace(self, source=self.source.map_places(change))

    def at_member(self, block: str, name: str) -> Location:
        # docstring inherited
        return msgspec.structs.replace(self, source=self.source.at_member(block, name))


class Opened(Location, frozen=True):
    """An open store without a location, such as a store in memory.

    Only this process can read it; it can't be sent to a worker.
    """

    is_open: ClassVar[bool] = True

    store: Store

    def open(self, *, read_only: bool = True) -> Store:
        # docstring inherited
        return self.store

    def show(self) -> str:
        # docstring inherited
        return repr(self.store)

    @property
    def kind(self) -> str:
        # docstring inherited
        return type(self.store).__name__

    @property
    def written_to(self) -> object:
        # docstring inherited
        return id(self.store)


def url_of(location: Location) -> str | None:
    """Return the URL of a location or of its origin; None for a store without a URL."""
    place = location.origin
    return place.url if isinstance(place, Place) else None


def is_template(location: Location) -> bool:
    """Tell whether the URL of a location is a template, with one URL for each block or member."""
    return has_braces(url_of(location) or "")


def has_braces(url: str) -> bool:
    """Tell whether a URL contains ``{block}`` or ``{name}``."""
    return "{block}" in url or "{name}" in url


class OpenSources:
    """The open sources of locations; a source that several locations share is opened once."""

    def __init__(self) -> None:
        self._opened: dict[Location, Opened] = {}

    def opened(self, source: Location) -> Opened:
        """Return a source, open."""
        if source not in self._opened:
            self._opened[source] = Opened(source.open())
        return self._opened[source]

    def shared(self, location: Location) -> Location:
        """Return a location with its shared source open; the location itself if it has none."""
        source = location.shared_source
        return location if source is None else location.with_source(self.opened(source))
