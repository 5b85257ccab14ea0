"""Click options that are generated from the fields of specs.

These keys of a field's `msgspec.Meta(extra=...)` are read:

- ``option``: the name of the option, such as ``"--step"``; None for no option. The default is the field's name.
- ``help``: the help of the option, if it differs from the description in the JSON Schema.
- ``metavar``: the name of the value in the help.
- ``parse``: a function that returns the field's value from the list of texts; the option can be repeated.
- ``section``: the heading in the help of this option and of the next ones.
- ``path``: True for a path or URL; in a job file, it is relative to the file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cache
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import click
import msgspec
from click.core import ParameterSource
from msgspec import NODEFAULT, inspect

from shardedstore.errors import UsageError
from shardedstore.text import one_line

Spec = TypeVar("Spec", bound=msgspec.Struct)
Command = TypeVar("Command", bound=Callable[..., Any])
MANY = " May be repeated."
OTHER = "Other options"


class SpecOption(click.Option):
    """An option for one field of a spec."""

    def __init__(
        self,
        *args: Any,
        spec: type,
        path: tuple[str, ...],
        parse: Callable[[Any], Any] | None,
        section: str,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        self.spec, self.path, self.parse, self.section = spec, path, parse, section


class SpecCommand(click.Command):
    """A command whose help shows the options of specs below headings."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # docstring inherited
        sections: dict[str, list[tuple[str, str]]] = {}
        for option in self.get_params(ctx):
            if isinstance(option, click.Option) and (record := option.get_help_record(ctx)) is not None:
                section = option.section if isinstance(option, SpecOption) else OTHER
                sections.setdefault(section, []).append(record)
        others = sections.pop(OTHER, [])
        for section, records in [*sections.items(), (OTHER, others)]:
            with formatter.section(section):
                formatter.write_dl(records)


def spec_options(
    *specs: type[msgspec.Struct], are_required: bool = True, without: Collection[str] = ()
) -> Callable[[Command], Command]:
    """Add the options of all fields of specs to a command.

    If the command also takes job files, no option is required. Fields in `without` get no option.
    """

    def add(function: Command) -> Command:
        options = [option for spec in specs for option in _spec_options(spec) if option[1]["path"][0] not in without]
        for names, keywords in reversed(options):
            keywords["required"] = keywords["required"] and are_required
            function = click.option(*names, cls=SpecOption, **keywords)(function)
        return function

    return add


def given_options(spec: type[Spec], **others: Any) -> dict[str, Any]:
    """Return the values that the user gave for the options of a spec, as nested dicts, merged into `others`."""
    context = click.get_current_context()
    values: dict[str, Any] = dict(others)
    for option in context.command.params:
        if not isinstance(option, SpecOption) or option.spec is not spec or option.name is None:
            continue
        if context.get_parameter_source(option.name) is not ParameterSource.DEFAULT:
            value = context.params[option.name]
            _put(values, option.path, value if option.parse is None else option.parse(value))
    return values


def make_spec(spec: type[Spec], values: Mapping[str, Any]) -> Spec:
    """Return the spec of a command line's values.

    Raises
    ------
    UsageError
        If a value is not valid.
    """
    try:
        return msgspec.convert(dict(values), spec)
    except msgspec.ValidationError as error:
        if missing := re.fullmatch("Object missing required field `(.*)`", str(error)):
            raise UsageError(f"--{missing[1]} is missing: see --help") from error
        raise UsageError(one_line(error)) from error


def override(spec: Spec, values: Mapping[str, Any]) -> Spec:
    """Return a spec of a file with the values that the user gave on the command line."""
    if not values:
        return spec
    return make_spec(type(spec), _updated(msgspec.to_builtins(spec), values))


