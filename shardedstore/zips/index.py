"""Directory of a zip archive: where each entry is, and checks of the entry's bytes.

`Archive` reads the directory at the end of the zip, finds entries by name, and checks and decompresses their content.
This module also parses URLs that name a folder inside a zip, such as ``cubes.zip|zip:2024/a.zarr/`` (the URL pipelines
of Zarr's ZEP 8).
"""

from __future__ import annotations

import os
import re
import struct
import zlib
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from itertools import islice, pairwise, takewhile
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote, unquote

from shardedstore.errors import CorruptError, UsageError
from shardedstore.storage.blobs import ByteSource
from shardedstore.storage.crc import crc32
from shardedstore.zarr.paths import check_path
from shardedstore.zips.writer import CENTRAL, END, END64, LOCAL, LOCATOR64, MAX16, MAX32, has_odd_segment

if TYPE_CHECKING:
    from typing_extensions import Buffer as Bytes

_INSIDE = re.compile(r"((?:(?!\|zip:).)+)\|zip:([^|]*)(?:\|zarr[23]?:/?([^|]*))?", re.DOTALL)


def split_inside(url: str | os.PathLike[str]) -> tuple[str, str]:
    """Split a path or URL into the zip and the path of a folder in it.

    The folder's path is empty if the URL names none.

    Raises
    ------
    UsageError
        If the part after the zip is not the path of a folder.

    Examples
    --------
    >>> split_inside("/data/x.zip|zip:a%20b/x.zarr/"), split_inside("s3://bucket/x.zip")
    (('/data/x.zip', 'a b/x.zarr'), ('s3://bucket/x.zip', ''))
    >>> split_inside("s3://bucket/x.zip|zip:a.zarr/|zarr3:wind/u")
    ('s3://bucket/x.zip', 'a.zarr/wind/u')
    """
    text = os.fspath(url)
    if "|zip:" not in text:
        return text, ""
    found = _INSIDE.fullmatch(text)
    if found is None:
        raise UsageError(f"{text!r} is not a path inside a zip: name one folder of the zip, like 'x.zip|zip:path/'")
    path = "/".join(filter(None, (unquote(part or "").strip("/") for part in found.groups()[1:])))
    return found[1], path and check_path(path, "the folder in a zip")


def join_inside(url: str, path: str) -> str:
    """Join a zip and the path of a folder in it: the inverse of `split_inside`.

    >>> join_inside("/data/x.zip", "a b/x.zarr"), join_inside("/data/x.zip", "")
    ('/data/x.zip|zip:a%20b/x.zarr/', '/data/x.zip')
    """
    return f"{url}|zip:{quote(path)}/" if path else url


TAIL = MAX16 + END.size + LOCATOR64.size + END64.size

STORED, DEFLATED = 0, 8

MOST_ENDS = 16  # possible end records that are tried

_ENCRYPTED, _STREAMED, _UTF8 = 0x2041, 0x8, 0x800


class ZipEntry(NamedTuple):
    """Position of one entry, and the expected properties of its bytes."""

    start: int  # offset of the local header
    stop: int  # upper limit of the entry's end: the next local header, the directory, or less
    data: int  # offset of the data; only a lower limit unless `is_exact`
    is_exact: bool  # whether local header, name, extra fields and data fill the space up to `stop`
    stored: int  # bytes in the zip
    size: int  # bytes after decompression
    crc: int
    method: int


