"""What there is at a destination, by names and sizes: asked for one by one, or listed once."""

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
    """What is asked for when it must be known: of a folder, by a listing of its own."""

    options: Options = NONE

    def nbytes(self, url: str) -> int | None:
        """Return the size of a file or object in bytes; None where there is none."""
        return nbytes_of(url, self.options)

    def below(self, url: str) -> tuple[int, int]:
        """Return the number of the files below a folder, and of their bytes; zeros where there is none."""
        found = [nbytes for _, nbytes in open_folder(url, self.options).sizes()]
        return len(found), sum(found)


class Listed:
    """What was listed, by URL.

    >>> listed = Listed([("/out/a.zarr/0", 5), ("/out/a.zarr/c/1", 7), ("/out/a.zarr.zip", 9)])
    >>> listed.nbytes("/out/a.zarr.zip"), listed.nbytes("/out/a.zarr"), listed.below("/out/a.zarr")
    (9, None, (2, 12))
    """

    def __init__(self, sizes: Iterable[tuple[str, int]]) -> None:
        self._sizes = dict(sizes)

    def nbytes(self, url: str) -> int | None:
        """Return the size of a file or object in bytes; None where there is none."""
        return self._sizes.get(url)

    def below(self, url: str) -> tuple[int, int]:
        """Return the number of the files below a folder, and of their bytes; zeros where there is none."""
        urls, totals = self._sorted
        first, end = bisect_left(urls, f"{url}/"), bisect_left(urls, f"{url}0")  # what comes after a slash
        return end - first, totals[end] - totals[first]

    @cached_property
    def _sorted(self) -> tuple[list[str], list[int]]:
        urls = sorted(self._sizes)
        return urls, [0, *accumulate(map(self._sizes.__getitem__, urls))]
