"""One array on its way through an `ArrayStep`: its new documents, and how its chunks are made anew."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from operator import add, mul
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from shardedstore.arraycodecs import Array, ArrayPart, array_part, raw_nbytes
from shardedstore.arraydoc import ArrayDoc, parse
from shardedstore.arrayinfo import (
    ArrayInfo,
    described,
    encoded_dtype,
    is_bound_to_dtype,
    read_fill_value,
    read_info,
    write_compressors,
    write_dtype,
    write_fill_value,
)
from shardedstore.chain import Shard
from shardedstore.codecs import LARGEST, same
from shardedstore.coders import Compression
from shardedstore.entries import Data, Entry
from shardedstore.errors import ChainError, CorruptError, ShardedStoreError
from shardedstore.grid import Coords
from shardedstore.metadata import ArrayMeta, dump_json, parse_json, parse_node

if TYPE_CHECKING:
    from shardedstore.arraystep import ArrayStep

FIXED = ("path", "zarr_format", "shape", "chunks", "itemsize")


class Piece(NamedTuple):
    """A chunk, or an inner chunk of one, on its way; without a recoder, an entry that passes on."""

    entry: Entry
    recoder: Recoder | None = None
    data: Data | None = None
    position: Coords = ()
    parts: int = 1

    def weight(self) -> int:
        """Return the bytes that `recoded` goes through."""
        if self.recoder is None or self.data is None:
            return 0
        return max(len(self.data), self.recoder.chunk_nbytes)

    def recoded(self) -> Piece:
        """Return this with the data as they are to be."""
        assert self.recoder is not None
        assert self.data is not None
        data = self.recoder.recode(self.data, self.position, self.entry.key)
        return Piece(self.entry, self.recoder, data, self.position, self.parts)


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
        self.chunk_nbytes = math.prod(self.doc.chunks) * self.array.itemsize
        self.recodes = not step.keeps_chunks or self._has_other_codecs()
        self.decodes = not step.keeps_chunks and step.form == "decoded"
        if self.recodes:
            if math.prod(meta.shape) and (meta.chunks is None or meta.keys is None):
                raise ChainError(
                    f"{path!r} has chunks or chunk keys that are not known here: leave it out with arrays=('*', '!{path}')"
                )
            self._prepare()

    def _has_other_codecs(self) -> bool:
        return not same(self.old.compressors, self.new.compressors)

    def _new_doc(self) -> ArrayDoc:
        old, new, doc = self.old, self.new, self.doc
        for name in FIXED:
            if getattr(old, name) != getattr(new, name):
                raise ChainError(
                    f"{self._who()} changes the {name} of {self.path!r} from {getattr(old, name)!r} to "
                    f"{getattr(new, name)!r}: a step keeps an array's chunks where they are"
                )
        if new.dtype != old.dtype and is_bound_to_dtype(doc):
            raise ChainError(
                f"{self._who()} changes the data type of {self.path!r} to {new.dtype}, but its codecs hold only for "
                f"{old.dtype}: leave it out with arrays=('*', '!{self.path}')"
            )
        if new.dtype != old.dtype:
            doc = write_fill_value(write_dtype(doc, new.dtype, self.path), new.fill_value, self.path)
        elif new.fill_value is not old.fill_value:
            doc = write_fill_value(doc, new.fill_value, self.path)
        compressors = self._retyped(new, doc)
        return doc if same(old.compressors, compressors) else write_compressors(doc, compressors, self.path)

    def _retyped(self, new: ArrayInfo, doc: ArrayDoc) -> tuple[dict[str, Any], ...]:
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
        try:
            self.decompress, self.compress = self._compression(self.doc), self._compression(self.new_doc)
            self.raw_nbytes = raw_nbytes(self.doc)
            if self.decodes:
                self.unpack: ArrayPart = array_part(self.doc)
                self.pack: ArrayPart = array_part(self.new_doc)
                fill_value = self.new_doc.document["fill_value"]
                self.padding = read_fill_value(self.new_doc, fill_value)
        except Exception as error:
            raise ChainError(f"{self._who()} can't handle {self.path!r}: {type(error).__name__}: {error}") from error

    def _compression(self, doc: ArrayDoc) -> Compression:
        dtype = encoded_dtype(doc) if doc.zarr_format == 2 else None
        itemsize = self.old.itemsize if doc is self.doc or dtype is None else dtype.itemsize
        return Compression(described(doc, itemsize), dtype)

    def _who(self) -> str:
        return type(self.step).__name__

    def check(self) -> None:
        """Encode a few elements and decode them again, so that what can't be encoded is refused before anything runs.

        Raises
        ------
        ChainError
        """
        if not self.recodes:
            return
        for config in self.compress.configs:
            largest = LARGEST.get(config["id"])
            if largest is not None and self.chunk_nbytes > largest:
                raise ChainError(
                    f"{self._who()} can't encode {self.path!r} with {config['id']}: its chunks have {self.chunk_nbytes} "
                    f"bytes, and {config['id']} takes {largest} at most"
                )
        dtype = self.compress.dtype or np.dtype(f"V{self.old.itemsize}")
        sample = bytes(range(256)) * dtype.itemsize if dtype.kind != "b" else b"\0\1" * 128
        try:
            got = bytes(self.compress.decode(self.compress.encode(sample)))
        except Exception as error:
            raise ChainError(
                f"{self._who()} can't encode {self.path!r} ({self.old.dtype}) with {self.compress}: "
                f"{type(error).__name__}: {error}"
            ) from error
        if got != sample:
            raise ChainError(
                f"{self._who()} can't encode {self.path!r} ({self.old.dtype}) with {self.compress}: it changes the values"
            )

    def pieces(self, entry: Entry) -> Iterator[Piece]:
        """Yield the chunk of an entry, or its inner chunks, in C order."""
        assert entry.coords is not None
        start = tuple(map(mul, entry.coords, self.doc.stored))
        if self.doc.index is None:
            yield Piece(entry, self, entry.data, start)
            return
        try:
            inner = self.doc.index.split(entry.data)
        except ValueError as error:
            raise CorruptError(
                f"shard {self.shard.name!r}: {entry.key!r} can't be decoded with sharding_indexed: {error}"
            ) from None
        grid = itertools.product(*map(range, self.doc.inner_grid))
        for data, index in zip(inner, grid, strict=True):
            position = tuple(map(add, start, map(mul, index, self.doc.chunks)))
            yield Piece(entry, self, data, position, len(inner))

    def join(self, chunks: list[Data | None]) -> Data:
        """Return a stored object again."""
        if self.doc.index is None:
            assert chunks[0] is not None
            return chunks[0]
        return self.doc.index.join(chunks)

    def recode(self, data: Data, position: Coords, key: str) -> bytes:
        """Return an encoded chunk as it is to be.

        Raises
        ------
        CorruptError
            For a chunk that can't be decoded: names the shard, the key, the codec and the cause.
        ShardedStoreError
            For what the step makes of it, where that can't be encoded.
        """
        try:
            chunk = self.decompress.decode(data)
            nbytes = memoryview(chunk).nbytes
            if self.raw_nbytes is not None and nbytes != self.raw_nbytes:
                raise ValueError(f"it holds {nbytes} bytes, where a chunk has {self.raw_nbytes}")
            if self.decodes:
                chunk = self.unpack.unpack(chunk)
        except Exception as error:
            raise CorruptError(
                f"shard {self.shard.name!r}: {key!r} can't be decoded with {self.decompress}: {type(error).__name__}: {error}"
            ) from error
        try:
            chunk = self._decoded(chunk, position) if self.decodes else self.step.chunk(chunk, position)
            return self.compress.encode(chunk)
        except Exception as error:
            raise ShardedStoreError(
                f"shard {self.shard.name!r}: {self._who()} fails on {key!r} at {position}: {type(error).__name__}: {error}"
            ) from error

    def _inside(self, position: Coords) -> tuple[slice, ...]:
        """Return which part of a chunk lies in the array: the shape of a block's array counts from the block's first chunk."""
        shard, first = self.shard, (0,) * len(position)
        if shard.blocks is not None and shard.block is not None:
            first = tuple(map(mul, shard.blocks.offset(shard.block), self.doc.stored))
        return tuple(slice(max(n + f - p, 0)) for n, f, p in zip(self.doc.shape, first, position, strict=True))

    def _decoded(self, chunk: Array, position: Coords) -> Any:
        """Run the step on the part of a chunk that lies in the array; what lies outside gets the fill value."""
        inside = self._inside(position)
        part = chunk[inside]
        if part.size or not chunk.size:
            part = self.checked(self.step.chunk(part.copy(), position), part.shape)
        if part.shape == chunk.shape:
            return self.pack.pack(part)
        whole = np.full(chunk.shape, self.padding, self.new.dtype)
        whole[inside] = part
        return self.pack.pack(whole)

    def checked(self, result: Any, shape: Coords) -> Array:
        """Return what a step made of a chunk, if it has the shape and the data type that it must have."""
        array, dtype = np.asarray(result), self.new.dtype
        assert dtype is not None
        if array.shape != shape:
            raise ValueError(f"the shape {array.shape} came out of a chunk of {shape}")
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
