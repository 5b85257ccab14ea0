"""Show the groups and arrays of a store, and its division into shards, as a tree; for a terminal and for a notebook."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count as numbers
from typing import TYPE_CHECKING, NamedTuple

from dask.utils import format_bytes

from shardedstore.display.chunk_picture import chunk_picture
from shardedstore.display.describe import kinds_of
from shardedstore.display.html import (
    BLUE,
    LINE,
    ORANGE,
    Html,
    html_code,
    html_fold,
    html_frame,
    html_list,
    html_muted,
    html_table,
    html_text,
)
from shardedstore.display.tables import aligned, terminal_table
from shardedstore.jobs.stored_nodes import StoredArray, StoredGroup
from shardedstore.text import count, shown

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from shardedstore.jobs.estimates.amounts import Amount
    from shardedstore.jobs.store_info import StoreInfo

FEW = 9  # rows below one row of a repr, of two lines each, so that it fits a screen
OPEN = 12  # rows that are visible at first in a notebook
MOST_ROWS = 120  # with the folded rows
MOST_PICTURES = 24
DEEPEST = 8
MOST_HOLES = 8  # holes that are named
WIDTH = "70em"
HEADS = (
    "path",
    "type\ncodec",
    ">shape\nchunk",
    ">decoded\nchunks",
    "shards",
)  # of two lines, so that they fit a terminal
ROW = "display:inline-flex;flex-wrap:wrap;column-gap:1em;width:calc(100% - 1.5em);vertical-align:top"
LEAF = "padding:1px 0 1px 1.05em"
BELOW = f"margin-left:.35em;padding-left:.9em;border-left:1px solid {LINE}"
INSIDE = "display:flex;flex-wrap:wrap;column-gap:2em;align-items:center;padding:.2em 0 .5em 1.1em"
WIDTHS = (("1 4.5em", "left"), ("1 6em", "left"), ("1 11em", "left"), ("0 5.5em", "right"), ("1 6em", "left"))


class Branch(NamedTuple):
    """A name in the tree, its group or array, and the branches below it; a path without a node has none."""

    name: str
    node: StoredGroup | StoredArray | None
    below: dict[str, Branch]

    @property
    def size(self) -> int:
        """The number of rows below it."""
        return sum(1 + branch.size for branch in self.below.values())


def info_to_text(info: StoreInfo, most: int | None = FEW) -> str:
    """Return a tree with two lines for each array; `most` limits the rows below one row."""
    root = _tree(info)
    kept = root.size if most is None or root.size <= OPEN else most
    rows = list(_rows(root, "  ", kept, DEEPEST))
    heads = iter(aligned([head for head, _ in rows]))
    lines = [line for head, (_, more) in zip(heads, rows, strict=True) for line in (head, *([more] if more else []))]
    return "\n".join([info.name, *(f"  {fact}" for fact in _facts(info)), *lines, *_notes(info)])


def _notes(info: StoreInfo) -> list[str]:
    return [f"  note: {notice}" for notice in info.notices]


def _tree(info: StoreInfo) -> Branch:
    root = Branch("/", None, {})
    for node in info.nodes:
        branch = root
        for name in node.path.split("/") if node.path else ():
            branch = branch.below.setdefault(name, Branch(name, None, {}))
        if node.path:
            _parent(root, node.path).below[branch.name] = branch._replace(node=node)
        else:
            root = Branch("/", node, {})
    return root


def _parent(root: Branch, path: str) -> Branch:
    for name in path.split("/")[:-1]:
        root = root.below[name]
    return root


def _rows(root: Branch, indent: str, most: int, deepest: int) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield the cells of a row, and the second line of an array."""
    if isinstance(root.node, StoredArray) and not root.below and root.name == "/":
        yield _array_row("/", root.node, indent)
        return
    found = list(root.below.values())
    kept = found[: most if deepest else 0]
    share = _share(root, most, kept)
    for branch in kept:
        if isinstance(branch.node, StoredArray):
            yield _array_row(shown(branch.name, 40), branch.node, indent)
        else:
            yield (f"{indent}{shown(branch.name, 40)}/", "", "", _group_division(branch.node)), ""
        yield from _rows(branch, f"{indent}  ", share, deepest - 1)
    if len(found) > len(kept):
        yield (f"{indent}... and {_others(found[len(kept) :])}",), ""


