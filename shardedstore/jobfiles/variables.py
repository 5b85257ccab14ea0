"""Variables in the strings of a job file: ``${VAR}`` of the environment, ``{date}`` and ``{name}``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
from typing import Any

from shardedstore.errors import UsageError

VARIABLE = re.compile(r"\$(\$)?\{([^{}]*)\}")
WHOLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")  # a string with nothing but a variable


def expand(value: Any, environment: Mapping[str, str], words: Mapping[str, str], *, keep_names: bool = False) -> Any:
    """Replace the variables in all strings of a value.

    ``$${VAR}`` stands for ``${VAR}``. Other braces are kept, as in the names of zips. With `keep_names`, a string with
    nothing but a variable is checked and kept.

    >>> expand({"a": ["${HOME}/{date}", "$${HOME}"]}, {"HOME": "/home/me"}, {"date": "2026-11-29"})
    {'a': ['/home/me/2026-11-29', '${HOME}']}
    """
    if isinstance(value, dict):
        return {key: expand(item, environment, words, keep_names=keep_names) for key, item in value.items()}
    if isinstance(value, list):
        return [expand(item, environment, words, keep_names=keep_names) for item in value]
    if not isinstance(value, str):
        return value
    text = _expand_text(value, environment, words)
    return value if keep_names and WHOLE.fullmatch(value) else text


def _expand_text(text: str, environment: Mapping[str, str], words: Mapping[str, str]) -> str:
    parts = []
    end = 0
    for found in VARIABLE.finditer(text):
        parts.append(_replace_words(text[end : found.start()], words))
        parts.append(f"${{{found[2]}}}" if found[1] else look_up(found[2], environment))
        end = found.end()
    return "".join([*parts, _replace_words(text[end:], words)])


def _replace_words(text: str, words: Mapping[str, str]) -> str:
    for word, replacement in words.items():
        text = text.replace(f"{{{word}}}", replacement)
    return text


def look_up(name: str, environment: Mapping[str, str]) -> str:
    """Return the value of an environment variable."""
    if name not in environment:
        raise UsageError(
            f"the environment variable {name!r} is not set: set it, or write $${{{name}}} for the text itself"
        )
    return environment[name]


def words_of(name: str | None, today: date) -> dict[str, str]:
    """Return the words in braces in the strings of a job."""
    return {"date": today.isoformat(), **({} if name is None else {"name": name})}
