"""Reading a component as a stream of entries: metadata first, then chunks in C order.

Equal input gives an equal stream for every kind of component and every scheduler.
"""

from __future__ import annotations

import itertools
from collections.abc import Container, Iterator, Mapping, Sequence
from functools import singledispatch
from operator import itemgetter
from typing import Any, NamedTuple

import msgspec
from zarr.abc.store import Store

from shardedstore.errors import ChainError, CorruptError
from shardedstore.fields import MOVING
from shardedstore.notices import node_name
from shardedstore.storage.publish import TEMPORARY, is_temporary
from shardedstore.stores.reader import Source, StoreReader, reader_of, source_of
from shardedstore.zarr.grid import ENCODINGS, Blocks, ChunkKeys, Coords
from shardedstore.zarr.metadata import (
    CONSOLIDATED_V2,
    METADATA_NAMES,
    ArrayMeta,
    drop_consolidated,
    format_above,
    format_of,
    parse_json,
    parse_node,
)
from shardedstore.zarr.paths import join, parents

Data = bytes | bytearray | memoryview
NESTED = ChunkKeys("v2", "/")
MOST_GUESSED = 4  # chunks of an array that are requested with other kinds of keys
MEND_KEYS = "correct the metadata (dimension_separator of v2, chunk_key_encoding of v3), or rename the files"


class Entry(NamedTuple):
    """One key of a shard and its bytes.

    A key can look like a chunk although the array's metadata gives chunks other keys. Such an entry has an array and no
    coordinates.

    Attributes
    ----------
    key : str
        The key in the shard.
    data : bytes, bytearray or memoryview
        The value.
    array : ArrayMeta or None
        The metadata of the array that the key belongs to, if any.
    coords : tuple of int or None
        The coordinates of a chunk in the array's whole grid; None for other keys.

    Examples
    --------
    >>> entry = Entry("zarr.json", b'{"zarr_format": 3, "node_type": "group"}')
    >>> entry._replace(data=b'{"zarr_format":3,"node_type":"group"}').key, entry.coords
    ('zarr.json', None)
    """

    key: str
    data: Data
    array: ArrayMeta | None = None
    coords: Coords | None = None


