"""A writer of stored (uncompressed) zip archives: a few microseconds an entry, and equal input gives equal bytes.

Nothing but names and data decides the bytes: all time stamps are 1980-01-01, there are no data descriptors, and there
are no extra fields but for entries of 4 GiB or beyond the first 4 GiB, where they are equally long in the directory and
in the local header. So the directory alone tells where the data of every entry begins: 30 bytes, its name and its extra
fields after its local header. Few readers do without a request for each entry otherwise, and Python's zipfile passes over
the extra fields of local headers by a step that is no threads' own.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from struct import Struct, pack
from typing import TYPE_CHECKING

from shardedstore.errors import UsageError
from shardedstore.storage.crc import crc32
from shardedstore.storage.outputs import BATCH_BYTES, BATCH_PARTS, flat

if TYPE_CHECKING:
    from typing_extensions import Buffer

LOCAL = Struct("<4s5H3L2H")
CENTRAL = Struct("<4s6H3L5H2L")
END = Struct("<4s4H2LH")
END64 = Struct("<4sQ2H2L4Q")
LOCATOR64 = Struct("<4sLQL")

PLAIN, WIDE = 20, 45  # the versions of the format that an entry needs: stored, zip64
_CORE = Struct("<4H3L2H")  # what both headers have in common: flags to the lengths of name and extra field
_CENTRAL_END = Struct("<3H2L")
_FIELD = Struct("<2H")  # what an extra field begins with

_DATE = 1 << 5 | 1  # 1980-01-01
_MODE = 0o100644 << 16
_ZIP64, _FILL = 1, 0xD935  # extra fields: what does not fit into 32 bits, and bytes that say nothing
MAX16, MAX32 = 0xFFFF, 0xFFFFFFFF
_ODD = re.compile(r"(?:^|/)(?:/|\.{1,2}(?:/|\Z))")


class ZipWriter:
    """Writes the entries of a zip one after another, then its directory.

    Parameters
    ----------
    write
        Called, seldom, with a list of buffers to be written one after another, such as `writev_all(fd)`.
    zip64 : bool
        Write the archive as one of zip64, also where no size, offset or number of entries asks for it: every entry needs
        that version, and the end record is there. No entry has fields for it that it does not need.
    comment : bytes
        The comment of the archive.

    Notes
    -----
    After an exception from `write` the archive can't be finished: every later call raises UsageError.
    """

    def __init__(self, write: Callable[[list[Buffer]], None], *, zip64: bool = False, comment: bytes = b"") -> None:
        if len(comment) > MAX16 or b"PK\5\6" in comment:
            raise UsageError(
                "a zip's comment has at most 65535 bytes, and does not hold the mark of a zip's end, PK\\5\\6"
            )
        self._write = write
        self._zip64 = zip64
        self._starts = _starts(WIDE if zip64 else PLAIN)
        self._comment = comment
        self._names: set[str] = set()
        self._parts: list[Buffer] = []
        self._pending = 0
        self._offset = 0
        self._directory = bytearray()
        self._usable = True

    def add(self, name: str, data: Buffer) -> int:
        """Append an entry and return its CRC-32; `data` may be changed once this has returned.

        Raises
        ------
        UsageError
            For a name that is there already, or that is no relative path of a file.
        """
        if not self._usable:
            raise UsageError(f"can't add {name!r}: the zip is closed, or writing to it failed")
        if name in self._names:
            raise UsageError(f"the zip has an entry {name!r} already")
        raw = encode_name(name)
        if not isinstance(data, bytes):
            data = flat(data)
        size, offset, crc = len(data), self._offset, crc32(data)
        flags = 0 if len(raw) == len(name) else 0x800
        if size >= MAX32 or offset >= MAX32:
            header, record = _wide_headers(raw, flags, crc, size, offset)
        else:
            core = _CORE.pack(flags, 0, 0, _DATE, crc, size, size, len(raw), 0)
            header = self._starts[0] + core + raw
            record = self._starts[1] + core + _CENTRAL_END.pack(0, 0, 0, _MODE, offset) + raw
        self._directory += record
        self._names.add(name)
        self._parts += (header, data)
        self._offset += len(header) + size
        self._pending += len(header) + size
        if self._pending >= BATCH_BYTES or len(self._parts) >= BATCH_PARTS or not isinstance(data, bytes):
            self._flush()
        return crc

    def close(self) -> int:
        """Write the directory and return the size of the archive in bytes."""
        if not self._usable:
            raise UsageError("can't close the zip: it is closed already, or writing to it failed")
        count, size, start = len(self._names), len(self._directory), self._offset
        self._parts.append(self._directory)
        if self._zip64 or count >= MAX16 or size >= MAX32 or start >= MAX32:
            end64 = END64.pack(b"PK\6\6", END64.size - 12, 3 << 8 | 45, 45, 0, 0, count, count, size, start)
            self._parts.append(end64 + LOCATOR64.pack(b"PK\6\7", 0, start + size, 1))
            size += len(end64) + LOCATOR64.size
            end = END.pack(b"PK\5\6", 0, 0, MAX16, MAX16, MAX32, MAX32, len(self._comment))
        else:
            end = END.pack(b"PK\5\6", 0, 0, count, count, size, start, len(self._comment))
        self._parts.append(end + self._comment)
        self._flush()
        self._usable = False
        return start + size + len(end) + len(self._comment)

    def _flush(self) -> None:
        parts, self._parts, self._pending = self._parts, [], 0
        self._usable = False
        self._write(parts)
        self._usable = True


def _starts(version: int) -> tuple[bytes, bytes]:
    """Return what a local header and a directory's record begin with, of an entry that needs a version of the format."""
    return pack("<4sH", b"PK\3\4", version), pack("<4s2H", b"PK\1\2", 3 << 8 | version, version)


