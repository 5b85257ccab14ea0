"""Locations opened: the table of the kinds of components."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zarr.abc.store import Store
from zarr.storage import LocalStore

from shardedstore.storage.blobs import object_store
from shardedstore.storage.urls import is_remote
from shardedstore.stores.custom import open_own
from shardedstore.stores.group import GroupStore
from shardedstore.stores.hole import HoleStore
from shardedstore.stores.http import HTTPReadStore
from shardedstore.stores.locations import (
    BlockOf,
    Config,
    Directory,
    Group,
    Hole,
    Location,
    Opened,
    Own,
    PartOf,
    Squeezed,
    VeiledOf,
    ViewOf,
    Zip,
    at_block,
)
from shardedstore.stores.objects import ObjectFolder
from shardedstore.stores.part import Part
from shardedstore.stores.sharded import RoutedStore
from shardedstore.stores.squeezed import SqueezedBlock
from shardedstore.stores.veiled import Veiled
from shardedstore.stores.views import Block, View
from shardedstore.zarr.grid import Blocks, Coords
from shardedstore.zips import ZipReadStore


def open_location(location: Location, *, read_only: bool = True) -> Store:
    """Open a component; only folders and object stores can be written to."""
    return _KINDS[type(location)](location, read_only)


def _open_directory(location: Directory, read_only: bool) -> Store:
    url, options = location.url, location.options
    if url.startswith(("http://", "https://")):
        return HTTPReadStore(url, options)
    if is_remote(url):
        return ObjectFolder(object_store(url, options), read_only=read_only)
    return LocalStore(url, read_only=read_only)


def _open_view(location: ViewOf) -> Store:
    """Open a folder of a component: of a zip, whose names are known, as a zip of its own."""
    store = open_location(location.source)
    return store.at(location.path) if isinstance(store, ZipReadStore) else View(store, location.path)


def _open_block_of(location: BlockOf) -> Block:
    return Block(open_location(location.source), location.path, location.blocks, location.block)


_KINDS: dict[type[Location], Callable[[Any, bool], Store]] = {
    Directory: _open_directory,
    Zip: lambda zipped, _: ZipReadStore(zipped.url, storage_options=zipped.options),
    Own: lambda own, _: open_own(own.name, own.url, own.settings, own.options),
    Group: lambda group, _: GroupStore(group.zarr_format, group.attributes, group.groups),
    Hole: lambda hole, _: HoleStore(hole),
    ViewOf: lambda view, _: _open_view(view),
    PartOf: lambda part, _: Part(open_location(part.source), part.only, part.without),
    VeiledOf: lambda veiled, _: Veiled(open_location(veiled.source), veiled.paths),
    BlockOf: lambda block, _: _open_block_of(block),
    Squeezed: lambda squeezed, _: SqueezedBlock(open_location(squeezed.source), _open_block_of(squeezed.array)),
    Config: lambda config, _: RoutedStore(config, open_location),
    Opened: lambda opened, _: opened.store,
}


def open_block(location: Location, blocks: Blocks, block: Coords, chunks: tuple[Coords, ...] | None = None) -> Store:
    """Open one block of a divided array: a view gives a part of its source, other locations are templates.

    `chunks` are those that a view has of it, where they are known.
    """
    if isinstance(location, ViewOf):
        return Block(open_location(location.source), location.path, blocks, block, chunks)
    return open_location(at_block(location, block))
