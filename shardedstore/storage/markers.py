"""Markers of folders in object stores, which have none: empty objects, as consoles and Hadoop leave them.

The name of one ends in a slash, which obstore takes away; Hadoop's end in ``_$folder$``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from threading import local
from typing import TYPE_CHECKING

import obstore

from shardedstore.storage.requests import READS, requests

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ObjectStore

HADOOP = "_$folder$"
AT_ONCE = 32
Skip = Callable[[str], object]


def unmarked(store: ObjectStore, batch: Sequence[ObjectMeta], skip: Skip | None = None) -> Iterator[ObjectMeta]:
    """Yield what was listed, without markers of folders: empty objects are asked for under the name that was listed.

    `skip` is called with the name of each marker.
    """
    empty = [found["path"] for found in batch if not found["size"] and not is_marked(found["path"])]
    there = set[str]()
    if empty:
        with requests(READS, AT_ONCE) as submit:
            asked = [(path, submit(_is_empty_object, (store, path))) for path in dict.fromkeys(empty)]
            there = {path for path, future in asked if future.result()}
    for found in batch:
        if found["size"]:
            yield found
        elif found["path"] in there:
            there.discard(found["path"])  # an object and a marker can have the same name here
            yield found
        elif skip is not None:
            skip(found["path"])


def is_marked(path: str) -> bool:
    """Tell whether an empty object of this name is a marker: of the root, or one of Hadoop's.

    >>> is_marked(""), is_marked("attic_$folder$"), is_marked("attic")
    (True, True, False)
    """
    return not path or path.endswith(HADOOP)


def _is_empty_object(asked: tuple[ObjectStore, str]) -> bool:
    store, path = asked
    try:
        return obstore.head(store, path)["size"] == 0
    except FileNotFoundError:
        return False


class Markers(local):
    """The names of markers that this thread has passed over, until they are taken.

    >>> markers = Markers()
    >>> markers.add("attic")
    >>> markers.add("attic")
    >>> markers.take(), markers.take()
    (('attic',), ())
    """

    def __init__(self) -> None:
        self._seen = set[str]()

    def add(self, path: str) -> None:
        """Note a marker."""
        self._seen.add(path)

    def take(self) -> tuple[str, ...]:
        """Return the names, sorted, and forget them."""
        seen, self._seen = self._seen, set[str]()
        return tuple(sorted(seen))


MARKERS = Markers()