def _share(root: Branch, most: int, kept: Sequence[Branch]) -> int:
    """Return the most rows below each of the shown branches."""
    return most if root.size <= most else max(1, most // max(1, len(kept)))


def _array_row(name: str, array: StoredArray, indent: str) -> tuple[tuple[str, ...], str]:
    head = (f"{indent}{name}", _by(array.shape), format_bytes(array.nbytes), _division(array))
    return head, f"{indent}    {', '.join(_inner(array))}"


def _inner(array: StoredArray) -> Iterator[str]:
    yield array.dtype
    if array.shard_shape is not None:
        yield f"shards of {_by(array.shard_shape)}"
    yield f"{_files(array.files)}{_stored(array)} of {_chunk(array)}"
    yield _codecs(array)


def _chunk(array: StoredArray) -> str:
    return "unknown shape" if array.chunks is None else _by(array.chunks)


def _codecs(array: StoredArray) -> str:
    return "not compressed" if array.codecs == "none" else array.codecs


def _stored(array: StoredArray) -> str:
    return "" if array.stored is None else f" ({format_bytes(array.stored.value)})"


def _by(lengths: Sequence[int] | None) -> str:
    return " x ".join(f"{length:,}" for length in lengths or ()) or "scalar"


def _files(amount: Amount) -> str:
    return f"{'' if amount.basis == 'exact' else 'at most '}{count(amount.value, 'chunk')}"


def _division(node: StoredArray | StoredGroup) -> str:
    """Return the shards of a group or array in words."""
    sample = ", for example" if node.is_sample else ""
    if node.shards:
        return count(node.shards, "shard") + sample
    mount = node.mount if isinstance(node, StoredArray) else None
    if mount is None:
        return f"in the base{sample}" if isinstance(node, StoredArray) else sample.removeprefix(", ")
    return f"in shard /{shown(mount, 20)}{sample}"


def _group_division(node: StoredGroup | StoredArray | None) -> str:
    return "" if node is None else _division(node)


def _group(node: StoredGroup) -> str:
    marks = ((node.is_implicit, "without a document"), (node.is_consolidated, "consolidated"))
    return ", ".join([f"group, v{node.zarr_format}", *(text for is_so, text in marks if is_so)])


def _others(branches: Sequence[Branch]) -> str:
    arrays = sum(_count(branch, StoredArray) for branch in branches)
    groups = sum(_count(branch, StoredGroup) for branch in branches)
    return " and ".join([*([f"{count(groups, 'group')}"] if groups else []), f"{count(arrays, 'array')} more"])


def _count(branch: Branch, kind: type) -> int:
    return isinstance(branch.node, kind) + sum(_count(one, kind) for one in branch.below.values())


def _facts(info: StoreInfo) -> Iterator[str]:
    groups = len(info.nodes) - len(info.arrays)
    inside = f" in {count(groups, 'group')}" if groups else ""
    stored = "" if info.stored is None else f", {format_bytes(info.stored.value)} stored"
    files = f"{'' if info.files.basis == 'exact' else 'at most '}{count(info.files.value, 'file')}"
    yield f"{count(len(info.arrays), 'array')}{inside}: {format_bytes(info.nbytes)} decoded{stored}; {files}"
    if info.is_consolidated:
        yield "with consolidated metadata"
    if info.holes:
        more = len(info.holes) - MOST_HOLES
        names = ", ".join(info.holes[:MOST_HOLES]) + (f" and {more:,} more" if more > 0 else "")
        yield f"{count(len(info.holes), 'hole')}: {shown(names, 200)}"


def info_to_rich(info: StoreInfo) -> RenderableType:
    """Return a store for a terminal: its facts, and a table of its groups and arrays."""
    from rich.console import Group
    from rich.text import Text

    facts = [Text(f"  {fact}") for fact in _facts(info)]
    notes = (Text(one, style="yellow") for one in _notes(info))
    return Group(Text(info.name, style="bold"), *facts, info_table(info), *notes)


def info_table(info: StoreInfo) -> Table:
    """Return a table of groups and arrays for a terminal."""
    return terminal_table(HEADS, (_cells(info, node) for node in info.nodes), len(info.nodes))


def _cells(info: StoreInfo, node: StoredGroup | StoredArray) -> tuple[str, ...]:
    name = f"{'  ' * node.path.count('/')}{node.path.rpartition('/')[2]}" if node.path else "/"
    sample = ", for example" if node.is_sample else ""
    if isinstance(node, StoredGroup):
        return name, f"{_group(node)}{sample}", "", "", _kinds(info, node)
    files = f"{'' if node.files.basis == 'exact' else '<= '}{node.files.value:,}"
    of = "" if node.shard_shape is None else f"\neach {_by(node.shard_shape)}"
    return (
        name,
        f"{node.dtype}{sample}\n{_codecs(node)}",
        f"{_by(node.shape)}\n{_chunk(node)}",
        f"{format_bytes(node.nbytes)}\n{files}",
        f"{_kinds(info, node)}{of}",
    )


def _kinds(info: StoreInfo, node: StoredGroup | StoredArray) -> str:
    """Return the number and the kinds of the shards of a node; empty if it is a part of another shard."""
    mount = info.config.shards.get(node.path)
    return "" if mount is None else kinds_of(mount)


def info_lines(info: StoreInfo) -> Iterator[str]:
    """Yield a line for each group and array, for files and pipes."""
    for node in info.nodes:
        kinds = _kinds(info, node)
        end = (f", {kinds}" if kinds else "") + (", for example" if node.is_sample else "")
        if isinstance(node, StoredGroup):
            yield f"  /{node.path}  {_group(node)}{end}"
        else:
            chunks = f"chunks {'unknown' if node.chunks is None else node.chunks}"
            files = _files(node.files) + _stored(node)
            sizes = f"array {node.shape}, {chunks}, {format_bytes(node.nbytes)}{end}"
            yield f"  /{node.path}  {sizes}; {node.dtype}, {_codecs(node)}, {files}"


def info_to_html(info: StoreInfo) -> Html:
    """Return a tree for a notebook; arrays fold out to a table and a picture of their chunks and shards."""
    root, pictures = _tree(info), numbers()
    body = _level(root, MOST_ROWS, DEEPEST, root.size <= OPEN, pictures)
    if isinstance(root.node, StoredArray) and not root.below:
        body = _html_array("/", root.node, pictures, is_open=True)
    notes = html_list(f"note: {notice}" for notice in info.notices)
    return html_frame(info.name.strip("<>"), _facts(info), body, notes, width=WIDTH)


def _level(root: Branch, most: int, deepest: int, is_open: bool, pictures: Iterator[int]) -> Html:
    """Return the rows below a branch: the first are visible, others are folded, and the rest is counted."""
    found = list(root.below.values())
    kept = found[: most if deepest else 0]
    share = _share(root, most, kept)
    rows = [_html_row(branch, share, deepest, is_open, pictures) for branch in kept]
    folded = [*rows[OPEN:]]
    if len(found) > len(kept):
        folded.append(Html(f'<div style="{LEAF}">{html_muted(f"... and {_others(found[len(kept) :])}")}</div>'))
    if len(found) > OPEN and folded:
        folded = [html_fold(_others(found[OPEN:]), *folded)]
    return html_text(*rows[:OPEN], *folded)


def _html_row(branch: Branch, most: int, deepest: int, is_open: bool, pictures: Iterator[int]) -> Html:
    if isinstance(branch.node, StoredArray) and not branch.below:
        return _html_array(branch.name, branch.node, pictures)
    inside = f"{_others(list(branch.below.values())).removesuffix(' more')}" if branch.below else ""
    remark = ", ".join(filter(None, [inside, _group_division(branch.node)]))
    head = html_text(html_code(f"{shown(branch.name, 60)}/"), " ", html_muted(remark))
    below = _level(branch, most, deepest - 1, is_open, pictures)
    if not below:
        return Html(f'<div style="{LEAF}">{head}</div>')
    return _fold(head, Html(f'<div style="{BELOW}">{below}</div>'), is_open=is_open)


def _fold(head: str, body: str, *, is_open: bool = False) -> Html:
    state = " open" if is_open else ""
    return Html(f'<details{state}><summary style="cursor:pointer">{head}</summary>{body}</details>')


def _html_array(name: str, array: StoredArray, pictures: Iterator[int], *, is_open: bool = False) -> Html:
    texts = array.dtype, _codecs(array), _by(array.shape), format_bytes(array.nbytes), _division(array)
    cells = "".join(
        f'<span style="flex:0 {width};text-align:{side};overflow-wrap:anywhere">{html_text(text)}</span>'
        for text, (width, side) in zip(texts, WIDTHS, strict=True)
    )
    row = f'<span style="{ROW}"><span style="flex:1 1 12em">{html_code(shown(name, 60))}</span>{cells}</span>'
    return _fold(row, Html(f'<div style="{INSIDE}">{"".join(_inside(array, pictures))}</div>'), is_open=is_open)


def _inside(array: StoredArray, pictures: Iterator[int]) -> Iterator[str]:
    """Yield the table and the picture of an array; without a picture, its facts in a line."""
    if next(pictures) < MOST_PICTURES:
        picture = chunk_picture(array.shape, array.chunks, array.shard_shape, array.dims)
        yield f'<div style="flex:0 1 34em">{html_table(_heads(array), _sizes(array), 3)}{html_muted(_words(array))}</div>'
        legend = (_mark(BLUE, "first shard") if array.shard_shape is not None else "") + _mark(ORANGE, "first chunk")
        yield f'<div>{picture}<div style="font-size:.85em">{legend}</div></div>' if picture else ""
    else:
        yield html_muted(", ".join(_inner(array)))


def _mark(color: str, text: str) -> str:
    return html_text(Html(f'<span style="color:{color}">&#9632;</span> '), html_muted(text), " ")


def _words(array: StoredArray) -> str:
    dims = "" if array.dims is None else f"({', '.join(name or '?' for name in array.dims)}), "
    return f"{dims}{array.dtype}, {_codecs(array)}, Zarr v{array.zarr_format}"


def _heads(array: StoredArray) -> tuple[str, ...]:
    return ("", ">array", *([">shard"] if array.shard_shape is not None else []), ">chunk")


def _sizes(array: StoredArray) -> Iterator[tuple[str, ...]]:
    """Yield the rows of the table of an array, in the manner of Dask."""
    is_divided = array.shard_shape is not None
    stored = "" if array.stored is None else f", {format_bytes(array.stored.value)} stored"
    yield _row(is_divided, "decoded", *map(format_bytes, (array.nbytes, array.shard_nbytes, array.chunk_nbytes)))
    yield _row(is_divided, "shape", _by(array.shape), _by(array.shard_shape or array.shape), _chunk(array))
    yield _row(
        is_divided,
        "count",
        "1",
        f"{array.shards:,}",
        _files(array.files).removesuffix("s").removesuffix(" chunk") + stored,
    )


def _row(is_divided: bool, name: str, array: str, shard: str, chunk: str) -> tuple[str, ...]:
    return (html_muted(name), array, shard, chunk) if is_divided else (html_muted(name), array, chunk)
