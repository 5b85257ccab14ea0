"""Differences between a result and its ledger, or its source, as data."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

import msgspec

from shardedstore.transforms.base.shard import Shard
from shardedstore.zarr.grid import Coords

MAKE_AGAIN = (
    "verify it with mark=True, or on the command line with --mark, and run the job again with the same arguments: it makes "
    "only the named shards again"
)


class Difference(msgspec.Struct, frozen=True, omit_defaults=True):
    """One difference between a result and its ledger, or its source.

    Parameters
    ----------
    kind : str
        ``missing`` or ``extra`` (an object, a node, a chunk or a file), ``size`` (of an object), ``record`` (the stored bytes
        differ from the ledger), ``damaged`` (unreadable), ``unread`` (not read, by a temporary error), ``data`` (of a chunk),
        ``layout`` (shape, data type, codecs or fill value), ``attributes``, ``hole`` (a failed shard that
        was accepted as missing).
    what : str
        The difference as a sentence.
    advice : str
        The next step.
    shard : str, optional
        The name of the shard, as in messages.
    path : str, optional
        The path of the shard; empty for the base.
    block : tuple of int, optional
        The index of the shard's block.
    array : str, optional
        The path of the array or group.
    key : str, optional
        The key in the whole Zarr, or in the shard's object if `url` names it.
    chunk : tuple of int, optional
        The index of the chunk in the array's finest chunk grid.
    url : str, optional
        The object that differs.
    found : dict, optional
        Values of the result by name, such as ``nbytes``, ``entries``, ``digest`` or ``shape``; None if missing or unknown. For a
        differing chunk also the ``value`` of its first differing element, and the ``key`` and ``url`` of the stored object.
    expected : dict, optional
        Values of the ledger or the source, by the same names.
    cause : str, optional
        The error that prevented reading the data, or that made the hole.
    shards : tuple of str
        The names of all shards, if the difference affects several; `shard` is the first.
    is_of_source : bool
        Whether the source caused the difference, not the result.
    """

    kind: str
    what: str
    advice: str = ""
    shard: str | None = None
    array: str | None = None
    key: str | None = None
    chunk: Coords | None = None
    is_of_source: bool = False
    path: str | None = None
    block: Coords | None = None
    url: str | None = None
    found: dict[str, Any] | None = None
    expected: dict[str, Any] | None = None
    cause: str | None = None
    shards: tuple[str, ...] = ()

    @classmethod
    def of(cls, shard: Shard, kind: str, what: str, advice: str = MAKE_AGAIN, **others: Any) -> Self:
        """Return a difference in a shard of the result."""
        return cls(kind, what, advice, shard=shard.name, path=shard.path, block=shard.block, **others)


def damaged_shards(differences: Iterable[Difference]) -> tuple[str, ...]:
    """Return the names of the result's shards with differences, except holes and unread shards."""
    shards = (d.shard for d in differences if not d.is_of_source and d.kind not in ("unread", "hole"))
    return tuple(dict.fromkeys(shard for shard in shards if shard is not None))
