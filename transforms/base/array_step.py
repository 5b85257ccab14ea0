"""Whether an array's chunks can be made anew: what is asked before anything runs."""

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
from shardedstore.transforms.base.chain import Entries, Shard, Step
from shardedstore.transforms.base.parallel import map_in_order
from shardedstore.transforms.base.recode import Piece, Recoder
from shardedstore.transforms.base.variables import coordinates
from shardedstore.zarr.grid import Blocks, Coords
from shardedstore.zarr.metadata import ArrayMeta
from shardedstore.zarr.paths import join, parents


def check_recoding(recoder: Recoder) -> None:
    """Encode a few elements and decode them again, so that what can't be encoded is refused before anything runs.

    Raises
    ------
    ChainError
    """
    if not recoder.recodes:
        return
    compression = recoder.encoder.compression
    for config in compression.configs:
        largest = LARGEST.get(config["id"])
        if largest is not None and recoder.chunk_nbytes > largest:
            raise ChainError(
                f"{recoder.step_name} can't encode {recoder.path!r} with {config['id']}: its chunks have {recoder.chunk_nbytes} "
                f"bytes, and {config['id']} takes {largest} at most"
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
    """Let zarr read a few elements through the new filters; whether they keep the values is seen chunk by chunk."""
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
    """Refuse codecs that misread what they wrote: what a few elements have become must stay so when it is written again."""
    doc = recoder.new_doc.one_chunk(tuple(max(1, min(size, 4)) for size in recoder.new_doc.chunks))
    assert recoder.new.dtype is not None
    try:
        codec = ChunkCodec(doc, arrays=True)
        once = codec.decode(codec.encode(few_elements(recoder.new.dtype, doc.chunks)))
        again = codec.decode(codec.encode(once))
    except Exception:  # noqa: BLE001 (of values that these codecs do not take)
        return
    if not is_identical(once, again):
        raise ChainError(
            f"{recoder.step_name} can't encode {recoder.path!r} ({recoder.old.dtype}): its filters give other values each time that "
            "they are written, in zarr too. Give it others first, with Recompress(filters=...)"
        )


DOCUMENTS = (".zarray", ".zattrs", "zarr.json")


@dataclass(frozen=True, kw_only=True)
class ArrayStep(Step):
    """Changes arrays: their metadata, and their chunks one by one, in several threads.

    Write `metadata`, `chunk` or both. Zarr v2 and v3, chunk keys, compressors and the sharding codec are taken care of.
    Missing chunks stay missing. What does not change passes on byte for byte: documents, and all chunks where `chunk` is
    not written and `metadata` leaves the codecs as they are.

    Parameters
    ----------
    arrays : str or tuple of str
        The paths or globs of the arrays that are meant, as in `ShardedStore.partition`; with ``!`` before it, of those
        that are not; ``"data_vars"`` and ``"coords"`` are those that xarray opens as such. Each must match an array of the source, but for those with ``?`` at their end.
    threads : int, optional
        How many chunks of a shard are worked on at a time; at most four, and no more than processors, if not given.
        It changes no byte, and is no part of the fingerprint.

    Attributes
    ----------
    form : "encoded" or "decoded"
        What `chunk` gets: decompressed bytes, or an array.
    changes_grid : bool
        Whether `metadata` may change shape and chunks: for steps that do not work chunk by chunk.

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
    """

    arrays: str | tuple[str, ...] = "*"
    threads: int | None = dataclasses.field(default=None, compare=False)
    coords: frozenset[str] | None = dataclasses.field(default=None, init=False, compare=False, repr=False)
    form: ClassVar[Literal["encoded", "decoded"]] = "encoded"
    changes_grid: ClassVar[bool] = False

    def __post_init__(self) -> None:
        arrays = self.arrays if isinstance(self.arrays, str) else tuple(self.arrays)
        object.__setattr__(self, "arrays", arrays)

    def metadata(self, meta: ArrayInfo) -> ArrayInfo:
        """Return an array's metadata as it is to be: by `meta` alone, as it is called for the whole and each block."""
        return meta

    def chunk(self, data: Any, position: Coords) -> Any:
        """Return a chunk as it is to be.

        Called in several threads at a time.

        Parameters
        ----------
        data : buffer or numpy.ndarray
            Decoded, it is writable, and ends where the array ends.
        position : tuple of int
            The coordinates of the chunk's first element in the whole array.
        """
        return data

    @property
    def keeps_chunks(self) -> bool:
        """Whether `chunk` is not written, so that chunks are only encoded anew."""
        return type(self).chunk is ArrayStep.chunk and not self.changes_grid

    def check(self, nodes: Mapping[str, Node]) -> None:
        # docstring inherited
        arrays = [path for path, node in nodes.items() if isinstance(node.meta, ArrayMeta)]
        is_sample, chosen = any(node.is_sample for node in nodes.values()), self.bound(nodes)
        check_selection(
            self.arrays, arrays, type(self).__name__, is_sample=is_sample, coords=chosen.coords or frozenset()
        )
        for path in arrays:
            if chosen.means(path):
                self.check_array(self._recoder(path, nodes[path]))

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
        """Tell whether an array is meant."""
        return is_meant(self.arrays, path, self.coords or ())

    def check_array(self, recoder: Recoder) -> None:
        """Raise ChainError where the step makes no sense on one array: called for each of those meant."""
        check_recoding(recoder)

    def changed(self, nodes: Mapping[str, Node]) -> dict[str, Node]:
        """Return the metadata of a source as the step leaves it: what the next step's `check` is to be given."""
        changed, chosen = dict(nodes), self.bound(nodes)
        for path, node in nodes.items():
            if isinstance(node.meta, ArrayMeta) and chosen.means(path):
                recoder = self._recoder(path, node)
                blocks = self.changed_blocks(recoder)
                is_regridded = node.is_regridded or blocks != node.blocks
                changed[path] = Node(recoder.array, recoder.documents, {}, blocks, is_regridded)
        return changed

    def changed_blocks(self, recoder: Recoder) -> Blocks | None:
        """Return how an array that is divided into blocks is divided afterwards; the blocks must stay the same in number."""
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
        """Yield entries that are no chunks, the documents of arrays as they are to be; note their recoders by folder."""
        for group in _grouped(entries):
            yield from self._documents(group, shard, recoders)

    def _documents(self, group: list[Entry], shard: Shard, recoders: dict[str, Recoder]) -> Entries:
        """Yield the documents of an array as they are to be; other keys as they are."""
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
    """Yield entries one by one, but the documents of a v2 array together."""
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
    """Yield what is to be worked on of chunks, which come array by array."""
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
    """Yield the entries of pieces, those of inner chunks joined again."""
    for piece in pieces:
        entry, recoder, data, number, parts = piece
        if recoder is None or number is None:
            yield entry
            continue
        rest = itertools.islice(pieces, parts - 1)
        joined = recoder.join([data, *(other.data for other in rest)])
        yield Entry(entry.key, joined, recoder.array, entry.coords)
