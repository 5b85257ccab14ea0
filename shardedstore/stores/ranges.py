"""Byte ranges: the file or object, and the position in it, that hold the value of a key."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import singledispatch
from typing import NamedTuple

from zarr.abc.store import Store

from shardedstore.errors import UsageError


class Range(NamedTuple):
    """The position of a value.

    Attributes
    ----------
    url : str
        The absolute path or the URL of the file or object.
    start, nbytes : int
        The first byte and the number of bytes.
    """

    url: str
    start: int
    nbytes: int


@singledispatch
def ranges_of(store: Store, keys: Iterable[str]) -> Iterator[Range]:  # noqa: ARG001 (kinds use the keys)
    """Yield the byte ranges of existing keys, in their order.

    A kind of store registers its function with ``@ranges_of.register``.

    Raises
    ------
    UsageError
        If values of this kind of store are not byte ranges of files or objects.
    """
    raise UsageError(
        f"the values in {store!r} are not byte ranges of files or objects, so no reference can lead to them: convert the "
        "store with ToZip or CopyTo, and export the result"
    )