def array_folder(entry: Entry) -> str:
    """Return the path of a chunk's array in the shard.

    The separators in the key give the path. The coordinates can't give it: they count in the whole array, and the keys of a
    block start at zero.
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
    inside: frozenset[str] | None = None,
) -> Iterator[Entry]:
    """Yield the entries of a component.

    All keys are read except temporary files that a killed process left half written.

    Parameters
    ----------
    store : Store
        The component. Views are read from their source.
    blocks, block : Blocks and tuple of int, optional
        The position in the array, if the component is a block of an array in a store of its own.
    consolidated : frozenset of str or None, optional
        The groups whose consolidated metadata is left out because the job rebuilds it at the end; None for all groups.
    inside : frozenset of str or None, optional
        The permitted nodes inside arrays; None permits any.

    Raises
    ------
    CorruptError
        If a listed key is missing, if the CRC of a zip member is wrong, or if an array has an array inside that is not
        permitted.
    """
    return entries_of(store, Choice(consolidated, inside, blocks, block))


class Choice(NamedTuple):
    """The parameters of `read_entries` beside the store."""

    consolidated: frozenset[str] | None = frozenset()
    inside: frozenset[str] | None = None
    blocks: Blocks | None = None
    block: Coords | None = None


@singledispatch
def entries_of(store: Store, choice: Choice) -> Iterator[Entry]:
    """Yield the entries of a component, as `read_entries` does."""
    entries = _tree_entries(source_of(store), choice.consolidated, choice.inside)
    blocks, block = choice.blocks, choice.block
    if blocks is None or block is None:
        return entries
    return (e if e.coords is None else e._replace(coords=blocks.join(block, e.coords)) for e in entries)


def format_around(reader: StoreReader[Any], path: str, documents: Mapping[str, bytes]) -> int | None:
    """Return the format of the nearest group above an array that has documents of both formats.

    A group with documents of both formats is passed over. Return None if the array has documents of one format, or if
    there is no such group.
    """
    for parent in parents(path) if {".zarray", "zarr.json"} <= documents.keys() else ():
        names = [name for name in METADATA_NAMES if name != ".zattrs"]
        found = zip(names, reader.fetch([join(parent, name) for name in names]), strict=True)
        names = [name for name, data in found if data is not None]
        if {format_of(names, 2), format_of(names, 3)} in ({2}, {3}):
            return format_of(names)
    return None


def check_chunk_keys(reader: StoreReader[Any], path: str, keys: ChunkKeys, box: Sequence[range]) -> None:
    """Raise CorruptError if the first chunks of an array are stored with another kind of key.

    Call this when none of the array's possible chunks exists.
    """
    first = list(itertools.islice(itertools.product(*box), MOST_GUESSED))
    guessed = {other.encode(coords): other for other in ENCODINGS for coords in first}
    guessed = {key: other for key, other in guessed.items() if key not in map(keys.encode, first)}
    for key, data in zip(guessed, reader.fetch(join(path, key) for key in guessed), strict=True):
        if data is not None:
            raise CorruptError(
                f"{node_name(path)} has no chunk where its metadata says, and {join(path, key)!r} {_unlike(keys)}: ask the "
                f"server's owner to {MEND_KEYS}"
            )


def check_unchanged(reader: StoreReader[Any], path: str, documents: dict[str, bytes]) -> None:
    """Raise CorruptError if the metadata of an array changed while its chunks were read.

    If the array was deleted meanwhile, its chunks only seemed to be missing.
    """
    if array_documents(reader, path) != documents:
        raise CorruptError(f"{path!r} changed while it was read: stop all writers to the source, and run it again")


def array_documents(reader: StoreReader[Any], path: str) -> dict[str, bytes]:
    """Return the metadata documents of an array by name, or raise CorruptError if the array is gone."""
    names = [".zarray", ".zattrs", "zarr.json"]
    found = zip(names, reader.fetch([join(path, name) for name in names]), strict=True)
    documents = {name: data for name, data in found if data is not None}
    if not documents.keys() & {".zarray", "zarr.json"}:
        raise CorruptError(f"{path!r} is no longer an array: is the source still there, and mounted?")
    return documents


def of_format(entries: Iterator[Entry], zarr_format: int) -> Iterator[Entry]:
    """Yield the entries of a Zarr; raise CorruptError if it has no root metadata or another format."""
    first = next(entries)
    if "/" in first.key:
        raise CorruptError(f"there is no metadata at the root, as {first.key!r} comes first: it is not a Zarr")
    found = 3 if first.key == "zarr.json" else 2
    if found != zarr_format:
        raise CorruptError(
            f"its Zarr format is {found}, but the first member of the collection has format {zarr_format}: collect members of "
            "one format, and the others in a collection of their own"
        )
    yield first
    yield from entries


def _tree_entries(
    source: Source, consolidated: frozenset[str] | None, inside: frozenset[str] | None
) -> Iterator[Entry]:
    """Read everything below a path: metadata breadth first, other keys, then chunks array by array."""
    reader, path, kept, divided = source
    start = len(path) + 1 if path else 0
    keys = [key[start:] for key in reader.keys(path, kept) if not _is_left_behind(key)]
    documents = sorted((key for key in keys if _name(key) in METADATA_NAMES), key=lambda key: (key.count("/"), key))
    if not documents:
        raise CorruptError(f"{node_name(path)} no longer holds metadata: is the source still there, and mounted?")
    nodes: dict[str, dict[str, bytes]] = {}
    for key, data in zip(documents, _read(reader, path, documents), strict=True):
        nodes.setdefault(_parent(key), {})[_name(key)] = data
    skip = {*documents}
    arrays, stale = _arrays(nodes), nodes if consolidated is None else consolidated
    if inside is not None:
        _check_inside(arrays, inside, path)
    skip.update(join(group, CONSOLIDATED_V2) for group in stale if ".zgroup" in nodes.get(group, ()))
    chunks, others = _sort(arrays, nodes, [key for key in keys if key not in skip], divided)
    for key in documents:
        data = nodes[_parent(key)][_name(key)]
        if _name(key) == "zarr.json" and _parent(key) in stale:
            data = drop_consolidated(data, _parent(key)) or data
        yield Entry(key, data, arrays.get(_parent(key)))
    for (key, array), data in zip(others.items(), _read(reader, path, [*others]), strict=True):
        yield Entry(key, data, array)
    missing: dict[str, ArrayMeta] = {}
    found: set[str] = set()
    for (array_path, coords, key, array), chunk in zip(chunks, _read_chunks(reader, path, chunks), strict=True):
        if chunk is None:
            missing[array_path] = array
        else:
            found.add(array_path)
            yield Entry(key, chunk, array, coords)
    for array_path, array in missing.items():
        check_unchanged(reader, join(path, array_path), nodes[array_path])
        if array_path not in found and array.keys is not None:
            check_chunk_keys(reader, join(path, array_path), array.keys, [range(n) for n in array.chunk_grid])


def _read_chunks(reader: StoreReader[Any], path: str, chunks: list[Chunk]) -> Iterator[bytes | None]:
    keys = [chunk[2] for chunk in chunks]
    return reader.fetch(join(path, key) for key in keys) if reader.guesses else _read(reader, path, keys)


def _read(reader: StoreReader[Any], path: str, keys: list[str]) -> Iterator[bytes]:
    for key, data in zip(keys, reader.fetch(join(path, key) for key in keys), strict=True):
        if data is None:
            raise CorruptError(
                f"{join(path, key)!r} was listed, but is not there now: is something writing to the source?"
            )
        yield data


def _arrays(nodes: dict[str, dict[str, bytes]]) -> dict[str, ArrayMeta]:
    """Return the arrays among the nodes; documents that can't be parsed count as ordinary files."""
    arrays = {}
    formats: dict[str, int] = {}
    for path, documents in nodes.items():  # breadth first
        above = format_above(formats, path)
        try:
            meta = parse_node(documents, path, above)
        except CorruptError:
            continue
        if meta is not None:
            formats[path] = meta.zarr_format
        if isinstance(meta, ArrayMeta):
            arrays[path] = meta
    return arrays


