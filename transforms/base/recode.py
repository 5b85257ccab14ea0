"""`Recoder`: the new documents of one array in an `ArrayStep`, and the encoding of its chunks."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import add, mul
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from shardedstore.codecs.array_codecs import Array, ChunkCodec
from shardedstore.codecs.array_document import ArrayDoc, leave_out, parse_array_document
from shardedstore.codecs.array_info import (
    ArrayInfo,
    is_bound_to_dtype,
    read_info,
    write_compressors,
    write_dtype,
    write_fill_value,
    write_filters,
    write_grid,
)
from shardedstore.codecs.codec_clock import current_clock
from shardedstore.codecs.codec_config import same
from shardedstore.errors import ChainError, ShardedStoreError
from shardedstore.stores.entries import Data, Entry
from shardedstore.transforms.base.shard import Shard, at_entry, shard_source, undecodable
from shardedstore.zarr.grid import Coords
from shardedstore.zarr.metadata import ArrayMeta, dump_json, parse_json, parse_node

if TYPE_CHECKING:
    from shardedstore.transforms.base.array_step import ArrayStep

FIXED = ("path", "zarr_format", "itemsize")
GRID = ("shape", "chunks")


class Piece(NamedTuple):
    """A stored object or, with a number, one of its inner chunks; without a recoder it stays unchanged."""

    entry: Entry
    recoder: Recoder | None = None
    data: Data | None = None
    number: int | None = None
    parts: int = 1

    def weight(self) -> int:
        """Return the number of bytes that `recoded` processes."""
        if self.recoder is None or self.data is None:
            return 0
        return max(len(self.data), self.recoder.chunk_nbytes)

    def recoded(self) -> Piece:
        """Return this piece with its new data."""
        entry, recoder, data, number, parts = self
        if recoder is None or data is None:
            return self
        data = recoder.recode(data, entry, number)
        if number is None:
            entry = Entry(entry.key, data, recoder.array, entry.coords)
        return Piece(entry, recoder, data, number, parts)


class Recoder:
    """The old and the new metadata of one array, and the conversion of its chunks.

    Parameters
    ----------
    step : ArrayStep
        The step that changes the array.
    path : str
        The array's path in the hierarchy.
    documents : mapping of str to bytes
        Its metadata documents by name.
    shard : Shard, optional
        The shard that holds the chunks.

    Raises
    ------
    ChainError
        If the array's codecs or its new metadata are not supported.
    """

    def __init__(self, step: ArrayStep, path: str, documents: Mapping[str, bytes], shard: Shard | None = None) -> None:
        self.step, self.path, self.clock = step, path, current_clock()
        self.shard = Shard(path) if shard is None else shard
        self.folder = path[len(self.shard.path) :].lstrip("/")
        self.name = "zarr.json" if "zarr.json" in documents else ".zarray"
        document = parse_json(documents[self.name], path, self.name)
        self.doc = parse_array_document(document, path)
        attributes = document.get("attributes") or {}
        if ".zattrs" in documents:
            attributes = parse_json(documents[".zattrs"], path, ".zattrs")
        self.old = read_info(self.doc, path, attributes)
        self.new = step.metadata(self.old)
        self.new_doc = self._new_doc()
        self.documents = self._documents(documents)
        meta = parse_node(self.documents, path)
        assert isinstance(meta, ArrayMeta)
        self.array = meta
        self.grid = tuple(-(-n // c) for n, c in zip(self.doc.shape, self.doc.stored, strict=True))
        self.chunk_nbytes = math.prod(self.new_doc.chunks) * self.array.itemsize
        self.refilters = not same(self.old.filters, self.new.filters)
        self.recodes = not step.keeps_chunks or self.refilters or not same(self.old.compressors, self.new.compressors)
        self.decodes = self.refilters or (not step.keeps_chunks and step.form == "decoded")
        if self.recodes:
            if math.prod(meta.shape) and (meta.chunks is None or meta.keys is None):
                raise ChainError(f"{path!r} has an unknown chunk grid or chunk key encoding: {leave_out(path)}")
            self._prepare()

    def _new_doc(self) -> ArrayDoc:
        old, new, doc = self.old, self.new, self.doc
        for name in FIXED if self.step.changes_grid else (*FIXED, *GRID):
            if getattr(old, name) != getattr(new, name):
                raise ChainError(
                    f"{self.step_name} changes the {name} of {self.path!r} from {getattr(old, name)!r} to "
                    f"{getattr(new, name)!r}: a step must keep an array's chunks where they are"
                )
        if new.dtype != old.dtype and is_bound_to_dtype(doc):
            raise ChainError(
                f"{self.step_name} changes the data type of {self.path!r} to {new.dtype}, but its codecs are valid only for "
                f"{old.dtype}: {leave_out(self.path)}"
            )
        if new.dtype != old.dtype:
            doc = write_fill_value(write_dtype(doc, new.dtype, self.path), new.fill_value, self.path)
        elif new.fill_value is not old.fill_value:
            doc = write_fill_value(doc, new.fill_value, self.path)
        if not same(old.filters, new.filters):
            doc = write_filters(doc, new.filters)
        compressors = self._retyped(new)
        if not same(old.compressors, compressors):
            doc = write_compressors(doc, compressors, self.path)
        if (old.shape, old.chunks) != (new.shape, new.chunks):
            doc = write_grid(doc, new.shape, new.chunks, self.path)
        return doc

    def _retyped(self, new: ArrayInfo) -> tuple[dict[str, Any], ...]:
        """Return the compressors, with the typesize of the new elements if they had that of the old ones."""
        if new.dtype == self.old.dtype or new.dtype is None:
            return new.compressors
        return tuple(
            {**config, "typesize": new.dtype.itemsize} if config.get("typesize") == self.old.itemsize else config
            for config in new.compressors
        )

    def _documents(self, documents: Mapping[str, bytes]) -> dict[str, bytes]:
        changed = dict(documents)
        document = self.new_doc.document
        if self.new.attributes != self.old.attributes:
            if self.doc.zarr_format == 2:
                changed[".zattrs"] = dump_json(self.new.attributes)
            else:
                document = {**document, "attributes": self.new.attributes}
        if document is not self.doc.document:
            changed[self.name] = dump_json(document)
        return changed

    def _prepare(self) -> None:
        if self.refilters and not self.step.keeps_chunks and self.step.form == "encoded":
            raise ChainError(f"{self.step_name} changes the filters of {self.path!r}, so its chunks must be decoded")
        try:
            self.decoder, self.encoder = (ChunkCodec(doc, self.decodes) for doc in (self.doc, self.new_doc))
        except Exception as error:
            raise ChainError(f"{self.step_name} can't handle {self.path!r}: {type(error).__name__}: {error}") from error

    @property
    def step_name(self) -> str:
        """Name of the step in messages."""
        return type(self.step).__name__

    def inner_pieces(self, entry: Entry) -> Iterator[Piece]:
        """Yield the inner chunks of an object, in C order."""
        assert self.doc.index is not None
        try:
            inner = self.doc.index.split(entry.data)
        except ValueError as error:
            raise undecodable(entry, self.shard, "sharding_indexed", error) from None
        for number, data in enumerate(inner):
            yield Piece(entry, self, data, number, len(inner))

    def join(self, chunks: list[Data | None]) -> Data:
        """Join inner chunks to an object."""
        assert self.doc.index is not None
        return self.doc.index.join(chunks)

    def recode(self, data: Data, entry: Entry, number: int | None) -> bytes:
        """Return the new encoded data of a chunk.

        Raises
        ------
        CorruptError
            If the chunk can't be decoded. The message names the shard, the key, the codec and the cause.
        ShardedStoreError
            If the step fails, or its result can't be encoded.
        """
        chunk = self.read(data, entry)
        try:
            if not self.decodes:
                raw = chunk if self.step.keeps_chunks else self.step.chunk(chunk, self.position(entry.coords, number))
                return self._timed(self.encoder.compression.encode, raw)
            if not self.step.keeps_chunks:
                chunk = self._changed(chunk, entry, number)
            elif self.refilters:
                chunk = self._inside(chunk, entry, number)
            return self._timed(self.encoder.encode_exactly, chunk) if self.refilters else self.encode(chunk)
        except Exception as error:
            failed = ShardedStoreError(
                f"shard {self.shard.name!r}: {self.step_name} fails on {shard_source(entry, self.shard)} at "
                f"{self.position(entry.coords, number)}: {type(error).__name__}: {error}"
            )
            raise at_entry(failed, entry, self.shard) from error

    def read(self, data: Data, entry: Entry) -> Any:
        """Return a chunk as an array if the step or the filters need one, else as decompressed bytes."""
        begun = time.perf_counter()
        try:
            chunk = self.decoder.decode(data) if self.decodes else self.decoder.decompress(data)
        except Exception as error:
            raise undecodable(entry, self.shard, self.decoder.compression, error) from error
        self.clock.decoded(begun)
        return chunk

    def encode(self, chunk: Array) -> bytes:
        """Return the stored bytes of a new chunk."""
        return self._timed(self.encoder.encode, chunk)

    def _timed(self, encode: Callable[[Any], bytes], chunk: Any) -> bytes:
        begun = time.perf_counter()
        made = encode(chunk)
        self.clock.encoded(begun)
        return made

    def local_position(self, key: str, number: int | None = None) -> Coords:
        """Return the coordinates of a chunk's first element in the shard's own array, such as a block."""
        assert self.array.keys is not None
        return self.position(self.array.keys.decode(key[len(self.folder) :].lstrip("/"), self.grid), number)

    def position(self, coords: Coords | None, number: int | None) -> Coords:
        """Return the coordinates of a chunk's first element, or with a number, of an inner chunk's first element.

        They count in the same array as `coords`.
        """
        assert coords is not None
        start = map(mul, coords, self.doc.stored)
        if number is None:
            return tuple(start)
        inner = map(int, np.unravel_index(number, self.doc.inner_grid))
        return tuple(map(add, start, map(mul, inner, self.doc.chunks)))

    def _inside(self, chunk: Array, entry: Entry, number: int | None) -> Array:
        """Return a chunk without the padding outside the array."""
        local = self.local_position(entry.key, number)
        sizes = (max(n - p, 0) for n, p in zip(self.doc.shape, local, strict=True))
        part: Array = chunk[boxed((0,) * chunk.ndim, sizes)]
        return part

    def _changed(self, chunk: Array, entry: Entry, number: int | None) -> Array:
        """Run the step on a chunk without its padding; the padding gets the fill value when it is encoded."""
        part = self._inside(chunk, entry, number)
        if part.size or not chunk.size:
            part = self.checked(self.step.chunk(part.copy(), self.position(entry.coords, number)), part.shape)
        return part

    def checked(self, result: Any, shape: Coords) -> Array:
        """Return the result of a step's function as an array, after checks of its shape and data type."""
        array, dtype = np.asarray(result), self.new.dtype
        assert dtype is not None
        if array.shape != shape:
            raise ValueError(f"the function returned the shape {array.shape}, but {shape} is needed")
        if not _is_fit(array.dtype, dtype):
            raise TypeError(
                f"the function returned {array.dtype}, but the array has {dtype}: use dtype={str(array.dtype)!r}"
            )
        return array.astype(dtype, copy=False)


def _is_fit(one: np.dtype[Any], dtype: np.dtype[Any]) -> bool:
    """Tell whether one data type equals another in any byte order, or has shorter texts."""
    if dtype.kind in "TO":
        return one.kind in "TOU"
    if dtype.kind in "US":
        return one.kind == dtype.kind and one.itemsize <= dtype.itemsize
    return one.kind not in "TO" and one.newbyteorder("=") == dtype.newbyteorder("=")


def boxed(start: Iterable[int], stop: Iterable[int]) -> Any:
    """Return the index of a part of an array, which gives a view even without dimensions.

    >>> np.arange(5)[boxed((1,), (3,))], np.array(7)[boxed((), ())]
    (array([1, 2]), array(7))
    """
    return *map(slice, start, stop), ...
