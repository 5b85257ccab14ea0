"""A stream of entries as one stored zip, at any URL."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from typing import Any

from shardedstore.chain import Tally, Written
from shardedstore.reading.entries import Entry
from shardedstore.storage.access import NONE, Options
from shardedstore.storage.outputs import output
from shardedstore.zips.writer import ZipWriter

OME_VERSION = "0.5"  # for a shard whose own metadata does not tell


def write_zip(
    entries: Iterable[Entry],
    url: str,
    options: Options = NONE,
    *,
    most: int = 0,
    zip64: bool = False,
    is_ozx: bool = False,
    documents_first: bool = True,
) -> Written:
    """Write a zip that appears whole, or with an exception not at all.

    Parameters
    ----------
    most : int
        The most bytes that it can have, as far as is known.
    is_ozx : bool
        Follow RFC-9 of OME-Zarr: the zip64 format, and a comment.
    documents_first : bool
        Whether that may say that metadata comes before all else.
    """
    tally = Tally()
    stream = iter(entries)
    first = next(stream, None)
    comment = ozx_comment(first, documents_first) if is_ozx else b""
    with output(url, options, most) as write:
        zip_writer = ZipWriter(write, zip64=zip64 or is_ozx, comment=comment)
        add, count = zip_writer.add, tally.add
        for key, data, _, _ in itertools.chain([] if first is None else [first], stream):
            count(key, len(data) if isinstance(data, bytes) else memoryview(data).nbytes, add(key, data))
        nbytes = zip_writer.close()
    return tally.written(nbytes)


def ozx_comment(root: Entry | None, documents_first: bool = True) -> bytes:
    """Return the comment of a zip of OME-Zarr, given its first entry.

    https://ngff.openmicroscopy.org/rfc/9/

    >>> ozx_comment(Entry("zarr.json", b'{"attributes": {"ome": {"version": "0.6"}}}'))
    b'{"ome": {"version": "0.6", "zipFile": {"centralDirectory": {"jsonFirst": true}}}}'
    """
    found: Any = None
    if root is not None and root.key == "zarr.json":
        found = json.loads(bytes(root.data)).get("attributes", {}).get("ome")
    version = found.get("version") if isinstance(found, dict) else None
    ome: dict[str, Any] = {"version": str(version or OME_VERSION)}
    if documents_first:
        ome["zipFile"] = {"centralDirectory": {"jsonFirst": True}}
    return json.dumps({"ome": ome}).encode()
