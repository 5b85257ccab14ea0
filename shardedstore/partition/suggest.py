"""Suggest the shape of the shards of each array, for a size and for the ways in which the arrays are read."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import msgspec
from dask.utils import format_bytes

from shardedstore.codecs.array_document import parse_array_document
from shardedstore.errors import PartitionError, ShardedStoreError
from shardedstore.partition.access import (
    AccessCost,
    Accesses,
    Extent,
    Units,
    access_text,
    cost_of_chunk_files,
    cost_of_read,
    parse_accesses,
    touched,
    window,
)
from shardedstore.partition.patterns import BASE, Rule
from shardedstore.partition.shard_sizes import automatic
from shardedstore.stores.hierarchy import Node
from shardedstore.text import count, parse_size
from shardedstore.zarr.grid import Coords
from shardedstore.zarr.metadata import ArrayMeta, parse_json
from shardedstore.zarr.paths import escape_glob

if TYPE_CHECKING:
    from rich.console import RenderableType

SuggestTarget = Literal["zip", "sharding"]
WASTE, LARGE = 100, 2**26  # a read that decodes so many times its bytes, and so many bytes, gets a remark
ENTRY_NBYTES: dict[str, int] = {"zip": 46 + 10, "sharding": 16}  # of one chunk in the index: a zip's has its name


class ArraySuggestion(msgspec.Struct, frozen=True, kw_only=True):
    """The suggested shards of one array.

    Attributes
    ----------
    path : str
        The path of the array.
    rule : str, dict or tuple
        The rule for `ShardedStore.partition`: ``"base"``, the elements by dimension, or the shape in elements.
    shape : tuple of int
        The shape of a shard, in elements.
    shards : int
        The number of shards; 0 if the array stays in the base.
    files : int
        The most chunk files of the source.
    nbytes : int
        The decoded size of a shard, in bytes.
    reason : str
        The reason for the shape.
    costs, by_size, now : tuple of AccessCost or None
        The cost of one read by each access pattern: from the suggested shards, from shards of the same size along the leading
        dimensions, and from the source. None if the array lacks a dimension of the pattern. Empty if it stays in the base.

    See Also
    --------
    Suggestion : The suggestion for all arrays.

    Examples
    --------
    >>> one = ArraySuggestion(path="t", rule="base", shape=(9,), shards=0, files=1, nbytes=72, reason="it is one chunk")
    >>> f"/{one.path} stays in the base: {one.reason}"
    '/t stays in the base: it is one chunk'
    """

    path: str
    rule: Rule
    shape: Coords
    shards: int
    files: int
    nbytes: int
    reason: str
    costs: tuple[AccessCost | None, ...] = ()
    by_size: tuple[AccessCost | None, ...] = ()
    now: tuple[AccessCost | None, ...] = ()


@dataclass(frozen=True, repr=False, eq=False)
class Suggestion(Mapping[str, Rule]):
    """Suggested shards by array, as returned by `ShardedStore.suggest`.

    It is a mapping of rules, which `ShardedStore.partition` takes as `shards`.

    Attributes
    ----------
    target : "zip" or "sharding"
        The format of the shards.
    size : str or int
        The largest decoded size of a shard.
    access : tuple of dict
        The access patterns.
    arrays : tuple of ArraySuggestion
        The arrays, with the reasons.

    See Also
    --------
    ShardedStore.suggest : Suggest shards.

    Examples
    --------
    >>> import zarr
    >>> from shardedstore import ShardedStore
    >>> source = zarr.storage.MemoryStore()
    >>> _ = zarr.create_array(
    ...     source, name="t", shape=(360, 90), chunks=(1, 45), dtype="f8", dimension_names=("time", "x")
    ... )
    >>> found = ShardedStore.partition(source).suggest(size="64 KiB", access={"time": "step"})
    >>> dict(found), found.arrays[0].costs[0].files
    ({'t': {'time': 90}, '*': '64 KiB'}, 1)
    >>> ShardedStore.partition(source, found).shards["t", 3].name
    't[3]'
    """

    target: SuggestTarget
    size: str | int
    access: tuple[dict[str, Extent], ...]
    arrays: tuple[ArraySuggestion, ...]

    @property
    def rules(self) -> dict[str, Rule]:
        """The rules for `ShardedStore.partition`, by path; ``*`` is for all other arrays."""
        named = {escape_glob(one.path): one.rule for one in self.arrays if one.rule != BASE}
        return {**named, "*": self.size}

    def __getitem__(self, path: str) -> Rule:
        return self.rules[path]

    def __iter__(self) -> Iterator[str]:
        return iter(self.rules)

    def __len__(self) -> int:
        return len(self.rules)

    @property
    def shard_count(self) -> int:
        """The number of suggested shards, including the base."""
        return 1 + sum(one.shards for one in self.arrays)

    def to_dict(self) -> dict[str, Any]:
        """Return the suggestion as JSON-compatible values.

        Returns
        -------
        dict
            The attributes, the number of shards, and the rules as ``"shards"``, as job files have them.
        """
        values: dict[str, Any] = msgspec.json.decode(
            msgspec.json.encode(
                {
                    "target": self.target,
                    "size": self.size,
                    "access": list(self.access),
                    "shard_count": self.shard_count,
                    "shards": self.rules,
                    "arrays": self.arrays,
                }
            )
        )
        return values

    def to_dataframe(self) -> Any:
        """Return the arrays as a pandas DataFrame.

        Returns
        -------
        pandas.DataFrame
            One row for each array. The costs of the first access pattern are in columns such as ``requests`` and
            ``requests_now``, and those of the next in ``requests_2`` and ``requests_now_2``.

        Raises
        ------
        UsageError
            If pandas is not installed.
        """
        from shardedstore.display.tables import to_frame

        return to_frame(map(_row, self.arrays), "path")

    def __str__(self) -> str:
        from shardedstore.display import suggestion as view

        return view.suggestion_to_text(self)

    def __repr__(self) -> str:
        from shardedstore.display import suggestion as view

        return view.suggestion_to_text(self, view.FEW)

    def __rich__(self) -> RenderableType:
        from shardedstore.display import suggestion as view

        return view.suggestion_to_rich(self)

    def _repr_html_(self) -> str:
        from shardedstore.display import suggestion as view

        return view.suggestion_to_html(self)


def _row(one: ArraySuggestion) -> dict[str, Any]:
    row = {name: getattr(one, name) for name in ("path", "rule", "shape", "shards", "files", "nbytes", "reason")}
    for number in range(len(one.costs)):
        end = f"_{number + 1}" if number else ""
        for kind, costs in (("", one.costs), ("_by_size", one.by_size), ("_now", one.now)):
            if (cost := costs[number]) is not None:
                row |= {
                    f"read_files{kind}{end}": cost.files,
                    f"requests{kind}{end}": cost.requests,
                    f"read_nbytes{kind}{end}": cost.nbytes,
                }
    return row


def suggest_shards(nodes: Mapping[str, Node], target: str, size: str | int, access: Accesses | None) -> Suggestion:
    """Return a suggestion for the arrays of a hierarchy.

    Raises
    ------
    PartitionError
        If an argument is not valid, or if the hierarchy is a collection, whose shards are its members.
    """
    if target not in get_args(SuggestTarget):
        raise PartitionError(f"target={target!r} is not known: say 'zip' or 'sharding'")
    limit = None if isinstance(size, bool) else parse_size(size)
    if not limit or limit < 0:
        raise PartitionError(f"size={size!r} is not a size: write it like '512 MiB'")
    if any(node.is_sample for node in nodes.values()):
        raise PartitionError(
            "the store is a collection, and each of its members is a shard: ToZip(..., per_zip=1000) packs many into one zip"
        )
    arrays = {path: node for path, node in nodes.items() if isinstance(node.meta, ArrayMeta)}
    names = (name for node in arrays.values() for name in getattr(node.meta, "dimension_names", None) or ())
    patterns = parse_accesses(access, names)
    found = (_suggest(path, node, target, limit, patterns) for path, node in arrays.items())
    return Suggestion(target, size, tuple(patterns), tuple(found))  # type: ignore[arg-type]


def _suggest(
    path: str, node: Node, target: str, size: int, patterns: Sequence[Mapping[str, Extent]]
) -> ArraySuggestion:
    meta = node.meta
    assert isinstance(meta, ArrayMeta)
    if reason := _kept_whole(meta, target, size):
        return ArraySuggestion(
            path=path, rule=BASE, shape=meta.shape, shards=0, files=meta.chunk_count, nbytes=meta.nbytes, reason=reason
        )
    assert meta.chunks is not None
    windows = [window(pattern, meta) for pattern in patterns]
    asked = [one for one in windows if one is not None]
    chunks = _leading(meta, size) if not asked else _grown(meta, size, asked)
    shape = tuple(min(n * c, s) for n, c, s in zip(chunks, meta.chunks, meta.shape, strict=True))
    units, stored = Units(meta.shape, *_inner(path, node, meta), ENTRY_NBYTES[target]), meta.chunks
    leading = tuple(n * c for n, c in zip(_leading(meta, size), meta.chunks, strict=True))
    made = ArraySuggestion(
        path=path,
        rule=_rule(meta, shape),
        shape=shape,
        shards=touched(meta.shape, shape, meta.shape),
        files=meta.chunk_count,
        nbytes=math.prod(chunks) * meta.chunk_nbytes if shape != meta.shape else meta.nbytes,
        reason="",
        costs=_costs(windows, lambda one: cost_of_read(one, shape, units)),
        by_size=_costs(windows, lambda one: cost_of_read(one, leading, units)),
        now=_costs(windows, lambda one: cost_of_chunk_files(one, stored, units)),
    )
    wanted = [None if one is None else math.prod(one) * meta.itemsize for one in windows]
    parts = (
        _about_reads(made, patterns),
        _about_chunks(made, wanted, patterns),
        _about_size(meta, size),
        _about_growth(made, meta),
    )
    return msgspec.structs.replace(made, reason="; ".join(filter(None, parts)))


def _costs(windows: Sequence[Coords | None], cost: Callable[[Coords], AccessCost]) -> tuple[AccessCost | None, ...]:
    return tuple(None if one is None else cost(one) for one in windows)


def _kept_whole(meta: ArrayMeta, target: str, size: int) -> str:
    """Return the reason to keep an array in the base; empty to make shards of it."""
    if meta.chunks is None or meta.keys is None:
        return "its chunk grid or its chunk keys can't be divided"
    if not meta.shape or not all(meta.shape):
        return "it has no chunks to divide" if meta.shape else "it is a scalar"
    if meta.chunk_count == 1:
        return "it is one chunk"
    if target == "zip" and meta.nbytes <= size:
        return f"its {format_bytes(meta.nbytes)} are less than the size of a shard, so it is not divided"
    return ""


def _leading(meta: ArrayMeta, size: int) -> Coords:
    """Return the chunks of a shard along each dimension, if the leading dimensions are divided first."""
    blocks = automatic(meta, size)
    grid = meta.chunk_grid
    return grid if blocks is None else (*blocks.chunks, *grid[len(blocks.chunks) :])


def _grown(meta: ArrayMeta, size: int, windows: Sequence[Coords]) -> Coords:
    """Return the chunks of a shard along each dimension, so that reads of all windows open few files.

    A shard grows from one chunk. In each round it doubles along the dimension that saves the most files; equal savings go
    to the last dimension, so that a shard is one run of chunks in C order.
    """
    grid, most = meta.chunk_grid, max(1, size // max(1, meta.chunk_nbytes))
    needed = [
        tuple(min(-(-w // c), n) for w, c, n in zip(one, meta.chunks or (), grid, strict=True)) for one in windows
    ]

    def files(chunks: Coords) -> float:
        return sum(touched(one, chunks, grid) / touched(one, (1,) * len(grid), grid) for one in needed)

    chunks = (1,) * len(grid)
    while larger := [wider for wider in _wider(chunks, grid) if math.prod(wider) <= most]:
        chunks = min(larger, key=files)
    for axis in reversed(range(len(grid))):  # use the rest of the size
        room = most * chunks[axis] // math.prod(chunks)
        chunks = _with(chunks, axis, min(grid[axis], max(chunks[axis], room)))
    return tuple(-(-n // -(-n // c)) for n, c in zip(grid, chunks, strict=True))  # shards of almost equal sizes


def _wider(chunks: Coords, grid: Coords) -> Iterator[Coords]:
    for axis in reversed(range(len(grid))):
        if chunks[axis] < grid[axis]:
            yield _with(chunks, axis, min(grid[axis], 2 * chunks[axis]))


def _with(chunks: Coords, axis: int, number: int) -> Coords:
    return (*chunks[:axis], number, *chunks[axis + 1 :])


def _inner(path: str, node: Node, meta: ArrayMeta) -> tuple[Coords, int]:
    """Return the shape and the decoded size of the chunks that a reader decodes."""
    assert meta.chunks is not None
    with suppress(ShardedStoreError):  # unknown codecs are no reason to suggest nothing
        name = "zarr.json" if meta.zarr_format == 3 else ".zarray"
        chunks = parse_array_document(parse_json(node.documents[name], path, name), path).chunks
        return chunks, math.prod(chunks) * meta.itemsize
    return meta.chunks, meta.chunk_nbytes


def _rule(meta: ArrayMeta, shape: Coords) -> Rule:
    """Return the rule of a shape: by names of dimensions if all have different ones."""
    sizes = [-1 if size == whole else size for size, whole in zip(shape, meta.shape, strict=True)]
    names = meta.dimension_names or ()
    if None in names or len(set(names)) < len(sizes) or all(size == -1 for size in sizes):
        return tuple(sizes)
    return {str(name): size for name, size in zip(names, sizes, strict=True) if size != -1}


def _about_reads(made: ArraySuggestion, patterns: Sequence[Mapping[str, Extent]]) -> str:
    told = [
        f"{access_text(pattern)} opens {cost.files:,} of {count(made.shards, 'shard')}{_instead(cost, other)}"
        for pattern, cost, other in zip(patterns, made.costs, made.by_size, strict=True)
        if cost is not None and other is not None
    ]
    if told:
        return "; ".join(told)
    if made.shards == 1:
        return f"one object for its {made.files:,} chunks"
    lacks = "it lacks the dimensions of the access, so it is " if patterns else ""
    return f"{lacks}divided along its first dimensions, so that a shard is one run of chunks"


def _instead(cost: AccessCost, other: AccessCost) -> str:
    return f", not {other.files:,} as by size alone" if other.files != cost.files else ""


def _about_chunks(made: ArraySuggestion, wanted: Sequence[int | None], patterns: Sequence[Mapping[str, Extent]]) -> str:
    """Return a remark about reads that decode far more than they need. Only other chunks can change this."""
    return "; ".join(
        f"{access_text(pattern)} decodes {format_bytes(cost.nbytes)} for {format_bytes(nbytes)}, because of its chunks"
        for pattern, cost, nbytes in zip(patterns, made.costs, wanted, strict=True)
        if cost is not None and nbytes is not None and cost.nbytes > WASTE * nbytes and cost.nbytes > LARGE
    )


def _about_size(meta: ArrayMeta, size: int) -> str:
    if meta.chunk_nbytes > size:
        return f"one chunk has {format_bytes(meta.chunk_nbytes)}, more than the size"
    return ""


def _about_growth(made: ArraySuggestion, meta: ArrayMeta) -> str:
    """Return a remark if elements that are appended along the first dimension change all shards."""
    if made.shape[0] < meta.shape[0] or made.shards == 1:
        return ""
    name = (meta.dimension_names or (None,))[0] or "its first dimension"
    return f"data that are appended along {name} change all shards"
