"""Which arrays a step means: paths and globs, as one text or several."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from shardedstore.dividing.patterns import WHOLE, Pattern
from shardedstore.errors import ChainError

Selection = str | tuple[str, ...]


def is_meant(selection: Selection, path: str) -> bool:
    """Tell whether one of some patterns means a path, and none that starts with ``!`` does.

    >>> is_meant("*", "a/b"), is_meant(("*", "!a/*"), "a/b"), is_meant(("a", "b"), "b"), is_meant("!a", "b")
    (True, False, True, True)
    """
    wanted = [pattern for pattern, is_wanted in _patterns(selection) if is_wanted] or [Pattern("*", WHOLE)]
    unwanted = [pattern for pattern, is_wanted in _patterns(selection) if not is_wanted]
    return any(p.matches(path) for p in wanted) and not any(p.matches(path) for p in unwanted)


def check_selection(selection: Selection, arrays: Iterable[str], step: str) -> None:
    """Raise ChainError for a glob that can't be read, or a plain path that is none of the source's arrays."""
    known = list(arrays)
    for pattern, _ in _patterns(selection):
        try:
            pattern.matches("")
        except re.error as error:
            raise ChainError(f"{step} names the glob {pattern.text!r}, which can't be read: {error}") from None
        if pattern.is_plain and pattern.text not in known:
            some = ", ".join(map(repr, known[:8])) or "none"
            raise ChainError(f"{step} names {pattern.text!r}, which is no array of the source; it has {some}")


def _patterns(selection: Selection) -> Iterator[tuple[Pattern, bool]]:
    for text in (selection,) if isinstance(selection, str) else selection:
        yield Pattern(text.removeprefix("!"), WHOLE), not text.startswith("!")
