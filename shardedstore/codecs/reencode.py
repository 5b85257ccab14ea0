"""Decode chunks with an array's codecs in Zarr v2, and encode them with its codecs in Zarr v3."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from shardedstore.codecs.array_codecs import Array, FilterPart, array_part
from shardedstore.codecs.array_document import ArrayDoc, data_type, name_of
from shardedstore.codecs.array_info import compressor_configs, read_fill_value
from shardedstore.codecs.bytes_codecs import Compression
from shardedstore.codecs.codec_clock import current_clock
from shardedstore.codecs.codec_config import safe_codec
from shardedstore.zarr.grid import Coords


class Reencoder:
    """Convert chunks from Zarr v2 to Zarr v3, with equal values.

    Parameters
    ----------
    old, new : ArrayDoc
        The same array in v2 and in v3.

    Raises
    ------
    Exception
        Of any type, if numcodecs or zarr do not know a codec or the data type.
    """

    def __init__(self, old: ArrayDoc, new: ArrayDoc) -> None:
        self.clock = current_clock()
        self.decompress = Compression(compressor_configs(old, 1))
        filters = [safe_codec(config) for config in old.filters]
        is_object = old.document["dtype"] == "|O"
        before = np.dtype(object) if is_object else data_type(old.document).to_native_dtype()
        self.unpack = FilterPart(filters, before, old.chunks, old.document.get("order") or "C")
        self.after = data_type(new.document).to_native_dtype()
        self.pack = array_part(new)
        self.compress = Compression(compressor_configs(new, max(1, self.after.itemsize)))
        self.chunks, self.padding = new.chunks, read_fill_value(new, new.document["fill_value"])
        self.is_text = name_of(new.serializer) == "vlen-utf8"
        self.names = ", ".join(config["id"] for config in (*old.filters, *self.decompress.configs))

    def decode(self, data: Any) -> Array:
        """Return the elements of a stored v2 chunk."""
        begun = time.perf_counter()
        array = self.unpack.unpack(self.decompress.decode(data))
        self.clock.decoded(begun)
        return array

    def encode_old(self, array: Array) -> bytes:
        """Return the stored bytes of a v2 chunk."""
        raw = self.unpack.pack(array)
        return self.decompress.encode(raw if isinstance(raw, bytes) else raw.view("u1"))

    def encode(self, array: Array) -> bytes:
        """Return the stored bytes of a v3 chunk. A smaller array is padded with the fill value."""
        if self.is_text:
            for value in array.ravel():
                if not isinstance(value, str):
                    raise TypeError(f"{value!r} is not a string, the only type of objects in Zarr v3")
        begun = time.perf_counter()
        made = self.compress.encode(self.pack.pack(self._filled_up(array.astype(self.after, copy=False))))
        self.clock.encoded(begun)
        return made

    def _filled_up(self, array: Array) -> Array:
        if array.shape == self.chunks:
            return array
        whole: Array = np.full(self.chunks, self.padding, self.after)
        whole[inner(array.shape)] = array
        return whole


def inner(size: Coords) -> Any:
    """Return the index of the first `size` elements along each dimension."""
    return *map(slice, size), ...
