"""One array on its way through an `ArrayStep`: its new documents, and how its chunks are made anew."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from operator import add, mul
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from shardedstore.codecs.array_codecs import Array, ChunkCodec
from shardedstore.codecs.array_document import ArrayDoc, leave_out, parse
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
from shardedstore.codecs.codec_config import same
from shardedstore.errors import ChainError, ShardedStoreError
from shardedstore.stores.entries import Data, Entry
from shardedstore.transforms.base.chain import Shard, at_entry, source_of, undecodable
from shardedstore.zarr.grid import Coords
from shardedstore.zarr.metadata import ArrayMeta, dump_json, parse_json, parse_node

if TYPE_CHECKING:
    from shardedstore.transforms.base.array_step import ArrayStep

FIXED = ("path", "zarr_format", "itemsize")
GRID = ("shape", "chunks")


class Piece(NamedTuple):
    """A stored object, or with a number an inner chunk of one, on its way; without a recoder it passes on as it is."""

    entry: Entry
    recoder: Recoder | None = None
    data: Data | None = None
    number: int | None = None
    parts: int = 1

    def weight(self) -> int:
        """Return the bytes that `recoded` goes through."""
        if self.recoder is None or self.data is None:
            return 0
        return max(len(self.data), self.recoder.chunk_nbytes)

    def recoded(self) -> Piece:
        """Return this with the data as they are to be."""
        entry, recoder, data, number, parts = self
        if recoder is None or data is None:
            return self
        data = recoder.recode(data, entry, number)
        if number is None:
            entry = Entry(entry.key, data, recoder.array, entry.coords)
        return Piece(entry, recoder, data, number, parts)


class Recoder:
    """The old and the new metadata of one array, and what its chunks go through.

    Parameters
    ----------
    step : ArrayStep
    path : str
        The array's path in the whole.
    documents : mapping of str to bytes
        Its metadata documents by name.
    shard : Shard, optional
        The shard that the chunks are in.

    Raises
    ------
    ChainError
        Where the array's codecs, or what the step makes of its metadata, can't be handled.
    """

    def __init__(self, step: ArrayStep, path: str, documents: Mapping[str, bytes], shard: Shard | None = None) -> None:
        self.step, self.path = step, path
        self.shard = Shard(path) if shard is None else shard
        self.folder = path[len(self.shard.path) :].lstrip("/")
        self.name = "zarr.json" if "zarr.json" in documents else ".zarray"
        document = parse_json(documents[self.name], path, self.name)
        self.doc = parse(document, path)
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
                raise ChainError(f"{path!r} has chunks or chunk keys that are not known here: {leave_out(path)}")
            self._prepare()

    def _new_doc(self) -> ArrayDoc:
        old, new, doc = self.old, self.new, self.doc
        for name in FIXED if self.step.changes_grid else (*FIXED, *GRID):
            if getattr(old, name) != getattr(new, name):
                raise ChainError(
                    f"{self.step_name} changes the {name} of {self.path!r} from {getattr(old, name)!r} to "
                    f"{getattr(new, name)!r}: a step keeps an array's chunks where they are"
                )
        if new.dtype != old.dtype and is_bound_to_dtype(doc):
            raise ChainError(
                f"{self.step_name} changes the data type of {self.path!r} to {new.dtype}, but its codecs hold only for "
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
        """Return the compressors, for elements of another size where they were for the old ones."""
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
        """What messages call the step."""
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
        """Return an object of its inner chunks."""
        assert self.doc.index is not None
        return self.doc.index.join(chunks)

    def recode(self, data: Data, entry: Entry, number: int | None) -> bytes:
        """Return an encoded chunk as it is to be.

        Raises
        ------
        CorruptError
            For a chunk that can't be decoded: names the shard, the key, the codec and the cause.
        ShardedStoreError
            For what the step makes of it, where that can't be encoded.
        """
        chunk = self.read(data, entry)
        try:
            if not self.decodes:
                raw = chunk if self.step.keeps_chunks else self.step.chunk(chunk, self.position(entry.coords, number))
                return self.encoder.compression.encode(raw)
            if not self.step.keeps_chunks:
                chunk = self._changed(chunk, entry, number)
            elif self.refilters:
                chunk = self._inside(chunk, entry, number)
            return self.encoder.encode_exactly(chunk) if self.refilters else self.encoder.encode(chunk)
        except Exception as error:
            failed = ShardedStoreError(
                f"shard {self.shard.name!r}: {self.step_name} fails on {source_of(entry, self.shard)} at "
                f"{self.position(entry.coords, number)}: {type(error).__name__}: {error}"
            )
            raise at_entry(failed, entry, self.shard) from error

    def read(self, data: Data, entry: Entry) -> Any:
        """Return a chunk as an array, where the step or the filters need it so, and else its bytes before compression."""
        try:
            return self.decoder.decode(data) if self.decodes else self.decoder.decompress(data)
        except Exception as error:
            raise undecodable(entry, self.shard, self.decoder.compression, error) from error

    def local_position(self, key: str, number: int | None = None) -> Coords:
        """Return the first element of a chunk in the shard's own array, which for a block is the block."""
        assert self.array.keys is not None
        return self.position(self.array.keys.decode(key[len(self.folder) :].lstrip("/"), self.grid), number)

    def position(self, coords: Coords | None, number: int | None) -> Coords:
        """Return the first element of a chunk, or with a number of an inner chunk, in the array that `coords` count in."""
        assert coords is not None
        start = map(mul, coords, self.doc.stored)
        if number is None:
            return tuple(start)
        inner = map(int, np.unravel_index(number, self.doc.inner_grid))
        return tuple(map(add, start, map(mul, inner, self.doc.chunks)))

    def _inside(self, chunk: Array, entry: Entry, number: int | None) -> Array:
        """Return the part of a chunk that lies in the array: what pads it may be anything."""
        local = self.local_position(entry.key, number)
        sizes = (max(n - p, 0) for n, p in zip(self.doc.shape, local, strict=True))
        part: Array = chunk[boxed((0,) * chunk.ndim, sizes)]
        return part

    def _changed(self, chunk: Array, entry: Entry, number: int | None) -> Array:
        """Run the step on the part of a chunk that lies in the array; what lies outside gets the fill value."""
        part = self._inside(chunk, entry, number)
        if part.size or not chunk.size:
            part = self.checked(self.step.chunk(part.copy(), self.position(entry.coords, number)), part.shape)
        return part

    def checked(self, result: Any, shape: Coords) -> Array:
        """Return what a step's function gave, if it has the shape and the data type that it must have."""
        array, dtype = np.asarray(result), self.new.dtype
        assert dtype is not None
        if array.shape != shape:
            raise ValueError(f"the shape {array.shape} came out, where {shape} must")
        if not _is_fit(array.dtype, dtype):
            raise TypeError(f"{array.dtype} came out, where the array has {dtype}: say dtype={str(array.dtype)!r}")
        return array.astype(dtype, copy=False)


def _is_fit(one: np.dtype[Any], dtype: np.dtype[Any]) -> bool:
    """Tell whether one type is the other, in any byte order, or shorter texts."""
    if dtype.kind in "TO":
        return one.kind in "TOU"
    if dtype.kind in "US":
        return one.kind == dtype.kind and one.itemsize <= dtype.itemsize
    return one.kind not in "TO" and one.newbyteorder("=") == dtype.newbyteorder("=")


def boxed(start: Iterable[int], stop: Iterable[int]) -> Any:
    """Return the index of a part of an array, which is a view also where the array has no dimension.

    >>> np.arange(5)[boxed((1,), (3,))], np.array(7)[boxed((), ())]
    (array([1, 2]), array(7))
    """
    return *map(slice, start, stop), ...
