"""Whether chunks are stored by the keys that the metadata tells: zarr 2 also asked the store, which is not known any more.

An array without a dimension_separator had that of its store, and an FSStore wrote each dot as its own. Chunks that are not
where metadata says would be read as missing, and so as the fill value.
"""

from __future__ import annotations

import json

from shardedstore.components.kinds import Config
from shardedstore.components.opening import open_location
from shardedstore.errors import ConfigError, PartitionError, ShardedStoreError
from shardedstore.legacy.document import Old, OldSharded, OldStore
from shardedstore.metadata import ArrayMeta
from shardedstore.mounts import Mounts
from shardedstore.reading.hierarchy import Node, walk
from shardedstore.storage.folders import STORAGE_ERRORS
from shardedstore.storage.remote_errors import explain


def check_keys(old: OldSharded, config: Config) -> None:
    """Refuse arrays whose chunks have slashes in their keys, and whose metadata says dots; it is looked at where there may be some.

    Raises
    ------
    ConfigError
        Where there are some, or that can't be read.
    """
    if old.separator != "/" and not any(store.is_nested for store in old.stores()):
        return
    try:
        nodes = walk(open_location(config))
    except PartitionError:
        return  # a web server that does not tell what is there
    except STORAGE_ERRORS as error:
        raise ConfigError(f"the metadata can't be read: {explain(error)}") from error
    except ShardedStoreError as error:
        raise ConfigError(f"the metadata can't be read: {error}") from None
    for path, node in nodes.items():
        if _has_dots(node) and ((_is_unsaid(node) and old.separator == "/") or _holder(old, path).is_nested):
            raise ConfigError(
                f"the array {path!r} has its chunks below keys like 0/0, and its metadata does not say so, as shardedstore "
                f'0.3.1 knew it from the class of the store: write "dimension_separator": "/" into {path}/.zarray'
            )


def _has_dots(node: Node) -> bool:
    keys = node.meta.keys if isinstance(node.meta, ArrayMeta) and len(node.meta.shape) > 1 else None
    return keys is not None and keys.separator == "."


def _is_unsaid(node: Node) -> bool:
    return json.loads(node.documents[".zarray"]).get("dimension_separator") is None


def _holder(old: Old, path: str) -> OldStore:
    """Return the store that has the metadata of an array."""
    while isinstance(old, OldSharded):
        found = Mounts(old.shards).resolve(path)
        old, path = (old.base, path) if found is None else (old.shards[found[0]], found[1])
    return old
