"""`Recompress`: other compressors for an array's chunks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shardedstore.arrayinfo import ArrayInfo
from shardedstore.arraystep import ArrayStep
from shardedstore.codecs import Config, complete, config_of
from shardedstore.errors import ChainError
from shardedstore.selection import Selection


@dataclass(frozen=True, init=False, repr=False)
class Recompress(ArrayStep):
    """Compress the chunks of arrays with another codec; filters and all else stay as they are.

    Each chunk has the bytes that zarr writes with that codec, but for the time in gzip's header, which is zero. Chunks
    of an array that has the codec already, by its metadata, pass on untouched. A CRC-32C at the end is kept, and made
    anew. Under the sharding codec, the inner chunks are compressed, and stand in C order in their object.

    Parameters
    ----------
    codec : str, dict, codec or None
        ``"blosc"``, ``"zstd"``, ``"gzip"``, or the id of another codec of numcodecs: ``"zlib"``, ``"lz4"``, ``"bz2"``,
        ``"lzma"``, which Zarr v3 calls ``numcodecs.zlib`` and so on. Or a codec of numcodecs or zarr, or its
        configuration. None for no compressor.
    arrays : str or tuple of str
        Which arrays are meant: see `ArrayStep`.
    threads : int, optional
        How many chunks are worked on at a time: see `ArrayStep`.
    **options
        The codec's, such as ``level=5``. Those of Blosc, zstd and gzip are the same in Zarr v2 and v3: Blosc's shuffle is
        ``"noshuffle"``, ``"shuffle"`` or ``"bitshuffle"``, and by default what suits the size of the elements.

    Examples
    --------
    >>> Recompress("zstd", level=5)
    Recompress('zstd', level=5)
    >>> Recompress("blosc", arrays="wind_*", cname="lz4", shuffle="bitshuffle")
    Recompress('blosc', cname='lz4', shuffle='bitshuffle', arrays='wind_*')
    >>> Recompress({"id": "zlib", "level": 9}), Recompress(None)
    (Recompress('zlib', level=9), Recompress(None))
    """

    codec: str | None
    options: tuple[tuple[str, Any], ...]

    def __init__(self, codec: Any, *, arrays: Selection = "*", threads: int | None = None, **options: Any) -> None:
        try:
            config = config_of(codec)
        except TypeError as error:
            raise ChainError(f"Recompress: {error}") from None
        if config is None and options:
            raise ChainError(f"Recompress(None) has no options, and was given {', '.join(options)}")
        chosen = {**(config or {}), **options}
        try:
            json.dumps(chosen)
        except TypeError as error:
            raise ChainError(f"Recompress was given options that metadata can't hold: {error}") from None
        values: dict[str, Any] = {
            "arrays": arrays,
            "threads": threads,
            "codec": chosen.pop("id", None),
            "options": tuple(chosen.items()),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)
        self.__post_init__()

    def __repr__(self) -> str:
        arguments = [repr(self.codec), *(f"{name}={value!r}" for name, value in self.options)]
        if self.arrays != "*":
            arguments.append(f"arrays={self.arrays!r}")
        if self.threads is not None:
            arguments.append(f"threads={self.threads}")
        return f"Recompress({', '.join(arguments)})"

    def metadata(self, meta: ArrayInfo) -> ArrayInfo:
        # docstring inherited
        return meta.replace(compressors=() if self.codec is None else (self._config(meta),))

    def _config(self, meta: ArrayInfo) -> Config:
        config: Mapping[str, Any] = {"id": self.codec, **dict(self.options)}
        try:
            return complete(config, meta.zarr_format, meta.itemsize)
        except Exception as error:
            raise ChainError(
                f"{self!r} names no codec known here for {meta.path!r}: {type(error).__name__}: {error}"
            ) from error
