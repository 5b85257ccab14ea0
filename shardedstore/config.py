"""The config: one JSON document that describes a whole sharded store, and nothing that runs.

It is decoded and checked field by field; it can name kinds of components from a table, but no Python module, class or
argument. The shards of one array are one template and a grid, so that a million of them take some hundred bytes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from shardedstore.access import NONE, Options
from shardedstore.errors import ConfigError, UsageError
from shardedstore.grid import block_name, parse_block
from shardedstore.kinds import (
    VIEWS,
    BlockOf,
    Config,
    Location,
    Mount,
    PartOf,
    Place,
    locations,
    map_config,
    require_location,
    show,
)
from shardedstore.mounts import Mounts, check_path
from shardedstore.urls import BESIDE, is_remote, is_within, join_url, normalize

FORMAT, VERSION = "shardedstore", 1
FILE_NAME = "shardedstore.json"


def to_dict(config: Config, folder: str | None = None) -> dict[str, Any]:
    """Return the JSON document, with URLs inside `folder` relative to it.

    Raises
    ------
    ConfigError
        For a component that has no location, such as a store in memory.
    """
    for what, location in locations(config):
        require_location(location, what)
    if folder is not None:
        config = map_config(config, lambda place: _relative(place, folder))
    fields = msgspec.to_builtins(config)
    del fields["kind"]  # it is a sharded store, as the format says
    return {"format": FORMAT, "version": VERSION, **fields}


def from_dict(
    document: object, folder: str | None = None, allow: Iterable[str] | None = None, options: Options = NONE
) -> Config:
    """Return the config that a JSON document describes.

    Parameters
    ----------
    document : dict
        What `to_dict` returned.
    folder : str, optional
        The folder, or the URL of one, that relative URLs start from.
    allow : iterable of str, optional
        Places outside `folder` that the config may name, and endpoints; None is everywhere, for documents of the
        program's own.
    options : Options
        Those of the folder, and so of relative URLs.

    Raises
    ------
    ConfigError
        For anything else, naming the field.
    """
    if not isinstance(document, Mapping):
        raise ConfigError("this is not a shardedstore config: it is not a JSON object")
    fields = dict(document)
    if fields.pop("format", None) != FORMAT:
        raise ConfigError(f'this is not a shardedstore config: it lacks "format": "{FORMAT}"')
    version = fields.pop("version", None)
    if type(version) is not int or version < 1:
        raise ConfigError(f"the config's version is {version!r}, which is not a version: is the file damaged?")
    if version > VERSION:
        raise ConfigError(
            f"the config's version is {version}, and this shardedstore reads {VERSION}: install a newer one"
        )
    try:
        config = msgspec.convert({**fields, "kind": "sharded"}, Config)
        _check(config)
    except msgspec.ValidationError as error:
        raise ConfigError(f"the config can't be read: {error}") from None
    except RecursionError:
        raise ConfigError("the config can't be read: its locations are nested too deeply") from None
    allowed = None if allow is None else [normalize(place) for place in (*allow, *_own_places(folder))]
    return map_config(config, lambda place: _absolute(place, folder, allowed, options))


def _own_places(folder: str | None) -> list[str]:
    """Return where a config may point: its folder, and the ordinary Zarr that it stands beside."""
    if not folder:
        return []
    return [folder, folder.removesuffix(BESIDE)] if folder.endswith(BESIDE) else [folder]


def parse(data: bytes) -> object:
    """Return the content of a JSON file, or raise ConfigError."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"this is not a shardedstore config: it is not JSON ({error})") from None


def dump(config: Config, folder: str | None) -> bytes:
    """Return the bytes of a config file that stands in `folder`."""
    return json.dumps(to_dict(config, folder), indent=2).encode() + b"\n"


def relative_url(url: str, folder: str) -> str:
    """Return a URL relative to a folder that it lies in; another is left as it is.

    >>> relative_url("s3://bucket/out/a/0.zip", "s3://bucket/out"), relative_url("/data/a", "/out")
    ('a/0.zip', '/data/a')
    """
    return "" if url == folder else url.removeprefix(f"{folder.rstrip('/')}/")


def _relative(place: Place, folder: str) -> Place:
    url = relative_url(place.url, folder)
    return type(place)(url) if url != place.url else place


def _absolute(place: Place, folder: str | None, allowed: list[str] | None, options: Options) -> Place:
    url = _absolute_url(place.url, folder, allowed)
    if url != place.url and not _is_absolute(place.url):
        if place.options != NONE:
            raise ConfigError(
                f"the config has options for the relative URL {place.url!r}, which is reached as the config itself is: "
                "take them out"
            )
        return type(place)(url, options)
    server = place.options.server
    if server is not None and allowed is not None and server != options.server and server not in allowed:
        raise ConfigError(
            f"the config sends requests for {url!r} to {server!r}: if that is right, load it with "
            f"allow=[{url!r}, {server!r}]"
        )
    return type(place)(url, place.options)


def _is_absolute(url: str) -> bool:
    return "://" in url or os.path.isabs(url)


def _absolute_url(url: str, folder: str | None, allowed: list[str] | None) -> str:
    if not _is_absolute(url):
        if folder is None:
            raise ConfigError(f"the config has the relative URL {url!r}: say root=, the folder that it starts from")
        if ".." in url.split("/"):
            raise ConfigError(f"the config's URL {url!r} has a segment '..': it must stay inside the config's folder")
        url = join_url(folder, url)
        if not is_remote(url):
            return url
        allowed = None  # it lies in the folder: `normalize` refuses what would lead out of it
    try:
        absolute = normalize(url)
    except UsageError as error:
        raise ConfigError(f"the config's URL can't be used: {error}") from None
    if allowed is not None and not any(is_within(absolute, place) for place in allowed):
        raise ConfigError(
            f"the config names {absolute!r}, which is outside its own folder: if that is right, load it with "
            f"allow=[{absolute!r}], or with allow=[...] of a folder that it lies in"
        )
    return absolute


def _check(config: Config) -> None:
    Mounts(config.shards)
    for path, mount in config.shards.items():
        _check_mount(path, mount)
        for location in (mount.location, *mount.exceptions.values()):
            _check_location(location)
    _check_location(config.base)
    if config.consolidated is not None:
        _check_location(config.consolidated)


def _check_location(location: Location) -> None:
    """Refuse a view or a part that leaves its source, and so perhaps the config's folder, and a nested config as any other."""
    while isinstance(location, VIEWS):
        if isinstance(location, BlockOf) and not location.blocks.within(location.block):
            raise ConfigError(f"the config names {show(location)}, whose grid of blocks is {location.blocks.grid}")
        if isinstance(location, PartOf):
            for path in (*(location.only or ()), *location.without):
                check_path(path, "the config's part of")
        elif location.path:
            check_path(location.path, "the config's view of")
        location = location.source
    if isinstance(location, Config):
        _check(location)


def _check_mount(path: str, mount: Mount) -> None:
    if mount.blocks is None and not path:
        raise ConfigError("shard '' would hide the base: only the blocks of an array can be mounted at the root")
    if mount.blocks is None:
        if mount.exceptions:
            raise ConfigError(f"shard {path!r} has exceptions, but no blocks")
        return
    for index in mount.exceptions:
        try:
            block = parse_block(index)
            known = mount.blocks.within(block) and block_name(block) == index  # int reads more: 01, +1, 1_0
        except ValueError:
            known = False
        if not known:
            raise ConfigError(f"shard {path!r} has no block {index!r}: its grid of blocks is {mount.blocks.grid}")
