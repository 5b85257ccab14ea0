"""Find the lines of keys in a TOML file, for messages."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from typing import Any

Key = str | int  # a key of a table, or the index of an array's element


def find_line(text: str, path: Sequence[Key]) -> int:
    r"""Return the line number of the value at a path, or of its closest parent.  The beginning of a file is parsed line
    by line until it has the value: this needs no second parser.

    >>> (
    ...     find_line("[a]\nx = [\n 1,\n 2]\n\n# y\ny = 2\n", ("a", "x")),
    ...     find_line("[a]\n\n# y\ny = 2\n", ("a", "y", "z")),
    ... )
    (2, 4)
    """
    lines = text.splitlines(keepends=True)
    for end in range(len(path), 0, -1):
        before = 0  # the number of lines before the value
        for number in range(1, len(lines) + 1):
            try:
                document = tomllib.loads("".join(lines[:number]))
            except tomllib.TOMLDecodeError:
                continue
            if _has(document, path[:end]):
                return before + 1 + _blank(lines[before:number])
            before = number
    return 1


def _has(value: Any, path: Sequence[Key]) -> bool:
    for key in path:
        is_there = key in value if isinstance(value, dict) else isinstance(value, list) and key in range(len(value))
        if not is_there:
            return False
        value = value[key]
    return True


def _blank(lines: Sequence[str]) -> int:
    """Return the number of lines at the start that are empty or comments."""
    for number, line in enumerate(lines):
        if line.strip() and not line.lstrip().startswith("#"):
            return number
    return 0
