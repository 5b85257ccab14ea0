"""Write stored (uncompressed) zip archives: a few microseconds an entry, and equal input gives equal bytes.

Only names and data decide the bytes: all time stamps are 1980-01-01, and there are no data descriptors. Extra fields
exist only for entries of 4 GiB or more, or beyond the first 4 GiB. They are equally long in the directory and in the
local header, so the directory alone gives the offset of each entry's data: 30 bytes, the name and the extra fields
after the local header. Readers need this to avoid a request for each local header.
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

PLAIN, WIDE = 20, 45  # versions of the zip format: for stored entries, and for zip64
_CORE = Struct("<4H3L2H")  # common part of both headers: from the flags to the length of the extra field
_CENTRAL_END = Struct("<3H2L")
_FIELD = Struct("<2H")  # header of an extra field: id and length

_DATE = 1 << 5 | 1  # 1980-01-01
_MODE = 0o100644 << 16
_ZIP64, _FILL = 1, 0xD935  # ids of extra fields: zip64 numbers, and padding
MAX16, MAX32 = 0xFFFF, 0xFFFFFFFF
_ODD = re.compile(r"(?:^|/)(?:/|\.{1,2}(?:/|\Z))")


class ZipWriter:
    """Write the entries of a zip one after another, then its directory.

    Parameters
    ----------
    write
        Called with a list of buffers to write one after another, such as `writev_all(fd)`. Buffers are collected to
        make few calls.
    zip64 : bool
        Mark all entries as zip64 and write a zip64 end record, even if sizes and offsets do not need it. Entries have
        zip64 fields only if they need them.
    comment : bytes
        The comment of the archive.

    Notes
    -----
    After an exception from `write` the archive cannot be finished: every later call raises UsageError.
    """

    def __init__(self, write: Callable[[list[Buffer]], None], *, zip64: bool = False, comment: bytes = b"") -> None:
        if len(comment) > MAX16 or b"PK\5\6" in comment:
            raise UsageError(
                "a zip's comment must have at most 65535 bytes, and must not contain the end signature PK\\5\\6"
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
        """Append an entry and return its CRC-32; the caller may change `data` afterwards.

        Raises
        ------
        UsageError
            If the name exists already, or is not a relative path of a file.
        """
        if not isinstance(data, bytes):
            data = flat(data)
        size, crc = len(data), crc32(data)
        self._begin(name, size, crc)
        self._parts.append(data)
        self._pending += size
        if self._pending >= BATCH_BYTES or len(self._parts) >= BATCH_PARTS or not isinstance(data, bytes):
            self.flush()
        return crc

    def begin(self, name: str, size: int, crc: int) -> None:
        """Write the local header of an entry; the caller then writes its `size` bytes to the same output.

        Raises
        ------
        UsageError
            If the name exists already, or is not a relative path of a file.
        """
        self._begin(name, size, crc)
        self.flush()

    def _begin(self, name: str, size: int, crc: int) -> None:
        """Append a local header to the waiting buffers, and a record to the directory."""
        if not self._usable:
            raise UsageError(f"can't add {name!r}: the zip is closed, or writing to it failed")
        if name in self._names:
            raise UsageError(f"the zip has an entry {name!r} already")
        raw, offset = encode_name(name), self._offset
        flags = 0 if len(raw) == len(name) else 0x800
        if size >= MAX32 or offset >= MAX32:
            header, record = _wide_headers(raw, flags, crc, size, offset)
        else:
            core = _CORE.pack(flags, 0, 0, _DATE, crc, size, size, len(raw), 0)
            header = self._starts[0] + core + raw
            record = self._starts[1] + core + _CENTRAL_END.pack(0, 0, 0, _MODE, offset) + raw
        self._directory += record
        self._names.add(name)
        self._parts.append(header)
        self._offset += len(header) + size
        self._pending += len(header)

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
        self.flush()
        self._usable = False
        return start + size + len(end) + len(self._comment)

    def flush(self) -> None:
        """Write the waiting buffers."""
        parts, self._parts, self._pending = self._parts, [], 0
        self._usable = False
        self._write(parts)
        self._usable = True


def _starts(version: int) -> tuple[bytes, bytes]:
    """Return the beginnings of a local header and a directory record.

    `version` is the version of the format that the entry needs.
    """
    return pack("<4sH", b"PK\3\4", version), pack("<4s2H", b"PK\1\2", 3 << 8 | version, version)


def _wide_headers(raw: bytes, flags: int, crc: int, size: int, offset: int) -> tuple[bytes, bytes]:
    """Return the local header and the directory record of a zip64 entry.

    Their extra fields are equally long.
    """
    sizes = pack("<2Q", size, size) if size >= MAX32 else b""
    far = pack("<Q", offset) if offset >= MAX32 else b""
    fields = flags, 0, 0, _DATE, crc, *(min(size, MAX32),) * 2, len(raw)
    central = _field(_ZIP64, sizes + far)
    local = _field(_ZIP64, sizes) if sizes else b""  # local headers have no offset
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
    r"""Check an entry's name, and return its bytes.

    >>> encode_name("température/c/0")
    b'temp\xc3\xa9rature/c/0'
    >>> encode_name("../c/0")
    Traceback (most recent call last):
    shardedstore.errors.UsageError: '../c/0' is not a valid name of a zip entry: it has a segment that is empty, '.' or '..'
    """
    try:
        raw = name.encode()
    except UnicodeEncodeError:
        raise _bad_name(name, "it is not Unicode text") from None
    if not raw or raw[-1] == 0x2F:
        raise _bad_name(name, "it is empty, or ends with a slash")
    if has_odd_segment(name):
        raise _bad_name(name, "it has a segment that is empty, '.' or '..'")
    if "\0" in name or len(raw) > MAX16:
        raise _bad_name(name[:99], "it has a null character, or is longer than 65535 bytes")
    return raw


def has_odd_segment(name: str) -> bool:
    """Tell whether a name has a segment that is empty, '.' or '..'.

    Readers may take such a name for another one. A slash at the end, as of a folder, is allowed.

    >>> [has_odd_segment(name) for name in ("a//b", "./b", "/a", "a/..", "a/.zarray", "..a/", "a.b")]
    [True, True, True, True, False, False, False]
    """
    return (name[:1] in (".", "/") or "/." in name or "//" in name) and _ODD.search(name) is not None


def _bad_name(name: str, why: str) -> UsageError:
    return UsageError(f"{name!r} is not a valid name of a zip entry: {why}")
