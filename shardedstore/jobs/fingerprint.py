"""The fingerprint of a chain: what tells a job that may be gone on with from another."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import sys
from collections.abc import Mapping
from operator import attrgetter
from typing import Any

import numpy as np

from shardedstore.chain import Chain, FunctionStep, Sink, Step
from shardedstore.components.kinds import may_be_secret

MOST_SHOWN = 80  # letters of an option


def fingerprint(chain: Chain) -> str | None:
    """Return a token of what a chain does to bytes, equal in every process; None where there is no stable one.

    Where the result stands is no part of it, so a destination that was moved is gone on with; nor are fields that are
    not compared, which do not change the bytes.
    """
    tokens = []
    for part in (*chain.steps, chain.sink, chain.function):
        if part is None:
            continue
        token = _token(part)
        if token is None:
            return None
        tokens.append(token)
    return hashlib.sha256(json.dumps(tokens).encode()).hexdigest()


def described(chain: Chain) -> list[tuple[str, dict[str, str]]]:
    """Return what people are told of a chain: the names of its parts, each with its options that make a difference."""
    return [_described(part) for part in (*chain.steps, chain.sink, chain.function) if part is not None]


def _described(part: Any) -> tuple[str, dict[str, str]]:
    if isinstance(part, FunctionStep):
        return part.name or "step", {"version": part.label}
    if not dataclasses.is_dataclass(part) or isinstance(part, type):
        return getattr(part, "__qualname__", type(part).__name__), {}
    fields = (field.name for field in dataclasses.fields(part) if field.compare)
    names = (name for name in fields if not (isinstance(part, Sink) and name == "url"))
    version = getattr(part, "version", "1")
    options = {} if version == "1" else {"version": str(version)}
    for name in names:
        value = getattr(part, name)
        given = dict(value) if name == "options" and isinstance(value, tuple | Mapping) else {name: value}
        options |= {option: _shown(option, setting) for option, setting in given.items()}
    return type(part).__name__, options


def _shown(name: str, value: Any) -> str:
    """Return a value as a message has it: not that of a name that may be secret, nor what differs from run to run."""
    text = re.sub(r" at 0x[0-9a-f]+", "", repr(value))
    return "(not kept)" if may_be_secret(name) else text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."


def _token(part: Any) -> list[Any] | None:
    if isinstance(part, FunctionStep):
        return [part.name, part.label] if part.name and part.label else None
    is_instance = isinstance(part, Step | Sink) or (dataclasses.is_dataclass(part) and not isinstance(part, type))
    named = type(part) if is_instance else part
    module, name = getattr(named, "__module__", "__main__"), getattr(named, "__qualname__", "<")
    if module == "__main__" or "<" in name:
        return None
    options: dict[str, Any] = {}
    is_sink = isinstance(part, Sink)  # whose url is where the result stands, not what it is
    if dataclasses.is_dataclass(part):
        compared = [field.name for field in dataclasses.fields(part) if field.compare]
        options = {name: getattr(part, name) for name in compared}
        if is_sink:
            options.pop("url", None)
    elif isinstance(part, Step | Sink):
        if getattr(part, "__dict__", None):  # options that nothing declares
            return None
    elif attrgetter(name)(sys.modules[module]) is not part:  # a method of an object, or a wrapper with another's name
        return None
    try:
        return [module, name, getattr(part, "version", "1"), {key: _exact(value) for key, value in options.items()}]
    except TypeError:
        return None


def _exact(value: Any) -> Any:
    """Return an option as JSON that tells it from every other; TypeError for what is not plain data.

    >>> _exact((1, "1", None, 0.1)), _exact({"a": b"x"})
    (['int 1', "str '1'", 'NoneType None', 'float 0.1'], [["str 'a'", "bytes b'x'"]])
    """
    if isinstance(value, list | tuple):
        return [_exact(item) for item in value]
    if isinstance(value, Mapping):
        return [[_exact(key), _exact(item)] for key, item in value.items()]
    if isinstance(value, str) and " at 0x" in value:  # the repr of an object that has none of its own
        raise TypeError(value)
    if value is None or value is ... or type(value) in (bool, int, float, complex, str, bytes):
        return f"{type(value).__name__} {value!r}"
    if isinstance(value, np.dtype | np.generic):
        dtype = value if isinstance(value, np.dtype) else value.dtype
        return [str(dtype.descr), "" if isinstance(value, np.dtype) else value.tobytes().hex()]
    token = _token(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else None
    if token is None:
        raise TypeError(type(value).__name__)
    return token
