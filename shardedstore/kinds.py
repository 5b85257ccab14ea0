"""The kinds of components: where each is, as data that stands in a config and that a worker can open.

A location names its kind and its URL, never a class, and holds no credentials.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from zarr.abc.store import Store

from shardedstore.access import NONE, Options
from shardedstore.errors import ConfigError
from shardedstore.grid import Blocks, Coords, block_name


class _Kind(msgspec.Struct, frozen=True, tag_field="kind", forbid_unknown_fields=True):
    pass


class Directory(_Kind, frozen=True, tag="directory", omit_defaults=True, repr_omit_defaults=True):
    """A folder with a file for each key: a local path, a prefix in an object store, or a URL of a web server."""

    url: str
    options: Options = NONE


class Zip(_Kind, frozen=True, tag="zip", omit_defaults=True, repr_omit_defaults=True):
    """A zip with a member for each key, on a local disk or in an object store."""

    url: str
    options: Options = NONE


class Group(_Kind, frozen=True, tag="group", omit_defaults=True):
    """A group without anything else in it, which stands in the config alone."""

    zarr_format: Literal[2, 3] = 3
    attributes: dict[str, Any] = {}

    def __hash__(self) -> int:
        return hash(self.zarr_format)


class ViewOf(_Kind, frozen=True, tag="view"):
    """Everything of another component below a path; of an array that is divided, the blocks."""

    source: Location
    path: str


class PartOf(_Kind, frozen=True, tag="part", omit_defaults=True):
    """What of another component is at or below the paths in `only`, and neither at nor below those in `without`.

    Of the groups above those in `only`, their metadata documents belong to it too; None is everything.
    """

    source: Location
    only: tuple[str, ...] | None = None
    without: tuple[str, ...] = ()


class BlockOf(_Kind, frozen=True, tag="block"):
    """One block of an array of another component that is divided, as an array of its own."""

    source: Location
    path: str
    blocks: Blocks
    block: Coords


class Mount(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is mounted at a path: one component, or with `blocks` one for each block of the array that is there.

    `location` is then a template, in which ``{block}`` stands for a block's index; `exceptions` hold the locations of
    blocks that are elsewhere, by their index.
    """

    location: Location
    blocks: Blocks | None = None
    exceptions: dict[str, Location] = {}


class Config(_Kind, frozen=True, tag="sharded", omit_defaults=True):
    """A sharded store: the base, what is mounted on it, and the component that holds rebuilt consolidated metadata."""

    base: Location
    shards: dict[str, Mount] = {}
    consolidated: Location | None = None

    def __hash__(self) -> int:
        return hash(self.base)


@dataclass(frozen=True)
class Opened:
    """A store that has no location, such as one in memory: it can be looked at, but not sent to a worker."""

    store: Store


Place = Directory | Zip
VIEWS = ViewOf | PartOf | BlockOf
if TYPE_CHECKING:
    Location = Directory | Zip | Group | ViewOf | PartOf | BlockOf | Config | Opened
else:
    Location = Directory | Zip | Group | ViewOf | PartOf | BlockOf | Config  # what a config can hold


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


def show(location: Location) -> str:
    """Return how messages call a location.

    >>> show(ViewOf(Zip("/data/a.zip"), "t"))
    "'t' in '/data/a.zip'"
    """
    match location:
        case ViewOf(source, path):
            return f"{path!r} in {show(source)}"
        case PartOf(source):
            return show(source)
        case BlockOf(source, path, _, block):
            return f"'{path}[{block_name(block)}]' in {show(source)}"
        case Opened(store):
            return repr(store)
        case Config():
            return f"the sharded store on {show(location.base)}"
        case Group():
            return "the group in the config"
    return repr(location.url)


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


def map_places(location: Location, change: Callable[[Place], Place]) -> Location:
    """Return a location whose places are changed; of a view or a part, its source's."""
    match location:
        case Opened() | Group():
            return location
        case ViewOf() | PartOf() | BlockOf():
            return msgspec.structs.replace(location, source=map_places(location.source, change))
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
