"""Zip archives as Zarr stores: read from anywhere, and written fast."""

from shardedstore.zips.store import ZipReadStore

__all__ = ["ZipReadStore"]
