"""Messages about values of a job file that do not fit the specs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import msgspec

from shardedstore.jobfiles.lines import Key

_NAMES = {  # of msgspec's types
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "array": "a list",
    "object": "a table",
    "datetime": "a date",
    "date": "a date",
}


class Problem(NamedTuple):
    """An error of a value: the path of the value below the table, and the message."""

    path: tuple[Key, ...]
    text: str


def explain_invalid(error: msgspec.ValidationError, spec: type, values: Any) -> Problem:
    """Return the place and the message of a value that msgspec refuses for a spec."""
    message, _, place = str(error).partition(" - at `$")
    path = tuple(_keys(place.rstrip("`")))
    if found := re.fullmatch(r"Object contains unknown field `(.*)`", message):
        known = _known(spec, path)
        return Problem((*path, found[1]), f"{found[1]!r} is not an option here{suggestion(found[1], known)}")
    if found := re.fullmatch(r"Object missing required field `(.*)`", message):
        return Problem(path, f"{found[1]!r} is missing: write {found[1]} = ...")
    name = ".".join(map(str, path))
    if found := re.fullmatch(r"Invalid enum value '(.*)'", message):
        known = _choices(_hint(spec, path))
        return Problem(path, f"{name} = {found[1]!r} is not known{suggestion(found[1], known)}")
    if found := re.fullmatch(r"Expected `(?:int|float)` >= (.*)", message):
        return Problem(path, f"{name} is {_value(values, path)!r}, but must be {found[1]} or more")
    if found := re.fullmatch(r"Expected `(.*)`, got `(.*)`", message):
        return Problem(path, f"{name} is {_named(found[2])}, but must be {_named(found[1])}")
    return Problem(path, f"{name} is {_value(values, path)!r}: {message[:1].lower()}{message[1:]}".replace("`", ""))


def _keys(place: str) -> Iterator[Key]:
    """Yield the keys of msgspec's path up to the first unnamed key."""
    for name, number in re.findall(r"\.([^.\[]+)|\[([^\]]*)\]", place):
        if number and not number.isdigit():
            return
        yield int(number) if number else name


def _known(spec: type, path: Sequence[Key]) -> list[str]:
    kinds = [kind for kind in _parts(_hint(spec, path)) if isinstance(kind, type) and issubclass(kind, msgspec.Struct)]
    return list(kinds[0].__struct_fields__) if kinds else []


def _hint(spec: type, path: Sequence[Key]) -> Any:
    """Return the annotation of the value at a path."""
    hint: Any = spec
    for key in path:
        structs = [kind for kind in _parts(hint) if isinstance(kind, type) and issubclass(kind, msgspec.Struct)]
        if isinstance(key, str) and structs:
            hint = get_type_hints(structs[0], include_extras=True).get(key)
    return hint


def _parts(hint: Any) -> Iterator[Any]:
    """Yield an annotation and all annotations in it."""
    yield hint
    for part in get_args(hint):
        yield from _parts(part)


def _choices(hint: Any) -> list[str]:
    return [str(value) for part in _parts(hint) if get_origin(part) is Literal for value in get_args(part)]


def suggestion(name: str, known: Sequence[str]) -> str:
    """Return the end of a message about an unknown name; hyphens are treated as underscores."""
    if near := get_close_matches(name.replace("-", "_"), known, 1):
        return f": did you mean {near[0]!r}?"
    return f": use one of {', '.join(known)}" if known else ""


def _named(types: str) -> str:
    return " or ".join(_NAMES.get(name, name) for name in types.split(" | ") if name != "null")


def _value(values: Any, path: Sequence[Key]) -> Any:
    for key in path:
        values = values[key]
    return values