def _updated(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    both = {
        name: _updated(old[name], value)
        for name, value in new.items()
        if isinstance(value, dict) and isinstance(old.get(name), dict)
    }
    return {**old, **new, **both}


def _put(values: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for name in path[:-1]:
        values = values.setdefault(name, {})
    values[path[-1]] = value


def _spec_options(spec: type[msgspec.Struct]) -> Iterator[tuple[list[str], dict[str, Any]]]:
    """Yield the names and keywords of the options of a spec, each with its section."""
    sections = {field.name: _bare(field.type)[2].get("section") for field in _fields(spec)}
    section = OTHER
    for names, keywords in _struct_options(spec, spec, ()):
        section = sections.pop(keywords["path"][0], None) or section
        yield names, {**keywords, "section": section}


@cache  # several commands have the options of one spec, and each of its fields is inspected with all that it contains
def _fields(struct: type) -> tuple[inspect.Field, ...]:
    info = inspect.type_info(struct)
    assert isinstance(info, inspect.StructType)
    return info.fields


def _struct_options(
    spec: type[msgspec.Struct], struct: type, path: tuple[str, ...]
) -> Iterator[tuple[list[str], dict[str, Any]]]:
    """Yield the names and keywords of the options of a struct and of its nested structs."""
    hints = get_type_hints(struct, include_extras=True)
    for field in _fields(struct):
        kind, described, extra = _bare(field.type)
        inner = next((one for one in _alternatives(kind) if isinstance(one, inspect.StructType)), None)
        if extra.get("option", "") is None:
            continue
        if inner is not None and "parse" not in extra:
            yield from _struct_options(spec, inner.cls, (*path, field.name))
            continue
        text = extra.get("help") or described.get("description", "")
        name = "_".join((spec.__name__, *path, field.name)).lower()
        yield (
            [_declaration(field.name, extra, kind), name],
            {
                "spec": spec,
                "path": (*path, field.name),
                **_keywords(field, kind, text, extra),
                **_choice(hints[field.name]),
            },
        )


def _declaration(name: str, extra: Mapping[str, Any], kind: inspect.Type) -> str:
    option: str = extra.get("option", "--" + name.replace("_", "-"))
    is_switch = any(isinstance(one, inspect.BoolType) for one in _alternatives(kind)) and _has_none(kind)
    return f"{option}/--no-{option.removeprefix('--')}" if is_switch else option


def _keywords(field: inspect.Field, kind: inspect.Type, text: str, extra: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keywords of click.option for a field."""
    parse = extra.get("parse")
    common = {"metavar": extra.get("metavar"), "required": field.required, "parse": parse}
    types = [one for one in _alternatives(kind) if not isinstance(one, inspect.NoneType)]
    first = types[0]
    if parse is not None or isinstance(first, inspect.ListType | inspect.VarTupleType):
        is_one = field.required
        return {**common, "multiple": True, "help": text if is_one else text + MANY, "parse": parse or list}
    if isinstance(first, inspect.BoolType):
        return {**common, "default": field.default, "help": text, "is_flag": True}
    default = None if field.default is NODEFAULT else field.default
    return {**common, "type": _click_type(types), "default": default, "show_default": bool(default), "help": text}


def _click_type(types: list[inspect.Type]) -> click.ParamType[Any]:
    """Return click's type for a field; the spec checks text values."""
    first = types[0]
    if isinstance(first, inspect.IntType) and len(types) == 1:
        return click.IntRange(first.ge, first.le)
    if isinstance(first, inspect.FloatType) and len(types) == 1:
        least = first.ge if first.gt is None else first.gt
        return (
            click.FLOAT
            if least is first.le is None
            else click.FloatRange(least, first.le, min_open=first.gt is not None)
        )
    return click.STRING


def _choice(hint: Any) -> dict[str, Any]:
    """Return click's type for a Literal, in the order of its values; msgspec sorts them."""
    if get_origin(hint) is Literal:
        return {"type": click.Choice([str(value) for value in get_args(hint)])}
    return next(filter(None, map(_choice, get_args(hint))), {})


def _bare(kind: inspect.Type) -> tuple[inspect.Type, dict[str, Any], dict[str, Any]]:
    """Return a type without its metadata, its description and its extra keys."""
    described: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    while isinstance(kind, inspect.Metadata):
        described |= kind.extra_json_schema or {}
        extra |= kind.extra or {}
        kind = kind.type
    return kind, described, extra


def _alternatives(kind: inspect.Type) -> list[inspect.Type]:
    kind = _bare(kind)[0]
    return [_bare(one)[0] for one in kind.types] if isinstance(kind, inspect.UnionType) else [kind]


def _has_none(kind: inspect.Type) -> bool:
    return any(isinstance(one, inspect.NoneType) for one in _alternatives(kind))
