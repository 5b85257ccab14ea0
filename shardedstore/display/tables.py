"""Tables of rich: aligned lines for reprs, and tables that fit a terminal.

Rich is imported when a table is made, so that opening a result does not import it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice, zip_longest
from typing import TYPE_CHECKING, Any

from shardedstore.errors import UsageError

if TYPE_CHECKING:
    from rich.table import Table

MOST_ROWS = 200  # of a table in a terminal
WIDEST = 1000  # characters of a cell of text that is not for a terminal


def aligned(rows: Iterable[Sequence[str]], right: bool = False) -> list[str]:
    """Return rows of cells as lines with aligned columns, the first of them to the right on request.

    >>> aligned([("a", "zip", "x"), ("...",), ("abcd", "directory", "y")])
    ['a     zip        x', '...', 'abcd  directory  y']
    >>> aligned([("1", "[red]"), ("10", ":smile:")], right=True)
    [' 1  [red]', '10  :smile:']
    """
    from rich.cells import cell_len, set_cell_size

    found = [[cell[:WIDEST] for cell in row] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip_longest(*found, fillvalue="")]

    def padded(i: int, cell: str) -> str:
        return " " * (widths[i] - cell_len(cell)) + cell if right and not i else set_cell_size(cell, widths[i])

    return ["  ".join(padded(i, cell) for i, cell in enumerate(row)).rstrip() for row in found]


def filled(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    """Return the names and the cells of the columns that have a value in any row.

    >>> filled(("a", "b"), [("1", ""), ("2", "")])
    (['a'], [['1'], ['2']])
    """
    found = list(rows)
    kept = [i for i in range(len(heads)) if any(row[i] for row in found)]
    return [heads[i] for i in kept], [[row[i] for i in kept] for row in found]


def terminal_table(heads: Sequence[str], rows: Iterable[Sequence[str]], total: int) -> Table:
    """Return a table for a terminal: long names are folded, and of many rows only the first are shown.

    Parameters
    ----------
    heads : sequence of str
        The names of the columns. The first column is aligned to the left, and a column whose name starts with ``>`` to
        the right.
    rows : iterable of sequences of str
        The cells.
    total : int
        The number of rows.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for head in heads:
        is_right = head.startswith(">")
        table.add_column(head.lstrip(">"), justify="right" if is_right else "left", overflow="fold", no_wrap=is_right)
    for row in islice(rows, MOST_ROWS):
        table.add_row(*map(Text, row))
    if total > MOST_ROWS:
        table.add_row(f"... and {total - MOST_ROWS:,} more")
    return table


def to_frame(rows: Iterable[Mapping[str, Any]], index: str) -> Any:
    """Return rows as a pandas DataFrame with one of their columns as the index.

    Raises
    ------
    UsageError
        If pandas is not installed.
    """
    try:
        import pandas as pd  # type: ignore[import-untyped,unused-ignore]
    except ImportError:
        raise UsageError(
            "a DataFrame needs pandas, which is not installed: pip install pandas, or call to_dict()"
        ) from None
    return pd.DataFrame(list(rows)).set_index(index)
