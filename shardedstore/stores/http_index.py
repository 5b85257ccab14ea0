"""The keys that the metadata at the root of a Zarr names, for stores that can't be listed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from shardedstore.errors import CorruptError, PartitionError
from shardedstore.zarr.grid import BELOW_C
from shardedstore.zarr.metadata import CONSOLIDATED_V2, METADATA_NAMES, ArrayMeta, dump_json, parse_json, parse_node
from shardedstore.zarr.paths import join

ROOTS = ("zarr.json", CONSOLIDATED_V2, ".zarray", ".zgroup")  # the first existing one is used


class Named(NamedTuple):
    """The documents that the root's metadata names, by key, as zarr would write them.

    `is_whole` tells whether the Zarr has no other documents. It is False for a group without consolidated metadata.
    """

    documents: Mapping[str, bytes] = {}
    is_whole: bool = False

    @property
    def arrays(self) -> dict[str, str]:
        """The paths of the arrays, each with the key of its metadata document."""
        return {_split(key)[0]: key for key, data in self.documents.items() if _is_array(key, data)}

    def names(self, folder: str) -> Iterator[str]:
        """Yield the names of documents and folders with documents in a folder.

        >>> list(Named({"zarr.json": b"", "a/zarr.json": b"", "a/b/zarr.json": b""}).names("a"))
        ['zarr.json', 'b']
        """
        start = f"{folder}/" if folder else ""
        below = (key[len(start) :] for key in self.documents if key.startswith(start))
        yield from dict.fromkeys(rest.partition("/")[0] for rest in below)


def named_by(name: str, data: bytes, attributes: bytes | None = None) -> Named:
    """Return the names in a document at the root; `attributes` is the `.zattrs` of an array in Zarr v2.

    >>> named_by(".zmetadata", b'{"metadata": {".zgroup": {}, "a/.zarray": {"zarr_format": 2}}}').arrays
    {'a': 'a/.zarray'}

    Raises
    ------
    CorruptError
        If the document can't be parsed, or names an invalid key.
    """
    document = parse_json(data, "", name)
    inherited = document if name == CONSOLIDATED_V2 else document.get("consolidated_metadata")
    if inherited is None:
        beside = {} if attributes is None else {".zattrs": attributes}
        return Named({name: data, **beside}, _is_array(name, data))
    nodes = inherited.get("metadata") if isinstance(inherited, dict) else None
    if not isinstance(nodes, dict) or not all(isinstance(node, dict) for node in nodes.values()):
        raise CorruptError(
            f"{name!r} has no consolidated metadata that can be read: run zarr.consolidate_metadata again"
        )
    found = {name: data}
    for path, node in sorted(nodes.items()):
        key = path if name == CONSOLIDATED_V2 else join(path, name)
        if any(part in ("", ".", "..") or "\0" in part for part in key.split("/")):
            raise CorruptError(
                f"{name!r} names {key!r}, which is not a key of a Zarr: ask its author to write it again"
            )
        if _split(key)[1] in METADATA_NAMES:
            inline = None if _split(key)[1] == ".zattrs" else "consolidated_metadata"  # the root names all nodes
            found[key] = dump_json({field: value for field, value in node.items() if field != inline})
    return Named(found, True)


def chunk_keys(document: str, data: bytes) -> Iterator[str]:
    """Yield the keys of the possible chunks of an array, in C order.

    Parameters
    ----------
    document : str
        The key of the array's metadata document.
    data : bytes
        The document.

    Raises
    ------
    PartitionError
        If the kind of chunk grid or of chunk keys is unknown.
    """
    path, _ = _split(document)
    meta = _parse(document, data)
    if meta is None or meta.chunks is None or meta.keys is None:
        raise PartitionError(
            f"{path!r} has a chunk grid or chunk keys that are not known here, and a web server can't be listed: leave it out "
            "with exclude, or download it"
        )
    start = f"{path}/" if path else ""
    yield from map(start.__add__, meta.keys.encode_box([range(n) for n in meta.chunk_grid]))


def has_one_name(document: str, data: bytes) -> bool:
    """Tell whether all chunk keys of an array begin with ``c/``."""
    meta = _parse(document, data)
    return meta is not None and meta.keys == BELOW_C and bool(meta.shape)


def _parse(document: str, data: bytes) -> ArrayMeta | None:
    path, name = _split(document)
    meta = parse_node({name: data}, path)
    return meta if isinstance(meta, ArrayMeta) else None


def _is_array(key: str, data: bytes) -> bool:
    path, name = _split(key)
    return name == ".zarray" or (name == "zarr.json" and parse_json(data, path, name).get("node_type") == "array")


def _split(key: str) -> tuple[str, str]:
    path, _, name = key.rpartition("/")
    return path, name
