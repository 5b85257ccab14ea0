"""Inventory of a destination: listed once, or queried for each object."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

from shardedstore.storage.blobs import nbytes_of
from shardedstore.storage.folders import open_folder
from shardedstore.storage.options import NONE, Options


@dataclass(frozen=True)
class Asked:
    """An inventory that queries each file or folder when it is needed."""

    options: Options = NONE

    def nbytes(self, url: str) -> int | None:
        """Return the size of a file or object in bytes, or None if it does not exist."""
        return nbytes_of(url, self.options)

    def below(self, url: str) -> tuple[int, int]:
        """Return the number of files below a folder and their total size in bytes; zeros if there are none."""
        found = [nbytes for _, nbytes in open_folder(url, self.options).sizes()]
        return len(found), sum(found)


class ListedInventory:
    """An inventory made from one listing of URLs and sizes.

    >>> listed = ListedInventory([("/out/a.zarr/0", 5), ("/out/a.zarr/c/1", 7), ("/out/a.zarr.zip", 9)])
    >>> listed.nbytes("/out/a.zarr.zip"), listed.nbytes("/out/a.zarr"), listed.below("/out/a.zarr")
    (9, None, (2, 12))
    """

    def __init__(self, sizes: Iterable[tuple[str, int]]) -> None:
        self._sizes = dict(sizes)

    def nbytes(self, url: str) -> int | None:
        """Return the size of a file or object in bytes, or None if it does not exist."""
        return self._sizes.get(url)

    def below(self, url: str) -> tuple[int, int]:
        """Return the number of files below a folder and their total size in bytes; zeros if there are none."""
        urls, totals = self._sorted
        first, end = bisect_left(urls, f"{url}/"), bisect_left(urls, f"{url}0")  # "0" is the character after "/"
        return end - first, totals[end] - totals[first]

    @cached_property
    def _sorted(self) -> tuple[list[str], list[int]]:
        urls = sorted(self._sizes)
        return urls, [0, *accumulate(map(self._sizes.__getitem__, urls))]