class Archive(NamedTuple):
    """An opened zip: the source of its bytes, and its entries by name."""

    url: str
    source: ByteSource
    entries: dict[str, ZipEntry]
    names: list[str]
    start: str = ""  # prefix that is removed from the names in the zip
    repeated: tuple[str, ...] = ()  # names of several members, of which the last one counts

    @classmethod
    def open(cls, url: str, source: ByteSource) -> Archive:
        """Read the directory of a zip.

        An end record at the end of the file is preferred to one that other bytes follow.
        """
        last, size = source.tail(TAIL)
        tail = bytes(last)
        refused: CorruptError | None = None
        for at in _ends(tail):
            try:
                return cls._at(url, source, tail, size, at)
            except CorruptError as error:
                refused = refused or error
        raise refused or CorruptError(
            f"{url}: not a zip, or truncated: it has no end record; restore it, or create it again"
        )

    @classmethod
    def _at(cls, url: str, source: ByteSource, tail: bytes, size: int, at: int) -> Archive:
        end = _read_end(url, tail, size, at)
        first = size - len(tail)
        if end.start < first:
            directory = bytes(source.read(end.start, end.stop))
        else:
            directory = tail[end.start - first : end.stop - first]
        if len(directory) != end.stop - end.start:
            raise CorruptError(f"{url}: the file ends inside its directory")
        try:
            entries, repeated = _read_directory(url, directory, end)
        except (struct.error, UnicodeDecodeError) as error:
            raise CorruptError(f"{url}: its directory is damaged: {error}") from None
        return cls(url, source, entries, sorted(entries), repeated=repeated)

    def at(self, path: str) -> Archive:
        """Return the archive of a folder in the zip, with names relative to it."""
        if not path:
            return self
        start = f"{path}/"
        entries = {key[len(start) :]: self.entries[key] for key in self.below(start)}
        return Archive(self.url, self.source, entries, sorted(entries), self.start + start)

    def entry(self, key: str) -> ZipEntry:
        try:
            return self.entries[key]
        except KeyError:
            raise FileNotFoundError(key) from None

    def below(self, prefix: str) -> Iterator[str]:
        first = bisect_left(self.names, prefix)
        return takewhile(lambda name: name.startswith(prefix), islice(self.names, first, None))

    def data_at(self, key: str, entry: ZipEntry, raw: Bytes) -> int:
        """Check a local header, and return the offset of the data in `raw`.

        `raw` begins with the local header.
        """
        view = memoryview(raw)
        if len(view) < LOCAL.size:
            raise self.damaged(key, "the file ends inside its local header")
        signature, _, _, method, _, _, _, _, _, name_length, extra_length = LOCAL.unpack_from(view)
        if signature != b"PK\3\4" or method != entry.method:
            raise self.damaged(key, "its local header contradicts the directory")
        at: int = LOCAL.size + name_length
        name = bytes(view[LOCAL.size : at])
        if not self._is_name(name, self.start + key):
            raise self.damaged(key, "its local header has another name")
        at += extra_length
        if entry.start + at + entry.stored > entry.stop:
            raise self.damaged(key, "it overlaps the next entry")
        return at

    @staticmethod
    def _is_name(name: bytes, key: str) -> bool:
        raw = key.encode()
        return name == raw or name == key.encode("cp437", "replace") or name.replace(b"\\", b"/") == raw

    def content(self, key: str, entry: ZipEntry, raw: Bytes) -> memoryview:
        """Check the bytes of a whole entry, and return its decompressed content."""
        at = self.data_at(key, entry, raw)
        data = memoryview(raw)[at : at + entry.stored]
        if len(data) != entry.stored:
            raise self.damaged(key, "the file ends inside its data")
        if entry.method == DEFLATED:
            inflate = zlib.decompressobj(-zlib.MAX_WBITS)
            try:
                data = memoryview(inflate.decompress(data, entry.size + 1))
            except zlib.error as error:
                raise self.damaged(key, str(error)) from None
            if not inflate.eof or len(data) != entry.size:
                raise self.damaged(key, f"it does not inflate to the expected {entry.size} bytes")
        if crc32(data) != entry.crc:
            raise self.damaged(key, "its CRC-32 is wrong")
        return data

    def part(self, key: str, raw: Bytes, nbytes: int) -> memoryview:
        """Check the length of a byte range of a stored entry, and return it."""
        data = memoryview(raw)
        if len(data) != nbytes:
            raise self.damaged(key, "the file ends inside its data")
        return data

    def damaged(self, key: str, why: str) -> CorruptError:
        return CorruptError(f"{self.url}: {self.start + key!r} is damaged: {why}")


