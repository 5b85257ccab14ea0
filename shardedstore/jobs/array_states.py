"""The state of a result's arrays as job manifests keep it, and the differences between two jobs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from shardedstore.errors import Violation
from shardedstore.notices import Notice, node_name
from shardedstore.stores.hierarchy import Node
from shardedstore.zarr.grid import Coords
from shardedstore.zarr.metadata import ArrayMeta, parse_json

V2_CODECS = ("compressor", "filters", "order")
MOST_TEXT = 80  # characters of a list of codecs in a message


class ArrayState(msgspec.Struct, frozen=True, omit_defaults=True):
    """The properties of an array that readers of a result depend on.

    Attributes
    ----------
    shape : tuple of int
        The shape.
    chunks : tuple of int or None
        The shape of a chunk; None if the chunk grid is unknown.
    dtype, codecs : str
        The data type and the codecs as JSON.
    names : tuple of str or None
        The names of the dimensions; empty if there are none.
    """

    shape: Coords
    chunks: Coords | None
    dtype: str
    codecs: str
    names: tuple[str | None, ...] = ()

    def dimension(self, axis: int) -> str:
        """Return the name of a dimension in messages."""
        name = self.names[axis] if axis < len(self.names) else None
        return repr(name) if name else f"dimension {axis}"


States = Mapping[str, ArrayState]


def states_of(nodes: Mapping[str, Node]) -> dict[str, ArrayState]:
    """Return the states of the arrays by path, without the members of collections."""
    arrays = ((path, node, node.meta) for path, node in nodes.items() if not node.is_sample)
    return {path: _state(path, node, meta) for path, node, meta in arrays if isinstance(meta, ArrayMeta)}


def _state(path: str, node: Node, meta: ArrayMeta) -> ArrayState:
    name = "zarr.json" if meta.zarr_format == 3 else ".zarray"
    document = parse_json(node.documents[name], path, name)
    dtype, codecs = document.get("data_type"), document.get("codecs")
    if meta.zarr_format == 2:
        dtype, codecs = document.get("dtype"), {field: document.get(field) for field in V2_CODECS}
    return ArrayState(meta.shape, meta.chunks, _text(dtype), _text(codecs), meta.dimension_names or ())


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def find_shrunk(before: States, now: States) -> Iterator[Violation]:
    """Yield the dimensions along which arrays are shorter than before."""
    for path, old, new in _in_both(before, now):
        if len(old.shape) != len(new.shape):
            text = f"{path!r} had {len(old.shape)} dimensions and has {len(new.shape)}"
            yield Violation("source-shrank", text, path)
            continue
        for axis, (was, size) in enumerate(zip(old.shape, new.shape, strict=True)):
            if size < was:
                text = f"{node_name(path)} shrank along {new.dimension(axis)} from {was:,} to {size:,}"
                yield Violation("source-shrank", text, path)


def find_gone(before: States, now: States, renamed: Mapping[str, str]) -> Iterator[Violation]:
    """Yield the arrays that disappeared; `renamed` has the likely new names."""
    for path in before:
        if path not in now:
            new = f"; {renamed[path]!r}, which is new, equals it in all but the name" if path in renamed else ""
            yield Violation("array-disappeared", f"{node_name(path)} disappeared from the source{new}", path)


def find_drifted(before: States, now: States, field: str, code: str) -> Iterator[Violation]:
    """Yield the arrays that have another data type or other codecs than before."""
    what = {"dtype": "data type", "codecs": "codecs"}[field]
    for path, old, new in _in_both(before, now):
        was, value = getattr(old, field), getattr(new, field)
        if was != value:
            text = f"the {what} of {node_name(path)} changed from {_short(was)} to {_short(value)}"
            yield Violation(code, text, path)


def find_renamed(before: States, now: States) -> dict[str, str]:
    """Return the likely new names of arrays that disappeared.

    An array is likely renamed if exactly one new array has an equal state, or grew along the first dimension.
    """
    new = {path: state for path, state in now.items() if path not in before}
    found = {path: [name for name, state in new.items() if _may_be(old, state)] for path, old in before.items()}
    return {path: names[0] for path, names in found.items() if path not in now and len(names) == 1}


def _may_be(old: ArrayState, new: ArrayState) -> bool:
    grown = new.shape[:1] >= old.shape[:1] and new.shape[1:] == old.shape[1:]
    return grown and msgspec.structs.replace(old, shape=new.shape) == new


def change_notices(before: States, now: States) -> Iterator[Notice]:
    """Yield notices about the effects of renamed and rechunked arrays on a result."""
    for path, old, new in _in_both(before, now):
        if old.chunks != new.chunks:
            text = (
                f"the chunks of {node_name(path)} changed from {_shape(old.chunks)} to {_shape(new.chunks)}, so all of its shards are "
                "made again; the old objects stay for readers of the old config until prune removes them"
            )
            yield Notice(text)
    for path, name in find_renamed(before, now).items():
        text = (
            f"{node_name(path)} was probably renamed to {node_name(name)}: the result gets {node_name(name)} with all shards made anew, and loses {node_name(path)}; "
            "the old objects stay for readers of the old config until prune removes them"
        )
        yield Notice(text)


def describe_changes(before: States, now: States) -> Iterator[str]:
    """Yield the changed properties of arrays as short texts."""
    for path, old, new in _in_both(before, now):
        if old.chunks != new.chunks:
            yield f"{path!r} has chunks of {_shape(old.chunks)} there, {_shape(new.chunks)} now"
        if old.dtype != new.dtype:
            yield f"{path!r} has the data type {_short(old.dtype)} there, {_short(new.dtype)} now"
        if old.codecs != new.codecs:
            yield f"{path!r} has other codecs now"


def _in_both(before: States, now: States) -> Iterator[tuple[str, ArrayState, ArrayState]]:
    return ((path, old, now[path]) for path, old in before.items() if path in now)


def _shape(shape: Coords | None) -> str:
    return "an unknown grid" if shape is None else " x ".join(f"{size:,}" for size in shape) or "one element"


def _short(text: str) -> str:
    return text if len(text) <= MOST_TEXT else text[: MOST_TEXT - 3] + "..."
