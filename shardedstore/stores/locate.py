"""The location of an open store, by its class.

Each kind of location registers the classes of stores that it recognises. Secret options of a store that another package opened are
held by this process, as if they had been given for the URL, and are in no location.
"""

from __future__ import annotations

from functools import singledispatch

from zarr.abc.store import Store

from shardedstore.stores.location import Location, Opened


@singledispatch
def locate_store(store: Store) -> Location:
    """Return the location of a store; `Opened` for a store that has none.

    Raises
    ------
    UsageError
        For a store at a URL that holds credentials, and for a kind of another package that gives no valid location.
    """
    return Opened(store)
