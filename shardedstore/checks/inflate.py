"""Decode bytes of a writer that is not trusted: no more memory than the metadata promises.

A few stored bytes can claim to decode to terabytes. Codecs that name the size in a header are checked before they run, and
streams are decoded up to a limit.
"""

from __future__ import annotations

import bz2
import lzma
import struct
import zlib
from collections.abc import Callable
from typing import Any, Protocol

from shardedstore.codecs.bytes_codecs import Compression
from shardedstore.codecs.codec_config import PREFIX

ZSTD_BLOCK = 128 << 10  # the most decoded bytes of a block
ZSTD_MAGIC = 0xFD2FB528


class Stream(Protocol):
    """A decompressor of the standard library."""

    @property
    def eof(self) -> bool:
        """Whether the end of the stream was reached."""

    @property
    def unused_data(self) -> bytes:
        """The bytes after the end of the stream."""

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        """Return at most `max_length` decoded bytes."""


class TooLarge(ValueError):
    """Encoded bytes decode to more than the metadata allows."""


def decode_bounded(compression: Compression, data: Any, limit: int) -> Any:
    """Return the decoded bytes.

    Raises
    ------
    TooLarge
        If they would have more than `limit` bytes.
    Exception
        Of any type, if a codec fails.
    """
    for config, decode in zip(reversed(compression.configs), compression.decoders, strict=True):
        name = config["id"].removeprefix(PREFIX)
        if name in STREAMS and config.get("format", 1) == lzma.FORMAT_XZ:
            data = _streamed(STREAMS[name], bytes(data), limit)
            continue
        if name in SIZES:
            check_size(SIZES[name](bytes(memoryview(data).cast("B"))), limit)
        data = decode(data)
    return data


def check_size(nbytes: int, limit: int) -> None:
    """Raise TooLarge for more bytes than a limit."""
    if nbytes > limit:
        raise TooLarge(f"it claims to decode to at least {nbytes:,} bytes, but may have {limit:,}")


def _streamed(make: Callable[[], Stream], data: bytes, limit: int) -> bytes:
    """Decode all members of a stream, up to a limit."""
    parts: list[bytes] = []
    total = 0
    while data:
        stream = make()
        part = stream.decompress(data, max(1, limit - total + 1))
        total += len(part)
        check_size(total, limit)
        if not stream.eof:
            raise ValueError("the stream is cut short")
        parts.append(part)
        data = stream.unused_data.lstrip(b"\0")
    return b"".join(parts)


def _gzip() -> Stream:
    return zlib.decompressobj(16 + zlib.MAX_WBITS)


def _zlib() -> Stream:
    return zlib.decompressobj()


def _blosc_size(data: bytes) -> int:
    return int(struct.unpack_from("<I", data, 4)[0])


def _lz4_size(data: bytes) -> int:
    return int(struct.unpack_from("<I", data)[0])


def _zstd_size(data: bytes) -> int:
    """Return the size in the header of a zstd frame, or the least possible size of its blocks.

    A block of a frame without a size decodes to at most 128 KiB, so every block but the last is taken for half of that.
    """
    if len(data) < 6 or struct.unpack_from("<I", data)[0] != ZSTD_MAGIC:
        return 0
    descriptor = data[4]
    is_single = descriptor >> 5 & 1
    at = 5 + (not is_single) + (0, 1, 2, 4)[descriptor & 3]
    length = (is_single, 2, 4, 8)[descriptor >> 6]
    if length:
        return int.from_bytes(data[at : at + length], "little") + (256 if length == 2 else 0)
    return _size_of_blocks(data, at)


def _size_of_blocks(data: bytes, at: int) -> int:
    total = last = 0
    while at + 3 <= len(data) and not last:
        header = int.from_bytes(data[at : at + 3], "little")
        last, kind, size = header & 1, header >> 1 & 3, header >> 3
        total += size if kind < 2 else 0 if last else ZSTD_BLOCK // 2
        at += 3 + (1 if kind == 1 else size)
    return total


STREAMS: dict[str, Callable[[], Any]] = {
    "gzip": _gzip,
    "zlib": _zlib,
    "bz2": bz2.BZ2Decompressor,
    "lzma": lzma.LZMADecompressor,
}
SIZES: dict[str, Callable[[bytes], int]] = {"blosc": _blosc_size, "lz4": _lz4_size, "zstd": _zstd_size}
