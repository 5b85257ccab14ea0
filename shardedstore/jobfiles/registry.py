"""Transforms by name for the command line, from this package and from entry points of other packages.

Only names from users are looked up, and only the packages of these names are imported. Configs and ledgers contain no
names of transforms.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any, get_type_hints

import msgspec

from shardedstore import transforms
from shardedstore.entrypoints import find_entry, load_class, registered
from shardedstore.errors import ShardedStoreError, UsageError
from shardedstore.transforms.base.sink import Sink
from shardedstore.transforms.base.step import Step

GROUP = "shardedstore.transforms"
Transform = type[Step] | type[Sink]
BUILT_IN: dict[str, Transform] = {
    "zip": transforms.ToZip,
    "zarr": transforms.CopyTo,
    "sharding-codec": transforms.ToShardingCodec,
    "recompress": transforms.Recompress,
    "migrate-v3": transforms.MigrateV3,
    "migrate-ome": transforms.MigrateOME,
}
_NEXT_OPTION = re.compile(r",(?=\s*[A-Za-z_]\w*=)|\Z")


def transform_names() -> list[str]:
    """Return the names of all transforms, first of this package, then of others."""
    others = {entry.name for entry in registered(GROUP)} - BUILT_IN.keys()
    return [*BUILT_IN, *sorted(others)]


def find_transform(name: str) -> Transform:
    """Return the class of a transform.

    Raises
    ------
    UsageError
        If the name is unknown, if two packages register it, or if its package can't be imported.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    entry = find_entry(GROUP, name, "transform")
    if entry is None:
        raise UsageError(f"{name!r} is not an installed transform: use one of {', '.join(transform_names())}")
    return load_class(entry, (Step, Sink), "transform", "neither a subclass of Step nor of Sink")


def make_step(given: str | Mapping[str, Any]) -> Step:
    """Return the step of a text or table: ``NAME``, ``NAME:option=value,...`` or ``{use = NAME, option = value}``.

    Raises
    ------
    UsageError
        If there is no such step, or it refuses the options.

    Examples
    --------
    >>> make_step("recompress:codec=zstd,level=5,arrays=wind_*")
    Recompress('zstd', level=5, arrays='wind_*')
    """
    name, options = name_and_options(given)
    kind = find_transform(name)
    if not issubclass(kind, Step):
        raise UsageError(f"{name!r} is a sink, not a step: give it as --to {name}")
    made: Step = _make(name, kind, (), options)
    return made


def make_sink(sink: str | Mapping[str, Any], url: str, **given: Any) -> Sink:
    """Return the sink of a text or table, for a destination; see `make_step`.

    Parameters
    ----------
    **given
        Further options, as Python values.

    Examples
    --------
    >>> make_sink("zip:name={path}.{block}.zip", "out").target("t", True)
    't.{block}.zip'
    """
    name, parsed = name_and_options(sink)
    kind = find_transform(name)
    if not issubclass(kind, Sink):
        raise UsageError(f"{name!r} is a step, not a sink: give it as --step {name}, and a sink as --to")
    for twice in sorted(parsed.keys() & given.keys()):
        raise UsageError(f"{name!r} is given the option {twice!r} twice: leave one of them out")
    made: Sink = _make(name, kind, (url,), {**parsed, **given})
    return made


def name_and_options(given: str | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the name of a transform and its options.

    >>> name_and_options("zip:per_zip=9") == name_and_options({"use": "zip", "per_zip": 9})
    True
    """
    if isinstance(given, str):
        name, _, options = given.partition(":")
        return name, parse_options(options, name)
    if not isinstance(given.get("use"), str):
        raise UsageError(f"{dict(given)} does not name a transform: write {{use = 'zip', ...}}")
    return given["use"], {key: value for key, value in given.items() if key != "use"}


def parse_options(text: str, name: str) -> dict[str, Any]:
    """Return options as Python values: valid JSON is decoded, and other values are text.

    A comma is part of a text if no other option follows it.

    >>> parse_options('level=5,arrays=["a,b", "c"],name={path},checksum=true,note=a, b', "x")
    {'level': 5, 'arrays': ['a,b', 'c'], 'name': '{path}', 'checksum': True, 'note': 'a, b'}
    """
    options: dict[str, Any] = {}
    rest = text
    while rest:
        option, equals, rest = rest.partition("=")
        option = option.strip()
        if not equals or not option.isidentifier():
            raise UsageError(f"{option!r} is not an option of {name!r}: write {name}:option=value,option=value")
        if option in options:
            raise UsageError(f"{name!r} is given the option {option!r} twice: leave one of them out")
        options[option], rest = _value(rest)
    return options


def _value(text: str) -> tuple[Any, str]:
    """Return the value at the start of a text, and the rest after the next comma."""
    try:
        value, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        pass
    else:
        if (ended := _NEXT_OPTION.match(text, end)) is not None:
            return value, text[ended.end() :]
    ended = _NEXT_OPTION.search(text)
    assert ended is not None
    return text[: ended.start()], text[ended.end() :]


def _make(name: str, kind: type[Any], arguments: tuple[Any, ...], options: Mapping[str, Any]) -> Any:
    parameters = dict(list(inspect.signature(kind).parameters.items())[len(arguments) :])
    known = [key for key, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    listed = ", ".join(known) or "none"
    for option in options:
        if option not in known and not takes_any:
            raise UsageError(f"{name!r} has no option {option!r}; its options are: {listed}")
    missing = [key for key in known if key not in options and parameters[key].default is inspect.Parameter.empty]
    if missing:
        raise UsageError(f"{name!r} needs the option {missing[0]!r}: write {name}:{missing[0]}=...")
    types = {} if name in BUILT_IN else option_types(kind)  # transforms of this package check their options themselves
    typed = {key: _typed(name, key, value, types[key][0] if key in types else Any) for key, value in options.items()}
    try:
        return kind(*arguments, **typed)
    except ShardedStoreError:
        raise
    except Exception as error:
        raise UsageError(f"{name!r} can't be made with these options: {type(error).__name__}: {error}") from error


def option_types(kind: type[Any]) -> dict[str, tuple[Any, Any]]:
    """Return the annotation and the default of each option of a transform; a sink's first parameter is its destination."""
    parameters = list(inspect.signature(kind).parameters.values())[1 if issubclass(kind, Sink) else 0 :]
    try:
        hints = get_type_hints(kind if is_dataclass(kind) else kind.__init__, include_extras=True)
    except (NameError, TypeError):  # for names that are imported for type checkers only
        hints = {}
    named = (p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))
    return {p.name: (hints.get(p.name, Any), p.default) for p in named}


def _typed(name: str, option: str, value: Any, hint: Any) -> Any:
    """Convert the value of an option to its annotation; return it unchanged if msgspec does not know the annotation."""
    try:
        return msgspec.convert(value, hint, strict=not isinstance(value, str))
    except msgspec.ValidationError as error:
        raise UsageError(
            f"the option {option!r} of {name!r} is {value!r}: {str(error).lower().replace('`', '')}"
        ) from error
    except (TypeError, NameError):
        return value
