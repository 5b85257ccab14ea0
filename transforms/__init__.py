"""The transforms of shardedstore, imported as ``shardedstore.transforms``.

This folder lies at the top of the repository and is linked into the package. It has one import name. Under a second
name, each class would exist twice, and workers could not unpickle the client's transforms.
"""

if __name__ != "shardedstore.transforms":
    raise ImportError(
        f"{__name__!r} is not the import name of this folder: import shardedstore.transforms instead", name=__name__
    )

from shardedstore.transforms.copy_to import CopyTo
from shardedstore.transforms.make_portable import MakePortable
from shardedstore.transforms.map_blocks import MapBlocks
from shardedstore.transforms.map_chunks import MapChunks
from shardedstore.transforms.migrate_ome import MigrateOME
from shardedstore.transforms.migrate_v3 import MigrateV3
from shardedstore.transforms.recompress import Recompress
from shardedstore.transforms.to_sharding_codec import ToShardingCodec
from shardedstore.transforms.to_zip import ToZip
from shardedstore.transforms.zip_store import to_zip_store, to_zip_store_with_prefix

__all__ = [
    "CopyTo",
    "MakePortable",
    "MapBlocks",
    "MapChunks",
    "MigrateOME",
    "MigrateV3",
    "Recompress",
    "ToShardingCodec",
    "ToZip",
    "to_zip_store",
    "to_zip_store_with_prefix",
]
