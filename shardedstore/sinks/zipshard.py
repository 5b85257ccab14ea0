"""A stream of entries as one stored zip, at any URL."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from shardedstore.chain import Tally, Written
from shardedstore.reading.entries import Entry
from shardedstore.sinks.ozx import ozx_comment
from shardedstore.storage.access import NONE, Options
from shardedstore.storage.outputs import output
from shardedstore.zips.writer import ZipWriter


def write_zip(
    entries: Iterable[Entry],
    url: str,
    options: Options = NONE,
    *,
    most: int = 0,
    zip64: bool = False,
    is_ozx: bool = False,
) -> Written:
    """Write a zip that appears whole, or with an exception not at all.

    Parameters
    ----------
    most : int
        The most bytes that it can have, as far as is known.
    is_ozx : bool
        Follow RFC-9 of OME-Zarr: the zip64 format, and a comment.

    Raises
    ------
    ChainError
        For a zip of OME-Zarr whose root is none.
    """
    tally = Tally()
    stream = iter(entries)
    first = next(stream, None)
    comment = ozx_comment(first) if is_ozx else b""
    with output(url, options, most) as write:
        zip_writer = ZipWriter(write, zip64=zip64 or is_ozx, comment=comment)
        add, count = zip_writer.add, tally.add
        for key, data, _, _ in itertools.chain([] if first is None else [first], stream):
            count(key, len(data) if isinstance(data, bytes) else memoryview(data).nbytes, add(key, data))
        nbytes = zip_writer.close()
    return tally.written(nbytes)