def _check_inside(arrays: Mapping[str, ArrayMeta], inside: Container[str], start: str) -> None:
    """Raise CorruptError for an array inside another array that the plan did not find.

    Only a listing of chunks can find such an array.
    """
    for path in arrays:
        outer = next((parent for parent in parents(path) if parent in arrays), None)
        if outer is not None and path not in inside:
            raise CorruptError(
                f"{join(start, path)!r} lies inside the array {join(start, outer)!r}, which is not searched before the job "
                "starts, so that steps would change it: have consolidated metadata name it, or move it out of the array"
            )


Chunk = tuple[str, Coords, str, ArrayMeta]


def _sort(
    arrays: dict[str, ArrayMeta], nodes: Mapping[str, Mapping[str, bytes]], keys: list[str], divided: Container[str]
) -> tuple[list[Chunk], dict[str, ArrayMeta | None]]:
    """Sort keys into chunks, in C order of each array's grid, and others.

    A key can look like a chunk although the array's metadata gives chunks other keys. Such a key is among the others,
    together with its array. There is one exception: an array of Zarr v2 whose metadata has no separator, and whose chunks
    are all stored in nested folders. These are its chunks, as zarr 2 reads them with a NestedDirectoryStore. The array is
    then replaced in `arrays`.
    """
    chunks: list[Chunk] = []
    others: dict[str, ArrayMeta | None] = {}
    misfits: dict[str, list[tuple[str, Coords | None]]] = {}
    grids = {path: meta.chunk_grid for path, meta in arrays.items()}
    for key in keys:
        path, rest = _array_of(arrays, key)
        array = None if path is None else arrays[path]
        if path is None or array is None or array.keys is None or array.chunks is None:
            others[key] = None
            continue
        coords = array.keys.decode(rest, grids[path])
        if coords is not None:
            chunks.append((path, coords, key, array))
        elif array.keys.misfit(rest, grids[path]) is None:
            others[key] = None
        else:
            misfits.setdefault(path, []).append((key, NESTED.decode(rest, grids[path])))
    fitting = {chunk[0] for chunk in chunks} if misfits else ()
    for path, found in misfits.items():
        array = arrays[path]
        if path in fitting or path in divided or not is_unsaid(array, nodes[path]) or None in dict(found).values():
            others |= {key: array for key, _ in found}
            continue
        array = arrays[path] = msgspec.structs.replace(array, keys=NESTED)
        chunks += [(path, coords, key, array) for key, coords in found if coords is not None]
    chunks.sort(key=lambda chunk: chunk[:2])
    return chunks, dict(sorted(others.items(), key=itemgetter(0)))


