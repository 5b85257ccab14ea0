"""Match patterns against paths, with errors and hints for patterns that match nothing.

This includes the `arrays=` selections of steps.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Iterator, Mapping
from difflib import get_close_matches
from functools import lru_cache
from itertools import islice

from shardedstore.errors import ChainError, PartitionError, UsageError
from shardedstore.notices import Notice
from shardedstore.partition.patterns import WHOLE, Pattern, make_pattern
from shardedstore.zarr.paths import escape_glob

LOOKED_AT = 10_000
NAMED = 8  # paths in a message

ABSENT = "optional patterns, with '?' at the end, match nothing"


def matching_paths(pattern: Pattern, paths: Collection[str]) -> list[str]:
    """Return the paths that a pattern matches."""
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
    """Return the paths that a pattern matches.

    An error is raised if a pattern that is not optional matches nothing.
    """
    if (found := matching_paths(pattern, paths)) or pattern.optional:
        return found
    text = pattern.text
    if pattern.is_plain:
        what = f"{what} names {text!r}, but the source has no such {kind}"
    else:
        what = f"{what} names the glob {text!r}, which matches no {kind} of the source"
    has = some_of(path for path in paths if path or refuse is not PartitionError)
    raise refuse(f"{what}; it has {has}{_hint(pattern, paths, only_named)}")


def check_optional(
    pattern: Pattern, paths: Collection[str], what: str, refuse: type[UsageError] = PartitionError
) -> None:
    """Raise an error if a '?' at the end was probably meant as a wildcard.

    This is likely if the optional pattern matches nothing, but would match with one more character.
    """
    if (
        pattern.optional
        and not matching_paths(pattern, paths)
        and matching_paths(Pattern(f"{pattern.text}?", WHOLE), paths)
    ):
        raise refuse(
            f"{what} names '{pattern.text}?': a '?' at the end means that {pattern.text!r} may be missing, and it is; to match "
            f"any one letter there, write '{pattern.text}[a-z]'"
        )


def absent(patterns: Iterable[Pattern], paths: Collection[str]) -> Iterable[Notice]:
    """Return a warning about the optional patterns that match nothing."""
    missing = tuple(pattern.text for pattern in patterns if pattern.optional and not matching_paths(pattern, paths))
    return [Notice(ABSENT, missing)] if missing else []


def some_of(paths: Iterable[str]) -> str:
    """Return the first paths of a source, and the number of the others, as text for messages.

    >>> some_of([]), some_of("ab"), some_of("abcdefghij")
    ('none', "'a', 'b'", "'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h' and 2 more")
    """
    names = list(paths)
    more = len(names) - NAMED
    return (", ".join(map(repr, names[:NAMED])) or "none") + (f" and {more:,} more" if more > 0 else "")


def _hint(pattern: Pattern, paths: Collection[str], only_named: Collection[str]) -> str:
    text = pattern.text
    if text in paths:
        return f". To mean {text!r} itself, write {escape_glob(text)!r}"
    if matching_paths(pattern, only_named):
        return f". {matching_paths(pattern, only_named)[0]!r} is only named by consolidated metadata, and has no document of its own"
    near = get_close_matches(text, list(islice(paths, LOOKED_AT)), 1) or get_close_matches(
        text.strip("*?/"), list(islice(paths, LOOKED_AT)), 1
    )
    return f". Did you mean {near[0]!r}?" if near else ""


Selection = str | tuple[str, ...]

EVERYTHING = Pattern("*", WHOLE)

WORDS = ("data_vars", "coords")


def is_meant(selection: Selection, path: str, coords: Container[str] = ()) -> bool:
    """Tell whether a selection of patterns includes a path.

    At least one pattern without ``!`` must match the path, and no pattern that starts with ``!``. `coords` are the
    paths of coordinates.

    >>> is_meant("*", "a/b"), is_meant(("*", "!a/*"), "a/b"), is_meant(("a", "b"), "b"), is_meant("!a", "b")
    (True, False, True, True)
    >>> is_meant("coords", "time", {"time"}), is_meant(("data_vars", "!t"), "time", {"time"})
    (True, False)
    """
    wanted, unwanted = _patterns(selection, "arrays")
    return any(_means(p, path, coords) for p in wanted or (EVERYTHING,)) and not any(
        _means(p, path, coords) for p in unwanted
    )


def _means(pattern: Pattern, path: str, coords: Container[str]) -> bool:
    if pattern.text in WORDS:
        return (path in coords) == (pattern.text == "coords")
    return pattern.matches(path)


def has_words(selection: Selection, step: str) -> bool:
    """Tell whether a selection depends on which arrays are coordinates."""
    return any(pattern.text in WORDS for pattern in _all(selection, step))


def means_by_glob(selection: Selection, path: str) -> bool:
    """Tell whether a selection includes an array only by globs, not by its name."""
    wanted, _ = _patterns(selection, "arrays")
    return not any(p.path == path or p.text in WORDS for p in wanted)


def check_selection(
    selection: Selection,
    arrays: Collection[str],
    step: str,
    *,
    is_sample: bool = False,
    coords: frozenset[str] = frozenset(),
) -> None:
    """Raise ChainError for an invalid pattern, or one that matches none of the source's arrays.

    With `is_sample`, `arrays` is incomplete, so globs may match nothing.
    """
    for pattern in _all(selection, step):
        if pattern.text in WORDS:
            _check_word(pattern, arrays, step, coords)
            continue
        check_optional(pattern, arrays, step, ChainError)
        if pattern != EVERYTHING and (pattern.is_plain or not is_sample):
            check_found(pattern, arrays, step, kind="array", refuse=ChainError)


def _check_word(pattern: Pattern, arrays: Collection[str], step: str, coords: frozenset[str]) -> None:
    word = pattern.text
    if word in arrays:
        raise ChainError(
            f"{step} was given arrays={word!r}, which means xarray's {word}, but there is an array of that name: write "
            f"'[{word[0]}]{word[1:]}' for this array"
        )
    if not pattern.optional and not any(_means(pattern, path, coords) for path in arrays):
        raise ChainError(f"{step} was given arrays={word!r}, but the source has no {word}: leave the step out")


def selection_notices(selection: Selection, arrays: Collection[str], step: str) -> Iterable[Notice]:
    """Return a warning about optional patterns that match nothing."""
    return absent((pattern for pattern in _all(selection, step) if pattern.text not in WORDS), arrays)


def _all(selection: Selection, step: str) -> Iterator[Pattern]:
    for patterns in _patterns(selection, step):
        yield from patterns


@lru_cache(maxsize=64)
def _patterns(selection: Selection, step: str) -> tuple[tuple[Pattern, ...], tuple[Pattern, ...]]:
    """Return the patterns without ``!``, and those with it."""
    texts = (selection,) if isinstance(selection, str) else selection
    patterns = [(text, make_pattern(text.removeprefix("!"), WHOLE, step, ChainError)) for text in texts]
    wanted = tuple(pattern for text, pattern in patterns if not text.startswith("!"))
    return wanted, tuple(pattern for text, pattern in patterns if text.startswith("!"))
