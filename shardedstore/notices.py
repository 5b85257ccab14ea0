"""Notices: warnings about a planned job, and names of arrays and groups in messages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from toolz import groupby

SHOWN = 3  # arrays that a notice names in its text


def node_name(path: str) -> str:
    """Return the name of a group or array in a message.

    >>> node_name("a/t"), node_name("")
    ("'a/t'", 'the root')
    """
    return repr(path) if path else "the root"


class Notice(NamedTuple):
    """A warning about a job: one sentence, and the paths of the arrays or groups that it is about.

    Attributes
    ----------
    text : str
        The sentence, without a full stop.
    arrays : tuple of str
        The paths in the source; empty for a notice about the job as a whole.

    Examples
    --------
    >>> print(Notice("no dimension fits the rule 'time:720'", ("a", "b", "c", "d", "")))
    no dimension fits the rule 'time:720': 'a', 'b', 'c' and 2 more
    >>> print(Notice("fill value 0 stands for missing texts", ("",)))
    fill value 0 stands for missing texts: the root
    """

    text: str
    arrays: tuple[str, ...] = ()

    def __str__(self) -> str:
        if not self.arrays:
            return self.text
        more = len(self.arrays) - SHOWN
        names = ", ".join(map(node_name, self.arrays[:SHOWN]))
        return f"{self.text}: {names}{f' and {more:,} more' if more > 0 else ''}"


def merge_notices(notices: Iterable[Notice]) -> tuple[Notice, ...]:
    """Merge notices of equal text, and keep their order.

    >>> merge_notices([Notice("x", ("a",)), Notice("y"), Notice("x", ("b",)), Notice("x", ("a",))])
    (Notice(text='x', arrays=('a', 'b')), Notice(text='y', arrays=()))
    """
    groups: dict[str, list[Notice]] = groupby(lambda notice: notice.text, notices)
    return tuple(
        Notice(text, tuple(dict.fromkeys(path for notice in some for path in notice.arrays)))
        for text, some in groups.items()
    )
