"""Write shards into one ordinary Zarr: data first and metadata last, so that it opens only when it is complete.

The task of a shard writes all keys except metadata documents, under their final names. The documents are kept in the folder
beside the Zarr, in one zip for each shard with documents, until `shardedstore.jobs.layouts.single_zarr` publishes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from shardedstore.storage.attributes import NO_ATTRIBUTES, attributes_of_objects
from shardedstore.storage.crc import crc32
from shardedstore.storage.options import Options
from shardedstore.storage.urls import BESIDE, object_url
from shardedstore.stores.entries import Entry, is_document
from shardedstore.stores.veiled import VEIL
from shardedstore.transforms.base.objects import Item, write_objects
from shardedstore.transforms.base.shard import Entries, Shard, whole_key
from shardedstore.transforms.base.sink import Tally, Written
from shardedstore.transforms.base.zip_shard import write_zip
from shardedstore.zarr.metadata import CONSOLIDATED_V2
from shardedstore.zarr.paths import join

WAITING = "documents"  # the folder of the documents until they are published


LAST = (".zattrs", CONSOLIDATED_V2, ".zarray", ".zgroup", "zarr.json")  # a node's documents in the order of writing


def write_shard(entries: Entries, shard: Shard, url: str, options: Options, tally: Tally | None = None) -> Written:
    """Write a shard's data into the Zarr at a URL, and keep its documents beside the Zarr.

    The tally counts the objects in the Zarr, without the documents. A given tally may already count objects that the
    stream itself writes. The documents of a block are dropped, as the base has them.
    """
    tally, documents = Tally(named=True) if tally is None else tally, list[Entry]()

    def items() -> Iterator[Item]:
        for entry in entries:
            if is_document(entry):
                documents.append(entry)
                continue
            key = whole_key(entry, shard)
            if not is_consolidated(key):
                tally.add(key, memoryview(entry.data).nbytes, crc32(entry.data))
            yield key, entry.data

    write_objects(url, options, items())
    if shard.block is None:
        keep_documents(documents, waiting_url(url, shard), options)
    return tally.written(tally.nbytes)


def is_consolidated(key: str) -> bool:
    """Tell whether a key is that of Zarr v2 consolidated metadata, which is not counted, as a job may rewrite it."""
    return key.rpartition("/")[2] == CONSOLIDATED_V2


def waiting_url(url: str, shard: Shard) -> str:
    """Return the URL of the zip with a shard's unpublished documents."""
    return object_url(url + BESIDE, waiting_name(shard))


def waiting_name(shard: Shard) -> str:
    """Return the name of the zip of a shard's documents, in the folder beside the Zarr."""
    return f"{WAITING}/{_place(shard)}.zip"


def _place(shard: Shard) -> str:
    if shard.is_base:
        return "base"
    return f"shards/{shard.path}" if shard.bundle is None else f"bundles/{join(shard.path, f'{shard.bundle}')}"


def path_of_waiting(name: str) -> str:
    """Return the path of the shard whose documents have a name below `WAITING`, given without ``.zip``.

    >>> path_of_waiting("base"), path_of_waiting("shards/a/b"), path_of_waiting("bundles/cells/12")
    ('', 'a/b', 'cells')
    """
    kind, _, path = name.partition("/")
    return path.rpartition("/")[0] if kind == "bundles" else path


def keep_documents(documents: Iterable[Entry], url: str, options: Options) -> None:
    """Write documents to a zip, under names that keep readers from opening it as a Zarr."""
    with attributes_of_objects(NO_ATTRIBUTES):
        write_zip((entry._replace(key=entry.key + VEIL) for entry in documents), url, options)


def turn(key: str) -> tuple[int, int, str]:
    """Return the sort key of a document: nodes after their children, and the document that defines a node last.

    >>> sorted([".zgroup", ".zmetadata", "a/.zarray", "a/.zattrs"], key=turn)
    ['a/.zattrs', 'a/.zarray', '.zmetadata', '.zgroup']
    """
    name = key.rpartition("/")[2]
    return -key.count("/"), LAST.index(name) if name in LAST else 0, key
