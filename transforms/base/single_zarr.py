"""One ordinary Zarr that all shards of a job are written into: data first, metadata last, so that it opens when it is whole.

The task of a shard writes the keys that are no metadata documents, under their names in the whole. The documents wait in the
folder beside the Zarr, one zip for each shard that has documents. `shardedstore.jobs.layouts.single_zarr` publishes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from shardedstore.storage.crc import crc32
from shardedstore.storage.options import Options
from shardedstore.storage.urls import BESIDE, object_url
from shardedstore.stores.entries import Entry, is_document
from shardedstore.stores.veiled import VEIL
from shardedstore.transforms.base.chain import Entries, Shard, Tally, Written, whole_key
from shardedstore.transforms.base.objects import Item, write_objects
from shardedstore.transforms.base.zip_shard import write_zip
from shardedstore.zarr.metadata import CONSOLIDATED_V2
from shardedstore.zarr.paths import join

WAITING = "documents"  # the folder of the documents that wait


LAST = (".zattrs", CONSOLIDATED_V2, ".zarray", ".zgroup", "zarr.json")  # in the order in which one node's are written


def write_shard(entries: Entries, shard: Shard, url: str, options: Options, tally: Tally | None = None) -> Written:
    """Write a shard into the Zarr at a URL; its documents wait beside it.

    The objects and bytes of the Zarr itself are counted, in a tally that also has what the stream wrote on its own, if
    it is given. A block's documents are left out: they are the base's business.
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
    """Tell whether a key is that of consolidated metadata of Zarr v2, which is not counted, as it may be made anew at the end."""
    return key.rpartition("/")[2] == CONSOLIDATED_V2


def waiting_url(url: str, shard: Shard) -> str:
    """Return where the documents of a shard wait."""
    return object_url(url + BESIDE, waiting_name(shard))


def waiting_name(shard: Shard) -> str:
    """Return the name of the zip of a shard's documents, in the folder beside the Zarr."""
    place = shard.path if shard.bundle is None else join(shard.path, f"{shard.bundle}")
    kind = "shards" if shard.bundle is None else "bundles"
    return f"{WAITING}/{'base' if shard.is_base else f'{kind}/{place}'}.zip"


def path_of_waiting(name: str) -> str:
    """Return the path in the whole of the documents that wait under a name, below `WAITING` and without its ending.

    >>> path_of_waiting("base"), path_of_waiting("shards/a/b"), path_of_waiting("bundles/cells/12")
    ('', 'a/b', 'cells')
    """
    kind, _, path = name.partition("/")
    return path.rpartition("/")[0] if kind == "bundles" else path


def keep_documents(documents: Iterable[Entry], url: str, options: Options) -> None:
    """Write documents into a zip that no reader takes for a Zarr without chunks."""
    write_zip((entry._replace(key=entry.key + VEIL) for entry in documents), url, options)


def turn(key: str) -> tuple[int, int, str]:
    """Return what documents are sorted by: a node's come after those of all below it, and what makes it a node last.

    >>> sorted([".zgroup", ".zmetadata", "a/.zarray", "a/.zattrs"], key=turn)
    ['a/.zattrs', 'a/.zarray', '.zmetadata', '.zgroup']
    """
    name = key.rpartition("/")[2]
    return -key.count("/"), LAST.index(name) if name in LAST else 0, key