def is_unsaid(array: ArrayMeta, documents: Mapping[str, bytes]) -> bool:
    """Tell whether the metadata of an array of Zarr v2 has no separator of chunk keys.

    zarr 2 then left the separator to the store.
    """
    if array.zarr_format != 2 or len(array.shape) < 2:
        return False
    return parse_json(documents[".zarray"], "", ".zarray").get("dimension_separator") is None


def unlike_key(store: Store, path: str, array: ArrayMeta) -> str | None:
    """Return a key that looks like a chunk of an array, but does not fit the array's metadata.

    The search ends at the first key that fits. None if there is no such key, or if the store can't be listed.
    """
    reader, start = reader_of(store), len(path) + 1 if path else 0
    if array.keys is None or reader.guesses:
        return None
    for key in reader.keys(path, None):
        if array.keys.decode(key[start:], array.chunk_grid) is not None:
            return None
        if array.keys.misfit(key[start:], array.chunk_grid) is not None:
            return key
    return None


def is_document(entry: Entry) -> bool:
    """Tell whether an entry is a metadata document."""
    return entry.coords is None and _name(entry.key) in METADATA_NAMES


def is_misfit(entry: Entry) -> bool:
    """Tell whether an entry looks like a chunk of its array, but does not fit the array's metadata."""
    return entry.coords is None and entry.array is not None and not is_document(entry)


def check_fits(entry: Entry, path: str, step: str) -> None:
    """Raise ChainError for an entry that may be a chunk and that a step would not treat as one.

    Parameters
    ----------
    entry : Entry
        The entry.
    path : str
        The path of the shard.
    step : str
        The name of the step, for the message.
    """
    if not is_misfit(entry):
        return
    assert entry.array is not None
    assert entry.array.keys is not None
    raise ChainError(
        f"{step} can't change an array with unknown chunks: {join(path, entry.key)!r} {_unlike(entry.array.keys)}: "
        f"{MEND_KEYS}, move other files out of the source, or leave the array out"
    )


def _unlike(keys: ChunkKeys) -> str:
    return f"looks like one of its chunks, but its metadata says keys of another kind ({keys.name!r} with {keys.separator!r})"


def _array_of(arrays: dict[str, ArrayMeta], key: str) -> tuple[str | None, str]:
    """Return the array that a key lies in, and the rest of the key."""
    end = len(key)
    while end > 0:
        end = max(key.rfind("/", 0, end), 0)
        if key[:end] in arrays:
            return key[:end], key[end + 1 :] if end else key
    return None, key


def _is_left_behind(key: str) -> bool:
    return TEMPORARY in key and (is_temporary(_name(key)) or key == MOVING)


def _name(key: str) -> str:
    return key.rpartition("/")[2]


def _parent(key: str) -> str:
    return key.rpartition("/")[0]
