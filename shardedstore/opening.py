"""Locations opened: the table of the kinds of components."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zarr.abc.store import Store
from zarr.storage import LocalStore, ObjectStore

from shardedstore.blobs import object_store
from shardedstore.errors import UsageError
from shardedstore.grid import Blocks, Coords
from shardedstore.groups import GroupStore
from shardedstore.kinds import BlockOf, Config, Directory, Group, Location, Opened, PartOf, ViewOf, Zip, at_block, show
from shardedstore.parts import Part
from shardedstore.routing import RoutedStore
from shardedstore.unlisted import Unlisted
from shardedstore.urls import is_remote
from shardedstore.views import Block, View
from shardedstore.zips import ZipReadStore


def open_location(location: Location, *, read_only: bool = True) -> Store:
    """Open a component.

    Raises
    ------
    UsageError
        For one that can only be read, and is to be written to.
    """
    if not read_only and not can_write(location):
        raise UsageError(f"{show(location)} can only be read: write to a folder or an object store, and map it")
    return _KINDS[type(location)](location, read_only)


def _open_directory(location: Directory, read_only: bool) -> Store:
    url, options = location.url, location.options
    if url.startswith(("http://", "https://")):
        return Unlisted(url, options)
    if is_remote(url):
        return ObjectStore(object_store(url, options), read_only=read_only)
    return LocalStore(url, read_only=read_only)


_KINDS: dict[type[Location], Callable[[Any, bool], Store]] = {
    Directory: _open_directory,
    Zip: lambda zipped, _: ZipReadStore(zipped.url, storage_options=zipped.options),
    Group: lambda group, _: GroupStore(group.zarr_format, group.attributes),
    ViewOf: lambda view, _: View(open_location(view.source), view.path),
    PartOf: lambda part, _: Part(open_location(part.source), part.only, part.without),
    BlockOf: lambda block, _: Block(open_location(block.source), block.path, block.blocks, block.block),
    Config: lambda config, _: RoutedStore(config, open_location),
    Opened: lambda opened, _: opened.store,
}


def can_write(location: Location) -> bool:
    """Tell whether a component of this kind can be written to."""
    match location:
        case Opened(store):
            return not store.read_only
        case Directory(url):
            return not url.startswith(("http://", "https://"))
    return False


def open_block(location: Location, blocks: Blocks, block: Coords) -> Store:
    """Open one block of a divided array: a view gives a part of its source, other locations are templates."""
    if isinstance(location, ViewOf):
        return Block(open_location(location.source), location.path, blocks, block)
    return open_location(at_block(location, block))
