"""Write one shard to a zip, also as a zip of OME-Zarr, which follows RFC-9.

https://ngff.openmicroscopy.org/rfc/9/
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping

from shardedstore.errors import ChainError
from shardedstore.notices import node_name
from shardedstore.storage.options import NONE, Options
from shardedstore.storage.outputs import output
from shardedstore.stores.entries import Entry
from shardedstore.stores.hierarchy import Node
from shardedstore.stores.locations import Config, Mount
from shardedstore.stores.ome import VERSION, attributes_of, why_not_ome
from shardedstore.transforms.base.sink import Tally, Written
from shardedstore.zarr.metadata import dump_json
from shardedstore.zarr.paths import is_below, join
from shardedstore.zips.writer import ZipWriter

OTHERWISE = "or end the name with .zarr.zip"


def is_ozx(name: str) -> bool:
    """Tell whether a name has the ending of a zip of OME-Zarr."""
    return name.lower().endswith(".ozx")


def check_ozx(name: str, config: Config, nodes: Mapping[str, Node]) -> None:
    """Check that all shards can be zips of OME-Zarr, except a base with mounted shards.

    Raises
    ------
    ChainError
        If an array is divided, if a zip would hold several stores, or if a shard is Zarr v2 or not valid OME-Zarr 0.5.
    """
    start = f"{name!r} names zips of OME-Zarr, which must be "
    old = [path for path, node in nodes.items() if node.meta.zarr_format == 2]
    if old:
        raise ChainError(
            f"{start}Zarr v3, but {node_name(old[0])} is Zarr v2: put MigrateV3() (--v3) and MigrateOME() before ToZip, "
            f"{OTHERWISE}"
        )
    for path, mount in config.shards.items():
        if mount.blocks is not None:
            raise ChainError(f"{start}whole, but {node_name(path)} is divided: make it whole, {OTHERWISE}")
        if mount.members is not None and mount.members.together > 1:
            raise ChainError(f"{start}of one image each: leave out per_zip, {OTHERWISE}")
    for root in _roots(config):
        why = why_not_ozx({path[len(root) :].lstrip("/"): node for path, node in _below(nodes, root).items()})
        if why is not None:
            what = f"the shard {root!r}" if root else "the source"
            raise ChainError(
                f"{start}valid OME-Zarr {VERSION}, but {what} is not: {why}; put MigrateOME() before ToZip if it is "
                f"OME-Zarr 0.4, {OTHERWISE}"
            )


def _roots(config: Config) -> list[str]:
    """Return the paths of the shards with known metadata; the base is one of them if nothing is mounted on it."""
    return [root for path, mount in config.shards.items() for root in _roots_of(path, mount)] or [""]


def _roots_of(path: str, mount: Mount) -> list[str]:
    members = mount.members
    if members is None:
        return [path]
    return [join(path, name) for name in (members.names if members.parts else members.names[:1])]


def _below(nodes: Mapping[str, Node], root: str) -> Mapping[str, Node]:
    return {path: node for path, node in nodes.items() if is_below(path, root) or path == root} if root else nodes


def why_not_ozx(nodes: Mapping[str, Node]) -> str | None:
    """Return the reason why a hierarchy is not valid OME-Zarr, in one sentence; None if it is valid.

    Versions later than 0.5 are not checked further. An empty ``multiscales`` is accepted, and the rest is checked.
    """
    root = nodes.get("")
    ome = None if root is None else attributes_of(root, "").get("ome")
    if root is None or not isinstance(ome, dict):
        return why_not_ome(nodes)
    if str(ome.get("version", "")) > f"{VERSION}.":
        return None
    if ome.get("multiscales") == []:
        told = {**ome, "bioformats2raw.layout": 3}
        del told["multiscales"]
        document = dump_json({"attributes": {"ome": told}})
        return why_not_ome({**nodes, "": root._replace(documents={"zarr.json": document})})
    return why_not_ome(nodes)


def ozx_comment(root: Entry | None) -> bytes:
    """Return the comment of a zip of OME-Zarr, given its first entry.

    Raises
    ------
    ChainError
        If the entry does not name a version of OME-Zarr.

    Examples
    --------
    >>> ozx_comment(Entry("zarr.json", b'{"attributes": {"ome": {"version": "0.6"}}}'))
    b'{"ome": {"version": "0.6", "zipFile": {"centralDirectory": {"jsonFirst": true}}}}'
    """
    found = None
    if root is not None and root.key == "zarr.json":
        found = json.loads(bytes(root.data)).get("attributes", {}).get("ome")
    version = found.get("version") if isinstance(found, dict) else None
    if not isinstance(version, str):
        raise ChainError(
            f"its root has no attribute 'ome' with a version, so it is not OME-Zarr: leave it out, {OTHERWISE}"
        )
    return json.dumps({"ome": {"version": version, "zipFile": {"centralDirectory": {"jsonFirst": True}}}}).encode()


def write_zip(
    entries: Iterable[Entry],
    url: str,
    options: Options = NONE,
    *,
    most: int = 0,
    zip64: bool = False,
    is_ozx: bool = False,
) -> Written:
    """Write a zip, which appears when it is complete; after an exception, there is no zip.

    Parameters
    ----------
    most : int
        The largest expected size of the zip in bytes; 0 if unknown.
    is_ozx : bool
        Follow RFC-9 of OME-Zarr: use the zip64 format, and add a comment.

    Raises
    ------
    ChainError
        If `is_ozx` is set and the root is not OME-Zarr.
    """
    tally = Tally()
    stream = iter(entries)
    first = next(stream, None)
    comment = ozx_comment(first) if is_ozx else b""
    with output(url, options, most) as out:
        zip_writer = ZipWriter(out.write, zip64=zip64 or is_ozx, comment=comment)
        add, count = zip_writer.add, tally.add
        for key, data, _, _ in itertools.chain([] if first is None else [first], stream):
            count(key, len(data) if isinstance(data, bytes) else memoryview(data).nbytes, add(key, data))
        nbytes = zip_writer.close()
    return tally.written(nbytes)
