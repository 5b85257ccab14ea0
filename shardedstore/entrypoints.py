"""What other packages register by entry point: found by name alone, and not imported before it is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import EntryPoint, entry_points

from shardedstore.errors import UsageError


def registered(group: str) -> Iterator[EntryPoint]:
    """Yield what is registered in a group, by name."""
    yield from sorted(entry_points(group=group), key=lambda entry: entry.name)


def find_entry(group: str, name: str, what: str) -> EntryPoint | None:
    """Return what is registered under a name; None where nothing is.

    Raises
    ------
    UsageError
        For a name that two packages register.
    """
    found = list(entry_points(group=group, name=name))
    if len(found) > 1:
        packages = " and ".join(sorted(map(package_of, found)))
        raise UsageError(f"{name!r} is a {what} of {packages}: uninstall all but one of them")
    return found[0] if found else None


def load_class(entry: EntryPoint, bases: tuple[type, ...], what: str, wanted: str) -> type:
    """Import what is registered, which must be a class derived from one of some.

    Raises
    ------
    UsageError
        Where it can't be imported, or is something else than is `wanted`.
    """
    try:
        loaded = entry.load()
    except Exception as error:  # (whatever a stranger's module does when it is imported)
        raise UsageError(
            f"the {what} {entry.name!r} of {package_of(entry)} can't be imported from {entry.value!r}: "
            f"{type(error).__name__}: {error}; mend that package, or uninstall it"
        ) from error
    if not (isinstance(loaded, type) and issubclass(loaded, bases)):
        raise UsageError(
            f"the {what} {entry.name!r} of {package_of(entry)} is {entry.value!r}, which is {wanted}: mend that package, or "
            "uninstall it"
        )
    return loaded


def package_of(entry: EntryPoint) -> str:
    """Return how messages call the package that registers something."""
    return "an unknown package" if entry.dist is None else f"the package {entry.dist.name} {entry.dist.version}"
