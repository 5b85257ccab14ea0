"""Fingerprints of a chain: of its transforms and options, and of the users' code.

The fingerprint decides whether a later job can continue an earlier one. The digests of the code find a function that was
edited and kept its name. Both are equal in every process.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
import sys
from collections.abc import Iterator, Mapping
from operator import attrgetter
from types import CodeType, FunctionType, MethodType
from typing import Any

import numpy as np

from shardedstore.fields import may_be_secret
from shardedstore.notices import Notice
from shardedstore.transforms.base.chain import Chain
from shardedstore.transforms.base.sink import Sink
from shardedstore.transforms.base.step import FunctionStep, Step

PYTHON = f"{sys.implementation.name} {sys.version_info.major}.{sys.version_info.minor}"  # each has its own bytecode

OURS = "shardedstore"

_PLAIN = (type(None), type(...), bool, int, float, complex, str, bytes)


def code_digests(chain: Chain) -> dict[str, str]:
    """Compute a digest of the users' code in each part of a chain.

    A digest covers bytecode, constants, names and defaults. It also covers the closure and the globals of the code, if they
    are plain data or functions of the same module. Docstrings, comments and line numbers are left out.

    Returns
    -------
    dict of str to str
        The digests by position and name of the part, and the Python version under ``"python"``.
    """
    found = {"python": PYTHON}
    for i, part in enumerate(chain.parts):
        lines = list(_of_part(part))
        if lines:
            found[f"{i} {_name(part)}"] = hashlib.blake2b("\n".join(lines).encode(), digest_size=16).hexdigest()
    return found


def edited(before: Mapping[str, str], now: Mapping[str, str], folder: str) -> Iterator[Notice]:
    """Yield a notice for each part whose code was edited since an earlier run.

    Digests of another Python version can't be compared, and give no notice.

    Parameters
    ----------
    before, now : mapping of str to str
        The digests of the earlier run and of this one, from `code_digests`.
    folder : str
        The destination, for the message.
    """
    if before.get("python") != now.get("python"):
        return
    for part, digest in now.items():
        if part in before and before[part] != digest:
            name = part.partition(" ")[2]
            yield Notice(
                f"the code of {name!r} has changed since an earlier run of this job: shards that are done at {folder!r} stay as "
                "the old code made them. To make them again, give it another name= or version=, with overwrite=True"
            )


def _name(part: Any) -> str:
    own = getattr(part, "name", "") if isinstance(part, Step) else ""
    return str(own or getattr(part, "__qualname__", type(part).__name__))


def _of_part(part: Any) -> Iterator[str]:
    if isinstance(part, FunctionStep):
        yield from _of_callable(part.func, set())
    elif isinstance(part, Step | Sink):
        yield from _of_transform(part, set())
    elif part is not None:
        yield from _of_callable(part, set())


def _of_transform(part: Step | Sink, seen: set[int]) -> Iterator[str]:
    for base in type(part).__mro__:
        if base.__module__.partition(".")[0] not in (OURS, "abc", "builtins"):
            yield from _of_class(base, seen)
    for field in getattr(part, "__dataclass_fields__", {}).values():
        value = getattr(part, field.name)
        if callable(value) and not isinstance(value, type):
            yield field.name
            yield from _of_callable(value, seen)


def _of_class(kind: type, seen: set[int]) -> Iterator[str]:
    for name, value in sorted(vars(kind).items()):
        function = getattr(value, "__func__", getattr(value, "fget", value))
        if isinstance(function, FunctionType) and function.__code__.co_filename != "<string>":  # made by dataclasses
            yield name
            yield from _of_callable(function, seen)


def _of_callable(function: Any, seen: set[int]) -> Iterator[str]:
    if id(function) in seen:
        return
    seen.add(id(function))
    if isinstance(function, functools.partial):
        yield from _of_callable(function.func, seen)
        yield from _of_values(
            (*function.args, *(item for pair in sorted(function.keywords.items()) for item in pair)), seen
        )
    elif isinstance(function, MethodType):
        yield from _of_callable(function.__func__, seen)
    elif isinstance(function, FunctionType):
        yield from _of_function(function, seen)
    elif type(function).__module__ not in ("builtins", "numpy") and not isinstance(function, type):
        yield from _of_class(type(function), seen)
    else:
        yield getattr(function, "__qualname__", getattr(function, "__name__", type(function).__qualname__))


def _of_function(function: FunctionType, seen: set[int]) -> Iterator[str]:
    yield from _of_code(function.__code__, function.__doc__)
    yield from _of_values(function.__defaults__ or (), seen)
    yield from _of_values(
        tuple(value for pair in sorted((function.__kwdefaults__ or {}).items()) for value in pair), seen
    )
    cells = (cell for cell in function.__closure__ or ())
    yield from _of_values(tuple(value for cell in cells for value in _content(cell)), seen)
    for name in sorted(_names(function.__code__)):
        if name in function.__globals__:
            value = function.__globals__[name]
            is_near = isinstance(value, FunctionType) and value.__module__ == function.__module__
            if is_near or _is_plain(value):
                yield name
                yield from _of_values((value,), seen)


def _content(cell: Any) -> tuple[Any, ...]:
    try:
        return (cell.cell_contents,)
    except ValueError:  # the cell is empty
        return ()


def _names(code: CodeType) -> set[str]:
    inner = (const for const in code.co_consts if isinstance(const, CodeType))
    return set(code.co_names).union(*map(_names, inner))


def _of_code(code: CodeType, docstring: str | None = None) -> Iterator[str]:
    yield code.co_code.hex()
    yield repr((code.co_names, code.co_varnames, code.co_freevars))
    for const in code.co_consts:
        if isinstance(const, CodeType):
            yield from _of_code(const)
        elif docstring is None or const != docstring:
            yield _shown_code(const)


def _of_values(values: tuple[Any, ...], seen: set[int]) -> Iterator[str]:
    """Yield texts of plain data, of the code of functions, and of the types of other values."""
    for value in values:
        if _is_plain(value):
            yield _shown_code(value)
        elif callable(value) and not isinstance(value, type):
            yield from _of_callable(value, seen)
        else:
            yield type(value).__qualname__


def _is_plain(value: Any) -> bool:
    return isinstance(value, _PLAIN) or (isinstance(value, tuple | list | frozenset) and all(map(_is_plain, value)))


def _shown_code(value: Any) -> str:
    if isinstance(value, frozenset):
        return f"frozenset {sorted(map(_shown_code, value))}"
    if isinstance(value, tuple | list):
        return f"{type(value).__name__} {[_shown_code(item) for item in value]}"
    return f"{type(value).__name__} {value!r}"


MOST_SHOWN = 80  # characters of an option's value


def fingerprint(chain: Chain) -> str | None:
    """Compute a token of a chain's effect on bytes; None if there is no stable one.

    The token is equal in every process. It leaves out the URL of the sink, so a job can continue after its destination was
    moved. It also leaves out fields with ``compare=False``, which do not change the bytes.
    """
    tokens = []
    for part in chain.parts:
        if part is None:
            continue
        token = _token(part)
        if token is None:
            return None
        tokens.append(token)
    return hashlib.sha256(json.dumps(tokens).encode()).hexdigest()


def described(chain: Chain) -> list[tuple[str, dict[str, str]]]:
    """Describe a chain for messages: the name and the relevant options of each part."""
    return [_described(part) for part in chain.parts if part is not None]


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
    """Format a value for a message, without secrets, memory addresses and long text."""
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
    is_sink = isinstance(part, Sink)  # the URL of a sink does not change the bytes
    if dataclasses.is_dataclass(part):
        compared = [field.name for field in dataclasses.fields(part) if field.compare]
        options = {name: getattr(part, name) for name in compared}
        if is_sink:
            options.pop("url", None)
    elif isinstance(part, Step | Sink):
        if getattr(part, "__dict__", None):  # undeclared options
            return None
    elif attrgetter(name)(sys.modules[module]) is not part:  # a method of an object, or a wrapper with another's name
        return None
    try:
        return [module, name, getattr(part, "version", "1"), {key: _exact(value) for key, value in options.items()}]
    except TypeError:
        return None


def _exact(value: Any) -> Any:
    """Convert an option to JSON that differs for every other value.

    Raises TypeError if the option is not plain data.

    >>> _exact((1, "1", None, 0.1)), _exact({"a": b"x"})
    (['int 1', "str '1'", 'NoneType None', 'float 0.1'], [["str 'a'", "bytes b'x'"]])
    """
    if isinstance(value, list | tuple):
        return [_exact(item) for item in value]
    if isinstance(value, Mapping):
        return [[_exact(key), _exact(item)] for key, item in value.items()]
    if isinstance(value, str) and " at 0x" in value:  # the default repr of an object
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
