"""The groups and arrays of two Zarrs that `include` and `exclude` choose."""

from __future__ import annotations

from collections.abc import Iterable

from shardedstore.errors import UsageError
from shardedstore.partition.patterns import Paths, Pattern, parse_paths
from shardedstore.partition.selection import some_of
from shardedstore.zarr.paths import parents


def chosen(paths: Iterable[str], include: Paths | None, exclude: Paths | None) -> set[str]:
    """Return the paths that match, or lie below a match, of `include` and not of `exclude`.

    >>> sorted(chosen(["", "a", "a/x", "b"], ["a"], ["a/x"]))
    ['a']

    Raises
    ------
    UsageError
        If a pattern matches nothing.
    """
    known = set(paths)
    kept = known if include is None else _matched(known, parse_paths(include, "include"), "include")
    return kept if exclude is None else kept - _matched(known, parse_paths(exclude, "exclude"), "exclude")


def _matched(paths: set[str], patterns: Iterable[Pattern], what: str) -> set[str]:
    found: set[str] = set()
    for pattern in patterns:
        tops = {path for path in paths if pattern.matches(path)}
        if not tops and not pattern.optional:
            raise UsageError(
                f"{what} names {pattern.text!r}, which is in neither Zarr; they have {some_of(filter(None, sorted(paths)))}"
            )
        found |= {path for path in paths if not tops.isdisjoint((path, *parents(path)))}
    return found
