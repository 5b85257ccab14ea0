"""Show the tree of a sharded store's shards, from its config only; no data or metadata is read.

`to_text` draws the tree for a terminal, and `to_html` for a notebook.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import islice
from typing import NamedTuple

from dask.utils import format_bytes

from shardedstore.display.html import LINE, Html, html_fold
from shardedstore.display.partial import partial_lines, partial_table
from shardedstore.display.shards import BASE_NAME, grid_of
from shardedstore.display.tables import aligned
from shardedstore.jobs.partial_state import Partial
from shardedstore.jobs.summary import Summary
from shardedstore.stores.locations import Config, Location, Mount, url_of
from shardedstore.text import count, shown
from shardedstore.zarr.grid import block_name

MOST = 24  # rows that are shown below one row; their own rows share the same number
MOST_HTML = 120  # in a notebook, with the folded rows

MOST_LOOKED_AT = 1000  # exceptions whose kinds are counted

DEEPEST = 8

MOST_HOLES = 8  # holes that are named

WORDS = {
    "directory": ("directory", "directories"),
    "sharded": ("sharded store", "sharded stores"),
    "squeezed": ("squeezed block", "squeezed blocks"),
}


class Row(NamedTuple):
    """One path in the tree: the kinds, number and place of its shards, and the rows below it.

    `more` is the number of rows below that are not shown. A group that is not a shard has only a name, and the number of the
    paths of shards below it.
    """

    name: str
    kinds: str = ""
    place: str = ""
    below: tuple[Row, ...] = ()
    more: int = 0
    paths: int = 0


def describe(config: Config, most: int = MOST) -> Row:
    """Return the tree of a store's shards: one row for the base, and one for each mount."""
    return _whole(config, base_folder(config), most, DEEPEST)


def base_folder(config: Config) -> str:
    """Return the folder of the base; places are shown relative to it. Empty if there is none."""
    folder = (url_of(config.base) or "").rpartition("/")[0]
    return "" if folder.endswith((":", ":/")) else folder


def _whole(config: Config, folder: str, most: int, deepest: int) -> Row:
    base = Mount(config.base)
    below, more = _level(config.shards, list(config.shards), 0, folder, most, deepest)
    return Row("", below=(_row(BASE_NAME, base, folder, most, deepest), *below), more=more)


