"""References in Kerchunk's format: one JSON file, or a folder of Parquet files.

Both formats are described in https://fsspec.github.io/kerchunk/spec.html.
"""

from __future__ import annotations

import base64
import os
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import msgspec
from zarr.abc.store import Store

from shardedstore.errors import DestinationError, UsageError
from shardedstore.export.references import References, references_to, shown_url
from shardedstore.storage.errors import explain
from shardedstore.storage.folders import STORAGE_ERRORS, Folder, open_folder
from shardedstore.storage.options import StorageOptions, take_options
from shardedstore.storage.urls import normalize, unquote_name
from shardedstore.stores.kerchunk_parquet import import_parquet
from shardedstore.stores.ranges import Range
from shardedstore.zarr.grid import place_of
from shardedstore.zarr.metadata import CONSOLIDATED_V2, parse_json

RECORDS = 100_000  # references in one Parquet file


def write_json(store: Store, url: str | os.PathLike[str], storage_options: StorageOptions = None) -> int:
    """Write the references to a JSON file of version 1, and return their number."""
    place = normalize(url)
    folder, _, name = place.rpartition("/")
    target = open_folder(folder or "/", take_options(folder or "/", storage_options))
    references = references_to(store)
    _write(target, unquote_name(name, place), b"".join(_lines(references)))
    return len(references.documents) + len(references.others)


def _lines(references: References) -> Iterator[bytes]:
    encode = msgspec.json.Encoder().encode
    yield b'{"version":1,"refs":{'
    separator = b"\n"
    for key, data in references.documents.items():
        yield b"%s%s:%s" % (separator, encode(key), encode(_inline(data)))
        separator = b",\n"
    for key, found in references.ranges():
        yield b"%s%s:%s" % (separator, encode(key), encode(_reference(found)))
        separator = b",\n"
    yield b"\n}}\n"


def _inline(data: bytes) -> str:
    """Return a value as text; other values than JSON texts are in base64."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = ""
    return text if text.startswith(("{", "[")) else "base64:" + base64.b64encode(data).decode()


def _reference(found: Range) -> tuple[str, int, int]:
    return shown_url(found.url), found.start, found.nbytes


def _write(folder: Folder, name: str, data: bytes) -> None:
    try:
        folder.write(name, data)
    except STORAGE_ERRORS as error:
        raise DestinationError(f"{name!r} can't be written in {folder.url!r}: {explain(error)}") from error


def write_parquet(store: Store, url: str | os.PathLike[str], storage_options: StorageOptions = None) -> int:
    """Write the references to a folder of Parquet files, and return their number.

    The format exists for Zarr v2 only: the readers find a reference by the position of its chunk in the array of ``.zarray``.

    Raises
    ------
    UsageError
        If the store is of Zarr v3, or if pyarrow is not installed.
    """
    parquet = import_parquet()
    references = references_to(store)
    if any(key.endswith("zarr.json") for key in references.documents):
        raise UsageError(
            "Kerchunk's Parquet files hold references to Zarr v2 only, but the store is of Zarr v3: export it as JSON or to "
            "icechunk"
        )
    place = normalize(url)
    target = open_folder(place, take_options(place, storage_options))
    documents = {key: data for key, data in references.documents.items() if key.rpartition("/")[2] != CONSOLIDATED_V2}
    grids = {path: array.chunk_grid for path, array in references.arrays().items()}
    files = defaultdict[str, defaultdict[int, _Columns]](lambda: defaultdict(_Columns))
    for (path, _, coords), found in references.chunks():
        record, row = divmod(place_of(coords, grids[path]), RECORDS)
        files[path][record].put(row, found)
    for path, records in files.items():
        for record, columns in records.items():
            _write(target, f"{path}/refs.{record}.parq" if path else f"refs.{record}.parq", columns.encode(*parquet))
    metadata = {key: parse_json(data, *_split(key)) for key, data in documents.items()}
    _write(target, ".zmetadata", msgspec.json.encode({"metadata": metadata, "record_size": RECORDS}))
    return len(references.documents) + len(references.others)


def _split(key: str) -> tuple[str, str]:
    folder, _, name = key.rpartition("/")
    return folder, name


class _Columns:
    """The columns of one Parquet file."""

    def __init__(self) -> None:
        self.rows = dict[int, Range]()

    def put(self, row: int, found: Range) -> None:
        self.rows[row] = found

    def encode(self, pyarrow: Any, parquet: Any) -> bytes:
        """Return the file; rows without a reference are null."""
        rows = [self.rows.get(row) for row in range(max(self.rows) + 1)]
        urls = pyarrow.array([None if row is None else shown_url(row.url) for row in rows], pyarrow.string())
        columns = {
            "path": urls.dictionary_encode(),
            "offset": pyarrow.array([0 if row is None else row.start for row in rows], pyarrow.int64()),
            "size": pyarrow.array([0 if row is None else row.nbytes for row in rows], pyarrow.int64()),
            "raw": pyarrow.nulls(len(rows), pyarrow.binary()),
        }
        sink = pyarrow.BufferOutputStream()
        parquet.write_table(pyarrow.table(columns), sink, compression="zstd")
        return bytes(sink.getvalue())