def _wide_headers(raw: bytes, flags: int, crc: int, size: int, offset: int) -> tuple[bytes, bytes]:
    """Return the local header and the directory's record of an entry that needs zip64, with equally long extra fields."""
    sizes = pack("<2Q", size, size) if size >= MAX32 else b""
    far = pack("<Q", offset) if offset >= MAX32 else b""
    fields = flags, 0, 0, _DATE, crc, *(min(size, MAX32),) * 2, len(raw)
    central = _field(_ZIP64, sizes + far)
    local = _field(_ZIP64, sizes) if sizes else b""  # which has no place for the offset
    if far:
        local += _field(_FILL, bytes(len(central) - len(local) - _FIELD.size))
    core = _CORE.pack(*fields, len(central))
    start, record = _starts(WIDE)
    return start + core + raw + local, record + core + _CENTRAL_END.pack(
        0, 0, 0, _MODE, min(offset, MAX32)
    ) + raw + central


def _field(kind: int, data: bytes) -> bytes:
    return _FIELD.pack(kind, len(data)) + data


def encode_name(name: str) -> bytes:
    r"""Return an entry's name as a zip holds it.

    >>> encode_name("température/c/0")
    b'temp\xc3\xa9rature/c/0'
    >>> encode_name("../c/0")
    Traceback (most recent call last):
    shardedstore.errors.UsageError: '../c/0' can't be the name of a zip's entry: it has an empty segment, or one of '.' or '..'
    """
    try:
        raw = name.encode()
    except UnicodeEncodeError:
        raise _bad_name(name, "it is not Unicode text") from None
    if not raw or raw[-1] == 0x2F:
        raise _bad_name(name, "it is empty, or ends with a slash")
    if has_odd_segment(name):
        raise _bad_name(name, "it has an empty segment, or one of '.' or '..'")
    if "\0" in name or len(raw) > MAX16:
        raise _bad_name(name[:99], "it holds a null character, or is longer than 65535 bytes")
    return raw


def has_odd_segment(name: str) -> bool:
    """Tell whether a name has a segment that no key has, by which readers may take it for another name; a folder's has not.

    >>> [has_odd_segment(name) for name in ("a//b", "./b", "/a", "a/..", "a/.zarray", "..a/", "a.b")]
    [True, True, True, True, False, False, False]
    """
    return (name[:1] in (".", "/") or "/." in name or "//" in name) and _ODD.search(name) is not None


def _bad_name(name: str, why: str) -> UsageError:
    return UsageError(f"{name!r} can't be the name of a zip's entry: {why}")
