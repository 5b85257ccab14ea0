"""`Recompress`: change the compressor or the filters of an array's chunks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import EllipsisType
from typing import Any

import numpy as np

from shardedstore.codecs.array_info import ArrayInfo
from shardedstore.codecs.codec_config import (
    LOSSY,
    Config,
    check_options,
    complete,
    complete_filters,
    config_of,
    filtered_dtype,
    same,
    unknown_codec,
)
from shardedstore.errors import ChainError
from shardedstore.partition.selection import Selection
from shardedstore.transforms.base.array_step import ArrayStep
from shardedstore.transforms.base.recode import Recoder

Options = tuple[tuple[str, Any], ...]
OWN = {"codec", "filters", "arrays", "threads"}


@dataclass(frozen=True, init=False, repr=False)
class Recompress(ArrayStep):
    """Change the compressor of arrays, their filters, or both; the values stay equal.

    Each chunk has the bytes that zarr writes with these codecs, except for the time in gzip's header, which is zero. An
    array that already has the codecs, by its metadata, is copied unchanged. A CRC-32C codec at the end is kept, and the
    checksum computed again. Under the sharding codec, the inner chunks are compressed, and written in C order.

    Parameters
    ----------
    codec : str, dict, codec or None, optional
        ``"blosc"``, ``"zstd"``, ``"gzip"``, or the id of another codec of numcodecs: ``"zlib"``, ``"lz4"``, ``"bz2"``,
        ``"lzma"``, which Zarr v3 calls ``numcodecs.zlib`` and so on. Or a codec of numcodecs or zarr, or its
        configuration. None for no compressor. By default, the compressor stays.
    filters : str, dict, codec or None, or a list of these, optional
        The new filters, which replace the old ones: codecs that are applied to the elements before compression, such as
        ``"delta"`` or ``{"id": "transpose", "order": [1, 0]}``. ``"delta"`` and ``"shuffle"`` take the data type from the
        array. None for no filters. The object codec of a Zarr v2 array is not a filter, and stays. By default, the
        filters stay.
    arrays : str or tuple of str
        The arrays to change: see `ArrayStep`.
    threads : int, optional
        The number of chunks that are encoded at a time: see `ArrayStep`.
    **options
        Options of the codec, such as ``level=5``. Those of Blosc, zstd and gzip are the same in Zarr v2 and v3. Blosc's
        shuffle is ``"noshuffle"``, ``"shuffle"`` or ``"bitshuffle"``; its default depends on the size of the elements.

    Notes
    -----
    Lossy filters, such as ``"bitround"``, are refused before anything runs. Other filters keep some values and change
    others (a scale and an offset, differences of floats). Therefore each chunk is decoded again after new filters. If it
    is not equal to the bit, its shard fails with an error that names the chunk. Use `MapChunks` to change values.

    Examples
    --------
    >>> Recompress("zstd", level=5)
    Recompress('zstd', level=5)
    >>> Recompress("blosc", arrays="wind_*", cname="lz4", shuffle="bitshuffle")
    Recompress('blosc', cname='lz4', shuffle='bitshuffle', arrays='wind_*')
    >>> Recompress({"id": "zlib", "level": 9}), Recompress(None)
    (Recompress('zlib', level=9), Recompress(None))
    >>> Recompress("zstd", filters="delta", arrays="time"), Recompress(filters=None)
    (Recompress('zstd', filters=[{'id': 'delta'}], arrays='time'), Recompress(filters=[]))
    """

    needs_empty = False
    keeps_values = True

    codec: str | EllipsisType | None
    options: Options
    filters: tuple[Options, ...] | EllipsisType

    def __init__(
        self,
        codec: Any = ...,
        *,
        filters: Any = ...,
        arrays: Selection = "*",
        threads: int | None = None,
        **options: Any,
    ) -> None:
        if codec is ... and filters is ...:
            raise ChainError("Recompress was given neither a codec nor filters=: give one of them, or both")
        try:
            config = None if codec is ... else config_of(codec)
            new = filters if filters is ... else tuple(map(_options, _configs(filters)))
        except TypeError as error:
            raise ChainError(f"Recompress: {error}") from None
        if config is None and options:
            shown = " without a codec" if codec is ... else "(None)"
            raise ChainError(f"Recompress{shown} takes no options, but was given {', '.join(options)}")
        chosen = {**(config or {}), **options}
        try:
            for described in ([chosen] if chosen else []) + [dict(some) for some in (() if new is ... else new)]:
                check_options(described)
        except TypeError as error:
            raise ChainError(f"Recompress: {error}") from None
        try:
            json.dumps([chosen, [] if new is ... else new])
        except TypeError as error:
            raise ChainError(f"Recompress was given options that metadata can't hold: {error}") from None
        values: dict[str, Any] = {
            "arrays": arrays,
            "threads": threads,
            "codec": ... if codec is ... else chosen.pop("id", None),
            "options": tuple(chosen.items()),
            "filters": new,
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)
        self.__post_init__()

    def __repr__(self) -> str:
        arguments: list[str] = []
        if OWN.isdisjoint(dict(self.options)):
            arguments += [] if self.codec is ... else [repr(self.codec)]
            arguments += [f"{name}={value!r}" for name, value in self.options]
        else:
            arguments.append(repr({"id": self.codec, **dict(self.options)}))
        if self.filters is not ...:
            arguments.append(f"filters={[dict(options) for options in self.filters]!r}")
        if self.arrays != "*":
            arguments.append(f"arrays={self.arrays!r}")
        if self.threads is not None:
            arguments.append(f"threads={self.threads}")
        return f"Recompress({', '.join(arguments)})"

    def metadata(self, meta: ArrayInfo) -> ArrayInfo:
        # docstring inherited
        itemsize = meta.itemsize
        if self.filters is not ...:
            filters = self._filters(meta)
            if not same(filters, meta.filters):
                itemsize = _itemsize_after(filters, meta)
                meta = meta.replace(filters=filters)
        if self.codec is ...:
            return meta
        return meta.replace(compressors=() if self.codec is None else (self._config(meta, itemsize),))

    def check_array(self, recoder: Recoder) -> None:
        # docstring inherited
        for config in recoder.new.filters if recoder.refilters else ():
            if config["id"] in LOSSY:
                raise ChainError(
                    f"{self!r} would change the values of {recoder.path!r}, as {config['id']} is lossy: use MapChunks "
                    f"with a function that calls numcodecs' {config['id']}"
                )
        super().check_array(recoder)

    def _config(self, meta: ArrayInfo, itemsize: int) -> Config:
        config: Mapping[str, Any] = {"id": self.codec, **dict(self.options)}
        try:
            return complete(config, meta.zarr_format, itemsize)
        except Exception as error:
            if unknown := unknown_codec(str(self.codec)):
                raise ChainError(f"{self!r} names {unknown}") from error
            raise ChainError(
                f"{self!r} is a codec that {meta.path!r} can't have, or has an invalid option: {type(error).__name__}: {error}"
            ) from error

    def _filters(self, meta: ArrayInfo) -> tuple[Config, ...]:
        assert self.filters is not ...
        try:
            return complete_filters(map(dict, self.filters), meta.zarr_format, _filtered(meta))
        except Exception as error:
            raise ChainError(
                f"{self!r} names a filter that {meta.path!r} ({meta.dtype}) can't have: {type(error).__name__}: {error}"
            ) from error


def _configs(filters: Any) -> list[Config]:
    some = filters if isinstance(filters, list | tuple) else [filters]
    return [config for config in map(config_of, some) if config is not None]


def _options(config: Config) -> Options:
    """Return a codec's configuration as a hashable value."""
    return tuple((name, tuple(value) if isinstance(value, list) else value) for name, value in config.items())


def _filtered(meta: ArrayInfo) -> np.dtype[Any] | None:
    """Return the data type of the first filter's input: in Zarr v2, bytes after an object codec."""
    return (
        np.dtype("u1") if meta.zarr_format == 2 and meta.dtype is not None and meta.dtype.kind in "OT" else meta.dtype
    )


def _itemsize_after(filters: tuple[Config, ...], meta: ArrayInfo) -> int:
    dtype = _filtered(meta)
    if dtype is None:
        raise ChainError(f"{meta.path!r} has an unknown data type: leave it out with arrays=")
    return 1 if dtype.kind in "OT" else filtered_dtype(filters, dtype).itemsize
