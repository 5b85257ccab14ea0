"""Join the stored entries of several zips to one zip, without encoding them again.

The bytes of the result depend only on the names and the data, as if one `ZipWriter` had written all entries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from shardedstore.errors import CorruptError
from shardedstore.storage.blobs import ByteSource
from shardedstore.storage.outputs import Output
from shardedstore.storage.requests import read_ahead
from shardedstore.zips.index import STORED, Archive
from shardedstore.zips.writer import ZipWriter

SPAN = 8 << 20  # bytes of the source that are read at once
AHEAD = 8  # spans that are read at once from an object store
COPIED = 1 << 18  # bytes; the kernel copies larger entries between local files


class Member(NamedTuple):
    """A stored entry of a zip.

    Attributes
    ----------
    name : str
        The name of the entry.
    archive : Archive
        The zip.
    start : int
        The offset of the data in the zip.
    size : int
        The size of the data in bytes.
    crc : int
        The CRC-32 of the data.
    """

    name: str
    archive: Archive
    start: int
    size: int
    crc: int


class Extent(NamedTuple):
    """A range of a zip, and the entries that begin in it: many small ones, or a large one, which may have several extents."""

    source: ByteSource
    start: int
    stop: int
    members: list[Member]
    is_large: bool


def stored_members(archive: Archive) -> Iterator[Member]:
    """Yield the entries of a zip in the order of their data.

    Raises
    ------
    CorruptError
        If an entry is compressed, or if the directory does not tell the offset of its data.
    """
    for name, entry in sorted(archive.entries.items(), key=lambda item: item[1].start):
        if not entry.is_exact or entry.method != STORED:
            raise archive.damaged(name, "it is compressed, or was not written by shardedstore")
        yield Member(name, archive, entry.data, entry.stored, entry.crc)


class Joined(NamedTuple):
    """The content of a joined zip.

    Attributes
    ----------
    documents : mapping of str to bytes
        The first entries, in their order.
    members : callable
        Returns an iterator of the other entries.
    zip64 : bool
        Whether to write the zip64 format even if it is not needed.
    comment : bytes
        The comment of the zip.
    """

    documents: Mapping[str, bytes]
    members: Callable[[], Iterable[Member]]
    zip64: bool = False
    comment: bytes = b""

    def write(self, out: Output, *, is_local: bool, seen: Callable[[], None]) -> int:
        """Write the zip, and return its size in bytes; `seen` is called several times meanwhile.

        Raises
        ------
        CorruptError
            If a small entry has another CRC-32 than its zip says, or if a zip ends too early.
        """
        writer = ZipWriter(out.write, zip64=self.zip64, comment=self.comment)
        for name, data in self.documents.items():
            writer.add(name, data)
        extents = _extents(self.members(), COPIED if is_local else SPAN)
        for extent, data in _read_extents(extents, is_local=is_local):
            seen()
            if not extent.is_large:
                _add(writer, extent, data)
                continue
            for member in extent.members:
                writer.begin(*_header(member))
            if is_local:
                out.copy(extent.source, extent.start, extent.stop)
            else:
                out.write([data])
        return writer.close()

    def end(self) -> tuple[int, bytes]:
        """Return the size of the zip, and its last bytes from its directory on, without writing it."""
        kept: list[bytes] = []
        writer = ZipWriter(lambda parts: kept.extend(map(bytes, parts)), zip64=self.zip64, comment=self.comment)
        for name, data in self.documents.items():
            writer.add(name, data)
        for member in self.members():
            writer.begin(*_header(member))
            kept.clear()
        kept.clear()
        writer.flush()
        kept.clear()
        size = writer.close()
        return size, b"".join(kept)


def _header(member: Member) -> tuple[str, int, int]:
    return member.name, member.size, member.crc


def _extents(members: Iterable[Member], most: int) -> Iterator[Extent]:
    """Yield ranges of at most `SPAN` bytes; entries of more than `most` bytes are large."""
    for span in _spans(members, most):
        source, start, stop = span[0].archive.source, span[0].start, span[-1].start + span[-1].size
        is_large = span[0].size > most
        for at in range(start, max(stop, start + 1), SPAN):
            yield Extent(source, at, min(stop, at + SPAN), span if at == start else [], is_large)


def _spans(members: Iterable[Member], most: int) -> Iterator[list[Member]]:
    """Yield neighbouring entries of one zip that are read at once; an entry of more than `most` bytes is alone."""
    span: list[Member] = []
    for member in members:
        if span and (
            max(member.size, span[-1].size) > most
            or member.archive is not span[0].archive
            or not span[-1].start <= member.start
            or member.start + member.size - span[0].start > SPAN
        ):
            yield span
            span = []
        span.append(member)
    if span:
        yield span


def _read_extents(extents: Iterable[Extent], *, is_local: bool) -> Iterator[tuple[Extent, bytes]]:
    """Yield extents with their bytes; large extents of local files are not read, as the kernel copies them."""
    if not is_local:
        return read_ahead(_read, extents, AHEAD)
    return ((extent, b"" if extent.is_large else _read(extent)) for extent in extents)


def _read(extent: Extent) -> bytes:
    data = bytes(extent.source.read(extent.start, extent.stop))
    if len(data) != extent.stop - extent.start:
        raise CorruptError(f"a zip to join ends at byte {extent.start + len(data):,}, inside an entry")
    return data


def _add(writer: ZipWriter, extent: Extent, data: bytes) -> None:
    """Add small entries, and check their CRC-32s."""
    for member in extent.members:
        at = member.start - extent.start
        if writer.add(member.name, data[at : at + member.size]) != member.crc:
            raise member.archive.damaged(member.name, "its CRC-32 is wrong")