def _level(
    mounts: Mapping[str, Mount], paths: Sequence[str], start: int, folder: str, most: int, deepest: int
) -> tuple[list[Row], int]:
    """Return the rows of some paths with a common start, and the number of names that are not shown."""
    names: dict[str, list[str]] = {}
    for path in paths:
        end = path.find("/", start)
        names.setdefault(path[start:] if end < 0 else path[start:end], []).append(path)
    shown_names = list(islice(names.items(), most if deepest else 0))
    total, left = max(1, sum(len(some) for _, some in shown_names)), most - len(shown_names)
    rows: list[Row] = []
    for name, some in shown_names:
        path, share = some[0][: start + len(name)], max(1, left * len(some) // total)
        if path in mounts:  # nothing else is mounted below it
            rows.append(_row(name, mounts[path], folder, share, deepest))
        else:
            below, more = _level(mounts, some, start + len(name) + 1, folder, share, deepest - 1)
            rows.append(Row(shown(name), below=tuple(below), more=more, paths=len(some)))
    return rows, len(names) - len(rows)


def _row(name: str, mount: Mount, folder: str, most: int, deepest: int) -> Row:
    row = Row(shown(name or "/"), kinds_of(mount), _place(mount, folder))
    if isinstance(mount.location, Config) and mount.division is None:
        inner = _whole(mount.location, folder, most, deepest - 1)
        return row._replace(below=inner.below if deepest else (), more=inner.more)
    return row


def kinds_of(mount: Mount) -> str:
    """Return the kinds of the shards of a mount, and their numbers.

    >>> from shardedstore.zarr.grid import Blocks, ChunkKeys
    >>> from shardedstore.stores.locations import Directory, ViewOf, Zip
    >>> blocks = Blocks((4, 30), (1, 1), ChunkKeys("v2", "."))
    >>> views = {f"0/{i}": ViewOf(Directory("/in"), "t") for i in range(3)}
    >>> kinds_of(Mount(Zip("/t/{block}.zip"), blocks, views)), kinds_of(Mount(Zip("/t.zip")))
    ('117 zips and 3 views (4 x 30)', 'zip')
    """
    if mount.division is None:
        return _kind(mount.location, 1)
    others = len(mount.exceptions)
    kinds = Counter({mount.location.held.kind: mount.count - others})
    if others <= MOST_LOOKED_AT:
        kinds.update(location.held.kind for location in mount.exceptions.values())
    parts = [f"{number:,} {_words(kind, number)}" for kind, number in kinds.items() if number]
    parts += [f"{others:,} others"] if others > MOST_LOOKED_AT else []
    members = "" if mount.members is None or mount.members.together == 1 else f" of {len(mount.members.names):,} stores"
    grid = f" ({block_name(grid_of(mount)).replace('/', ' x ')})" if len(grid_of(mount)) > 1 else ""
    return " and ".join(parts) + members + grid


def _kind(location: Location, number: int) -> str:
    return _words(location.kind, number)


def _words(kind: str, number: int) -> str:
    one, many = WORDS.get(kind, (kind, f"{kind}s"))
    return one if number == 1 else many


def _place(mount: Mount, folder: str) -> str:
    location = mount.location
    if mount.exceptions and len(mount.exceptions) == mount.count:
        location = next(iter(mount.exceptions.values()))
    text = location.show_in(folder)
    return shown(text) if text else ""


def facts(config: Config, summary: Summary | None = None, partial: Partial | None = None) -> list[str]:
    """Return the other known facts about a store, one in a line, without reading anything."""
    folder = base_folder(config)
    return [
        *([f"in {shown(repr(folder))}"] if folder else []),
        *(["with consolidated metadata"] if config.consolidated is not None else []),
        *_holes(config),
        *(partial_lines(partial) if partial is not None else []),
        *([_done(summary)] if summary is not None else []),
    ]


def _holes(config: Config) -> list[str]:
    """Return a line about the holes, if there are any."""
    names = [hole.shard for hole in config.holes()]
    more = f" and {len(names) - MOST_HOLES:,} more" if len(names) > MOST_HOLES else ""
    return [f"{count(len(names), 'hole')}: {shown(', '.join(names[:MOST_HOLES]), 200)}{more}"] if names else []


def _done(summary: Summary) -> str:
    before = f", {summary.skipped:,} were done before" if summary.skipped else ""
    failed = f", {len(summary.failures):,} failed" if summary.failures else ""
    return f"{count(summary.done, 'shard')} done by the job{before}{failed}; {format_bytes(summary.nbytes)} written"


def to_text(head: str, config: Config, summary: Summary | None = None, partial: Partial | None = None) -> str:
    """Return the text of a store for a terminal, below a heading."""
    lines = aligned(_lines(describe(config), "  "))
    return "\n".join([head, *lines, *(f"  {fact}" for fact in facts(config, summary, partial))])


def _lines(row: Row, indent: str) -> Iterator[tuple[str, ...]]:
    for below in row.below:
        name = below.name if below.kinds else f"{below.name}/"
        yield (indent + name, below.kinds, below.place) if below.kinds else (indent + name,)
        yield from _lines(below, f"{indent}  ")
    if row.more:
        yield (f"{indent}... and {row.more:,} more",)


FEW = 6  # rows that are visible at first below the table of an unfinished job

MOST_OPEN = 12  # rows that are visible at first

NAME = 'style="flex:2 1 15em;font-family:var(--jp-code-font-family,monospace);overflow-wrap:anywhere"'

PLACE = 'style="flex:3 1 20em;font-family:var(--jp-code-font-family,monospace);font-size:.9em;opacity:.7;overflow-wrap:anywhere"'

ROW = 'style="display:inline-flex;flex-wrap:wrap;column-gap:1em;width:calc(100% - 2em);vertical-align:top"'

KINDS = 'style="flex:0 1 9em"'

LEAF = 'style="padding:1px 0 1px 1.05em"'

BELOW = f'style="margin-left:.35em;padding-left:.9em;border-left:1px solid {LINE}"'

HEAD = f'style="padding-bottom:.3em;margin-bottom:.3em;border-bottom:1px solid {LINE}"'


def to_html(title: str, config: Config, summary: Summary | None = None, partial: Partial | None = None) -> str:
    """Return the HTML of a store for a notebook. All text from data is escaped.

    >>> from shardedstore.stores.locations import Directory, Mount
    >>> page = to_html("ShardedStore", Config(Directory("/a.zarr"), {"<b>": Mount(Directory("/b.zarr"))}))
    >>> "&lt;b&gt;" in page, "<b>" in page
    (True, False)
    """
    number = count(sum(mount.count for mount in config.shards.values()), "shard")
    tree = describe(config, MOST_HTML)
    head = f'<strong>{escape(title)}</strong> <span style="opacity:.7">{number} at {count(len(config.shards), "path")}</span>'
    told = [] if partial is None else [str(partial)]
    shards = _below(tree)
    if partial is not None:
        place = html_fold("Places of the shards", Html(shards), is_open=len(tree.below) <= FEW)
        shards = f"{partial_table(partial)}{place}"
    lines = [*facts(config, summary), *told]
    known = "".join(f'<div style="opacity:.7;overflow-wrap:anywhere">{escape(fact)}</div>' for fact in lines)
    return f'<div style="max-width:70em;line-height:1.5"><div {HEAD}>{head}{known}</div>{shards}</div>'


def _below(row: Row) -> str:
    """Return the rows below a row: the first are visible, others are folded, and the rest is counted."""
    is_short = _size(row) <= MOST_OPEN
    rows = [_html_row(one, is_open=is_short) for one in row.below]
    more = f'<div {LEAF}><span style="opacity:.7">... and {row.more:,} more</span></div>' if row.more else ""
    if len(rows) <= MOST_OPEN:
        return "".join(rows) + more
    rest = html_fold(f"{len(rows) - MOST_OPEN + row.more:,} more", Html("".join(rows[MOST_OPEN:]) + more))
    return "".join(rows[:MOST_OPEN]) + rest


def _size(row: Row) -> int:
    return len(row.below) + sum(map(_size, row.below))


def _html_row(row: Row, *, is_open: bool) -> str:
    inside = count(row.paths, "path") if row.paths else ""
    cells = (
        f"<span {ROW}><span {NAME}>{escape(row.name)}</span>"
        f"<span {KINDS}>{escape(row.kinds or inside)}</span><span {PLACE}>{escape(row.place)}</span></span>"
    )
    if not row.below and not row.more:
        return f"<div {LEAF}>{cells}</div>"
    state = " open" if is_open else ""
    return (
        f'<details{state}><summary style="cursor:pointer">{cells}</summary><div {BELOW}>{_below(row)}</div></details>'
    )
