"""What a user asks for with `shards=`: patterns of paths, and how to divide what they match."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from shardedstore.errors import PartitionError
from shardedstore.mounts import check_path

Rule = str | int | Mapping[str, int] | Sequence[int]
Shards = str | int | Mapping[str, Rule] | Iterable[str]
Paths = str | Iterable[str]
WHOLE = "whole"
UNITS = {
    "": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 1 << 10,
    "mib": 1 << 20,
    "gib": 1 << 30,
    "tib": 1 << 40,
}


def parse_size(text: str | int) -> int | None:
    """Return a size in bytes; None where the text is none.

    >>> parse_size("1 GiB"), parse_size("1.5 MB"), parse_size(4096), parse_size("whole")
    (1073741824, 1500000, 4096, None)
    """
    if isinstance(text, int):
        return text
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]i?b|b?)\s*", text.lower())
    return None if match is None else int(Fraction(match[1]) * UNITS[match[2].removeprefix("b")])


class Pattern(NamedTuple):
    """One line of what the user asked for: a path or glob, and how to divide what it matches."""

    text: str
    rule: Rule

    @property
    def is_plain(self) -> bool:
        """Whether it is a path, which must exist."""
        return not re.search(r"[*?\[]", self.text)

    @property
    def specificity(self) -> tuple[bool, int, int]:
        """Plain paths before globs, then more segments, then more letters that stand for themselves."""
        return self.is_plain, self.text.count("/") + (self.text != "*"), len(re.sub(r"\[[^]]*\]|[*?]", "", self.text))

    def matches(self, path: str) -> bool:
        """Tell whether a path is meant: ``*`` is a part of one segment, ``**`` any segments, ``*`` alone everything.

        >>> (
        ...     Pattern("a/*", "whole").matches("a/b"),
        ...     Pattern("a/*", "whole").matches("a/b/c"),
        ...     Pattern("*", 1).matches("a/b"),
        ... )
        (True, False, True)
        """
        if self.is_plain or self.text == "*":
            return self.text in ("*", path)
        return re.fullmatch(_regex(self.text), path) is not None


@lru_cache(maxsize=256)
def _regex(glob: str) -> str:
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[[^]]+\])", glob)
    special = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return "".join(
        special.get(part) or (part.replace("[!", "[^") if part.startswith("[") else re.escape(part)) for part in parts
    )


def parse_shards(shards: Shards) -> list[Pattern]:
    """Return the patterns that a user's `shards` stands for, the most specific first.

    >>> parse_shards("1 GiB"), parse_shards(["a", "b/*"])
    ([Pattern(text='*', rule='1 GiB')], [Pattern(text='a', rule='whole'), Pattern(text='b/*', rule='whole')])
    """
    match shards:
        case str() | int():
            rules: dict[str, Rule] = {"*": shards}
        case Mapping():
            rules = dict(shards)
        case Iterable():
            rules = dict.fromkeys(shards, WHOLE)
        case _:
            raise PartitionError(f"shards={shards!r} is no size, mapping or list of paths: see ShardedStore.partition")
    patterns = [Pattern(text, rule) for text, rule in rules.items()]
    for pattern in patterns:
        _check_text(pattern, "shards")
        _check_rule(pattern)
    return sorted(patterns, key=lambda pattern: pattern.specificity, reverse=True)


def parse_paths(paths: Paths, what: str) -> list[Pattern]:
    """Return the patterns of some paths and globs, given as one text or several; `what` names them in messages.

    >>> [pattern.text for pattern in parse_paths("a/*", "include")], parse_paths([], "include")
    (['a/*'], [])
    """
    if not isinstance(paths, Iterable):
        raise PartitionError(f"{what}={paths!r} is no path or list of paths: write it like ['group/array', 'group/*']")
    patterns = [Pattern(text, WHOLE) for text in ([paths] if isinstance(paths, str) else paths)]
    for pattern in patterns:
        _check_text(pattern, what)
    return patterns


def _check_text(pattern: Pattern, what: str) -> None:
    if not isinstance(pattern.text, str):
        raise PartitionError(f"{what} names {pattern.text!r}, which is no path: write it like 'group/array'")
    if pattern.text:
        check_path(pattern.text, f"{what} names the path")
    try:
        pattern.matches("")
    except re.error as error:
        raise PartitionError(f"{what} names the glob {pattern.text!r}, which can't be read: {error}") from None


def _check_rule(pattern: Pattern) -> None:
    rule = pattern.rule
    if isinstance(rule, str | int) and not isinstance(rule, bool) and rule != WHOLE:
        size = parse_size(rule)
        if size is None or size <= 0:
            raise PartitionError(f"shards[{pattern.text!r}] is {rule!r}: write 'whole', or a size like '512 MiB'")
    elif rule != WHOLE:
        if not isinstance(rule, Mapping | Sequence):
            raise PartitionError(
                f"shards[{pattern.text!r}] is {rule!r}: write 'whole', a size, a shape or a mapping of dimensions"
            )
        sizes = list(rule.values() if isinstance(rule, Mapping) else rule)
        bad = [size for size in sizes if type(size) is not int or (size < 1 and size != -1)]
        if bad or not sizes:
            raise PartitionError(
                f"shards[{pattern.text!r}] has the size {(bad or ['nothing'])[0]!r}: sizes are whole numbers of elements, "
                "at least 1, or -1 for the whole dimension"
            )
