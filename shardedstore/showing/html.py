"""What a notebook shows of a sharded store: the tree of describe.py, with parts to fold.

Styles are inline and take the colours of what is around, so that it fits a light and a dark theme, and an exported page.
"""

from __future__ import annotations

from html import escape

from shardedstore.components.kinds import Config
from shardedstore.showing.describe import Done, Row, describe, facts
from shardedstore.showing.text import count
from shardedstore.tasks.outcome import Partial

MOST_OPEN = 12  # rows below one that are not folded at first
LINE = "rgba(128,128,128,.35)"
NAME = 'style="font-family:var(--jp-code-font-family,monospace);overflow-wrap:anywhere"'
PLACE = 'style="font-family:var(--jp-code-font-family,monospace);font-size:.9em;opacity:.7;overflow-wrap:anywhere"'
ROW = 'style="display:inline-grid;grid-template-columns:14em 15em 1fr;column-gap:1em;width:calc(100% - 2em);vertical-align:top"'
LEAF = 'style="padding:1px 0 1px 1.05em"'
BELOW = f'style="margin-left:.35em;padding-left:.9em;border-left:1px solid {LINE}"'
HEAD = f'style="padding-bottom:.3em;margin-bottom:.3em;border-bottom:1px solid {LINE}"'


def to_html(title: str, config: Config, summary: Done | None = None, partial: Partial | None = None) -> str:
    """Return what a notebook shows of a store. All that comes from data is escaped.

    >>> from shardedstore.components.kinds import Directory, Mount
    >>> page = to_html("ShardedStore", Config(Directory("/a.zarr"), {"<b>": Mount(Directory("/b.zarr"))}))
    >>> "&lt;b&gt;" in page, "<b>" in page
    (True, False)
    """
    shards = count(sum(mount.count for mount in config.shards.values()), "shard")
    tree = describe(config)
    head = f'<strong>{escape(title)}</strong> <span style="opacity:.7">{shards} at {count(len(config.shards), "path")}</span>'
    known = "".join(f'<div style="opacity:.7">{escape(fact)}</div>' for fact in facts(config, summary, partial))
    return f'<div style="max-width:70em;line-height:1.5"><div {HEAD}>{head}{known}</div>{_below(tree)}</div>'


def _below(row: Row) -> str:
    more = f'<div {LEAF}><span style="opacity:.7">... and {row.more:,} more</span></div>' if row.more else ""
    return "".join(map(_row, row.below)) + more


def _row(row: Row) -> str:
    cells = (
        f"<span {ROW}><span {NAME}>{escape(row.name)}</span>"
        f"<span>{escape(row.kinds)}</span><span {PLACE}>{escape(row.place)}</span></span>"
    )
    if not row.below and not row.more:
        return f"<div {LEAF}>{cells}</div>"
    state = " open" if len(row.below) <= MOST_OPEN else ""
    return (
        f'<details{state}><summary style="cursor:pointer">{cells}</summary><div {BELOW}>{_below(row)}</div></details>'
    )
