"""Kinds of stores that other packages add.

A package registers a subclass of `StoreKind` as an entry point. A config holds the registered name only, never a module or a
class. The class is imported when a location with its name is opened. It is also imported to locate an open store, if the package
has already been imported.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta
from zarr.abc.store import Store

from shardedstore.entrypoints import find_entry, load_class, registered
from shardedstore.errors import UsageError
from shardedstore.fields import KindName, Setting, Url, may_be_secret
from shardedstore.storage.options import NONE, Options
from shardedstore.storage.urls import normalize
from shardedstore.stores.locate import locate_store
from shardedstore.stores.location import Location, Opened, Place, is_template
from shardedstore.stores.reader import reader_of

GROUP = "shardedstore.kinds"


class Own(Place, frozen=True, tag="own", omit_defaults=True, repr_omit_defaults=True):
    """A store of a kind that another package registers under a name."""

    name: Annotated[KindName, Meta(description="The registered name of the kind of store.")]
    url: Annotated[Url, Meta(description="The path or URL; inside the folder of the config it is relative to it.")]
    settings: Annotated[
        dict[str, Setting], Meta(description="The settings of the store besides its URL; they hold no secrets.")
    ] = {}  # noqa: RUF012 (msgspec copies it)
    options: Annotated[Options, Meta(description="The public options of the object store.")] = NONE

    def __post_init__(self) -> None:
        if secret := next(filter(may_be_secret, self.settings), None):
            raise ValueError(
                f"the setting {secret!r} would be for all to read: give secrets to the environment instead"
            )

    def __hash__(self) -> int:
        return hash((self.name, self.url))

    def open(self, *, read_only: bool = True) -> Store:
        # docstring inherited
        return open_own(self.name, self.url, self.settings, self.options)

    @property
    def kind(self) -> str:
        # docstring inherited
        return self.name

    @property
    def has_tags(self) -> bool:
        # docstring inherited
        return is_template(self) or reader_of(self.open()).has_tags  # a template is checked store by store

    @property
    def proofs(self) -> list[str]:
        # docstring inherited
        find_kind(self.name)
        return []


class Found(NamedTuple):
    """The location of a store of another package's kind: name, URL and settings."""

    name: str
    url: str
    settings: Mapping[str, Setting]


class StoreKind(ABC):
    """A kind of store that a package adds; its constructor takes no arguments.

    The package registers it as an entry point of the group ``shardedstore.kinds``, under the name that configs use.

    See Also
    --------
    ReadOnlyStore : Base of the stores that a kind opens.

    Examples
    --------
    >>> from zarr.storage import ZipStore
    >>> class ZarrZipKind(StoreKind):
    ...     def open(self, url, settings, options):
    ...         return ZipStore(url, read_only=True)
    ...
    ...     def locate(self, store):
    ...         return (str(store.path), {}) if isinstance(store, ZipStore) else None
    >>> ZarrZipKind().locate(ZipStore("/data/cells.zip"))
    ('/data/cells.zip', {})
    """

    @abstractmethod
    def open(self, url: str, settings: Mapping[str, Setting], options: Options) -> Store:
        """Open a store for reading.

        Parameters
        ----------
        url : str
            An absolute local path, or a URL with a scheme that shardedstore supports.
        settings : mapping
            The settings in the config. A config may come from anyone, so check them, and never import or run anything that
            they name.
        options : Options
            The public storage options for the URL. ``shardedstore.storage.blobs.object_store(url, options)`` and
            ``open_blob(url, options)`` add the secret ones.

        Returns
        -------
        zarr.abc.store.Store
            The store.
        """

    def locate(self, store: Store) -> tuple[str, Mapping[str, Setting]] | None:
        """Return the URL and the settings that open this store again.

        If a kind does not override this method, its open stores have no location.

        Parameters
        ----------
        store : Store
            An open store of any kind.

        Returns
        -------
        tuple of str and mapping, or None
            None for a store of another kind.
        """
        return None


def names() -> list[str]:
    """Return the names of the installed kinds."""
    return sorted({entry.name for entry in registered(GROUP)})


def find_kind(name: str) -> StoreKind:
    """Return a kind of store.

    Raises
    ------
    UsageError
        If the name is unknown, if two packages register it, or if the package can't be imported or does not have the kind.
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
    """Open a store of a package's kind, or raise UsageError if the result is not a store."""
    store = find_kind(name).open(url, dict(settings), options)
    if not isinstance(store, Store):
        raise UsageError(
            f"the kind of store {name!r} opened {url!r} as a {type(store).__name__}, which is not a zarr store: mend its package"
        )
    return store


def locate_own(store: Store) -> Found | None:
    """Return the location of a store of a package's kind.

    Only packages that have already been imported are asked. None means that no kind recognises the store.
    """
    for name in _imported():
        if (found := find_kind(name).locate(store)) is not None:
            return Found(name, *found)
    return None


def _imported() -> Iterator[str]:
    return (entry.name for entry in registered(GROUP) if entry.module.partition(".")[0] in sys.modules)


@locate_store.register(Store)
def _(store: Store) -> Location:
    found = locate_own(store)
    if found is None:
        return Opened(store)
    try:
        return msgspec.convert({"kind": "own", **found._asdict(), "url": normalize(found.url)}, Own)
    except (msgspec.ValidationError, TypeError) as error:
        raise UsageError(
            f"the kind of store {found.name!r} gave an invalid location for a {type(store).__name__}: {error}"
        ) from None
