"""`diff`: the differences between the structures of two Zarrs, without reading chunks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import groupby
from operator import attrgetter
from typing import Any

import msgspec

from shardedstore.checks.open import AnyZarr, config_at, name_of_zarr
from shardedstore.checks.structure import Structure, structure_of
from shardedstore.partition.partition import find_zarr
from shardedstore.partition.patterns import Paths
from shardedstore.storage.options import StorageOptions
from shardedstore.stores.hierarchy import Node, read_nodes
from shardedstore.stores.locations import Config
from shardedstore.verify.choice import chosen

BRIEF = ("data_type", "shape", "chunks")  # fields of an array that only one Zarr has, in one line


class StructureChange(msgspec.Struct, frozen=True):
    """A field of a group or an array that differs between two Zarrs.

    Attributes
    ----------
    path : str
        The path of the group or array; empty for the root.
    field : str
        The field: ``node`` for a node that one Zarr lacks, ``zarr_format``, ``shape``, ``chunks``, ``shards``, ``data_type``,
        ``byte_order``, ``fill_value``, ``codecs``, ``chunk_keys``, ``dimension_names``, or ``attributes.NAME``.
    a, b : object
        The values in both Zarrs; None for a missing value. For a node that one Zarr lacks, the other value is a short
        description of the node.
    """

    path: str
    field: str
    a: Any = None
    b: Any = None

    @property
    def is_node(self) -> bool:
        """Whether one Zarr lacks the group or array."""
        return self.field == "node" and (self.a is None or self.b is None)


class StructureDiff(msgspec.Struct, frozen=True):
    r"""The differences between the structures of two Zarrs; see `diff`.

    Attributes
    ----------
    a, b : str
        The names of the two Zarrs.
    changes : tuple of StructureChange
        The differences, sorted by path.
    nodes : int
        The number of groups and arrays in both Zarrs together.

    See Also
    --------
    diff : Compare two Zarrs.

    Examples
    --------
    >>> import zarr
    >>> from shardedstore import diff
    >>> one, other = zarr.storage.MemoryStore(), zarr.storage.MemoryStore()
    >>> for store, units in ((one, "K"), (other, "degC")):
    ...     _ = zarr.create_group(store, attributes={"units": units})
    >>> print("\n".join(str(diff(one, other)).splitlines()[2:]))
     (root)
    -  attributes.units: "K"
    +  attributes.units: "degC"
    """

    a: str
    b: str
    changes: tuple[StructureChange, ...] = ()
    nodes: int = 0

    @property
    def is_equal(self) -> bool:
        """Whether there are no differences."""
        return not self.changes

    def to_dict(self) -> dict[str, Any]:
        """Return the differences as a JSON document.

        Returns
        -------
        dict
            ``is_equal`` and all attributes.
        """
        made: dict[str, Any] = {"is_equal": self.is_equal, **msgspec.to_builtins(self)}
        return made

    def __str__(self) -> str:
        if self.is_equal:
            return f"equal: {self.nodes:,} groups and arrays"
        return "\n".join([f"--- {self.a}", f"+++ {self.b}", *_lines(self.changes)])


def diff(
    a: AnyZarr,
    b: AnyZarr,
    *,
    include: Paths | None = None,
    exclude: Paths | None = None,
    storage_options: StorageOptions = None,
    b_storage_options: StorageOptions = None,
) -> StructureDiff:
    """Compare the structures of two Zarrs, by their metadata alone.

    Formats are compared by meaning: a codec, a data type or dimension names that Zarr v2 and v3 write differently are equal.
    The data are compared by `ShardedStore.verify`.

    Parameters
    ----------
    a, b : ShardedStore, Store, str or path
        Two Zarrs, zips, configs or stores.
    include, exclude : str or iterable of str, optional
        Paths and globs of groups and arrays to compare or to leave out; a group stands for everything below it.
    storage_options, b_storage_options : mapping or str, optional
        Options of the object stores of `a` and `b`; see `ShardedStore.partition`.

    Returns
    -------
    StructureDiff
        The differences; its text is like a unified diff.

    Raises
    ------
    CorruptError
        If a metadata document can't be parsed; `check` names all of them.
    PartitionError
        If one of the two is not a Zarr.
    UsageError
        If a pattern matches nothing.

    See Also
    --------
    check : Check one Zarr for damage.

    Examples
    --------
    >>> import zarr
    >>> from shardedstore import diff
    >>> one, other = zarr.storage.MemoryStore(), zarr.storage.MemoryStore()
    >>> for store, chunks in ((one, (2,)), (other, (3,))):
    ...     _ = zarr.create_array(store, name="t", shape=(6,), chunks=chunks, dtype="f4")
    >>> found = diff(one, other)
    >>> [(change.path, change.field, change.a, change.b) for change in found.changes]
    [('t', 'chunks', [2], [3])]
    """
    configs = config_at(a, storage_options), config_at(b, b_storage_options)
    mine, other = map(_structures, configs)
    paths = chosen(mine.keys() | other.keys(), include, exclude)
    changes = (change for path in sorted(paths) for change in _changes(path, mine.get(path), other.get(path)))
    one, two = map(name_of_zarr, (a, b), configs)
    return StructureDiff(one, two, tuple(changes), len(paths))


def _structures(config: Config) -> dict[str, Structure]:
    nodes: dict[str, Node] = read_nodes(config) if config.shards else find_zarr(config.base)[1]
    return {path: structure_of(node, path) for path, node in nodes.items() if not node.is_sample}


def _changes(path: str, one: Structure | None, other: Structure | None) -> Iterator[StructureChange]:
    if one is None or other is None:
        yield StructureChange(
            path, "node", None if one is None else _brief(one), None if other is None else _brief(other)
        )
        return
    if one["node"] != other["node"]:
        yield StructureChange(path, "node", _brief(one), _brief(other))
        return
    for field in [*one, *(field for field in other if field not in one)]:
        mine, its = one.get(field), other.get(field)
        if _text(mine) != _text(its) or (field in one) != (field in other):
            yield StructureChange(path, field, mine, its)


def _brief(structure: Structure) -> str:
    if structure["node"] == "group":
        return "group"
    return "array, " + ", ".join(f"{name} {_text(structure[name])}" for name in BRIEF)


def _lines(changes: tuple[StructureChange, ...]) -> Iterator[str]:
    for path, some in groupby(changes, attrgetter("path")):
        found = list(some)
        if not found[0].is_node:
            yield f" {path or '(root)'}"
        for change in found:
            name = (path or "(root)") if change.is_node else f"  {change.field}"
            for sign, value in (("-", change.a), ("+", change.b)):
                if value is not None or not (change.is_node or change.field.startswith("attributes.")):
                    yield f"{sign}{name}: {value if change.field == 'node' else _text(value)}"


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)
