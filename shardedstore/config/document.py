"""The config document: JSON that describes a whole sharded store, and contains no code.

It is decoded and checked field by field. It names kinds of stores from a table, but no Python modules, classes or
arguments. All shards of an array are described by one template and a grid, so a million of them take some hundred
bytes.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from shardedstore.config.check import check_config, check_json
from shardedstore.errors import ConfigError, UsageError
from shardedstore.fields import FORMAT
from shardedstore.storage.options import NONE, Options
from shardedstore.storage.urls import (
    BESIDE,
    is_remote,
    is_within,
    join_url,
    normalize,
    plain_url,
    quoted_url,
    unreadable,
)
from shardedstore.stores.locations import Config, Place, has_braces, require_location
from shardedstore.stores.no_zarr import describe_json

VERSION = 1
msgspec.json.Decoder(Config)  # prepared here: msgspec crashes when two threads prepare a type at the same time


def to_dict(config: Config, folder: str | None = None, options: Options | None = None) -> dict[str, Any]:
    """Return the JSON document of a config, with URLs inside `folder` relative to it.

    Parameters
    ----------
    config : Config
        The config.
    folder : str, optional
        The folder from which relative URLs start.
    options : Options, optional
        The options with which `folder` is reached. If given, only URLs on the same server become relative.

    Raises
    ------
    ConfigError
        For a store without a location, such as one in memory, and for attributes that JSON cannot hold.
    """
    for what, location in config.locations():
        require_location(location, what)
    if folder is not None:
        config = config.map_places(lambda place: _relative(place, folder, options))
    try:
        fields = msgspec.to_builtins(config)
    except (TypeError, RecursionError) as error:
        raise ConfigError(f"the config has attributes that JSON can't hold: {error}") from None
    del fields["kind"]  # given by the format
    return {"format": FORMAT, "version": VERSION, **fields}


def from_dict(
    document: object, folder: str | None = None, allow: Iterable[str] | None = None, options: Options = NONE
) -> Config:
    """Return the config that a JSON document describes.

    Parameters
    ----------
    document : dict
        A document in the form that `to_dict` returns.
    folder : str, optional
        The folder or URL from which relative URLs start.
    allow : iterable of str, optional
        Places outside `folder`, and endpoints, that the config may name. None allows everything, for documents that the
        program made itself.
    options : Options
        The options of the folder, which are also used for relative URLs.

    Raises
    ------
    ConfigError
        If the document is not a valid config. The message names the field.
    """
    if not isinstance(document, Mapping):
        raise ConfigError(f"this is not a shardedstore config: it is not a JSON object; {describe_json(document)}")
    if document.get("format") != FORMAT:
        raise ConfigError(
            f'this is not a shardedstore config: it lacks "format": "{FORMAT}"; {describe_json(document)}'
        )
    fields = {name: value for name, value in document.items() if name != "format"}
    check_json(fields)
    version = fields.pop("version", None)
    if type(version) is not int or version < 1:
        raise ConfigError(f"the config's version is {version!r}, which is not a version: is the file damaged?")
    if version > VERSION:
        raise ConfigError(
            f"the config's version is {version}, but this shardedstore reads version {VERSION}: install a newer one"
        )
    if has_braces(folder or ""):
        raise ConfigError(
            f"the config's folder {folder!r} has a part in braces, which is a placeholder in a config: rename it"
        )
    try:
        config = msgspec.convert({**fields, "kind": "sharded"}, Config)
    except (msgspec.ValidationError, UnicodeEncodeError) as error:
        raise ConfigError(f"the config can't be read: {error}") from None
    try:
        check_config(config)
    except ConfigError:
        raise
    except UsageError as error:  # of an invalid path
        raise ConfigError(f"the config can't be read: {error}") from None
    allowed = None if allow is None else [normalize(place) for place in (*allow, *_own_places(folder))]
    return config.map_places(lambda place: _absolute(place, folder, allowed, options))


def _own_places(folder: str | None) -> list[str]:
    """Return the places that a config may always name: its folder, and the ordinary Zarr beside it."""
    if not folder:
        return []
    return [folder, folder.removesuffix(BESIDE)] if folder.endswith(BESIDE) else [folder]


def parse(data: bytes) -> object:
    """Return the content of a JSON file, or raise ConfigError."""
    if not data.strip():
        raise ConfigError(
            "this is not a shardedstore config: it is not JSON, because the file is empty; restore it, or make the result again"
        )
    try:
        return json.loads(data.decode("utf-8-sig"), parse_constant=_refuse, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"this is not a shardedstore config: it is not JSON ({error})") from None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not allowed in JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object, or refuse one with repeated names, which readers treat differently."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"it has the name {twice!r} twice in one object")
    return found


def dump(config: Config, folder: str | None, options: Options | None = None) -> bytes:
    """Return the bytes of a config file in `folder`.

    Names of members and ranges of blocks are written on one line.
    """
    try:
        return _text(to_dict(config, folder, options), "\n").encode() + b"\n"
    except ValueError as error:
        raise ConfigError(f"the config has attributes that JSON can't hold: {error}") from None


def _text(value: Any, line: str, field: str = "") -> str:
    """Return JSON indented by two spaces; `line` is the line break and indentation of this level."""
    inner = f"{line}  "
    if isinstance(value, dict) and value:
        items = [f"{json.dumps(key)}: {_text(item, inner, key)}" for key, item in value.items()]
        return f"{{{inner}{f',{inner}'.join(items)}{line}}}"
    if isinstance(value, list | tuple) and value and field not in ("names", "stored"):
        return f"[{inner}{f',{inner}'.join(_text(item, inner) for item in value)}{line}]"
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def relative_url(url: str, folder: str) -> str:
    """Return a URL relative to a folder that contains it; other URLs are unchanged.

    >>> relative_url("s3://bucket/out/a/0.zip", "s3://bucket/out"), relative_url("/data/a", "/out")
    ('a/0.zip', '/data/a')
    """
    rest = "" if url == folder else url.removeprefix(f"{folder.rstrip('/')}/")
    return url if _is_absolute(rest) else rest  # "s3://bucket//a" in "s3://bucket"


def _relative(place: Place, folder: str, options: Options | None) -> Place:
    if place.options.allow or (options is not None and place.options.server != options.server):
        return place
    url = relative_url(place.url, folder)
    if is_remote(folder) and url != place.url:
        url = plain_url(url)
    return msgspec.structs.replace(place, url=url, options=NONE) if url != place.url else place


def _absolute(place: Place, folder: str | None, allowed: list[str] | None, options: Options) -> Place:
    url = _absolute_url(place.url, folder, allowed)
    if url != place.url and not _is_absolute(place.url):
        if place.options != NONE:
            raise ConfigError(
                f"the config has options for the relative URL {place.url!r}, which is reached as the config itself is: "
                "take them out"
            )
        return msgspec.structs.replace(place, url=url, options=options)
    server = place.options.server
    if server is not None and allowed is not None and server != options.server and server not in allowed:
        raise ConfigError(
            f"the config sends requests for {url!r} to {server!r}: if that is right, load it with "
            f"allow=[{url!r}, {server!r}]"
        )
    for other in place.options.allow:
        if allowed is not None and not any(is_within(other, inside) for inside in allowed):
            raise ConfigError(
                f"the config lets references in {url!r} lead to {other!r}: if that is right, load it with "
                f"allow=[{url!r}, {other!r}]"
            )
    return msgspec.structs.replace(place, url=url)


def _is_absolute(url: str) -> bool:
    return "://" in url or os.path.isabs(url)


def _absolute_url(url: str, folder: str | None, allowed: list[str] | None) -> str:
    if (broken := unreadable(url)) is not None:
        raise ConfigError(
            f"the config's URL {url!r} has {broken!r}, which is not valid in file names: is the file damaged?"
        )
    if not _is_absolute(url):
        if folder is None:
            raise ConfigError(f"the config has the relative URL {url!r}: give the folder that it starts from as root=")
        if ".." in url.split("/"):
            raise ConfigError(f"the config's URL {url!r} has a segment '..': it must stay inside the config's folder")
        if not is_remote(folder):
            return os.path.normpath(join_url(folder, url))
        url = join_url(folder, quoted_url(url))
        allowed = None  # the URL is inside the folder, because `normalize` refuses '..'
    try:
        absolute = normalize(url)
    except UsageError as error:
        raise ConfigError(f"the config's URL can't be used: {error}") from None
    if allowed is not None and not any(is_within(absolute, place) for place in allowed):
        raise ConfigError(
            f"the config names {absolute!r}, which is outside its own folder: if that is right, load it with "
            f"allow=[{absolute!r}], or with allow=[...] of a folder that contains it"
        )
    return absolute
