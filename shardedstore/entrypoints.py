"""Entry points of other packages, found by name and imported only when needed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from functools import lru_cache
from importlib.metadata import EntryPoint, EntryPoints, entry_points

from shardedstore.errors import UsageError


def registered(group: str) -> Iterator[EntryPoint]:
    """Yield the entry points of a group, sorted by name."""
    yield from sorted(_installed(group), key=lambda entry: entry.name)


def find_entry(group: str, name: str, what: str) -> EntryPoint | None:
    """Return the entry point with a name, or None.

    Raises
    ------
    UsageError
        If two packages register the name.
    """
    found = list(_installed(group).select(name=name))
    if len(found) > 1:
        packages = " and ".join(sorted(map(package_of, found)))
        raise UsageError(f"{name!r} is a {what} of {packages}: uninstall all but one of them")
    return found[0] if found else None


def load_class(entry: EntryPoint, bases: tuple[type, ...], what: str, wanted: str) -> type:
    """Import the class of an entry point, which must be a subclass of one of `bases`.

    Raises
    ------
    UsageError
        If it cannot be imported, or is not such a class. `wanted` describes the mismatch in the message.
    """
    try:
        loaded = entry.load()
    except Exception as error:  # importing another package's module can raise anything
        raise UsageError(
            f"the {what} {entry.name!r} of {package_of(entry)} can't be imported from {entry.value!r}: "
            f"{type(error).__name__}: {error}; fix that package, or uninstall it"
        ) from error
    if not (isinstance(loaded, type) and issubclass(loaded, bases)):
        raise UsageError(
            f"the {what} {entry.name!r} of {package_of(entry)} is {entry.value!r}, which is {wanted}: fix that package, or "
            "uninstall it"
        )
    return loaded


def _installed(group: str) -> EntryPoints:
    """Return the entry points of a group, which are read again after a package was installed."""
    return _entry_points(group, tuple((path, _modified(path)) for path in sys.path))


@lru_cache(maxsize=8)
def _entry_points(group: str, _state: tuple[tuple[str, int], ...]) -> EntryPoints:
    return entry_points(group=group)


def _modified(path: str) -> int:
    try:
        return os.stat(path or ".").st_mtime_ns
    except OSError:
        return 0


def package_of(entry: EntryPoint) -> str:
    """Return the name and version of an entry point's package for messages."""
    return "an unknown package" if entry.dist is None else f"the package {entry.dist.name} {entry.dist.version}"
