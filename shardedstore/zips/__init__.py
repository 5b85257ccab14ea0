"""Read zip archives as Zarr stores, and write them fast."""

from shardedstore.zips.store import ZipReadStore

__all__ = ["ZipReadStore"]
