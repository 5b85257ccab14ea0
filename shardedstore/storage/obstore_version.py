"""The version of obstore that is installed."""

from __future__ import annotations

from functools import cache
from importlib.metadata import version


@cache
def has_obstore(major: int, minor: int) -> bool:
    """Tell whether obstore has at least a version.

    >>> has_obstore(0, 8), has_obstore(999, 0)
    (True, False)
    """
    found = tuple(int(part) for part in version("obstore").split(".")[:2])
    return found >= (major, minor)
