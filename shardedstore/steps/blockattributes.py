"""The stream of a block on its way to and from an object of its own, which carries some of the array's attributes."""

from __future__ import annotations

from zarr.abc.store import Store

from shardedstore.attributes import carried, completed
from shardedstore.chain import Entries, Shard
from shardedstore.mounts import join
from shardedstore.reading.batch_reader import batch_reader
from shardedstore.reading.entries import is_document


def shortened(entries: Entries, shard: Shard) -> Entries:
    """Yield the entries of a block with as many attributes as a reader of its object needs."""
    for entry in entries:
        if is_document(entry) and "/" not in entry.key:
            data = bytes(entry.data)
            kept = carried(entry.key, data, shard.path)
            yield entry if kept is data else entry._replace(data=kept)
        else:
            yield entry


def lengthened(entries: Entries, shard: Shard, base: Store) -> Entries:
    """Yield the entries of a block's object with all attributes of the array, whose documents are in the base."""
    for entry in entries:
        if is_document(entry) and "/" not in entry.key:
            (whole,) = batch_reader(base).fetch([join(shard.path, entry.key)])
            if whole is not None:
                data = completed(entry.key, bytes(entry.data), shard.path, bytes(whole))
                yield entry._replace(data=data)
            else:
                yield entry
        else:
            yield entry
