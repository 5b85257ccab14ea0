"""From a component to a stream of entries: its metadata first, then its chunks in C order of the chunk grid.

Equal input gives an equal stream, whatever kind of component holds it and whatever scheduler runs it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

from obstore.exceptions import BaseError
from zarr.abc.store import Store

from shardedstore.components.bundle import Bundle
from shardedstore.components.squeezed import SqueezedBlock
from shardedstore.components.views import Block, Remainder, View
from shardedstore.errors import CorruptError
from shardedstore.grid import Blocks, Coords, block_name
from shardedstore.metadata import (
    CONSOLIDATED_V2,
    METADATA_NAMES,
    ArrayMeta,
    drop_consolidated,
    parse_node,
)
from shardedstore.mounts import join
from shardedstore.reading.bulk import Bulk, bulk
from shardedstore.storage.publish import TEMPORARY, is_temporary

Data = bytes | bytearray | memoryview


class Entry(NamedTuple):
    """One key of a shard and its bytes.

    `array` is the metadata of the array that the key belongs to, if any; `coords` are those of a chunk in its
    array's whole grid, and None for everything else.
    """

    key: str
    data: Data
    array: ArrayMeta | None = None
    coords: Coords | None = None


def array_folder(entry: Entry) -> str:
    """Return the folder in its shard of the array that a chunk belongs to.

    Told by the separators in the key: the coordinates are those in the whole array, and keys in a block count anew.
    """
    array = entry.array
    assert array is not None
    assert array.keys is not None
    parts = 1
    if array.keys.separator == "/":
        parts = len(array.shape) + (array.keys.name == "default") or 1
    return entry.key.rsplit("/", parts)[0] if entry.key.count("/") >= parts else ""


def read_entries(
    store: Store,
    blocks: Blocks | None = None,
    block: Coords | None = None,
    consolidated: frozenset[str] | None = frozenset(),
) -> Iterator[Entry]:
    """Yield the entries of a component: every key, but for files that a process which was killed here left half written.

    Parameters
    ----------
    store : Store
        The component; views are read from the store that they are a part of.
    blocks, block
        For a block of an array that is a store of its own: where in the array it stands.
    consolidated
        The groups whose consolidated metadata is left out, as it is rebuilt at the end; None for all of them.

    Raises
    ------
    CorruptError
        When a key was listed and then is not there, or a zip's CRC does not agree.
    """
    match store:
        case Bundle():
            return _bundle_entries(store, consolidated)
        case Block():
            return _block_entries(bulk(store.store), store)
        case SqueezedBlock():
            return _squeezed_entries(store)
        case View():
            return _tree_entries(bulk(store.store), store.path, None, consolidated)
        case Remainder():
            return _tree_entries(bulk(store.store), "", store, consolidated)
    entries = _tree_entries(bulk(store), "", None, consolidated)
    if blocks is None or block is None:
        return entries
    return (e if e.coords is None else e._replace(coords=blocks.join(block, e.coords)) for e in entries)


def _block_entries(reader: Bulk, view: Block, stored: Iterator[bytes | None] | None = None) -> Iterator[Entry]:
    """Read a block of an array without listing anything: which keys there may be is arithmetic.

    `stored` are its chunks, in C order, where they are not beside the metadata that `reader` reads.
    """
    documents = _array_documents(reader, view.path)
    array = parse_node(cropped := {name: view.document(name, data) for name, data in documents.items()}, view.path)
    assert isinstance(array, ArrayMeta)
    for name, data in cropped.items():
        yield Entry(name, data, array)
    encode_box, box = view.blocks.keys.encode_box, view.blocks.box(view.block)
    start = f"{view.path}/" if view.path else ""
    chunks = reader.fetch(map(start.__add__, encode_box(box))) if stored is None else stored
    local_keys = encode_box([range(len(span)) for span in box])
    for key, chunk, coords in zip(local_keys, chunks, itertools.product(*box), strict=True):
        if chunk is not None:
            yield Entry(key, chunk, array, coords)
    _check_unchanged(reader, view.path, documents)


def _squeezed_entries(view: SqueezedBlock) -> Iterator[Entry]:
    reader, left = bulk(view.store), math.prod(view.array.blocks.local_grid(view.array.block))
    for entry in _block_entries(bulk(view.array.store), view.array, reader.fetch(view.stored_keys())):
        left -= entry.coords is not None
        yield entry
    if left and None in reader.fetch([".zarray"]):  # that of no array, but each has one
        raise CorruptError(
            f"{view.array.path!r} lacks chunks of its block {block_name(view.array.block)!r}, and {view.store!r} is no shard "
            "any more: is it still there, and mounted?"
        )


def _check_unchanged(reader: Bulk, path: str, documents: dict[str, bytes]) -> None:
    """Raise where an array is not as it was before its chunks were read: if it is gone, they only seemed to be missing."""
    if _array_documents(reader, path) != documents:
        raise CorruptError(f"{path!r} changed while it was read: let no one write to the source, and run it again")


def _array_documents(reader: Bulk, path: str) -> dict[str, bytes]:
    names = [".zarray", ".zattrs", "zarr.json"]
    found = zip(names, reader.fetch([join(path, name) for name in names]), strict=True)
    documents = {name: data for name, data in found if data is not None}
    if not documents.keys() & {".zarray", "zarr.json"}:
        raise CorruptError(f"{path!r} is no array any more: is the source still there, and mounted?")
    return documents


def _bundle_entries(bundle: Bundle, consolidated: frozenset[str] | None) -> Iterator[Entry]:
    """Read the group above the members, and then one member after another."""
    for key, data in bundle.top.documents.items():
        yield Entry(key, data)
    for name in bundle.members.names:
        try:
            entries = read_entries(bundle.member(name), consolidated=consolidated)
            for entry in of_format(entries, bundle.zarr_format):
                yield entry._replace(key=f"{name}/{entry.key}")
        except CorruptError as error:
            raise CorruptError(f"the member {name!r}: {error}") from error
        except (OSError, BaseError) as error:
            error.add_note(f"the member {name!r}")
            raise


def of_format(entries: Iterator[Entry], zarr_format: int) -> Iterator[Entry]:
    """Yield the entries of a Zarr, or raise CorruptError where it is none, or of another format than those beside it."""
    first = next(entries)
    if "/" in first.key:
        raise CorruptError(f"there is no metadata at the root, as {first.key!r} comes first: it is no Zarr")
    found = 3 if first.key == "zarr.json" else 2
    if found != zarr_format:
        raise CorruptError(
            f"it is of Zarr format {found}, and the first of the collection of {zarr_format}: collect those of one format, "
            "and the others on their own"
        )
    yield first
    yield from entries


def _tree_entries(
    reader: Bulk, path: str, remainder: Remainder | None, consolidated: frozenset[str] | None
) -> Iterator[Entry]:
    """Read everything below a path: metadata documents breadth first, unknown keys, then the chunks array by array."""
    start = len(path) + 1 if path else 0
    keys = [key[start:] for key in reader.keys(path, remainder) if not _is_left_behind(key)]
    documents = sorted((key for key in keys if _name(key) in METADATA_NAMES), key=lambda key: (key.count("/"), key))
    if not documents:
        raise CorruptError(
            f"{path or 'the root'!r} holds no metadata any more: is the source still there, and mounted?"
        )
    nodes: dict[str, dict[str, bytes]] = {}
    for key, data in zip(documents, _read(reader, path, documents), strict=True):
        nodes.setdefault(_parent(key), {})[_name(key)] = data
    arrays, stale = _arrays(nodes), nodes if consolidated is None else consolidated
    for key in documents:
        data = nodes[_parent(key)][_name(key)]
        if _name(key) == "zarr.json" and _parent(key) in stale:
            data = drop_consolidated(data, _parent(key)) or data
        yield Entry(key, data, arrays.get(_parent(key)))
    skip = {*documents, *(join(group, CONSOLIDATED_V2) for group in stale if ".zgroup" in nodes.get(group, ()))}
    chunks, others = _sort(arrays, [key for key in keys if key not in skip])
    for key, data in zip(others, _read(reader, path, others), strict=True):
        yield Entry(key, data)
    missing: dict[str, None] = {}
    for (array_path, coords, key, array), chunk in zip(chunks, _read_chunks(reader, path, chunks), strict=True):
        if chunk is None:
            missing[array_path] = None
        else:
            yield Entry(key, chunk, array, coords)
    for array_path in missing:
        _check_unchanged(reader, join(path, array_path), nodes[array_path])


def _read_chunks(reader: Bulk, path: str, chunks: list[Chunk]) -> Iterator[bytes | None]:
    keys = [chunk[2] for chunk in chunks]
    return reader.fetch(join(path, key) for key in keys) if reader.guesses else _read(reader, path, keys)


def _read(reader: Bulk, path: str, keys: list[str]) -> Iterator[bytes]:
    for key, data in zip(keys, reader.fetch(join(path, key) for key in keys), strict=True):
        if data is None:
            raise CorruptError(
                f"{join(path, key)!r} was listed, but is not there now: is something writing to the source?"
            )
        yield data


def _arrays(nodes: dict[str, dict[str, bytes]]) -> dict[str, ArrayMeta]:
    """Return the arrays among the nodes; documents that are no Zarr metadata are carried like any other file."""
    arrays = {}
    for path, documents in nodes.items():
        try:
            meta = parse_node(documents, path)
        except CorruptError:
            continue
        if isinstance(meta, ArrayMeta):
            arrays[path] = meta
    return arrays


Chunk = tuple[str, Coords, str, ArrayMeta]


def _sort(arrays: dict[str, ArrayMeta], keys: list[str]) -> tuple[list[Chunk], list[str]]:
    """Sort keys into chunks, in C order of each array's grid, and others."""
    chunks: list[Chunk] = []
    others: list[str] = []
    grids = {path: meta.chunk_grid for path, meta in arrays.items()}
    for key in keys:
        path, rest = _array_of(arrays, key)
        array = None if path is None else arrays[path]
        coords = None
        if path is not None and array is not None and array.keys is not None and array.chunks is not None:
            coords = array.keys.decode(rest, grids[path])
        if path is None or array is None or coords is None:
            others.append(key)
        else:
            chunks.append((path, coords, key, array))
    chunks.sort(key=lambda chunk: chunk[:2])
    return chunks, sorted(others)


def _array_of(arrays: dict[str, ArrayMeta], key: str) -> tuple[str | None, str]:
    """Return the array that a key lies in, and the rest of the key."""
    end = len(key)
    while end > 0:
        end = max(key.rfind("/", 0, end), 0)
        if key[:end] in arrays:
            return key[:end], key[end + 1 :] if end else key
    return None, key


def _is_left_behind(key: str) -> bool:
    return TEMPORARY in key and is_temporary(_name(key))


def _name(key: str) -> str:
    return key.rpartition("/")[2]


def _parent(key: str) -> str:
    return key.rpartition("/")[0]