class _End(NamedTuple):
    start: int  # offset of the directory in the file
    stop: int
    entries: int
    prepended: int  # bytes before the zip; all offsets in the zip are too small by this number
    most: int  # modulus of the number of entries: writers without zip64 let the 16-bit count overflow


def _ends(tail: bytes) -> Iterator[int]:
    """Yield the positions of possible end records.

    Records whose comment ends with the file come first, then records that other bytes follow.
    """
    found, at = list[tuple[bool, int]](), len(tail)
    while (at := tail.rfind(b"PK\5\6", 0, at + 3)) >= 0:
        after = len(tail) - at - END.size - int.from_bytes(tail[at + END.size - 2 : at + END.size], "little")
        if after >= 0 and at + END.size <= len(tail):
            found.append((after > 0, at))
    yield from (at for is_followed, at in sorted(found, key=lambda one: one[0])[:MOST_ENDS])


def _read_end(url: str, tail: bytes, size: int, at: int) -> _End:
    """Parse the end record at a position in the last bytes of a zip."""
    followed = len(tail) - at - END.size - int.from_bytes(tail[at + END.size - 2 : at + END.size], "little")
    most = MAX16 + 1
    _, disk, directory_disk, here, count, length, start, _ = plain = END.unpack_from(tail, at)
    is_one_disk = disk == directory_disk == 0 and here == count
    before = at - LOCATOR64.size
    if before >= 0 and tail.startswith(b"PK\6\7", before):
        record = before - END64.size
        if record < 0 or not tail.startswith(b"PK\6\6" + (END64.size - 12).to_bytes(8, "little"), record):
            raise CorruptError(f"{url}: its zip64 end record is damaged or not supported")
        most = 1 << 64
        *_, disk, directory_disk, here, count, length, start = wide = END64.unpack_from(tail, record)
        is_one_disk = disk == directory_disk == 0 and here == count
        limits = (MAX16,) * 4 + (MAX32,) * 2
        if any(small not in (large, limit) for small, large, limit in zip(plain[1:7], wide[4:], limits, strict=True)):
            raise CorruptError(f"{url}: its end records contradict each other")
        at = record
    if not is_one_disk:
        raise CorruptError(f"{url}: it is one part of a multi-disk zip, which is not supported")
    stop = size - len(tail) + at
    prepended = stop - length - start
    if followed and prepended:  # the end record may belong to a zip stored inside this one, whose own end is lost
        raise CorruptError(
            f"{url}: truncated or damaged: its last end record has bytes before and after it that are not part of a zip"
        )
    if prepended < 0:
        raise CorruptError(f"{url}: truncated or damaged: its directory does not lie inside the file")
    return _End(stop - length, stop, count, prepended, most)


# Start, least start of the data, length of the extra fields, stored size, size, CRC-32, method, name.
_Found = tuple[int, int, int, int, int, int, int, str]


def _read_directory(url: str, directory: bytes, end: _End) -> tuple[dict[str, ZipEntry], tuple[str, ...]]:
    """Return the entries by name, and the names of several members."""
    found = _parse_directory(url, directory, end)
    entries = _locate_data(url, found, end)
    names = Counter(entry[-1] for entry in found) if len(entries) < len(found) else Counter[str]()
    repeated = tuple(name for name, number in names.items() if number > 1)
    return {name: entry for name, entry in entries.items() if not name.endswith("/")}, repeated


