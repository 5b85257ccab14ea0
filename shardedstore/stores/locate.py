"""The location of an open store, by its class.

Each kind of location registers the classes of stores that it recognises. A store that another package opened may have secret
options. This process keeps them, as if the user had given them for the URL, and no location contains them.
"""

from __future__ import annotations

from functools import singledispatch

from zarr.abc.store import Store

from shardedstore.stores.location import Location, Opened


@singledispatch
def locate_store(store: Store) -> Location:
    """Return the location of a store; `Opened` for a store without a location.

    Raises
    ------
    UsageError
        If the URL of the store contains credentials, or if another package's kind returns an invalid location.
    """
    return Opened(store)
