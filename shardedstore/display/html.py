"""Building blocks of HTML views, readable in light and in dark, without scripts and style sheets.

Every function returns `Html`, and escapes all other text. Colours come from the page around a view, so that a notebook's
theme applies. `html_page` makes a file of its own, which follows the theme of the browser.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape, unescape
from itertools import islice

MOST_OPEN = 12  # rows that are visible at first; the others are folded
MOST_SHOWN = 200  # rows of a table, with the folded rows
WIDTH = "60em"
LINE = "rgba(128,128,128,.35)"
FAINT = "rgba(128,128,128,.18)"
BLUE, ORANGE, GREEN, RED, GREY = "#4a86d8", "#dd8a3a", "#3c9f6d", "#d9534f", "#8c8c8c"  # on white and on black
CODE = "font-family:var(--jp-code-font-family,ui-monospace,monospace);overflow-wrap:anywhere"
SUMMARY = "cursor:pointer"
SHORT = 24  # characters; columns with longer texts share the width that other columns leave
LEAST = 30  # characters, which a column of longer texts has at least
NAME = 44  # characters, which a first column of longer texts has at least: in a narrow window, all of the line
BLOCK = "display:block;width:100%;margin:0;color:inherit;font-size:inherit;border:0"
TABLE = f"{BLOCK};margin:.2em 0;overflow-wrap:anywhere"
ROW = "display:flex;flex-wrap:wrap;column-gap:1em"
CELL = "padding:1px 0;min-width:0"
PAGE = (
    ":root{color-scheme:light dark}body{margin:1.5em auto;padding:0 1em;max-width:75em;"
    "font:15px/1.5 system-ui,sans-serif;background:light-dark(#fff,#15171a);color:light-dark(#1c1e21,#e4e6e9)}"
    "a{color:inherit}"
)


class Html(str):
    """Markup, which is not escaped again."""

    __slots__ = ()


def html_text(*parts: str) -> Html:
    """Join text and markup; the text is escaped.

    >>> html_text("<b> ", html_muted("of 3"))
    '&lt;b&gt; <span style="opacity:.7">of 3</span>'
    """
    return Html("".join(part if isinstance(part, Html) else escape(part) for part in parts))


def html_muted(text: str) -> Html:
    """Return text of less weight, such as a remark."""
    return Html(f'<span style="opacity:.7">{html_text(text)}</span>')


def html_code(text: str) -> Html:
    """Return a path, a URL or a name in the font of code."""
    return Html(f'<span style="{CODE}">{html_text(text)}</span>')


def html_lines(text: str) -> Html:
    """Return a text of several lines, such as a traceback."""
    style = f"{CODE};white-space:pre-wrap;margin:.3em 0;padding:.4em .6em;background:{FAINT};font-size:.9em"
    return Html(f'<pre style="{style}">{html_text(text)}</pre>')


def html_list(items: Iterable[str]) -> Html:
    """Return a list with one item in a line; empty without items."""
    found = "".join(f"<li>{html_text(item)}</li>" for item in items)
    return Html(f'<ul style="margin:.3em 0 .3em 1.2em;padding:0">{found}</ul>' if found else "")


def html_fold(head: str, *body: str, is_open: bool = False) -> Html:
    """Return parts below a head that opens and closes them."""
    state = " open" if is_open else ""
    return Html(
        f'<details{state} style="margin:.2em 0"><summary style="{SUMMARY}">{html_text(head)}</summary>{html_text(*body)}</details>'
    )


def html_bar(share: float, text: str = "", color: str = BLUE) -> Html:
    """Return a horizontal bar for a share from 0 to 1, with a text behind it.

    >>> "width:25.0%" in html_bar(0.25, "5 of 20")
    True
    """
    width = 100 * min(1.0, max(0.0, share))
    bar = (
        f'<span style="display:inline-block;width:6em;height:.7em;background:{FAINT};border-radius:2px;overflow:hidden">'
        f'<span style="display:block;width:{width:.1f}%;height:100%;background:{color}"></span></span>'
    )
    return Html(f'<span style="white-space:nowrap">{bar} {html_text(text)}</span>')


def html_table(
    heads: Sequence[str],
    rows: Iterable[Sequence[str]],
    total: int,
    most_open: int = MOST_OPEN,
    widths: Mapping[str, int] | None = None,
) -> Html:
    """Return a table; of many rows some are folded, and of very many rows only the first are shown.

    In a narrow window, the last cells of each row stand in a line of their own, below each other in all rows.

    Parameters
    ----------
    heads : sequence of str
        The names of the columns, as for `terminal_table`: a name that starts with ``>`` aligns its column to the right.
    rows : iterable of sequences of str
        The cells: text, or `Html`.
    total : int
        The number of rows.
    most_open : int
        The number of rows that are visible at first.
    widths : mapping of str to int, optional
        The widths of columns of pictures, in characters.

    Examples
    --------
    >>> table = html_table(("path", ">bytes"), [("<t>", "12"), (html_code("t2m"), "7")], 2)
    >>> "&lt;t&gt;" in table, table.count("<tr ")
    (True, 3)
    """
    found = list(islice(rows, MOST_SHOWN))
    styles = _styles(heads, found, widths or {})
    folded = "".join(_row(styles, row) for row in found[most_open:])
    more = total - len(found)
    if more > 0:
        folded += f'<tr style="{ROW}"><td style="{CELL};opacity:.7">... and {more:,} more</td></tr>'
    rest = html_fold(f"{total - most_open:,} more", _table("", folded)) if folded else ""
    names = [Html(f"<strong>{html_text(name.removeprefix('>'))}</strong>") for name in heads]
    head = _row(styles, names, "th") if any(heads) else ""
    return Html(
        f'<div style="overflow-x:auto">{_table(head, "".join(_row(styles, row) for row in found[:most_open]))}{rest}</div>'
    )


def _table(head: str, body: str) -> Html:
    heads = f'<thead style="{BLOCK}">{head}</thead>' if head else ""
    return Html(f'<table style="{TABLE}">{heads}<tbody style="{BLOCK}">{body}</tbody></table>')


def _row(styles: Sequence[str], cells: Sequence[str], tag: str = "td") -> str:
    line, weight = (
        ("", ";font-weight:normal") if tag == "th" else (f";border-top:1px solid {FAINT}", "")
    )  # a bold `ch` is wider
    found = (
        f'<{tag} style="{CELL};{style}{weight}">{html_text(cell)}</{tag}>'
        for cell, style in zip(cells, styles, strict=False)
    )
    return f'<tr style="{ROW}{line}">{"".join(found)}</tr>'


def _styles(heads: Sequence[str], rows: Sequence[Sequence[str]], widths: Mapping[str, int]) -> list[str]:
    """Return the style of the cells of each column, which have one width in all rows."""
    longest = [
        max([len(head.removeprefix(">")) + 1, *(_length(row[i]) for row in rows)]) for i, head in enumerate(heads)
    ]
    lengths = (widths.get(head, length) for head, length in zip(heads, longest, strict=True))
    return [
        _style(head, length, LEAST if i else NAME) for i, (head, length) in enumerate(zip(heads, lengths, strict=True))
    ]


def _style(head: str, length: int, least: int) -> str:
    if head.startswith(">"):
        return f"flex:0 1 {length}ch;text-align:right"
    room = f"0 1 {length}ch" if length <= SHORT else f"{min(length, 4 * LEAST)} 1 {min(length, least)}ch"
    return f"flex:{room};text-align:left"


def _length(cell: str) -> int:
    """Return the length of the longest visible line of a cell."""
    if not isinstance(cell, Html):
        return len(cell)
    return max(len(unescape(re.sub("<[^>]*>", "", line))) for line in cell.split("<br>"))


def html_section(title: str, *body: str) -> Html:
    """Return parts below a small title; empty without parts."""
    whole = html_text(*body)
    return Html(f'<div style="margin-top:.8em"><strong>{html_text(title)}</strong>{whole}</div>' if whole else "")


def html_frame(title: str, facts: Iterable[str], *body: str, width: str = WIDTH) -> Html:
    """Return a view: a title, facts with one in a line, and the parts below a rule.

    >>> print(html_frame("JobPlan of ToZip", ["21 shards"], html_list(["a < b"])))
    <div style="max-width:60em;line-height:1.5">...<strong>JobPlan of ToZip</strong>...<li>a &lt; b</li></ul></div>
    """
    known = "".join(f'<div style="opacity:.7;overflow-wrap:anywhere">{html_text(fact)}</div>' for fact in facts)
    head = f'<div style="padding-bottom:.3em;margin-bottom:.3em;border-bottom:1px solid {LINE}"><strong>{html_text(title)}</strong>{known}</div>'
    return Html(f'<div style="max-width:{width};line-height:1.5">{head}{html_text(*body)}</div>')


def html_page(title: str, *body: str) -> Html:
    """Return a whole document, which loads nothing and follows the theme of the browser."""
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1"><title>{html_text(title)}</title>'
    return Html(
        f'<!DOCTYPE html>\n<html lang="en"><head>{head}<style>{PAGE}</style></head><body>{html_text(*body)}</body></html>\n'
    )