def _parse_directory(url: str, directory: bytes, end: _End) -> list[_Found]:
    """Return the fields of the central headers, in their order."""
    found = []
    at = 0
    separator = _separator(directory)
    while at < len(directory):
        (
            signature, _, _, flags, method, _, _, crc, stored, size, name_length, extra_length, comment_length, disk,
            _, _, start,
        ) = CENTRAL.unpack_from(directory, at)  # fmt: skip
        if signature != b"PK\1\2":
            raise CorruptError(f"{url}: its directory is damaged: no entry at byte {at}")
        at += CENTRAL.size
        name = _text(directory[at : at + name_length], flags)
        if separator == "\\":
            name = name.replace("\\", "/")
        at += name_length + extra_length
        if MAX32 in (stored, size, start):
            size, stored, start = _wide(directory[at - extra_length : at], size, stored, start)
        at += comment_length
        if not name or "\0" in name or has_odd_segment(name):
            raise CorruptError(
                f"{url}: {name!r} is not a valid key: it has a null character, or a segment that is empty, '.' or '..'; "
                "create the zip again from inside the folder of the Zarr, with names like 'group/array/c/0'"
            )
        if flags & _ENCRYPTED:
            raise CorruptError(f"{url}: {name!r} is encrypted, which is not supported")
        if method not in (STORED, DEFLATED):
            raise CorruptError(f"{url}: {name!r} has compression {method}; only 0 (none) and 8 (deflate) are supported")
        if disk not in (0, MAX16) or (method == STORED and stored != size):
            raise CorruptError(f"{url}: {name!r} is damaged, or on another disk")
        start += end.prepended
        is_streamed = flags & _STREAMED
        found.append(
            (
                start,
                start + LOCAL.size + name_length,
                0 if is_streamed else extra_length,
                stored,
                size,
                crc,
                method,
                name,
            )
        )
    if at != len(directory) or len(found) % end.most != end.entries:
        raise CorruptError(
            f"{url}: its directory is damaged: it has {len(found)} entries and should have {end.entries}"
        )
    return found


def _locate_data(url: str, found: list[_Found], end: _End) -> dict[str, ZipEntry]:
    """Return the entries by name, with the positions of their data; of several members of a name, the last one counts."""
    entries = {}
    starts = [*sorted(entry[0] for entry in found), end.start]
    following = dict(reversed(list(pairwise(starts))))  # two entries at one position overlap, and are refused below
    for start, least, extra, stored, size, crc, method, name in found:
        limit = following[start]
        if least + stored > limit:
            raise CorruptError(f"{url}: {name!r} overlaps another entry or the directory")
        data = (
            least + extra if least + extra + stored == limit else least
        )  # the local header has extra fields as long as the directory's
        is_exact = data + stored == limit and not end.prepended and name not in entries
        entries[name] = ZipEntry(start, min(limit, data + MAX16 + stored), data, is_exact, stored, size, crc, method)
    return entries


def _separator(directory: bytes) -> str:
    """Return the separator of folders in names.

    It is a backslash in zips of some Windows tools, if no name has a forward slash.
    """
    documents = (b"\\zarr.json", b"\\.zgroup", b"\\.zarray")
    return "\\" if any(name in directory for name in documents) and not any(map(_has_slash, _names(directory))) else "/"


def _has_slash(name: bytes) -> bool:
    return b"/" in name


def _names(directory: bytes) -> Iterator[bytes]:
    at = 0
    while at + CENTRAL.size <= len(directory):
        *_, name, extra, comment, _, _, _, _ = CENTRAL.unpack_from(directory, at)
        yield directory[at + CENTRAL.size : at + CENTRAL.size + name]
        at += CENTRAL.size + name + extra + comment


def _wide(extra: bytes, *narrow: int) -> Iterator[int]:
    """Yield numbers, with those that do not fit into 32 bits read from the zip64 extra field."""
    at = 0
    wide: Iterator[int] = iter(())
    while at < len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            wide = iter(struct.unpack_from(f"<{length // 8}Q", extra, at + 4))
            break
        at += 4 + length
    for number in narrow:
        yield next(wide, number) if number == MAX32 else number


def _text(raw: bytes, flags: int) -> str:
    """Decode a name. Info-ZIP writes UTF-8 without setting the flag for it."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        if flags & _UTF8:
            raise
        return raw.decode("cp437")
