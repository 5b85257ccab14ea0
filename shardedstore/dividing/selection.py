"""Which arrays a step means: paths and globs, as one text or several, or one of xarray's two words for variables."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Iterator
from functools import lru_cache

from shardedstore.dividing.found import absent, check_found, check_optional
from shardedstore.dividing.patterns import WHOLE, Pattern, make_pattern
from shardedstore.errors import ChainError
from shardedstore.notices import Notice

Selection = str | tuple[str, ...]
EVERYTHING = Pattern("*", WHOLE)
WORDS = ("data_vars", "coords")


def is_meant(selection: Selection, path: str, coords: Container[str] = ()) -> bool:
    """Tell whether one of some patterns means a path, and none that starts with ``!`` does; given the coordinates.

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
    """Tell whether an array is meant without being named."""
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
    """Raise ChainError for a pattern that can't be read, or that matches none of the source's arrays.

    With `is_sample` there are arrays that are not known yet, which a glob may match.
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
            f"{step} was given arrays={word!r}, which are xarray's {word}, and there is an array of that name: write "
            f"'[{word[0]}]{word[1:]}' to mean it"
        )
    if not pattern.optional and not any(_means(pattern, path, coords) for path in arrays):
        raise ChainError(f"{step} was given arrays={word!r}, and the source has none: leave the step out")


def selection_notices(selection: Selection, arrays: Collection[str], step: str) -> Iterable[Notice]:
    """Return a warning about patterns that match nothing, as they may."""
    return absent((pattern for pattern in _all(selection, step) if pattern.text not in WORDS), arrays)


def _all(selection: Selection, step: str) -> Iterator[Pattern]:
    for patterns in _patterns(selection, step):
        yield from patterns


@lru_cache(maxsize=64)
def _patterns(selection: Selection, step: str) -> tuple[tuple[Pattern, ...], tuple[Pattern, ...]]:
    """Return the patterns of what is meant, and of what is not."""
    texts = (selection,) if isinstance(selection, str) else selection
    patterns = [(text, make_pattern(text.removeprefix("!"), WHOLE, step, ChainError)) for text in texts]
    wanted = tuple(pattern for text, pattern in patterns if not text.startswith("!"))
    return wanted, tuple(pattern for text, pattern in patterns if text.startswith("!"))
