"""Write shards that become one zip: the data of each to a part, and its documents beside the parts.

A part is a stored zip whose names are the final ones. `shardedstore.jobs.layouts.single_zip` joins the parts to the zip at the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain

from shardedstore.errors import ChainError
from shardedstore.notices import node_name
from shardedstore.storage.attributes import attributes_of_objects, current_attributes
from shardedstore.storage.options import Options
from shardedstore.storage.outputs import output
from shardedstore.storage.urls import BESIDE, object_url
from shardedstore.stores.entries import Entry, is_document
from shardedstore.stores.hierarchy import Node
from shardedstore.stores.ome import VERSION, attributes_of
from shardedstore.transforms.base.shard import Entries, Shard, whole_key
from shardedstore.transforms.base.single_zarr import is_consolidated, keep_documents, waiting_name, waiting_url
from shardedstore.transforms.base.sink import Tally, Written
from shardedstore.transforms.base.zip_shard import OTHERWISE, why_not_ozx
from shardedstore.zarr.paths import join
from shardedstore.zips.writer import ZipWriter

PARTS = "parts"  # the folder of the parts until they are joined


def part_name(shard: Shard) -> str:
    """Return the name of a shard's part, in the folder beside the zip.

    >>> part_name(Shard("", is_base=True)), part_name(Shard("t", block=(1, 20)))
    ('parts/base.zip', 'parts/blocks/t/1/20.zip')
    """
    if shard.block is not None:
        return f"{PARTS}/blocks/{join(shard.path, shard.block_name)}.zip"
    return f"{PARTS}/{waiting_name(shard).partition('/')[2]}"


def write_part(entries: Entries, shard: Shard, url: str, options: Options, *, zip64: bool) -> Written:
    """Write the data of a shard to its part, and keep its documents; a shard without data has no part.

    The record counts the entries and bytes of the data. Documents of a block are dropped, as the base has them.
    """
    documents, tally = list[Entry](), Tally(named=True)
    stream = _data(entries, documents)
    first = next(stream, None)
    if first is not None:
        attributes = attributes_of_objects(current_attributes().for_parts())
        with attributes, output(object_url(url + BESIDE, part_name(shard)), options, 2 * shard.nbytes) as out:
            writer = ZipWriter(out.write, zip64=zip64)
            for entry in chain([first], stream):
                key = whole_key(entry, shard)
                tally.add(key, memoryview(entry.data).nbytes, writer.add(key, entry.data))
            writer.close()
    if shard.block is None:
        keep_documents(documents, waiting_url(url, shard), options)
    return tally.written(tally.nbytes)


def _data(entries: Entries, documents: list[Entry]) -> Iterator[Entry]:
    """Yield the entries that are no metadata, and append the documents to a list.

    Consolidated metadata of Zarr v2 is dropped, as it is made again for the whole hierarchy.
    """
    for entry in entries:
        if is_document(entry):
            documents.append(entry)
        elif not is_consolidated(entry.key):
            yield entry


def check_one_ozx(name: str, nodes: Mapping[str, Node]) -> None:
    """Check that a hierarchy can be one zip of OME-Zarr.

    Raises
    ------
    ChainError
        If a group or array is Zarr v2, if the groups have different versions of OME-Zarr, or if the hierarchy is not valid.
    """
    start = f"{name!r} names one zip of OME-Zarr, which must be "
    old = next((path for path, node in nodes.items() if node.meta.zarr_format == 2), None)
    if old is not None:
        raise ChainError(
            f"{start}Zarr v3, but {node_name(old)} is Zarr v2: put MigrateV3() (--v3) and MigrateOME() before ToZip, {OTHERWISE}"
        )
    versions = {version: path for path, node in nodes.items() if (version := _version(path, node)) is not None}
    if len(versions) > 1:
        some = " and ".join(f"{node_name(path)} has {version}" for version, path in sorted(versions.items())[:2])
        raise ChainError(f"{start}of one version of OME-Zarr, but {some}: convert the images one by one, {OTHERWISE}")
    why = why_not_ozx(nodes)
    if why is not None:
        raise ChainError(
            f"{start}valid OME-Zarr {VERSION}, but the source is not: {why}; put MigrateOME() before ToZip if it is OME-Zarr 0.4, "
            f"{OTHERWISE}"
        )


def _version(path: str, node: Node) -> str | None:
    """Return the version of OME-Zarr that a node names; None if it names none."""
    ome = attributes_of(node, path).get("ome")
    version = ome.get("version") if isinstance(ome, dict) else None
    return version if isinstance(version, str) else None
