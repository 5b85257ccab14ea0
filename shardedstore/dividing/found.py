"""Whether patterns match anything: one without effect is an error, and the message says what was meant perhaps."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from itertools import islice

from shardedstore.dividing.patterns import WHOLE, Pattern
from shardedstore.errors import PartitionError, UsageError
from shardedstore.mounts import escape_glob
from shardedstore.notices import Notice

LOOKED_AT = 10_000
ABSENT = "optional patterns, with '?' at the end, match nothing"


def find(pattern: Pattern, paths: Collection[str]) -> list[str]:
    """Return which of some paths a pattern matches."""
    if pattern.path is not None:
        return [pattern.path] if pattern.path in paths else []
    return [path for path in paths if pattern.matches(path)]


def check_found(
    pattern: Pattern,
    paths: Collection[str],
    what: str,
    only_named: Mapping[str, str] | Collection[str] = (),
    *,
    kind: str = "group or array",
    refuse: type[UsageError] = PartitionError,
) -> list[str]:
    """Return which of some paths a pattern matches, or raise where it matches none and is not optional."""
    if (found := find(pattern, paths)) or pattern.optional:
        return found
    text = pattern.text
    if pattern.is_plain:
        what = f"{what} names {text!r}, which is no {kind} of the source"
    else:
        what = f"{what} names the glob {text!r}, which matches no {kind} of the source"
    has = some_of(path for path in paths if path or refuse is not PartitionError)
    raise refuse(f"{what}; it has {has}{_hint(pattern, paths, only_named)}")


def check_optional(
    pattern: Pattern, paths: Collection[str], what: str, refuse: type[UsageError] = PartitionError
) -> None:
    """Raise for an optional pattern that matches nothing, and would as a glob that ends with any one character."""
    if pattern.optional and not find(pattern, paths) and find(Pattern(f"{pattern.text}?", WHOLE), paths):
        raise refuse(
            f"{what} names '{pattern.text}?', and a '?' at the end says that it may be missing, as {pattern.text!r} is: for any "
            f"one letter there write '{pattern.text}[a-z]'"
        )


def absent(patterns: Iterable[Pattern], paths: Collection[str]) -> Iterable[Notice]:
    """Return a warning about the optional patterns that match nothing."""
    missing = tuple(pattern.text for pattern in patterns if pattern.optional and not find(pattern, paths))
    return [Notice(ABSENT, missing)] if missing else []


def some_of(paths: Iterable[str]) -> str:
    """Return how messages name some of the paths of a source."""
    return ", ".join(map(repr, islice(paths, 8))) or "none"


def _hint(pattern: Pattern, paths: Collection[str], only_named: Collection[str]) -> str:
    text = pattern.text
    if text in paths:
        return f". To mean {text!r} itself, write {escape_glob(text)!r}"
    if find(pattern, only_named):
        return f". {find(pattern, only_named)[0]!r} has no document of its own: consolidated metadata alone names it"
    near = get_close_matches(text, list(islice(paths, LOOKED_AT)), 1) or get_close_matches(
        text.strip("*?/"), list(islice(paths, LOOKED_AT)), 1
    )
    return f". Did you mean {near[0]!r}?" if near else ""
