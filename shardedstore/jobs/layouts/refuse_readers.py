"""Make the folder of a result refuse readers of Zarr."""

from __future__ import annotations

from contextlib import suppress

from shardedstore.errors import DestinationError
from shardedstore.storage.errors import explain
from shardedstore.storage.folders import STORAGE_ERRORS, Folder
from shardedstore.zarr.metadata import DOCUMENTS
from shardedstore.zarr.refusal import REFUSALS, is_refusal


def refuse_readers(place: Folder) -> None:
    """Write the documents that refuse readers of Zarr, unless the folder holds a Zarr already.

    Raises
    ------
    DestinationError
        If the folder can't be written to.
    """
    try:
        there = {*DOCUMENTS, *REFUSALS}.intersection(place.names())
        if there.issuperset(REFUSALS) or not all(is_refusal(place.read(name)) for name in there):
            return
        for name in REFUSALS.keys() - there:
            with suppress(FileExistsError):
                place.write(name, REFUSALS[name], create=True)
    except STORAGE_ERRORS as error:
        raise DestinationError(f"the destination {place.url!r} can't be written to: {explain(error)}") from error
