"""`MigrateV3`: migrate Zarr v2 to v3."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from operator import itemgetter
from typing import ClassVar, NamedTuple

from shardedstore.codecs.array_document import parse_array_document
from shardedstore.codecs.migrate_codecs import Style
from shardedstore.codecs.migrate_document import array_document, group_document
from shardedstore.codecs.reencode import Reencoder, inner
from shardedstore.errors import ChainError, CorruptError, ShardedStoreError
from shardedstore.notices import Notice, node_name
from shardedstore.stores.entries import Entry, array_folder, check_fits
from shardedstore.stores.hierarchy import Node
from shardedstore.stores.ome import old_attributes
from shardedstore.transforms.base.parallel import map_in_order
from shardedstore.transforms.base.portable import reader_notices
from shardedstore.transforms.base.shard import Entries, Shard, at_entry, shard_source, undecodable
from shardedstore.transforms.base.step import Step
from shardedstore.zarr.grid import Coords
from shardedstore.zarr.metadata import (
    METADATA_NAMES,
    NAMES_OF,
    ArrayMeta,
    GroupMeta,
    format_above,
    format_of,
    parse_json,
    parse_node,
)
from shardedstore.zarr.paths import join

REMEDIES = {
    "codecs": "MigrateV3(portable=True) (--step migrate-v3:portable=true) uses other codecs",
    "keys": 'MigrateV3(chunk_keys="default") (--step migrate-v3:chunk_keys=default) uses another encoding',
}
OME_STAYS = (
    "the attributes of OME-Zarr 0.4 stay as they are, but OME-Zarr 0.5, which is for Zarr v3, has them below 'ome': add "
    "MigrateOME() (--step migrate-ome) after MigrateV3"
)


@dataclass(frozen=True, repr=False)
class MigrateV3(Step):
    """Migrate a Zarr from format 2 to format 3.

    The documents of each node become one ``zarr.json``, as zarr writes it, with the same attributes. Nodes that are
    already Zarr v3 stay as they are.

    Chunks keep their keys. They also keep their bytes, except in arrays whose filters do not exist in v3, or not at the
    same position. The chunks of these arrays are encoded again with the same values and compressor, and without filters:
    texts in ``json2``, ``msgpack2`` or ``categorize`` as ``vlen-utf8``, numbers in ``base64``, structured elements with
    mixed byte orders as little-endian, and other elements that zarr would read differently. Arrays that v3 can't store are
    refused: pickled objects, ragged arrays, and compressors without a name in v3.

    - ``_ARRAY_DIMENSIONS``, or else NCZarr's references to dimensions, become ``dimension_names``, where xarray looks for
      them in v3. In these arrays, ``_FillValue`` is set to the value that xarray masked in v2, in the encoding that xarray
      needs in v3. Where that encoding can't hold the value, as for texts, ``missing_value`` is set instead. Byte strings
      that equal the fill value can't be masked in v3; a notice names these arrays.
    - Additional fields of ``.zarray``, by NCZarr and others, are copied to ``zarr.json`` as fields that a reader may ignore.
    - A fill value of null becomes zero, or zarr's default for the data type. Missing chunks read as before.
    - OME-Zarr 0.4 stays OME-Zarr 0.4, with a notice. `MigrateOME` migrates it to 0.5, which has its attributes elsewhere.

    Parameters
    ----------
    threads : int, optional
        The number of chunks that are encoded at a time, as in `ArrayStep`.
    chunk_keys : str, optional
        The encoding of chunk keys: ``"v2"`` keeps the keys. ``"default"`` changes them to ``c/0/1``; all readers of v3
        support these, and some readers support no others.
    portable : bool, optional
        Replace codecs that have no specification in v3, by encoding the chunks again: gzip for zlib, Blosc for shuffled
        data, zstd for all others, and no filters.

    Examples
    --------
    >>> MigrateV3(chunk_keys="default", portable=True)
    MigrateV3(chunk_keys='default', portable=True)
    """

    version: ClassVar[str] = "2"
    needs_empty: ClassVar[bool] = False
    keeps_values: ClassVar[bool] = True
    is_chunkwise: ClassVar[bool] = True
    chunk_keys: str = field(default="v2", kw_only=True)
    portable: bool = field(default=False, kw_only=True)
    threads: int | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.chunk_keys not in ("v2", "default"):
            raise ChainError(f"MigrateV3 was given chunk_keys={self.chunk_keys!r}: use 'v2' or 'default'")
        if not isinstance(self.portable, bool):
            raise ChainError(f"MigrateV3 was given portable={self.portable!r}: use True or False")

    def __repr__(self) -> str:
        options = {"chunk_keys": self.chunk_keys, "portable": self.portable}
        given = (f"{name}={value!r}" for name, value in options.items() if value != getattr(type(self), name))
        return f"MigrateV3({', '.join(given)})"

    @property
    def style(self) -> Style:
        """The options for arrays in v3."""
        return Style(self.chunk_keys, self.portable)

    def check(self, nodes: Mapping[str, Node]) -> None:
        # docstring inherited
        if nodes and not _of_v2(nodes):
            raise ChainError(
                f"{node_name(next(iter(nodes)))} is Zarr v3 already: leave MigrateV3 (--v3) out of the chain"
            )
        self.changed(nodes)

    def notices(self, nodes: Mapping[str, Node]) -> Iterator[Notice]:
        # docstring inherited
        old = _of_v2(nodes)
        yield from _reading_notices(old, self.style)
        yield from reader_notices(self.changed(old), ("codecs", "types", "keys"), REMEDIES)
        yield from _ome_notices(old)
        yield from _lost_notices(nodes)

    def changed(self, nodes: Mapping[str, Node]) -> dict[str, Node]:
        # docstring inherited
        return {path: _migrated(path, node, self.style) for path, node in nodes.items()}

    def __call__(self, entries: Entries, shard: Shard) -> Entries:
        # docstring inherited
        for array, group in itertools.groupby(_with_arrays(entries, shard, self.style), itemgetter(1)):
            some = map(itemgetter(0), group)
            if array is None:
                yield from some
            elif array.reencoder is None:
                yield from map(array.renamed, some)
            else:
                yield from map_in_order(partial(array.anew, shard), some, _weight, self.threads)


class _Migrated(NamedTuple):
    """An array of a shard: its folder, its metadata in v2 and v3, and the encoder of its chunks."""

    folder: str
    old: ArrayMeta
    new: ArrayMeta
    reencoder: Reencoder | None

    def renamed(self, entry: Entry) -> Entry:
        key = entry.key if self.old.keys == self.new.keys else self._key(self._local(entry.key))
        return entry._replace(key=key, array=self.new)

    def anew(self, shard: Shard, entry: Entry) -> Entry:
        """Return a chunk encoded for v3, without the padding outside the array.

        Raises
        ------
        CorruptError
            If the chunk can't be decoded.
        ShardedStoreError
            If v3 can't store its elements.
        """
        coder = self.reencoder
        assert coder is not None
        try:
            array = coder.decode(entry.data)
        except Exception as error:
            raise undecodable(entry, shard, coder.names, error) from error
        sizes = zip(self.old.shape, self._local(entry.key), coder.chunks, strict=True)
        size = tuple(min(chunk, max(0, n - i * chunk)) for n, i, chunk in sizes)
        try:
            return self.renamed(entry)._replace(data=coder.encode(array[inner(size)]))
        except Exception as error:
            failed = ShardedStoreError(
                f"shard {shard.name!r}: MigrateV3 fails on {shard_source(entry, shard)}: {error}"
            )
            raise at_entry(failed, entry, shard) from error

    def _local(self, key: str) -> Coords:
        """Return a chunk's place in the shard's own array; in a block, it counts from the block's first chunk."""
        assert self.old.keys is not None
        place = self.old.keys.decode(key[len(self.folder) :].lstrip("/"), self.old.chunk_grid)
        assert place is not None
        return place

    def _key(self, place: Coords) -> str:
        assert self.new.keys is not None
        return join(self.folder, self.new.keys.encode(place))


