"""Bytes-to-bytes codecs, which encode to the same bytes as zarr's."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

import google_crc32c
import numcodecs
import numcodecs.blosc
import numcodecs.zstd
import numpy as np
from numcodecs.compat import ensure_bytes, ensure_contiguous_ndarray
from zarr.abc.codec import BytesBytesCodec
from zarr.core.array_spec import ArrayConfig, ArraySpec
from zarr.core.buffer import Buffer, cpu, default_buffer_prototype
from zarr.core.sync import sync
from zarr.dtype import UInt8

from shardedstore.codecs.codec_config import (
    PREFIX,
    SHUFFLES,
    Config,
    for_numcodecs,
    is_of_numcodecs,
    safe_codec,
    zarr_codec,
)

numcodecs.blosc.use_threads = False  # as in zarr: with threads, Blosc's output is not deterministic


class Coder(Protocol):
    """A codec with the interface of numcodecs."""

    def encode(self, buf: Any) -> Any:
        """Return the encoded bytes."""

    def decode(self, buf: Any) -> Any:
        """Return the decoded bytes."""


def make(config: Config) -> Coder:
    """Return the codec for a configuration."""
    match config["id"]:
        case "crc32c" if config.get("location") in (None, "end"):  # numcodecs also supports "start"
            return Crc32c()
        case "gzip":
            return Gzip(config.get("level", 1))
        case "blosc" if "typesize" in config:
            return Blosc(config)
        case "zstd":
            return Zstd(config["level"], config.get("checksum", False))
        case name if is_of_numcodecs(name):
            coder: Coder = safe_codec(for_numcodecs(config))
            return coder
        case name if (short := name.removeprefix(PREFIX)) != name:
            return make({**config, "id": short}) if short in {"zstd", "gzip"} else safe_codec({**config, "id": short})
        case _:
            return ZarrCoder(zarr_codec(config))


class Crc32c:
    """A CRC-32C after the data."""

    def encode(self, buf: Any) -> bytes:
        """Append the checksum."""
        data: bytes = ensure_bytes(buf)
        return b"".join((data, google_crc32c.value(data).to_bytes(4, "little")))

    def decode(self, buf: Any) -> bytes:
        """Check and remove the checksum."""
        data: bytes = ensure_bytes(buf)
        content: bytes = data[:-4]
        stored = int.from_bytes(data[-4:], "little")
        if google_crc32c.value(content) != stored or len(data) < 4:
            raise ValueError("the checksum does not match")
        return content


class Gzip:
    """gzip as in zarr, without a time stamp, so that equal data gives equal bytes."""

    def __init__(self, level: int) -> None:
        self.coder = numcodecs.GZip(level)

    def encode(self, buf: Any) -> bytes:
        """Compress."""
        data: bytes = self.coder.encode(buf)
        return b"".join((data[:4], b"\0\0\0\0", data[8:]))

    def decode(self, buf: Any) -> Any:
        """Decompress."""
        return self.coder.decode(buf)


class Blosc:
    """Blosc for elements of a known size, at half the overhead of numcodecs' codec."""

    def __init__(self, config: Config) -> None:
        cname, shuffle = config["cname"].encode(), SHUFFLES.index(config["shuffle"])
        self.options = cname, config["clevel"], shuffle, config["blocksize"], config["typesize"]
        numcodecs.get_codec(for_numcodecs(config))  # checks the options

    def encode(self, buf: Any) -> bytes:
        """Compress."""
        compressed: bytes = numcodecs.blosc.compress(_flat(buf), *self.options)
        return compressed

    def decode(self, buf: Any) -> bytes:
        """Decompress."""
        raw: bytes = numcodecs.blosc.decompress(buf)
        return raw


class Zstd:
    """zstd for bytes."""

    def __init__(self, level: int, checksum: bool) -> None:
        self.level, self.checksum = level, checksum

    def encode(self, buf: Any) -> bytes:
        """Compress."""
        compressed: bytes = numcodecs.zstd.compress(_flat(buf), self.level, self.checksum)
        return compressed

    def decode(self, buf: Any) -> bytes:
        """Decompress."""
        raw: bytes = numcodecs.zstd.decompress(buf)
        return raw


def _flat(buf: Any) -> Any:
    return buf if type(buf) is bytes else ensure_contiguous_ndarray(buf)


class ZarrCoder:
    """A bytes-to-bytes codec that only zarr has; it takes about 150 microseconds more per call."""

    def __init__(self, codec: BytesBytesCodec) -> None:
        self.codec = codec

    def encode(self, buf: Any) -> bytes:
        """Encode."""
        return self._run(self.codec.encode, buf)

    def decode(self, buf: Any) -> bytes:
        """Decode."""
        return self._run(self.codec.decode, buf)

    @staticmethod
    def _run(method: Any, buf: Any) -> bytes:
        data = ensure_bytes(buf)
        spec = ArraySpec((len(data),), UInt8(), np.uint8(0), ArrayConfig.from_dict({}), default_buffer_prototype())
        (result,) = sync(method([(cpu.Buffer.from_bytes(data), spec)]))
        assert isinstance(result, Buffer)
        return result.to_bytes()


OF_BYTES = Blosc, Zstd, Gzip, Crc32c  # codecs that do not depend on the type of the encoded buffer


class Compression:
    """The bytes-to-bytes part of an array's codecs.

    Parameters
    ----------
    configs : iterable of dict
        The codecs in the order of encoding.
    dtype : numpy.dtype, optional
        The type of the elements that the first codec encodes, if the codec sees it, as in Zarr v2.

    Examples
    --------
    >>> zlib = Compression([{"id": "zlib", "level": 1}, {"id": "crc32c"}])
    >>> zlib.decode(zlib.encode(b"abc")), str(zlib)
    (b'abc', 'zlib, crc32c')
    """

    def __init__(self, configs: Iterable[Config], dtype: np.dtype[Any] | None = None) -> None:
        self.configs = list(configs)
        self.dtype = dtype
        sized = {"typesize": 1 if dtype is None else dtype.itemsize}
        coders = [make({**sized, **config} if config["id"] == "blosc" else config) for config in self.configs]
        self.encoders: list[Callable[[Any], Any]] = [coder.encode for coder in coders]
        self.decoders: list[Callable[[Any], Any]] = [coder.decode for coder in reversed(coders)]
        self.shows_elements = dtype is not None and bool(coders) and not isinstance(coders[0], OF_BYTES)

    def __str__(self) -> str:
        return ", ".join(config["id"] for config in self.configs) or "no compressor"

    def decode(self, data: Any) -> Any:
        """Return the decoded bytes as a buffer."""
        for decode in self.decoders:
            data = decode(data)
        return data

    def encode(self, raw: Any) -> bytes:
        """Return the encoded bytes of a buffer."""
        if self.shows_elements and not isinstance(raw, np.ndarray):
            raw = np.frombuffer(raw, self.dtype)
        for encode in self.encoders:
            raw = encode(raw)
        return raw if type(raw) is bytes else bytes(ensure_bytes(raw))
