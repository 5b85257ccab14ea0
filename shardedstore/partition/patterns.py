"""Patterns and rules of `shards=`: globs of paths, and the sizes or shapes into which matched arrays are divided."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from shardedstore.errors import PartitionError, UsageError
from shardedstore.partition.shard_sizes import DEFAULT_SIZE
from shardedstore.text import parse_size
from shardedstore.zarr.paths import check_path

Rule = str | int | Mapping[str, int] | Sequence[int]
Shards = str | int | Mapping[str, Rule] | Iterable[str]
Paths = str | Iterable[str]
WHOLE = "whole"  # one shard
BASE = "base"  # not divided, and stays in the base
WORDS = (WHOLE, BASE)


class Pattern(NamedTuple):
    """One rule of `shards=`: a path or glob, and how to divide the arrays that it matches.

    A question mark at the end makes a pattern `optional`: it may match nothing. `text` does not include that mark.

    >>> Pattern.of("tp?", "whole"), Pattern("b[[]1]", 1).path, Pattern("{a,b}*", 1).path
    (Pattern(text='tp', rule='whole', optional=True), 'b[1]', None)
    """

    text: str
    rule: Rule
    optional: bool = False

    @classmethod
    def of(cls, text: str, rule: Rule) -> Pattern:
        """Return the pattern for a text that a user wrote."""
        optional = len(text) > 1 and text.endswith("?") and not text.endswith("\\?")
        return cls(text[:-1], rule, True) if optional else cls(text, rule)

    @property
    def path(self) -> str | None:
        """The unescaped path; None if the pattern is a glob."""
        parts = read_glob(self.text)
        return None if any(kind for kind, _ in parts) else "".join(text for _, text in parts)

    @property
    def is_plain(self) -> bool:
        """Whether the pattern is a path and not a glob."""
        return self.path is not None

    @property
    def specificity(self) -> tuple[bool, int, int]:
        """Sort key: paths come after globs, then more segments, then more literal characters."""
        letters = sum(len(text) for kind, text in read_glob(self.text) if not kind)
        return self.is_plain, self.text.count("/") + (self.text != "*"), letters

    def matches(self, path: str) -> bool:
        """Tell whether the pattern matches a path.

        ``*`` matches within one segment, ``**`` any number of segments, and ``*`` alone matches everything.

        >>> (
        ...     Pattern("a/*", "whole").matches("a/b"),
        ...     Pattern("a/*", "whole").matches("a/b/c"),
        ...     Pattern("*", 1).matches("a/b"),
        ... )
        (True, False, True)
        """
        return self.text == "*" or _regex(self.text).fullmatch(path) is not None

    def finds(self, paths: Iterable[str]) -> bool:
        """Tell whether the pattern matches one of some paths, or is optional."""
        return self.optional or any(map(self.matches, paths))


_TOKEN = re.compile(
    r"\\(?P<escaped>.)|(?P<stars>\*\*/|\*\*|\*|\?)|\[(?P<of>!?\]?[^]]*)\]|(?P<brace>[{,}])|(?P<text>.)", re.DOTALL
)
_STARS = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
_BRACES = {"{": "(?:", ",": "|", "}": ")"}


@lru_cache(maxsize=256)
def read_glob(glob: str) -> tuple[tuple[str, str], ...]:
    """Split a glob into parts of kind and text.

    Literal text has the kind ``""``; the text of all other kinds is a regular expression.

    >>> read_glob("a*"), read_glob("b[[]1]"), read_glob("{a}"), read_glob("{a,b}")[:3]
    ((('', 'a'), ('*', '[^/]*')), (('', 'b'), ('', '['), ('', '1'), ('', ']')), (('', '{'), ('', 'a'), ('', '}')), (('{', '(?:'), ('', 'a'), (',', '|')))
    """
    found = list(_TOKEN.finditer(glob))
    braces = _paired([match["brace"] or "" for match in found])
    return tuple(_part(match, number in braces) for number, match in enumerate(found))


def _part(match: re.Match[str], is_paired: bool) -> tuple[str, str]:
    if match["stars"]:
        return match["stars"], _STARS[match["stars"]]
    if match["brace"]:
        return (match["brace"], _BRACES[match["brace"]]) if is_paired else ("", match["brace"])
    if (of := match["of"]) is None:
        return "", match["escaped"] or match["text"]
    if len(of) == 1 or not of:
        return "", of or match[0]
    denied, letters = ("^", of[1:]) if of.startswith("!") else ("", of)
    letters = re.sub(r"([^\w-])", r"\\\1", letters)
    return match[0], f"[{denied}{letters}]"


def _paired(braces: list[str]) -> set[int]:
    """Return the positions of braces and commas that form alternatives.

    Braces without a comma between them are literal.
    """
    found: set[int] = set()
    open_braces: list[list[int]] = []
    for number, brace in enumerate(braces):
        if brace == "{":
            open_braces.append([number])
        elif brace and open_braces:
            open_braces[-1].append(number)
            if brace == "}" and len(pair := open_braces.pop()) > 2:
                found.update(pair)
    return found


@lru_cache(maxsize=256)
def _regex(glob: str) -> re.Pattern[str]:
    return re.compile("".join(text if kind else re.escape(text) for kind, text in read_glob(glob)), re.DOTALL)


def parse_shards(shards: Shards) -> list[Pattern]:
    """Return the patterns of a user's `shards`, the most specific first.

    Arrays without a rule are divided by a default size, but empty `shards` divide nothing.

    >>> [(pattern.text, pattern.rule) for pattern in parse_shards(["a", "b/*"])], parse_shards([])
    ([('a', 'whole'), ('b/*', 'whole'), ('*', '1 GiB')], [])
    """
    match shards:
        case str() | int():
            rules: dict[str, Rule] = {"*": shards}
        case Mapping():
            rules = dict(shards)
        case Iterable():
            rules = dict.fromkeys(shards, WHOLE)
        case _:
            raise PartitionError(
                f"shards={shards!r} is not a size, a mapping or a list of paths: see ShardedStore.partition"
            )
    if rules and not rules.keys() & {"*", ""}:
        rules["*"] = DEFAULT_SIZE
    patterns = [make_pattern(text, rule, "shards") for text, rule in rules.items()]
    for pattern in patterns:
        _check_rule(pattern)
    return sorted(patterns, key=lambda pattern: pattern.specificity, reverse=True)


def parse_paths(paths: Paths, what: str) -> list[Pattern]:
    """Return the patterns of one or several paths and globs; `what` names them in messages.

    >>> [pattern.text for pattern in parse_paths("a/*", "include")], parse_paths([], "include")
    (['a/*'], [])
    """
    if not isinstance(paths, Iterable):
        raise PartitionError(
            f"{what}={paths!r} is not a path or a list of paths: write it like ['group/array', 'group/*']"
        )
    return [make_pattern(text, WHOLE, what) for text in ([paths] if isinstance(paths, str) else paths)]


def make_pattern(text: str, rule: Rule, what: str, refuse: type[UsageError] = PartitionError) -> Pattern:
    """Return the pattern for a text that a user wrote, or raise an error if it is invalid."""
    if not isinstance(text, str):
        raise refuse(f"{what} names {text!r}, which is not a path: write it like 'group/array'")
    pattern = Pattern.of(text, rule)
    for path in filter(None, (pattern.text, pattern.path)):
        check_path(path, f"{what} names the path")
    try:
        pattern.matches("")
    except re.error as error:
        raise refuse(f"{what} names the glob {pattern.text!r}, which is not valid: {error}") from None
    return pattern


def _check_rule(pattern: Pattern) -> None:
    rule = pattern.rule
    if isinstance(rule, str | int) and not isinstance(rule, bool) and rule not in WORDS:
        size = parse_size(rule)
        if size is None or size <= 0:
            listed = "; names of arrays are a list, such as ['t2m', 'wind']" if pattern.text == "*" else ""
            raise PartitionError(
                f"shards[{pattern.text!r}] is {rule!r}: write 'whole', or a size like '512 MiB'{listed}"
            )
    elif rule not in WORDS:
        if not isinstance(rule, Mapping | Sequence):
            raise PartitionError(
                f"shards[{pattern.text!r}] is {rule!r}: write 'whole', a size, a shape or a mapping of dimensions"
            )
        sizes = list(rule.values() if isinstance(rule, Mapping) else rule)
        bad = [size for size in sizes if type(size) is not int or (size < 1 and size != -1)]
        if bad or not sizes:
            raise PartitionError(
                f"shards[{pattern.text!r}] has the size {(bad or ['nothing'])[0]!r}: a size must be a whole number of elements, "
                "at least 1, or -1 for the whole dimension"
            )
