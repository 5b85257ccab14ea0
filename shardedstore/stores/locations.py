"""The kinds of components: where each is, as data that stands in a config and that a worker can open.

A location names its kind and its URL, never a class, and holds no credentials.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta
from zarr.abc.store import Store

from shardedstore.errors import ConfigError
from shardedstore.fields import BelowRoot, Index, KindName, PathText, Setting, Url
from shardedstore.storage.options import NONE, Options
from shardedstore.storage.urls import fill_url, is_remote, unquote_name
from shardedstore.stores.members import Division, Members
from shardedstore.zarr.grid import Blocks, Coords, block_name, parse_block

_SECRET = re.compile(r"(?i)secret|passw|token|credential|signature|api_?key")


def may_be_secret(name: str) -> bool:
    """Tell whether a setting of this name may be secret."""
    return _SECRET.search(name) is not None


class _Kind(msgspec.Struct, frozen=True, tag_field="kind", forbid_unknown_fields=True):
    pass


class Directory(_Kind, frozen=True, tag="directory", omit_defaults=True, repr_omit_defaults=True):
    """A folder with a file for each key: a local path, a prefix in an object store, or a URL of a web server."""

    url: Annotated[Url, Meta(description="The path or URL; inside the folder of the config it is relative to it.")]
    options: Annotated[Options, Meta(description="The public options of the object store.")] = NONE


class Zip(_Kind, frozen=True, tag="zip", omit_defaults=True, repr_omit_defaults=True):
    """A zip with a member for each key, on a local disk or in an object store."""

    url: Annotated[Url, Meta(description="The path or URL; inside the folder of the config it is relative to it.")]
    options: Annotated[Options, Meta(description="The public options of the object store.")] = NONE


class Own(_Kind, frozen=True, tag="own", omit_defaults=True, repr_omit_defaults=True):
    """A store of a kind that another package registers under a name."""

    name: Annotated[KindName, Meta(description="The registered name of the kind of store.")]
    url: Annotated[Url, Meta(description="The path or URL; inside the folder of the config it is relative to it.")]
    settings: Annotated[
        dict[str, Setting], Meta(description="The settings of the store besides its URL; they hold no secrets.")
    ] = {}
    options: Annotated[Options, Meta(description="The public options of the object store.")] = NONE

    def __post_init__(self) -> None:
        if secret := next(filter(may_be_secret, self.settings), None):
            raise ValueError(
                f"the setting {secret!r} would be for all to read: give secrets to the environment instead"
            )

    def __hash__(self) -> int:
        return hash((self.name, self.url))


class Group(_Kind, frozen=True, tag="group", omit_defaults=True):
    """A group that is stored in the config alone, and holds nothing but empty groups."""

    zarr_format: Annotated[Literal[2, 3], Meta(description="The Zarr format of the group.")] = 3
    attributes: Annotated[dict[str, Any], Meta(description="The attributes of the group.")] = {}
    groups: Annotated[tuple[str, ...], Meta(description="The paths of the empty groups below it.")] = ()

    def __hash__(self) -> int:
        return hash(self.zarr_format)


class Hole(_Kind, frozen=True, tag="hole", omit_defaults=True):
    """A shard that failed and is missing, as the user of the job accepted; reading it is an error."""

    shard: Annotated[str, Meta(description="The name of the shard in messages, such as `temperature[5]`.")]
    cause: Annotated[str, Meta(description="The error that failed the shard.")] = ""


class ViewOf(_Kind, frozen=True, tag="view"):
    """Everything below a path of another component; for a divided array, its blocks."""

    source: Annotated[Location, Meta(description="The component that the view shows.")]
    path: Annotated[PathText, Meta(description="The path of the view's root in the component.")]


class PartOf(_Kind, frozen=True, tag="part", omit_defaults=True):
    """The groups and arrays of another component that are selected by their paths."""

    source: Annotated[Location, Meta(description="The component that is selected from.")]
    only: Annotated[
        tuple[BelowRoot, ...] | None,
        Meta(
            description="Paths that are selected with everything below them, and with the metadata of the groups above them; null selects everything."
        ),
    ] = None
    without: Annotated[
        tuple[BelowRoot, ...], Meta(description="Paths that are left out with everything below them.")
    ] = ()


class VeiledOf(_Kind, frozen=True, tag="veiled"):
    """Another component, some metadata documents of which are stored under names that other readers do not know."""

    source: Annotated[Location, Meta(description="The component with the renamed documents.")]
    paths: Annotated[
        tuple[PathText, ...], Meta(description="The paths of the groups and arrays whose documents are renamed.")
    ]


class BlockOf(_Kind, frozen=True, tag="block"):
    """One block of an array of another component, as an array of its own."""

    source: Annotated[Location, Meta(description="The component that holds the array.")]
    path: Annotated[PathText, Meta(description="The path of the array in the component.")]
    blocks: Annotated[Blocks, Meta(description="The division of the array into blocks.")]
    block: Annotated[tuple[Index, ...], Meta(description="The index of the block.")]


class Squeezed(_Kind, frozen=True, tag="squeezed"):
    """One block of an array in the form of shardedstore 0.3.1: its chunk keys lack the sharded dimensions."""

    source: Annotated[Location, Meta(description="The component that holds the chunks.")]
    array: Annotated[BlockOf, Meta(description="The block whose metadata describes the chunks.")]

    def __post_init__(self) -> None:
        blocks = self.array.blocks
        if blocks.keys.name != "v2" or len(blocks.chunks) >= len(blocks.chunk_grid):
            raise ValueError("an array's block is squeezed in Zarr v2 alone, and has a dimension that is not sharded")


class Mount(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One component, or a component for each block of an array or for each member, mounted at a path."""

    location: Annotated[
        Location,
        Meta(
            description="The location of the component. With `blocks` it is a template, and `{block}` stands for the index of a block. With `members`, `{name}` stands for the name of a member, also in the path of a view, and `{block}` for the name of the shard that holds the member."
        ),
    ]
    blocks: Annotated[
        Blocks | None,
        Meta(description="The division of the array at the path, if there is one component for each of its blocks."),
    ] = None
    exceptions: Annotated[
        dict[str, Location],
        Meta(
            description="The locations of shards that are not at the place that the template names, by the name of the shard. `{name}` stands for a member only in a shard of several members."
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
        """Yield the names of the shards, as `exceptions` have them; an empty one for one component."""
        if self.members is not None:
            return self.members.shard_names()
        blocks = self.blocks
        return iter([""]) if blocks is None else (block_name(blocks.index(i)) for i in range(blocks.count))


class Config(_Kind, frozen=True, tag="sharded", omit_defaults=True):
    """A sharded store: a base and the components that are mounted on it."""

    base: Annotated[Location, Meta(description="The component that holds everything outside the mounted ones.")]
    shards: Annotated[dict[PathText, Mount], Meta(description="The mounted components, by path.")] = {}
    consolidated: Annotated[
        Location | None, Meta(description="The component that holds the rebuilt consolidated metadata.")
    ] = None

    def __hash__(self) -> int:
        return hash(self.base)


@dataclass(frozen=True)
class Opened:
    """A store that has no location, such as one in memory: it can be looked at, but not sent to a worker."""

    store: Store


Place = Directory | Zip | Own
VIEWS = ViewOf | PartOf | VeiledOf | BlockOf | Squeezed
if TYPE_CHECKING:
    Location = Directory | Zip | Own | Group | Hole | ViewOf | PartOf | VeiledOf | BlockOf | Squeezed | Config | Opened
else:  # what a config can hold
    Location = Directory | Zip | Own | Group | Hole | ViewOf | PartOf | VeiledOf | BlockOf | Squeezed | Config


def is_nowhere(mount: Mount, block: Coords | None) -> bool:
    """Tell whether a block has no chunks, by the config, and so no component; a view has what its source has now."""
    if block is None or mount.blocks is None or mount.blocks.holds(block):
        return False
    return not isinstance(mount.location, ViewOf) and block_name(block) not in mount.exceptions


def url_of(location: Location) -> str | None:
    """Return the URL of a component, of a view that of its source; None for a store that has none."""
    place = origin(location)
    return place.url if isinstance(place, Place) else None


def origin(location: Location) -> Location:
    """Return what a view or a part is of, through views of views; another location as it is.

    >>> origin(ViewOf(ViewOf(Zip("/data/a.zip"), "t"), "u"))
    Zip(url='/data/a.zip')
    """
    while isinstance(location, VIEWS):
        location = location.source
    return location


def holes(config: Config) -> Iterator[Hole]:
    """Yield the holes of a config."""
    yield from (location for _, location in locations(config) if isinstance(location, Hole))


def show(location: Location) -> str:
    """Return how messages call a location.

    >>> show(ViewOf(Zip("/data/a.zip"), "t"))
    "'t' in '/data/a.zip'"
    """
    match location:
        case ViewOf(source, path):
            return f"{path!r} in {show(source)}"
        case PartOf(source) | VeiledOf(source):
            return show(source)
        case BlockOf(source, path, _, block):
            return f"'{path}[{block_name(block)}]' in {show(source)}"
        case Squeezed(source, array):
            return f"'{array.path}[{block_name(array.block)}]' in {show(source)}"
        case Opened(store):
            return repr(store)
        case Config():
            return f"the sharded store on {show(location.base)}"
        case Group():
            return "the group in the config"
    return f"the hole {location.shard!r}" if isinstance(location, Hole) else repr(location.url)


def locations(config: Config) -> Iterator[tuple[str, Location]]:
    """Yield all locations of a config, each with what it is; in the place of nested stores, theirs."""
    yield from _nested("the base", config.base)
    for path, mount in config.shards.items():
        yield from _nested(f"shard {path!r}", mount.location)
        for index, location in mount.exceptions.items():
            yield from _nested(f"shard {path!r}, block {index!r}", location)
    if config.consolidated is not None:
        yield from _nested("the consolidated metadata", config.consolidated)


def _nested(what: str, location: Location) -> Iterator[tuple[str, Location]]:
    inner = origin(location)
    if isinstance(inner, Config):
        yield from ((f"{what}: {part}", found) for part, found in locations(inner))
    else:
        yield what, location


def at_block(location: Location, block: Coords) -> Location:
    """Return the location of one block, from the template of all.

    >>> at_block(Zip("/data/t/{block}.zip"), (1, 2))
    Zip(url='/data/t/1/2.zip')
    """

    def filled(place: Place) -> Place:
        return msgspec.structs.replace(place, url=place.url.replace("{block}", block_name(block)))

    return map_places(location, filled)


def at_shard(
    location: Location, division: Division | None, name: str, exceptions: Mapping[str, Location] = MappingProxyType({})
) -> Location:
    """Return the location of one shard, from the template of all, in which ``{name}`` stays if it has several members.

    >>> at_shard(ViewOf(Zip("/out/{block}.zip"), "{name}"), Members(("a", "b"), together=2), "0")
    ViewOf(source=Zip(url='/out/0.zip'), path='{name}')
    """
    if name in exceptions:
        return exceptions[name]
    match division:
        case None:
            return location
        case Members():
            return at_member(location, name, name if division.together == 1 else "{name}")
    return at_block(location, parse_block(name))


def at_member(location: Location, block: str, name: str) -> Location:
    """Return the location of one member, from the template of all.

    >>> at_member(ViewOf(Zip("/out/{block}.zip"), "{name}"), "0", "a")
    ViewOf(source=Zip(url='/out/0.zip'), path='a')
    """
    match location:
        case ViewOf(source, path):
            return ViewOf(at_member(source, block, name), path.replace("{name}", name))
        case PartOf(source) | VeiledOf(source):
            return msgspec.structs.replace(location, source=at_member(source, block, name))

    def filled(place: Place) -> Place:
        return msgspec.structs.replace(place, url=fill_url(place.url, block=block, name=name))

    return map_places(location, filled)


def member_at(mount: Mount, number: int) -> Location:
    """Return where a member is.

    >>> member_at(Mount(Directory("/in/{name}.zarr"), members=Members(("a", "b"))), 1)
    Directory(url='/in/b.zarr')
    """
    members = mount.members
    assert members is not None
    block = members.shard_name(members.shard_of(number))
    location = at_shard(mount.location, members, block, mount.exceptions)
    return location if members.together == 1 else at_member(location, block, members.names[number])


def object_of(location: Location) -> Location:
    """Return the object that a shard stands in: of members together what their location is a view of, and of what is veiled.

    >>> object_of(ViewOf(Zip("/out/0.zip"), "{name}")), object_of(VeiledOf(Zip("/out/base.zip"), ("t",)))
    (Zip(url='/out/0.zip'), Zip(url='/out/base.zip'))
    """
    if isinstance(location, VeiledOf):
        return location.source
    return location.source if isinstance(location, ViewOf) and location.path == "{name}" else location


def view_of(location: Location, path: str) -> Location:
    """Return the location of a folder in a component; the component itself for an empty path."""
    return ViewOf(location, path) if path else location


def veiled(location: Location, paths: Iterable[str]) -> Location:
    """Return the location of a component whose documents at some paths are veiled; as it is where there are none.

    >>> veiled(Zip("/out/base.zip"), ["u", "t"]), veiled(Zip("/out/base.zip"), [])
    (VeiledOf(source=Zip(url='/out/base.zip'), paths=('t', 'u')), Zip(url='/out/base.zip'))
    """
    some = tuple(sorted(paths))
    return VeiledOf(location, some) if some else location


def beside_others(location: Location) -> Location:
    """Return a folder of an object store as a view of the one that it lies in, so that one client reads all of many.

    >>> beside_others(Directory("s3://bucket/cells/a%20b.zarr"))
    ViewOf(source=Directory(url='s3://bucket/cells'), path='a b.zarr')
    """
    if not isinstance(location, Directory) or not is_remote(location.url) or location.url.startswith("http"):
        return location
    folder, _, name = location.url.rpartition("/")
    return ViewOf(Directory(folder, location.options), unquote_name(name, folder))


def is_template(location: Location) -> bool:
    """Tell whether the URL of a location is one of many."""
    return has_braces(url_of(location) or "")


def has_braces(url: str) -> bool:
    """Tell whether something in a URL stands for the name of a block or a member."""
    return "{block}" in url or "{name}" in url


def is_template_of(members: Members, location: Location) -> bool:
    """Tell whether a template gives each member a place of its own."""
    if "{name}" in (url_of(location) or "") or (members.together == 1 and "{block}" in (url_of(location) or "")):
        return True
    while isinstance(location, ViewOf):
        if "{name}" in location.path:
            return True
        location = location.source
    return False


def map_places(location: Location, change: Callable[[Place], Place]) -> Location:
    """Return a location whose places are changed; of a view or a part, its source's."""
    match location:
        case Opened() | Group() | Hole():
            return location
        case ViewOf() | PartOf() | VeiledOf() | BlockOf():
            return msgspec.structs.replace(location, source=map_places(location.source, change))
        case Squeezed(source, array):
            whole = msgspec.structs.replace(array, source=map_places(array.source, change))
            return Squeezed(map_places(source, change), whole)
        case Config():
            return map_config(location, change)
    return change(location)


def map_config(config: Config, change: Callable[[Place], Place]) -> Config:
    """Return a config all of whose places are changed."""
    return Config(
        base=map_places(config.base, change),
        shards={
            path: msgspec.structs.replace(
                mount,
                location=map_places(mount.location, change),
                exceptions={index: map_places(location, change) for index, location in mount.exceptions.items()},
            )
            for path, mount in config.shards.items()
        },
        consolidated=config.consolidated and map_places(config.consolidated, change),
    )


def require_location(location: Location, what: str) -> Location:
    """Return the location, or raise ConfigError for a store that has none."""
    if isinstance(location, Opened):
        raise ConfigError(
            f"{what} is a {type(location.store).__name__}, which has no location that a config could name or a worker "
            "could open: give its path or URL instead of the opened store, or copy what is in memory to a folder first"
        )
    return location
