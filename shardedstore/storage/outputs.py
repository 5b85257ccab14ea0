"""Write one large file or object from a sequence of buffers: vectored writes, or a multipart upload.

An upload whose process is killed leaves parts behind, which no listing shows; `bucket_rule` removes them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pickle import PickleBuffer
from typing import TYPE_CHECKING, Any, Protocol, Self
from urllib.parse import unquote, urlsplit

import obstore

from shardedstore.errors import CorruptError, UsageError
from shardedstore.storage.attributes import current_attributes
from shardedstore.storage.blobs import ByteSource, LocalFile, nbytes_of, object_store
from shardedstore.storage.options import NONE, Options
from shardedstore.storage.publish import published
from shardedstore.storage.request_metrics import request, timed
from shardedstore.storage.requests import WRITES
from shardedstore.storage.throttle import spend
from shardedstore.storage.urls import is_remote, is_zip_name

if TYPE_CHECKING:
    from typing_extensions import Buffer

BATCH_BYTES, BATCH_PARTS = 1 << 18, 512  # limits of bytes and buffers that wait to be written together

_COPIED_BELOW = 1 << 16

_IOV_MAX = os.sysconf("SC_IOV_MAX")


def flat(data: Buffer) -> bytes | memoryview:
    r"""Return the bytes of a buffer of any shape and item type.

    Small buffers are copied, so that the caller may change its own. Large ones are returned as a view, which must be
    written before the caller changes the buffer.

    >>> import numpy as np
    >>> flat(np.array([[1, 2]], "<u2")), flat(np.zeros((256, 256), "u1"))
    (b'\x01\x00\x02\x00', <memory at ...>)
    """
    view = PickleBuffer(data).raw()
    return bytes(view) if len(view) < _COPIED_BELOW else view


def writev_all(fd: int) -> Callable[[list[Buffer]], None]:
    """Return a function that writes lists of buffers completely to a file descriptor."""

    def write(parts: list[Buffer]) -> None:
        views = [memoryview(part) for part in parts]
        done = 0
        while done < len(views):
            written = os.writev(fd, views[done : done + _IOV_MAX])
            while done < len(views) and written >= len(views[done]):
                written -= len(views[done])
                done += 1
            if written:
                views[done] = views[done][written:]

    return write


if TYPE_CHECKING:
    from typing_extensions import Buffer

    Write = Callable[[list[Buffer]], None]


class Output(Protocol):
    """A file or object that is being written from its beginning to its end."""

    def write(self, parts: list[Buffer]) -> None:
        """Append buffers."""

    def copy(self, source: ByteSource, start: int, stop: int) -> None:
        """Append the bytes of another file from `start` to `stop`."""


LEAST_PART = 8 << 20  # bytes

MOST_PARTS = 9_000  # S3 allows 10,000

BYTES_ON_THEIR_WAY = 96 << 20

_COPIED = 1 << 18  # bytes; smaller buffers are joined first, because each call of the client takes some microseconds


def part_nbytes(most: int) -> int:
    """Return the part size in bytes for an upload of at most `most` bytes.

    >>> part_nbytes(0) == LEAST_PART, 9_000 * part_nbytes(5 << 40) >= 5 << 40
    (True, True)
    """
    return max(LEAST_PART, -(-most // MOST_PARTS) + 1)


@contextmanager
def output(url: str, options: Options = NONE, most: int = 0, *, beside: str | None = None) -> Iterator[Output]:
    """Open a file or object for appending.

    Parameters
    ----------
    url : str
        The file or object to write.
    options : mapping
        Storage options.
    most : int
        An upper limit of the size in bytes, if it is known. It decides the part size of an upload.
    beside : str, optional
        The folder of the temporary file on a local disk, in the same file system; by default the folder of the file.

    Yields
    ------
    Output
        Its methods append buffers, and ranges of other files.

    Raises
    ------
    UsageError
        If an upload needs more parts than object stores allow.
    CorruptError
        If the finished file or object does not have the size that was written.
    """
    if not is_remote(url):
        with published(url, beside=beside) as descriptor:
            counted = _Counted(descriptor)
            yield counted
            _check_size(url, os.fstat(descriptor).st_size, counted.nbytes)
        return
    folder, _, name = url.rpartition("/")
    size = part_nbytes(most)
    attributes = current_attributes()
    writer = obstore.open_writer(
        object_store(folder, options, url, attributes.client_options()),
        unquote(name),
        **attributes.put_options(),
        buffer_size=size,
        max_concurrency=max(1, min(12, int(WRITES.bound), BYTES_ON_THEIR_WAY // size)),
    )
    with _Upload(writer, url, size) as upload:
        yield upload
    _check_size(url, nbytes_of(url, options), upload.nbytes)


def _check_size(url: str, found: int | None, written: int) -> None:
    if found != written:
        raise CorruptError(f"{url!r} has {found} bytes, but {written} bytes were written: is the disk full?")


class _Counted:
    """Append to a file, and count the bytes."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._to, self.nbytes = descriptor, writev_all(descriptor), 0

    def write(self, parts: list[Buffer]) -> None:
        """Write buffers."""
        nbytes = sum(len(part) if isinstance(part, bytes) else memoryview(part).nbytes for part in parts)
        spend(0, nbytes)
        self.nbytes += nbytes
        self._to(parts)

    def copy(self, source: ByteSource, start: int, stop: int) -> None:
        """Copy a range of another file without reading it, if the file systems allow it."""
        if isinstance(source, LocalFile):
            spend(0, stop - start)
            copied = source.copy_to(self._descriptor, start, stop)
            self.nbytes += copied
            start += copied
        _copy(self, source, start, stop)


