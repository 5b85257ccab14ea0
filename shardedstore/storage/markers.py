"""Folder markers in object stores: empty objects that consoles and Hadoop create.

Object stores have no folders, so these tools write an empty object in place of one. Its name ends with a slash, which
obstore strips, or with ``_$folder$`` (Hadoop).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from threading import local
from typing import TYPE_CHECKING

import obstore

from shardedstore.storage.request_metrics import request
from shardedstore.storage.requests import READS, requests

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ObjectStore

HADOOP = "_$folder$"
AT_ONCE = 32
Skip = Callable[[str], object]


def unmarked(store: ObjectStore, batch: Sequence[ObjectMeta], skip: Skip | None = None) -> Iterator[ObjectMeta]:
    """Yield the listed objects that are not folder markers.

    An empty object is requested by its listed name. If no object has this name, the listing showed a marker whose
    trailing slash was stripped.

    Parameters
    ----------
    store : ObjectStore
        The store that was listed.
    batch : sequence of ObjectMeta
        The listed objects.
    skip : callable, optional
        Called with the name of each marker.
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
            there.discard(found["path"])  # an object and a marker can have the same listed name: yield one of them
            yield found
        elif skip is not None:
            skip(found["path"])


def is_marked(path: str) -> bool:
    """Tell whether this name alone identifies a marker: the root's or one of Hadoop's.

    >>> is_marked(""), is_marked("attic_$folder$"), is_marked("attic")
    (True, True, False)
    """
    return not path or path.endswith(HADOOP)


def _is_empty_object(asked: tuple[ObjectStore, str]) -> bool:
    store, path = asked
    try:
        with request("HEAD"):
            return obstore.head(store, path)["size"] == 0
    except FileNotFoundError:
        return False


class Markers(local):
    """Names of the markers that this thread has skipped since they were last taken.

    >>> markers = Markers()
    >>> markers.add("attic")
    >>> markers.add("attic")
    >>> markers.take(), markers.take()
    (('attic',), ())
    """

    def __init__(self) -> None:
        self._seen = set[str]()

    def add(self, path: str) -> None:
        """Add a marker."""
        self._seen.add(path)

    def take(self) -> tuple[str, ...]:
        """Return the sorted names, and clear them."""
        seen, self._seen = self._seen, set[str]()
        return tuple(sorted(seen))


MARKERS = Markers()
