"""The table of the kinds of stores, and the names that other modules use.

A new kind is one file, with its location, its store and its reader, and one line in `KINDS`. Other installed packages add kinds
by name; see `shardedstore.stores.custom`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Union

from shardedstore.errors import ConfigError
from shardedstore.stores import location, mount, sharded
from shardedstore.stores.block import BlockOf
from shardedstore.stores.custom import Own
from shardedstore.stores.directory import Directory
from shardedstore.stores.group import Group
from shardedstore.stores.hole import Hole
from shardedstore.stores.icechunk import Icechunk
from shardedstore.stores.kerchunk import Kerchunk
from shardedstore.stores.kerchunk_parquet import KerchunkParquet
from shardedstore.stores.location import Location, Opened, Place, has_braces, is_template, url_of
from shardedstore.stores.mount import Mount, at_shard, member_at
from shardedstore.stores.part import PartOf
from shardedstore.stores.sharded import Config
from shardedstore.stores.squeezed import Squeezed
from shardedstore.stores.veiled import VeiledOf, veiled
from shardedstore.stores.view import ViewOf
from shardedstore.stores.zip import Zip

KINDS = (
    Directory,
    Zip,
    Own,
    Kerchunk,
    KerchunkParquet,
    Icechunk,
    Group,
    Hole,
    ViewOf,
    PartOf,
    VeiledOf,
    BlockOf,
    Squeezed,
    Config,
)

# msgspec resolves the annotations of a struct in the namespace of its module.
if TYPE_CHECKING:
    from shardedstore.stores.location import AnyLocation
else:
    AnyLocation = Union[KINDS]  # noqa: UP007 (of a tuple)
for module in (location, mount, sharded):
    vars(module)["AnyLocation"] = AnyLocation

__all__ = [
    "KINDS",
    "AnyLocation",
    "BlockOf",
    "Config",
    "Directory",
    "Group",
    "Hole",
    "Icechunk",
    "Kerchunk",
    "KerchunkParquet",
    "Location",
    "Mount",
    "Opened",
    "Own",
    "PartOf",
    "Place",
    "Squeezed",
    "VeiledOf",
    "ViewOf",
    "Zip",
    "at_shard",
    "has_braces",
    "is_template",
    "member_at",
    "require_location",
    "url_of",
    "veiled",
]


def require_location(location: Location, role: str) -> Location:
    """Return the location, or raise ConfigError for an open store without one; `role` names the component."""
    if location.is_open:
        raise ConfigError(
            f"{role} is a {location.kind}, which has no location that a config could name or a worker "
            "could open: give its path or URL instead of the opened store, or copy the data in memory to a folder first"
        )
    return location