def _with_arrays(entries: Entries, shard: Shard, style: Style) -> Iterator[tuple[Entry, _Migrated | None]]:
    """Yield the entries with documents of v3, each chunk with its array."""
    arrays: dict[str, _Migrated] = {}
    formats: dict[str, int] = {}
    for folder, group in itertools.groupby(entries, _folder_of_document):
        if folder is not None:
            documents = _of_one_format(folder, list(group), formats)
            yield from ((entry, None) for entry in _documents(folder, documents, shard, arrays, style))
            continue
        for entry in group:
            check_fits(entry, shard.path, "MigrateV3")
            is_chunk = entry.coords is not None and entry.array is not None
            yield entry, arrays.get(array_folder(entry)) if is_chunk else None


def _weight(entry: Entry) -> int:
    return 1 + max(len(entry.data), 0 if entry.array is None else entry.array.chunk_nbytes)


def _of_one_format(folder: str, documents: list[Entry], formats: dict[str, int]) -> list[Entry]:
    """Return the documents of the format that a node is read in, and note this format.

    A group with documents of both formats is read in the format of its parent group.
    """
    names = {entry.key.rpartition("/")[2]: entry for entry in documents}
    found = format_of(names, format_above(formats, folder))
    if found is None:
        return documents
    formats[folder] = found
    has_both = format_of(names, 2) != format_of(names, 3)
    return [entry for name, entry in names.items() if name in NAMES_OF[found]] if has_both else documents


