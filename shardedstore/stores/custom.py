"""Kinds of stores that other packages add, by name: a config names one, and nothing that could be imported or run.

A package registers a subclass of `StoreKind` as an entry point. It is imported where a location of its name is opened, and
where an opened store is to be located after the package was imported by somebody else.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from zarr.abc.store import Store

from shardedstore.entrypoints import find_entry, load_class, registered
from shardedstore.errors import UsageError
from shardedstore.fields import Setting
from shardedstore.storage.options import Options

GROUP = "shardedstore.kinds"


class Found(NamedTuple):
    """Where a store of a package's own kind is: the name of the kind, its URL or path, and its settings."""

    name: str
    url: str
    settings: Mapping[str, Setting]


class StoreKind(ABC):
    """A kind of store that a package adds; it is made without arguments."""

    @abstractmethod
    def open(self, url: str, settings: Mapping[str, Setting], options: Options) -> Store:
        """Open a store for reading.

        Parameters
        ----------
        url : str
            An absolute local path, or a URL of a scheme that is known here.
        settings : mapping
            What the config has beside the URL: it may be anybody's, so check it, and let it name nothing that runs.
        options : Options
            What is public of the storage options for the URL. ``shardedstore.storage.blobs.object_store(url, options)`` and
            ``open_blob(url, options)`` add what is secret.
        """

    def locate(self, store: Store) -> tuple[str, Mapping[str, Setting]] | None:
        """Return the URL and the settings that would open such a store again; None for one of another kind.

        Without it a store is located by those who name its URL, and not when it is given as an opened store.
        """
        return None


def names() -> list[str]:
    """Return the names of the kinds that are installed."""
    return sorted({entry.name for entry in registered(GROUP)})


def find_kind(name: str) -> StoreKind:
    """Return a kind of store.

    Raises
    ------
    UsageError
        For a name that is not known, that two packages register, or whose package can't be imported or has no such kind.
    """
    entry = find_entry(GROUP, name, "kind of store")
    if entry is None:
        there = f"there are {', '.join(names())}" if names() else "there is none"
        raise UsageError(
            f"stores of the kind {name!r} can't be opened here, as no package that is installed registers it ({there}): "
            "install the one that does, and on each worker too"
        )
    kind = load_class(entry, (StoreKind,), "kind of store", "no subclass of StoreKind")
    try:
        made: StoreKind = kind()
    except Exception as error:
        raise UsageError(
            f"the kind of store {name!r} is {entry.value!r}, which can't be made without arguments: "
            f"{type(error).__name__}: {error}; mend that package"
        ) from error
    return made


def open_own(name: str, url: str, settings: Mapping[str, Setting], options: Options) -> Store:
    """Open a store of a package's kind, or raise UsageError where it gives none."""
    store = find_kind(name).open(url, dict(settings), options)
    if not isinstance(store, Store):
        raise UsageError(
            f"the kind of store {name!r} opened {url!r} as a {type(store).__name__}, which is no zarr store: mend its package"
        )
    return store


def locate_own(store: Store) -> Found | None:
    """Return where a store of a package's kind is; None for one that is of no kind whose package has been imported."""
    for name in _imported():
        if (found := find_kind(name).locate(store)) is not None:
            return Found(name, *found)
    return None


def _imported() -> Iterator[str]:
    return (entry.name for entry in registered(GROUP) if entry.module.partition(".")[0] in sys.modules)
