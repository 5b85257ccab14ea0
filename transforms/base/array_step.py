"""`ArrayStep`: base class of the steps that change arrays, and its checks before a job runs."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np

from shardedstore.codecs.array_codecs import ChunkCodec, few_elements, is_identical, read_one_chunk
from shardedstore.codecs.array_info import ArrayInfo
from shardedstore.codecs.codec_config import LARGEST
from shardedstore.errors import ChainError
from shardedstore.notices import Notice
from shardedstore.partition.selection import check_selection, has_words, is_meant, selection_notices
from shardedstore.stores.entries import Entry, array_folder, check_fits, is_misfit
from shardedstore.stores.hierarchy import Node
from shardedstore.transforms.base.parallel import map_in_order
from shardedstore.transforms.base.recode import Piece, Recoder
from shardedstore.transforms.base.shard import Entries, Shard
from shardedstore.transforms.base.step import Step
from shardedstore.transforms.base.variables import coordinates
from shardedstore.zarr.grid import Blocks, Coords
from shardedstore.zarr.metadata import ArrayMeta
from shardedstore.zarr.paths import join, parents


def check_recoding(recoder: Recoder) -> None:
    """Encode and decode a few elements, to refuse unusable codecs before anything runs.

    Raises
    ------
    ChainError
        If the codecs can't encode the array's chunks, or change the values.
    """
    if not recoder.recodes:
        return
    compression = recoder.encoder.compression
    for config in compression.configs:
        largest = LARGEST.get(config["id"])
        if largest is not None and recoder.chunk_nbytes > largest:
            raise ChainError(
                f"{recoder.step_name} can't encode {recoder.path!r} with {config['id']}: its chunks have {recoder.chunk_nbytes} "
                f"bytes, and {config['id']} accepts at most {largest}"
            )
    if recoder.refilters:
        _check_filters(recoder)
    elif recoder.decodes:
        _check_values(recoder)
    dtype = compression.dtype or np.dtype(f"V{recoder.old.itemsize}")
    sample = bytes(range(256)) * dtype.itemsize if dtype.kind != "b" else b"\0\1" * 128
    try:
        got = bytes(compression.decode(compression.encode(sample)))
    except Exception as error:
        raise ChainError(
            f"{recoder.step_name} can't encode {recoder.path!r} ({recoder.old.dtype}) with {compression}: "
            f"{type(error).__name__}: {error}"
        ) from error
    if got != sample:
        raise ChainError(
            f"{recoder.step_name} can't encode {recoder.path!r} ({recoder.old.dtype}) with {compression}: it changes the values"
        )


def _check_filters(recoder: Recoder) -> None:
    """Let zarr read a few elements through the new filters.

    Each chunk is checked again while the job runs, as filters may change some values only.
    """
    names = ", ".join(config["id"] for config in recoder.new.filters) or "no filters"
    try:
        doc = recoder.new_doc.one_chunk(tuple(min(size, 4) for size in recoder.new_doc.chunks))
        with np.errstate(all="ignore"):
            stored = ChunkCodec(doc, arrays=True).encode(
                np.full(doc.chunks, recoder.encoder.padding, recoder.new.dtype)
            )
            read_one_chunk(doc, stored)
    except Exception as error:
        raise ChainError(
            f"{recoder.step_name} can't encode {recoder.path!r} ({recoder.old.dtype}) with {names}: {type(error).__name__}: {error}"
        ) from error


def _check_values(recoder: Recoder) -> None:
    """Refuse codecs that change values each time: decoded elements must stay equal when they are encoded again."""
    doc = recoder.new_doc.one_chunk(tuple(max(1, min(size, 4)) for size in recoder.new_doc.chunks))
    assert recoder.new.dtype is not None
    try:
        codec = ChunkCodec(doc, arrays=True)
        once = codec.decode(codec.encode(few_elements(recoder.new.dtype, doc.chunks)))
        again = codec.decode(codec.encode(once))
    except Exception:  # noqa: BLE001 (the codecs may refuse the sample values)
        return
    if not is_identical(once, again):
        raise ChainError(
            f"{recoder.step_name} can't encode {recoder.path!r} ({recoder.old.dtype}): its filters change the values each time "
            "that they are written, in zarr too. Replace the filters first, with Recompress(filters=...)"
        )


DOCUMENTS = (".zarray", ".zattrs", "zarr.json")
Made = tuple[Mapping[str, Node], dict[str, Node]]  # checked metadata, and the changed arrays among them


@dataclass(frozen=True, kw_only=True)
class ArrayStep(Step):
    """A step that changes the metadata of arrays, and their chunks one by one.

    Override `metadata`, `chunk` or both. The base class handles Zarr v2 and v3, chunk keys, compressors, the sharding
    codec and threads. Missing chunks stay missing. Unchanged documents are copied byte for byte. So are all chunks, if
    `chunk` is not overridden and `metadata` keeps the codecs.

    Parameters
    ----------
    arrays : str or tuple of str
        Paths or globs of the arrays to change, as in `ShardedStore.partition`. A ``!`` before a pattern excludes arrays.
        ``"data_vars"`` and ``"coords"`` mean the arrays that xarray opens as data variables and as coordinates. Each
        pattern must match an array of the source, unless it ends in ``?``.
    threads : int, optional
        The number of chunks of a shard that are encoded at a time; by default four, or the number of processors if that
        is less. It has no influence on the bytes or the fingerprint.

    Attributes
    ----------
    form : "encoded" or "decoded"
        The first argument of `chunk`: decompressed bytes (``"encoded"``), or an array (``"decoded"``).
    changes_grid : bool
        Whether `metadata` may change `shape` and `chunks`: only for steps that do not work chunk by chunk.

    Examples
    --------
    >>> class Doubled(ArrayStep):
    ...     form = "decoded"
    ...
    ...     def metadata(self, meta):
    ...         return meta.replace(attributes={**meta.attributes, "doubled": True})
    ...
    ...     def chunk(self, data, position):
    ...         return data * 2
    >>> import numpy as np
    >>> Doubled(arrays="temperature", threads=2).chunk(np.array([1, 2]), (0,)).tolist()
    [2, 4]
    """

    arrays: str | tuple[str, ...] = "*"
    threads: int | None = dataclasses.field(default=None, compare=False)
    coords: frozenset[str] | None = dataclasses.field(default=None, init=False, compare=False, repr=False)
    made: Made | None = dataclasses.field(default=None, init=False, compare=False, repr=False)
    form: ClassVar[Literal["encoded", "decoded"]] = "encoded"
    changes_grid: ClassVar[bool] = False
    is_chunkwise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        arrays = self.arrays if isinstance(self.arrays, str) else tuple(self.arrays)
        object.__setattr__(self, "arrays", arrays)

    def metadata(self, meta: ArrayInfo) -> ArrayInfo:
        """Return the new metadata of an array.

        The result must depend on `meta` alone, as the method is called for the whole array and for each block.

        Parameters
        ----------
        meta : ArrayInfo
            The metadata of the array: shape, chunks, data type, fill value, codecs, attributes and dimension names.

        Returns
        -------
        ArrayInfo
            The new metadata, made by ``meta.replace(...)``. The default is the metadata without a change.
        """
        return meta

    def chunk(self, data: Any, position: Coords) -> Any:
        """Return the new data of a chunk.

        The method is called in several threads at a time.

        Parameters
        ----------
        data : buffer or numpy.ndarray
            The chunk's data. An array is writable, and is cut to the part inside the whole array.
        position : tuple of int
            The coordinates of the chunk's first element in the whole array.

        Returns
        -------
        buffer or numpy.ndarray
            The new data, of the same kind as `data`. An array has the shape of `data` and the new data type.
        """
        return data

    @property
    def keeps_chunks(self) -> bool:
        """Whether `chunk` is not overridden, so that the values of chunks stay as they are."""
        return type(self).chunk is ArrayStep.chunk and not self.changes_grid

    def check(self, nodes: Mapping[str, Node]) -> None:
        # docstring inherited
        arrays = [path for path, node in nodes.items() if isinstance(node.meta, ArrayMeta)]
        is_sample, chosen = any(node.is_sample for node in nodes.values()), self.bound(nodes)
        check_selection(
            self.arrays, arrays, type(self).__name__, is_sample=is_sample, coords=chosen.coords or frozenset()
        )
        made: dict[str, Node] = {}
        for path in filter(chosen.means, arrays):
            recoder = self._recoder(path, nodes[path])
            self.check_array(recoder)
            made[path] = self._node_after(recoder, nodes[path])
        object.__setattr__(self, "made", (nodes, made))

    def notices(self, nodes: Mapping[str, Node]) -> Iterator[Notice]:
        # docstring inherited
        arrays = [path for path, node in nodes.items() if isinstance(node.meta, ArrayMeta)]
        yield from selection_notices(self.arrays, arrays, type(self).__name__)

    def bound(self, nodes: Mapping[str, Node]) -> Self:
        # docstring inherited
        if self.coords is not None or not has_words(self.arrays, type(self).__name__):
            return self
        chosen = copy.copy(self)
        object.__setattr__(chosen, "coords", coordinates(nodes))
        return chosen

    def means(self, path: str) -> bool:
        """Tell whether `arrays` selects an array.

        Parameters
        ----------
        path : str
            The path of the array in the whole hierarchy.

        Returns
        -------
        bool
            Whether the step changes the array.
        """
        return is_meant(self.arrays, path, self.coords or ())

    def check_array(self, recoder: Recoder) -> None:
        """Raise ChainError if the step can't change this array; called for each selected array.

        Parameters
        ----------
        recoder : Recoder
            The old and the new metadata of the array.

        Raises
        ------
        ChainError
            If the array can't be changed.
        """
        check_recoding(recoder)

    def changed(self, nodes: Mapping[str, Node]) -> dict[str, Node]:
        """Return a source's metadata after this step, for the checks of the next step.

        After `check` of the same metadata, this takes its results, as the parsing of an array takes about a millisecond.

        Parameters
        ----------
        nodes : mapping of str to Node
            The groups and arrays of the source by path, as the previous steps change them.

        Returns
        -------
        dict of str to Node
            The groups and arrays after this step.
        """
        made = self.made
        object.__setattr__(self, "made", None)
        if made is not None and made[0] is nodes:
            return {**nodes, **made[1]}
        changed, chosen = dict(nodes), self.bound(nodes)
        for path, node in nodes.items():
            if isinstance(node.meta, ArrayMeta) and chosen.means(path):
                changed[path] = self._node_after(self._recoder(path, node), node)
        return changed

    def _node_after(self, recoder: Recoder, node: Node) -> Node:
        blocks = self.changed_blocks(recoder)
        return Node(recoder.array, recoder.documents, {}, blocks, node.is_regridded or blocks != node.blocks)

    def changed_blocks(self, recoder: Recoder) -> Blocks | None:
        """Return the new division of a divided array; the number of blocks must stay the same.

        Parameters
        ----------
        recoder : Recoder
            The old and the new metadata of the array.

        Returns
        -------
        Blocks or None
            The division; None for an array that is not divided.
        """
        return recoder.shard.blocks

    def _recoder(self, path: str, node: Node) -> Recoder:
        return Recoder(self, path, node.documents, Shard(path, node.blocks))

    def __call__(self, entries: Entries, shard: Shard) -> Entries:
        # docstring inherited
        pieces = map_in_order(Piece.recoded, self._pieces(entries, shard), Piece.weight, self.threads)
        return _together(pieces)

    def _pieces(self, entries: Entries, shard: Shard) -> Iterator[Piece]:
        recoders: dict[str, Recoder] = {}
        for are_chunks, some in itertools.groupby(entries, is_chunk):
            if are_chunks:
                yield from _chunk_pieces(some, recoders)
            else:
                yield from map(Piece, self.documents(some, shard, recoders))

    def documents(self, entries: Iterable[Entry], shard: Shard, recoders: dict[str, Recoder]) -> Entries:
        """Yield the entries that are not chunks, and replace the documents of arrays. Add the arrays' recoders to the dictionary, by folder.

        Parameters
        ----------
        entries : iterable of Entry
            Successive entries that are not chunks.
        shard : Shard
            The place of the shard.
        recoders : dict of str to Recoder
            The conversions of the shard's arrays by folder. The method adds the selected arrays.

        Yields
        ------
        Entry
            The entries in their order, with the new documents of selected arrays.
        """
        for group in _grouped(entries):
            yield from self._documents(group, shard, recoders)

    def _documents(self, group: list[Entry], shard: Shard, recoders: dict[str, Recoder]) -> Entries:
        """Yield the new documents of an array, and other entries unchanged."""
        first = group[0]
        if is_misfit(first) and (changed := _nearest(recoders, first.key)) is not None and changed.recodes:
            check_fits(first, shard.path, changed.step_name)
        folder, _, name = first.key.rpartition("/")
        path = join(shard.path, folder)
        if first.array is None or name not in DOCUMENTS or not self.means(path):
            yield from group
            return
        documents = {entry.key.rpartition("/")[2]: bytes(entry.data) for entry in group}
        recoder = recoders[folder] = Recoder(self, path, documents, shard)
        for name, data in recoder.documents.items():
            yield Entry(join(folder, name), data, recoder.array)


def _nearest(recoders: Mapping[str, Recoder], key: str) -> Recoder | None:
    return next((recoders[folder] for folder in parents(key) if folder in recoders), None)


def _grouped(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    """Yield the documents of each v2 array as one group, and each other entry alone."""
    held: list[Entry] = []
    for entry in entries:
        if held:
            if entry.key == held[0].key.removesuffix(".zarray") + ".zattrs":
                yield [*held, entry]
                held = []
                continue
            yield held
            held = []
        if entry.coords is None and entry.array is not None and entry.key.rpartition("/")[2] == ".zarray":
            held = [entry]
        else:
            yield [entry]
    if held:
        yield held


def is_chunk(entry: Entry) -> bool:
    """Tell whether an entry is a stored chunk, or an object of the sharding codec."""
    return entry.coords is not None


def _chunk_pieces(entries: Iterable[Entry], recoders: Mapping[str, Recoder]) -> Iterator[Piece]:
    """Yield the chunks, or their inner chunks, with their recoders; chunks must come array by array."""
    array, start, recoder = None, "", None
    for entry in entries:
        if entry.array is not array or not entry.key.startswith(start):
            folder = "" if entry.array is None else array_folder(entry)
            array, start, recoder = entry.array, f"{folder}/" if folder else "", recoders.get(folder)
        if recoder is None or array is None:
            yield Piece(entry)
        elif not recoder.recodes:
            yield Piece(entry._replace(array=recoder.array))
        elif recoder.doc.index is None:
            yield Piece(entry, recoder, entry.data)
        else:
            yield from recoder.inner_pieces(entry)


def _together(pieces: Iterator[Piece]) -> Entries:
    """Yield the entries of pieces, with inner chunks joined to their object."""
    for piece in pieces:
        entry, recoder, data, number, parts = piece
        if recoder is None or number is None:
            yield entry
            continue
        rest = itertools.islice(pieces, parts - 1)
        joined = recoder.join([data, *(other.data for other in rest)])
        yield Entry(entry.key, joined, recoder.array, entry.coords)