def _folder_of_document(entry: Entry) -> str | None:
    folder, _, name = entry.key.rpartition("/")
    return folder if entry.coords is None and name in METADATA_NAMES else None


def _documents(
    folder: str, group: list[Entry], shard: Shard, arrays: dict[str, _Migrated], style: Style
) -> list[Entry]:
    """Merge the documents of one node into a ``zarr.json``, and note an array; a node of v3 stays as it is."""
    documents = {entry.key.rpartition("/")[2]: bytes(entry.data) for entry in group}
    path = join(shard.path, folder)
    try:
        meta = parse_node({name: data for name, data in documents.items() if name != "zarr.json"}, path)
    except CorruptError:
        meta = None
    if meta is None:
        return group
    key = join(folder, "zarr.json")
    if isinstance(meta, GroupMeta):
        return [Entry(key, group_document(documents, path))]
    data, made, layout, _ = array_document(documents, path, style)
    reencoder = None
    if layout.recodes:
        old = parse_json(documents[".zarray"], path, ".zarray")
        reencoder = Reencoder(
            parse_array_document(old, path), parse_array_document(parse_json(data, path, "zarr.json"), path)
        )
    arrays[folder] = _Migrated(folder, meta, made, reencoder)
    return [Entry(key, data, made)]


def _of_v2(nodes: Mapping[str, Node]) -> dict[str, Node]:
    return {path: node for path, node in nodes.items() if node.meta.zarr_format == 2}


def _migrated(path: str, node: Node, style: Style) -> Node:
    if node.meta.zarr_format == 3:
        return node
    if node.is_implicit:
        return Node(GroupMeta(3), {})
    if isinstance(node.meta, GroupMeta):
        documents = {"zarr.json": group_document(node.documents, path)}
        return Node(GroupMeta(3, node.meta.consolidated), documents)
    made = array_document(node.documents, path, style)
    return node._replace(meta=made.meta, documents={"zarr.json": made.data})


def _reading_notices(nodes: Mapping[str, Node], style: Style) -> Iterator[Notice]:
    arrays = {path: node.documents for path, node in nodes.items() if isinstance(node.meta, ArrayMeta)}
    sayings = {path: array_document(documents, path, style).unlike for path, documents in arrays.items()}
    for saying in dict.fromkeys(itertools.chain(*sayings.values())):
        yield Notice(saying, tuple(path for path, said in sayings.items() if saying in said))


def _ome_notices(nodes: Mapping[str, Node]) -> Iterator[Notice]:
    found = tuple(path for path, node in nodes.items() if _is_ome(node, path))
    if found:
        yield Notice(OME_STAYS, found)


def _is_ome(node: Node, path: str) -> bool:
    attributes = parse_json(node.documents.get(".zattrs", b"{}"), path, ".zattrs")
    return isinstance(node.meta, GroupMeta) and bool(old_attributes(attributes, path))


def _lost_notices(nodes: Mapping[str, Node]) -> Iterator[Notice]:
    lost = {
        path
        for group, node in nodes.items()
        for key in node.inherited
        if (path := join(group, key.rpartition("/")[0])) not in nodes
    }
    if lost:
        yield Notice(
            "consolidated metadata names these nodes, but they have no documents of their own, so Zarr v3 will not have "
            "them: write their documents to keep them",
            tuple(sorted(lost)),
        )