class _Upload:
    """Append buffers to an obstore writer in few calls."""

    def __init__(self, writer: obstore.WritableFile, url: str, part: int) -> None:
        self.writer, self.url = writer, url
        self.nbytes, self.most, self.part = 0, (MOST_PARTS + 900) * part, part

    def __enter__(self) -> Self:
        self.writer.__enter__()
        with request("PUT"):
            return self

    def __exit__(self, *error: object) -> None:
        with timed("PUT", count=0):  # the client may send all parts now
            self.writer.__exit__(*error)

    def write(self, parts: list[Buffer]) -> None:
        """Append buffers."""
        small: list[Buffer] = []
        for part in parts:
            if memoryview(part).nbytes < _COPIED:
                small.append(part)
                continue
            self._write(b"".join(small))
            self._write(part)
            small = []
        self._write(b"".join(small))

    def copy(self, source: ByteSource, start: int, stop: int) -> None:
        """Read a range of another object, and append it."""
        _copy(self, source, start, stop)

    def _write(self, data: Buffer) -> None:
        nbytes = memoryview(data).nbytes
        parts = (self.nbytes + nbytes) // self.part - self.nbytes // self.part
        self.nbytes += nbytes
        if self.nbytes > self.most:
            raise UsageError(
                f"{self.url!r} is too large for its upload, because it is far larger than its shard's decoded data: "
                "divide the source into smaller shards"
            )
        if nbytes:
            with request("PUT", nbytes, parts):
                self.writer.write(data)


def _copy(output: Output, source: ByteSource, start: int, stop: int) -> None:
    """Read a range of another file in pieces, and append them."""
    for at in range(start, stop, LEAST_PART):
        end = min(stop, at + LEAST_PART)
        data = source.read(at, end)
        if memoryview(data).nbytes != end - at:
            raise CorruptError(f"a file ends at byte {at + memoryview(data).nbytes:,}, inside a range to copy")
        output.write([data])


UNFINISHED = (
    "an earlier run was ended while it wrote to %s: parts of its uploads may be left there. No listing shows them, and they "
    "cost money. A rule of the bucket removes them: %s"
)


def upload_rule(url: str, days: int = 7) -> dict[str, Any] | None:
    """Return the lifecycle configuration of a bucket that removes unfinished uploads below a URL.

    None means that no rule is needed: for local folders and Azure. The rule of a zip is also for the folder beside it.

    >>> upload_rule("s3://bucket/out")["Rules"][0]["Filter"], upload_rule("az://container/out")
    ({'Prefix': 'out/'}, None)
    >>> upload_rule("s3://bucket/out.zarr.zip")["Rules"][0]["Filter"]
    {'Prefix': 'out.zarr.zip'}
    """
    place = urlsplit(url)
    path = unquote(place.path).strip("/")
    prefix = path if not path or is_zip_name(path) else f"{path}/"
    if place.scheme == "gs":
        condition = {"age": days, **({"matchesPrefix": [prefix]} if prefix else {})}
        return {"lifecycle": {"rule": [{"action": {"type": "AbortIncompleteMultipartUpload"}, "condition": condition}]}}
    if place.scheme not in ("s3", "s3a"):
        return None
    identifier = f"unfinished-uploads {prefix}".strip()[:255]  # unique in a bucket, as S3 demands
    abort = {"DaysAfterInitiation": days}
    rule = {"ID": identifier, "Status": "Enabled", "Filter": {"Prefix": prefix}}
    return {"Rules": [{**rule, "AbortIncompleteMultipartUpload": abort}]}


def bucket_rule(url: str) -> str:
    """Return the rule of `upload_rule` as JSON text, or the reason why none is needed.

    >>> bucket_rule("az://container/out")
    'none is needed: Azure deletes uncommitted blocks after a week'
    """
    rule = upload_rule(url)
    if rule is not None:
        return json.dumps(rule)
    return "none is needed: Azure deletes uncommitted blocks after a week"
