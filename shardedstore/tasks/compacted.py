"""One file of the JSON lines of many segments, each compressed alone, so that one of them is read without the others.

It is a sequence of Zstandard frames, which ``zstdcat`` shows as lines; the last is one that decompressors skip, and holds
the index: where the frame of each segment is.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping

import msgspec
from numcodecs.zstd import Zstd

from shardedstore.errors import CorruptError
from shardedstore.storage.blobs import ByteSource

LEVEL = 1  # a million records: 141 MB become 29 in 0.4 s, and are back in 0.13 s; higher levels gain nothing
SKIPPED = 0x184D2A50  # begins a frame that holds no data, by Zstandard's format
MAGIC = b"shardidx"
TAIL = 1 << 16  # bytes that are read first: the index of some 6,000 segments
_FRAME = struct.Struct("<II")  # what a skipped frame begins with: its magic number, and the bytes that follow
_END = struct.Struct("<I8s")  # what it ends with: the bytes of the index, and ours

Index = dict[int, tuple[int, int]]


def pack(segments: Mapping[int, bytes]) -> bytes:
    r"""Return the file that holds the lines of some segments, of which those without any are left out.

    >>> data = pack({7: b"a\nb\n", 0: b"c\n"})
    >>> dict(unpack(data))
    {0: b'c\n', 7: b'a\nb\n'}
    """
    codec, frames, index, start = Zstd(LEVEL), [], Index(), 0
    for number, lines in sorted(item for item in segments.items() if item[1]):
        frames.append(bytes(codec.encode(lines)))
        index[number] = start, len(frames[-1])
        start += len(frames[-1])
    table = msgspec.msgpack.encode(index)
    return b"".join([*frames, _FRAME.pack(SKIPPED, len(table) + _END.size), table, _END.pack(len(table), MAGIC)])


def unpack(data: bytes, name: str = "") -> Iterator[tuple[int, bytes]]:
    """Yield the segments of a file with their lines.

    Raises
    ------
    CorruptError
        For a file that is damaged.
    """
    whole = memoryview(data)
    for number, (start, nbytes) in _index(data, _table_nbytes(data, name), name).items():
        yield number, _lines(whole[start : start + nbytes], name)


def read_one(blob: ByteSource, segment: int, name: str = "") -> bytes:
    """Return the lines of one segment, by reading the index and its frame; none where the file has none of it."""
    end, size = blob.tail(TAIL)
    tail = bytes(end)
    needed = _table_nbytes(tail, name)
    if needed > len(tail):
        tail = bytes(blob.read(size - needed, size))
    found = _index(tail, needed, name).get(segment)
    return b"" if found is None else _lines(blob.read(found[0], found[0] + found[1]), name)


def _table_nbytes(tail: bytes, name: str) -> int:
    """Return the size of the index with what stands around it, from the last bytes of a file."""
    if len(tail) >= _END.size:
        nbytes, magic = _END.unpack_from(tail, len(tail) - _END.size)
        if magic == MAGIC:
            return int(nbytes) + _END.size
    raise _damaged(name)


def _index(tail: bytes, nbytes: int, name: str) -> Index:
    try:
        return msgspec.msgpack.decode(tail[len(tail) - nbytes : len(tail) - _END.size], type=Index)
    except msgspec.DecodeError:
        raise _damaged(name) from None


def _lines(frame: object, name: str) -> bytes:
    try:
        return bytes(Zstd().decode(frame))
    except (RuntimeError, ValueError):
        raise _damaged(name) from None


def _damaged(name: str) -> CorruptError:
    return CorruptError(
        f"{name!r}, which holds records of shards that are done, is damaged: remove it and run the job again with the same "
        "arguments, and it makes those shards again"
    )
