"""Suggest existing names in messages about a name that does not exist."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from itertools import islice

from shardedstore.zarr.paths import join

LOOKED_AT = 10_000
NAMED = 5


def did_you_mean(name: str, known: Iterable[str], parent: str = "") -> str:
    """Return the end of a message about an unknown name: a similar name, or the known names below the parent.

    >>> (
    ...     did_you_mean("temprature", ["temperature", "wind"], "air"),
    ...     did_you_mean("x", ["temperature", "wind"]),
    ...     did_you_mean("x", []),
    ... )
    (": did you mean 'air/temperature'?", ": there are 'temperature', 'wind'", ': there is nothing')
    >>> did_you_mean("x", map(str, range(12)))
    ": there are '0', '1', '2', '3', '4' and 7 more"
    """
    names = list(known)
    if found := get_close_matches(name, list(islice(names, LOOKED_AT)), 1):
        return f": did you mean {join(parent, found[0])!r}?"
    if not names:
        return ": there is nothing"
    more = len(names) - NAMED
    named = ", ".join(repr(join(parent, one)) for one in names[:NAMED])
    return f": there are {named}{f' and {more:,} more' if more > 0 else ''}"
