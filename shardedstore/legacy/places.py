"""Where the components of a config are that shardedstore 0.3.1 wrote, and whether it may name them.

All relative paths started from one working directory then, and so they start from one folder now: the first in which all of
them are, so that what an old copy elsewhere lacks is never made up from another.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import NamedTuple

from shardedstore.components.kinds import Directory, Place
from shardedstore.errors import ConfigError, UsageError
from shardedstore.legacy.document import OldStore
from shardedstore.storage.access import NONE, Options
from shardedstore.storage.blobs import nbytes_of
from shardedstore.storage.folders import STORAGE_ERRORS
from shardedstore.storage.remote_errors import explain
from shardedstore.storage.urls import is_remote, is_within, join_url, normalize, object_url

AT_ONCE = 32
DOCUMENTS = (".zgroup", ".zarray")  # of which the root of each store of zarr 2 has one


class Around(NamedTuple):
    """What is around a config: where relative paths may start from, and which other places may be named, None for all.

    `options` are those of the config's folder, and so of what is in it.
    """

    root: str | None = None
    folder: str | None = None
    allow: tuple[str, ...] | None = None
    options: Options = NONE
    here: str | None = None

    def starts(self) -> dict[str, str | None]:
        """Return the three places that relative paths may start from, by what they are."""
        return {"root=": self.root, "the config's folder": self.folder, "the working directory": self.here}

    def may_name(self, url: str) -> bool:
        """Tell whether the config may name a place; one from the network must not lead to the working directory."""
        if is_remote(url) and ".." in url.split("/"):
            return False
        own = (self.root, self.folder, None if is_remote(self.folder or "") else self.here)
        return self.allow is None or any(is_within(url, place) for place in (*self.allow, *own) if place is not None)

    def place(self, store: OldStore, url: str) -> Place:
        """Return the place of a store, reached as the config is where it is in the config's folder."""
        return store.kind(url, self.options if self.folder is not None and is_within(url, self.folder) else NONE)


def look_around(
    root: str | None = None, folder: str | None = None, allow: Iterable[str] | None = None, options: Options = NONE
) -> Around:
    """Return what is around a config now."""
    here = None
    with suppress(OSError):  # it was removed
        here = os.getcwd()
    return Around(root, folder, None if allow is None else tuple(map(normalize, allow)), options, here)


def find_places(stores: Iterable[OldStore], around: Around) -> dict[OldStore, Place]:
    """Return where each store is.

    Raises
    ------
    ConfigError
        For what is nowhere, and for what may not be named.
    """
    stores = list(dict.fromkeys(stores))
    absolute = {store: around.place(store, _absolute(store, around)) for store in stores if _is_absolute(store.path)}
    if missing := _first_missing(absolute.values()):
        raise ConfigError(
            f"the config names {missing}: shardedstore 0.3.1 wrote absolute paths, so if the store was moved, write where it "
            "is now, or paths relative to the config"
        )
    return absolute | _find_relative([store for store in stores if store not in absolute], around)


def _is_absolute(path: str) -> bool:
    return "://" in path or os.path.isabs(path)


def _absolute(store: OldStore, around: Around) -> str:
    try:
        url = normalize(store.path)
    except UsageError as error:
        raise ConfigError(f"the config's path can't be used: {error}") from None
    if not around.may_name(url):
        raise ConfigError(
            f"the config names {url!r}, which is neither in its own folder nor in the working directory: if that is right, "
            f"load it with allow=[{url!r}], or with allow=[...] of a folder that it lies in"
        )
    return url


def _find_relative(stores: list[OldStore], around: Around) -> dict[OldStore, Place]:
    reasons = []
    for what, start in around.starts().items():
        if start is None:
            reasons.append(f"{what} is not known")
            continue
        places = {store: around.place(store, _join(start, store.path)) for store in stores}
        refused = next((place.url for place in places.values() if not around.may_name(place.url)), None)
        if refused is not None:
            reasons.append(f"{what} {start!r}: {refused!r} is outside what the config may name")
        elif missing := _first_missing(places.values()):
            reasons.append(f"{what} {start!r}: {missing}")
        else:
            return places
    lost = any(store.name == "FSStore" for store in stores)
    raise ConfigError(
        "the config's relative paths are found together in none of three places:\n"
        + "".join(f"  {reason}\n" for reason in reasons)
        + "say root=, the folder that they start from, or allow=[...] of what they may lead to"
        + ("; of an FSStore, shardedstore 0.3.1 left out the scheme, such as s3://: write it before the path" * lost)
    )


def _join(start: str, path: str) -> str:
    """Return where a relative path leads from a folder.

    >>> _join("/data/old", "../a.zarr"), _join("s3://bucket/old", "a b/../c.zarr")
    ('/data/a.zarr', 's3://bucket/old/c.zarr')
    """
    if not is_remote(start):
        return os.path.normpath(os.path.join(start, path))
    name = posixpath.normpath(path)
    return object_url(start, "" if name == "." else name)


def _first_missing(places: Iterable[Place]) -> str | None:
    """Return what is wrong with the first place that is not there, by one look at each, many at once."""
    with ThreadPoolExecutor(AT_ONCE) as threads:
        return next((missing for missing in threads.map(_missing, places) if missing is not None), None)


def _missing(place: Place) -> str | None:
    if not is_remote(place.url):
        is_there = os.path.isdir if isinstance(place, Directory) else os.path.isfile
        return None if is_there(place.url) else f"{place.url!r}, which is not there"
    urls = [join_url(place.url, name) for name in DOCUMENTS] if isinstance(place, Directory) else [place.url]
    try:
        is_found = any(nbytes_of(url, place.options) is not None for url in urls)
    except (UsageError, *STORAGE_ERRORS) as error:
        return f"{place.url!r}, which can't be read: {explain(error)}"
    return None if is_found else f"{place.url!r}, which is not there"
